//! The dynos of a formation: started, restarted, scaled and replaced.

use std::time::{SystemTime, UNIX_EPOCH};

use hsup_ftest::{App, Driver, Room, driver, eventually, isolated_network, procs};
use nix::sys::signal::Signal;
use serde_json::Value;

const WEB: &str = "echo ready on $PORT; exec sleep 600";

fn two_web_and_a_worker(room: &Room) -> App {
    room.app().process("web", WEB, 2).process("worker", "exec sleep 600", 1)
}

#[test]
fn every_dyno_of_the_formation_runs_with_a_port_of_its_own() {
    let room = Room::new();
    room.release(&two_web_and_a_worker(&room).env("PORT", "6000"));
    let hsup = room.hsup(["start"]).up();
    for name in ["web.1", "web.2", "worker.1"] {
        hsup.wait_up(name);
    }
    assert_eq!(hsup.wait_line("web.1 | ready"), "web.1 | ready on 6000");
    let second = if isolated_network() { 6000 } else { 6001 };
    assert_eq!(hsup.wait_line("web.2 | ready"), format!("web.2 | ready on {second}"));
    let status = hsup.get("/status").json();
    let names: Vec<&Value> =
        status["Dynos"].as_array().into_iter().flatten().map(|dyno| &dyno["Name"]).collect();
    assert_eq!(names, ["web.1", "web.2", "worker.1"], "{status}");
    assert_eq!((&status["Release"]["App"], &status["Release"]["Version"]), (&"app".into(), &"v1".into()));
    assert_eq!(room.control_files(), ["loaded"]);
}

#[test]
fn a_dyno_that_crashes_is_restarted_and_no_other() {
    let room = Room::new();
    room.release(&two_web_and_a_worker(&room));
    let hsup = room.hsup(["start"]).up();
    let before = ["web.1", "web.2", "worker.1"].map(|name| hsup.wait_up(name));
    procs::signal(before[1], Signal::SIGKILL);
    let restarted = |dyno: &Value| dyno["State"] == "up" && dyno["Restarts"] == 1 && dyno["Pid"] != before[1];
    let dyno = hsup.wait_dyno("web.2", "has been restarted", restarted);
    assert_eq!(dyno["LastExit"]["Name"], "SIGKILL", "{dyno}");
    assert_eq!(hsup.dyno_pid("web.1"), before[0]);
    assert_eq!(hsup.dyno_pid("worker.1"), before[2]);
}

#[test]
fn a_crash_loop_backs_off_and_is_seen() {
    let room = Room::new();
    room.release(&room.app().process("web", "echo try; exit 3", 1).process("worker", "exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    let worker = hsup.wait_up("worker.1");
    let crashed = |dyno: &Value| dyno["State"] == "crashed";
    let dyno = hsup.wait_dyno("web.1", "is crashed", crashed);
    assert!(dyno["NextRetryAt"].is_string(), "{dyno}");
    assert_eq!(dyno["LastExit"]["Code"], 3, "{dyno}");
    assert!(dyno["Pid"].is_null(), "{dyno}");
    hsup.wait_line("web.1: Crashed 2 times in a row");
    // the third run comes after a wait, and so do all others
    hsup.wait_nth_line("web.1 | try", 3);
    let tries = hsup.lines("web.1 | try").len();
    assert!(tries <= 4, "it was tried {tries} times; {}", hsup.printed());
    assert_eq!(hsup.dyno_pid("worker.1"), worker);
}

#[test]
fn a_command_that_does_not_exist_is_a_crash_that_says_why() {
    let room = Room::new();
    room.release(&room.app().process("web", "no-such-program-at-all", 1).process(
        "worker",
        "exec sleep 600",
        1,
    ));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("worker.1");
    let dyno = hsup.wait_dyno("web.1", "is crashed", |dyno| dyno["State"] == "crashed");
    assert_eq!(dyno["LastExit"]["Code"], 127, "{dyno}");
    assert!(dyno["NextRetryAt"].is_string(), "{dyno}");
    hsup.wait_line("no-such-program-at-all");
}

#[test]
fn a_new_release_replaces_the_old_one() {
    let room = Room::new();
    // the time of day in a dyno's own words, as soon as it runs
    let line = "echo release $RELEASE at $(date +%s%N); exec sleep 600";
    let app = room.app().process("web", line, 1);
    room.release(&app.clone().env("RELEASE", "one"));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | release one");
    let old = hsup.wait_up("web.1");
    let renamed = SystemTime::now();
    room.release(&app.version(2).env("RELEASE", "two"));
    let said = hsup.wait_line("web.1 | release two");
    let live: u128 = said.rsplit(' ').next().and_then(|at| at.parse().ok()).expect("the time");
    let renamed = renamed.duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos();
    println!("from the rename of `new` to the dyno: {:.1} ms", (live - renamed) as f64 / 1e6);
    let dyno = hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2" && dyno["State"] == "up");
    assert_ne!(dyno["Pid"], old);
    // a dyno that needs its port must be gone before, and one that has a network of its own soon after
    let gone = || (!procs::alive(old)).then_some(());
    if isolated_network() {
        eventually("the old dyno is gone", || hsup.printed(), gone);
    } else {
        assert!(gone().is_some());
    }
    assert_eq!(dyno["Restarts"], 0, "it is another dyno: {dyno}");
    assert_eq!(hsup.get("/status").json()["Release"]["Version"], "v2");
}

#[test]
fn a_release_that_drops_and_adds_process_types_runs_just_those() {
    let room = Room::new();
    room.release(&two_web_and_a_worker(&room));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("worker.1");
    room.release(&room.app().version(2).process("clock", "exec sleep 600", 1));
    hsup.wait_up("clock.1");
    for name in ["web.1", "web.2", "worker.1"] {
        hsup.wait_dyno(name, "is gone", Value::is_null);
    }
}

#[test]
fn scaling_in_place_keeps_the_dynos_that_stay() {
    let room = Room::new();
    let app = |web, worker| room.app().process("web", WEB, web).process("worker", "exec sleep 600", worker);
    room.release(&app(2, 1));
    let hsup = room.hsup(["start"]).up();
    let before = ["web.1", "web.2", "worker.1"].map(|name| hsup.wait_up(name));
    room.release(&app(3, 1));
    hsup.wait_up("web.3");
    assert_eq!(["web.1", "web.2", "worker.1"].map(|name| hsup.dyno_pid(name)), before);
    room.release(&app(1, 1));
    hsup.wait_dyno("web.2", "is gone", Value::is_null);
    hsup.wait_dyno("web.3", "is gone", Value::is_null);
    assert_eq!(["web.1", "worker.1"].map(|name| hsup.dyno_pid(name)), [before[0], before[2]]);
}

#[test]
fn another_version_is_another_release_even_if_all_else_is_the_same() {
    let room = Room::new();
    let app = room.app().process("web", WEB, 1);
    room.release(&app);
    let hsup = room.hsup(["start"]).up();
    let pid = hsup.wait_up("web.1");
    room.release(&app.version(2));
    let dyno = hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2" && dyno["State"] == "up");
    assert_ne!(dyno["Pid"], pid, "{dyno}");
}

#[test]
fn scaling_to_nothing_and_back_goes_on() {
    let room = Room::new();
    let app = |web| room.app().process("web", WEB, web);
    room.release(&app(1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("web.1");
    room.release(&app(0).version(2));
    hsup.wait_dyno("web.1", "is gone", Value::is_null);
    room.release(&app(2).version(3));
    hsup.wait_up("web.2");
}

#[test]
fn quantities_of_the_command_line_win() {
    let room = Room::new();
    room.release(&two_web_and_a_worker(&room));
    let hsup = room.hsup(["start", "web=3"]).up();
    hsup.wait_up("web.3");
    assert!(hsup.dyno("worker.1").is_null(), "a type that is not named has no dynos");
}

#[test]
fn start_number_names_the_first_dyno() {
    let room = Room::new();
    room.release(&room.app().process("web", "echo I am $DYNO; exec sleep 600", 2));
    let hsup = room.hsup(["--start-number", "3", "start"]).up();
    hsup.wait_line("web.3 | I am web.3");
    hsup.wait_line("web.4 | I am web.4");
    assert!(hsup.dyno("web.1").is_null());
}

#[test]
fn oneshot_ends_with_the_highest_exit_code() {
    let room = Room::new();
    let app = room.app().process("a", "exit 0", 1).process("b", "exit 7", 1).process("c", "exit 3", 2);
    room.release(&app);
    let ended = room.hsup(["--oneshot", "start"]).end();
    assert_eq!(ended.code, 7, "{ended:?}");
    assert!(!ended.stderr.contains("Crashed"), "{ended:?}");
    room.release(&room.app().version(2).process("a", "true", 1).process("b", "kill -KILL $$", 1));
    let ended = room.hsup(["--oneshot", "start"]).end();
    assert_eq!(ended.code, 128 + 9, "{ended:?}");
}

#[test]
fn each_line_tells_its_dyno_and_no_line_is_lost_at_the_end() {
    let room = Room::new();
    room.release(&room.app().process("web", "seq 1 2000; printf unfinished; echo err >&2", 1));
    let ended = room.hsup(["--oneshot", "start"]).end();
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(lines.iter().all(|line| line.starts_with("web.1 | ")), "{ended:?}");
    let numbers: Vec<u32> =
        lines.iter().filter_map(|line| line.strip_prefix("web.1 | ")?.parse().ok()).collect();
    assert_eq!(numbers, (1..=2000).collect::<Vec<u32>>());
    assert!(
        lines.contains(&"web.1 | unfinished") && lines.contains(&"web.1 | err"),
        "{:?}",
        lines.get(1990..)
    );
}

#[test]
fn no_two_dynos_have_the_same_address_and_port_and_none_is_left_out() {
    let room = Room::new();
    let app = |web| room.app().process("web", "exec sleep 600", web).process("worker", "exec sleep 600", 1);
    let (some, more) = match driver() {
        // by foreman's convention web.101 and worker.1 would both have 5100
        Driver::Simple | Driver::Abspath | Driver::Native => (100, 102),
        // which has no such convention
        Driver::Docker => (2, 4),
    };
    room.release(&app(some));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("worker.1");
    room.release(&app(more));
    hsup.wait_up(&format!("web.{more}"));
    hsup.wait_up(&format!("web.{}", more - 1));
    let status = hsup.get("/status").json();
    let place = |dyno: &Value| Some((dyno["IPAddress"].as_str()?.to_owned(), dyno["Port"].as_u64()?));
    let mut places: Vec<(String, u64)> =
        status["Dynos"].as_array().into_iter().flatten().filter_map(place).collect();
    places.sort_unstable();
    places.dedup();
    let all = usize::try_from(more).expect("it is small") + 1;
    assert_eq!(places.len(), all, "{places:?}");
    let mut shared: Vec<_> = places
        .iter()
        .map(|(address, port)| match driver() {
            Driver::Native => address.clone(),
            Driver::Simple | Driver::Abspath | Driver::Docker => port.to_string(),
        })
        .collect();
    shared.dedup();
    assert_eq!(shared.len(), all, "{places:?}");
}
