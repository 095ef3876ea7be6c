//! How one release takes the place of another, and how it goes back when it is bad.

use hsup_ftest::{App, Driver, Hsup, Launch, Room, eventually, is_about, isolated_network, min_healthy};
use serde_json::{Value, json};

/// The history of an app without a name is not kept on disk.
fn named(room: &Room, version: u64) -> App {
    room.app().version(version).field("Name", json!("shop"))
}

fn version(room: &Room, number: u64, line: &str) -> App {
    named(room, number).env("V", &number.to_string()).process("worker", line, 1)
}

fn good(room: &Room, n: u64) -> App {
    version(room, n, &format!("echo this is {n}; exec sleep 600"))
}

fn bad(room: &Room, n: u64) -> App {
    version(room, n, "exit 3")
}

fn start<'a>(room: &'a Room, rollout: &str) -> Launch<'a> {
    room.hsup(["start", "--min-healthy-time", min_healthy(), "--rollout", rollout])
}

/// Runs a command against the hsup of this room; what it prints.
fn ask(room: &Room, args: &[&str]) -> String {
    let mut launch = room.bare(["-s"]).arg(room.socket());
    for arg in args {
        launch = launch.arg(arg);
    }
    let ended = launch.end();
    assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
    ended.stdout
}

fn release(hsup: &Hsup) -> Value {
    hsup.get("/status").json()["Release"]["Version"].clone()
}

fn wait_release(hsup: &Hsup, version: &str) {
    eventually(&format!("{version} is live"), || hsup.printed(), || (release(hsup) == version).then_some(()));
}

/// The status of each release that the history has, the newest first.
fn history(hsup: &Hsup) -> Vec<(String, String)> {
    let releases = hsup.get("/releases").json()["Releases"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    releases.iter().map(|entry| (text(&entry["Version"]), text(&entry["Status"]))).collect()
}

#[test]
fn a_release_that_crashes_makes_way_for_the_last_good_one() {
    for rollout in ["replace", "rolling", "overlap"] {
        let room = Room::new();
        room.release(&good(&room, 1));
        let hsup = start(&room, rollout).up();
        let before = hsup.wait_up("worker.1");
        hsup.wait_line("release v1 is good");
        room.release(&bad(&room, 2));
        hsup.wait_line("release v2 is bad: worker.1: it crashes again and again, the last time with exit status 3; rolling back to release v1");
        let dyno = hsup
            .wait_dyno("worker.1", "is that of v1", |dyno| dyno["State"] == "up" && dyno["Release"] == "v1");
        if rollout == "overlap" {
            assert_eq!(dyno["Pid"], before, "it was touched");
        }
        wait_release(&hsup, "v1");
        assert_eq!(room.control_files(), ["loaded"]);
        let known = [("v1", "good"), ("v2", "bad")].map(|(v, s)| (v.to_owned(), s.to_owned()));
        assert_eq!(history(&hsup), known);
        let table = ask(&room, &["releases"]);
        assert!(table.contains("v1       live, good"), "{table}");
    }
}

#[test]
fn what_was_rolled_back_stays_so_until_there_is_a_newer_release() {
    let room = Room::new();
    room.release(&good(&room, 1));
    let hsup = start(&room, "replace").up();
    hsup.wait_line("release v1 is good");
    room.release(&bad(&room, 2));
    hsup.wait_line("rolling back to release v1");
    wait_release(&hsup, "v1");
    hsup.stop();
    let hsup = start(&room, "replace").up();
    hsup.wait_line("release v2 was rolled back, and release v1 runs in its place until there is a newer one");
    hsup.wait_line("worker.1 | this is 1");
    room.release(&good(&room, 3));
    hsup.wait_line("worker.1 | this is 3");
    wait_release(&hsup, "v3");
}

#[test]
fn an_operator_goes_back_and_keeps_the_scale() {
    let room = Room::new();
    room.release(&good(&room, 1));
    let hsup = start(&room, "replace").up();
    hsup.wait_line("release v1 is good");
    let ended = room.bare(["rollback", "-s"]).arg(room.socket()).end();
    assert_eq!(ended.code, 65, "{ended:?}");
    assert!(ended.stderr.contains("there is no good release to go back to"), "{ended:?}");
    room.release(&version(&room, 2, "echo this is 2; exec sleep 600").field(
        "Processes",
        json!([{"Type": "worker", "Args": ["echo this is 2; exec sleep 600"], "Quantity": 2}]),
    ));
    hsup.wait_line("release v2 is good");
    let ended = room.bare(["rollback", "v9", "-s"]).arg(room.socket()).end();
    assert_eq!(ended.code, 64, "{ended:?}");
    assert!(
        ended.stderr.contains("there is no release v9 in the history; there are: v1, v2"),
        "{}",
        ended.stderr
    );
    assert!(ask(&room, &["rollback"]).contains("going back to release v1"));
    for name in ["worker.1", "worker.2"] {
        hsup.wait_dyno(name, "is that of v1", |dyno| dyno["State"] == "up" && dyno["Release"] == "v1");
    }
    ask(&room, &["rollback", "v2"]);
    hsup.wait_dyno("worker.1", "is that of v2", |dyno| dyno["State"] == "up" && dyno["Release"] == "v2");
}

#[test]
fn the_release_phase_runs_once_and_its_failure_stops_the_rollout() {
    let room = Room::new();
    let with_phase = |n: u64, phase: &str| good(&room, n).process("release", phase, 1);
    room.release(&with_phase(1, "echo migrating 1"));
    let hsup = start(&room, "replace").up();
    hsup.wait_line("release.1 | migrating 1");
    hsup.wait_line("worker.1 | this is 1");
    assert!(hsup.dyno("release.1").is_null(), "it is no dyno of the formation");
    room.release(&with_phase(2, "echo migrating 2; exit 4"));
    hsup.wait_line("release v2 is bad: its release phase ended with exit status 4; release v1 runs on");
    assert_eq!(release(&hsup), "v1");
    assert!(hsup.lines("this is 2").is_empty());
    hsup.stop();
    let hsup = start(&room, "replace").up();
    hsup.wait_line("worker.1 | this is 1");
    assert!(hsup.lines("migrating").is_empty(), "{}", hsup.printed());
}

#[test]
fn what_ran_beside_a_release_phase_runs_beside_it_when_hsup_is_started_anew() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    room.release(&good(&room, 1));
    let hsup = start(&room, "replace").up();
    hsup.wait_line("release v1 is good");
    let go = room.dir().join("go");
    let phase = format!("echo migrating; until [ -e {} ]; do sleep 0.05; done", go.display());
    room.release(&good(&room, 2).process("release", &phase, 1));
    hsup.wait_line("release.1 | migrating");
    hsup.stop();
    let hsup = start(&room, "replace").up();
    hsup.wait_line("worker.1 | this is 1");
    hsup.wait_line("release.1 | migrating");
    assert_eq!(release(&hsup), "v1");
    std::fs::write(&go, "").expect("the room is ours");
    hsup.wait_line("worker.1 | this is 2");
    hsup.wait_line("release v2 is good");
}

#[test]
fn a_start_takes_nothing_down_while_the_newest_release_cannot_be_live() {
    let too_late = json!([{"Type": "worker", "Args": ["x"], "Readiness": "initial-delay=1m,port"}]);
    let room = Room::new();
    room.release(&good(&room, 1));
    let hsup = start(&room, "replace").env("HSUP_READINESS", "").up();
    hsup.wait_line("release v1 is good");
    room.release(&good(&room, 2).field("Processes", too_late));
    hsup.wait_line("release v2 is refused");
    hsup.stop();
    let ended = room.hsup(["run", "--", "echo number $V"]).end();
    assert_eq!(ended.stdout, "number 2\n", "what runs once is of the newest release: {ended:?}");
    let hsup = start(&room, "replace").env("HSUP_READINESS", "").up();
    hsup.wait_line("release v1, which was good, runs until release v2 can");
    hsup.wait_line("worker.1 | this is 1");
    let dyno = hsup.wait_dyno("worker.1", "is up", |dyno| dyno["State"] == "up");
    assert_eq!(dyno["Release"], "v1", "{}", hsup.printed());
    room.release(&good(&room, 3));
    hsup.wait_line("worker.1 | this is 3");
    // one that can be live has no other before it
    hsup.stop();
    room.release(&good(&room, 4));
    let hsup = start(&room, "replace").env("HSUP_READINESS", "").up();
    hsup.wait_line("worker.1 | this is 4");
    assert!(hsup.lines("this is 3").is_empty(), "{}", hsup.printed());
}

#[test]
fn dynos_are_restarted_and_stopped_ones_started() {
    let room = Room::new();
    room.release(&room.app().process("worker", "exec sleep 600", 2).process("clock", "exec sleep 600", 1));
    let hsup = room.hsup(["start", "--min-healthy-time", "100ms"]).up();
    let before = ["worker.1", "worker.2", "clock.1"].map(|name| hsup.wait_up(name));
    assert_eq!(ask(&room, &["restart", "worker.1"]), "restarting: worker.1\n");
    let other = |pid: u32| move |dyno: &Value| dyno["State"] == "up" && dyno["Pid"] != pid;
    let dyno = hsup.wait_dyno("worker.1", "has been restarted", other(before[0]));
    assert_eq!(dyno["LastExit"]["Reason"], "restarted", "{dyno}");
    assert_eq!((hsup.dyno_pid("worker.2"), hsup.dyno_pid("clock.1")), (before[1], before[2]));
    ask(&room, &["stop", "clock"]);
    assert_eq!(hsup.dyno("clock.1")["State"], "down");
    ask(&room, &["restart", "clock.1"]);
    hsup.wait_up("clock.1");
    let before = ["worker.1", "worker.2", "clock.1"].map(|name| (name, hsup.wait_up(name)));
    ask(&room, &["restart", "--all"]);
    for (name, pid) in before {
        hsup.wait_dyno(name, "has been restarted", other(pid));
    }
    let ended = room.bare(["restart", "wbe", "-s"]).arg(room.socket()).end();
    assert!(ended.code != 0 && ended.stderr.contains("no dyno is called wbe"), "{}", ended.stderr);
}

#[test]
fn a_scale_holds_until_the_source_says_otherwise() {
    let room = Room::new();
    let app = |n: u64, quantity: u32| named(&room, n).process("worker", "exec sleep 600", quantity);
    room.release(&app(1, 1));
    let hsup = room.hsup(["start"]).up();
    let before = hsup.wait_up("worker.1");
    assert_eq!(ask(&room, &["scale", "worker+2"]), "worker=3\n");
    hsup.wait_up("worker.3");
    assert_eq!(hsup.dyno_pid("worker.1"), before);
    assert_eq!(ask(&room, &["scale"]), "worker=3\n");
    hsup.stop();
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("worker.3");
    room.release(&app(2, 1));
    hsup.wait_dyno("worker.3", "is that of v2", |dyno| dyno["State"] == "up" && dyno["Release"] == "v2");
    room.release(&app(3, 2));
    hsup.wait_dyno("worker.3", "is gone", Value::is_null);
    hsup.wait_up("worker.2");
    let ended = room.bare(["scale", "wrker=2", "-s"]).arg(room.socket()).end();
    assert!(ended.stderr.contains("no dyno is called wrker; there are: worker"), "{}", ended.stderr);
}

#[test]
fn what_overlaps_is_never_down() {
    let room = Room::new();
    let server = |n: u64| named(&room, n).process("web", "sleep 0.5; exec python3 -m http.server $PORT", 1);
    room.release(&server(1));
    let hsup = start(&room, "overlap").env("HSUP_READINESS", "").up();
    hsup.wait_line("release v1 is good");
    room.release(&server(2));
    if !isolated_network() {
        // two of them cannot listen on one port of the host
        hsup.wait_line("web: two dynos of one name cannot listen on the same port of this host, so that they are replaced");
        hsup.wait_dyno("web.1", "is that of v2", |dyno| dyno["State"] == "up" && dyno["Release"] == "v2");
        return;
    }
    let both = || {
        let dynos = hsup.get("/status").json()["Dynos"].as_array().cloned().unwrap_or_default();
        let up = |dyno: &&Value| dyno["State"] == "up";
        assert!(dynos.iter().filter(up).count() >= 1, "none is up: {dynos:?}");
        (dynos.len() == 1 && dynos[0]["Release"] == "v2").then_some(())
    };
    eventually("v2 alone is left", || hsup.printed(), both);
}
