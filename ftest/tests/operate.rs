//! Commands that tell of a running hsup's release, of one that may come, and that run something inside it.

use std::fs;
use std::io::Read;

use hsup_ftest::{App, Driver, Hsup, Room, driver, eventually, is_about, procs};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn shop(room: &Room) -> App {
    room.app().env("GREETING", "hello").env("OLD", "x")
}

fn running(room: &Room) -> Hsup {
    room.release(&shop(room).process("web", "exec sleep 600", 2).process("worker", "exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    for name in ["web.1", "web.2", "worker.1"] {
        hsup.wait_up(name);
    }
    hsup
}

fn plan(room: &Room, app: &App) -> Value {
    fs::write(room.path("next"), app.text()).expect("a file can be written");
    let ended = room.hsup(["plan", "--json"]).arg(room.path("next")).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.stdout).expect("it is JSON")
}

fn dynos(plan: &Value) -> Vec<String> {
    let dynos = plan["Dynos"].as_array().expect("there are dynos").iter();
    dynos
        .map(|dyno| format!("{} {} {}", dyno["Name"], dyno["Change"], dyno["Why"]).replace('"', ""))
        .collect()
}

#[test]
fn a_plan_tells_what_would_happen_and_it_does() {
    let room = Room::new();
    let hsup = running(&room);
    let pids = ["web.1", "web.2", "worker.1"].map(|name| hsup.dyno_pid(name));
    let same = shop(&room).process("web", "exec sleep 600", 1).process("worker", "exec sleep 600", 2);
    let scaled = plan(&room, &same);
    let expected =
        ["web.1 unchanged []", "web.2 stopped [scale]", "worker.1 unchanged []", "worker.2 started [scale]"];
    assert_eq!(dynos(&scaled), expected);

    let next = room.app().version(2).env("GREETING", "good day").env("NEW", "s3cret");
    let next = next.process("web", "exec sleep 601", 2).process("worker", "exec sleep 600", 1);
    let planned = plan(&room, &next);
    let expected = [
        "web.1 replaced [command,config vars]",
        "web.2 replaced [command,config vars]",
        "worker.1 restarted [config vars]",
    ];
    assert_eq!(dynos(&planned), expected);
    assert_eq!(planned["Config"], json!({"Added": ["NEW"], "Changed": ["GREETING"], "Removed": ["OLD"]}));
    let ended = room.hsup(["plan"]).arg(room.path("next")).end();
    assert!(ended.stdout.starts_with("release v2 in place of v1; nothing has been changed\n"), "{ended:?}");
    assert!(ended.stdout.contains("config vars: +NEW ~GREETING -OLD\n"), "{ended:?}");
    assert!(!ended.stdout.contains("s3cret"), "{ended:?}");
    assert_eq!(["web.1", "web.2", "worker.1"].map(|name| hsup.dyno_pid(name)), pids);

    // and now for real
    room.release(&same);
    hsup.wait_up("worker.2");
    eventually("web.2 is gone", || hsup.printed(), || hsup.dyno("web.2").is_null().then_some(()));
    assert_eq!((hsup.dyno_pid("web.1"), hsup.dyno_pid("worker.1")), (pids[0], pids[2]));
}

#[test]
fn what_is_no_control_file_is_said_as_by_check() {
    let room = Room::new();
    let _hsup = running(&room);
    let ended = room.hsup(["plan", "-"]).input("{\"Version\": }").end();
    assert_eq!(ended.code, 65, "{ended:?}");
    assert!(ended.stderr.contains("line 1"), "{ended:?}");
    assert_eq!(room.hsup(["plan", "/no/such/file"]).end().code, 66);
}

#[test]
fn config_vars_are_named_and_shown_when_asked_for() {
    let room = Room::new();
    let hsup = running(&room);
    let ended = room.hsup(["config"]).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("GREETING\n") && !ended.stdout.contains("hello"), "{ended:?}");
    let ended = room.hsup(["config", "--show"]).end();
    assert!(ended.stdout.contains("GREETING=hello\n"), "{ended:?}");
    hsup.wait_line("asks: show release v1 with its config vars");
    let json = |args: &[&str]| -> Value {
        let ended = args.iter().fold(room.hsup(["config"]), |launch, arg| launch.arg(arg)).end();
        serde_json::from_str(&ended.stdout).expect("it is JSON")
    };
    assert_eq!(json(&["--show", "--json"])["Config"]["GREETING"], "hello");
    assert!(json(&["--json"])["Names"].as_array().expect("names").contains(&json!("GREETING")));
    let status = hsup.get("/status").body + &hsup.get("/config").body;
    assert!(!status.contains("hello"), "{status}");
}

#[test]
fn a_one_off_dyno_runs_inside_the_live_release() {
    let room = Room::new();
    let hsup = running(&room);
    let driver_name = driver().to_string();
    // no source and no driver: both are those of the running hsup
    let command = "echo $GREETING from $DYNO; exit 7";
    let ended = room.bare(["run", "--live", "-s"]).arg(room.socket()).arg(command).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (7, "hello from run.1\n"), "{driver_name}: {ended:?}");
    hsup.wait_line("asks: show release v1 with its config vars");
    let ended = room.bare(["run", "-s"]).arg(room.socket()).arg(command).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (7, "hello from run.1\n"), "{ended:?}");
    assert_eq!(hsup.dyno("web.1")["State"], "up");
    assert_eq!(hsup.get("/health").status, 200);
}

#[test]
fn without_a_source_and_without_a_running_hsup_both_are_said() {
    let room = Room::new();
    let ended = room.bare(["run", "-a", "shop", "true"]).end();
    assert_eq!(ended.code, 66, "{ended:?}");
    assert!(ended.stderr.contains("no source of releases"), "{ended:?}");
    assert!(ended.stderr.contains("no hsup is running for app shop"), "{ended:?}");
}

#[test]
fn an_app_that_is_not_running_is_told_which_ones_are() {
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let driver = driver().to_string();
    let start = room.bare(["start", "-a", "shop", "-d", &driver]).env("HSUP_CONTROL_DIR", room.control_dir());
    let hsup = start.up();
    hsup.wait_line("web.1: State changed from starting to up");
    let ended = room.bare(["ps", "-a", "shpo"]).end();
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.stderr.contains("no hsup is running for app shpo"), "{ended:?}");
    assert!(ended.stderr.contains("running here: shop"), "{ended:?}");
}

#[test]
fn ps_watches_and_tells_each_change_once() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let hsup = running(&room);
    let mut watching = room.hsup(["ps", "--watch", "--json"]).command().spawn().expect("it starts");
    let mut stdout = watching.stdout.take().expect("it is piped");
    let mut seen = String::new();
    let mut read_until = |what: &str, count: usize| {
        let mut bytes = [0; 65_536];
        while seen.lines().filter(|line| line.contains(what)).count() < count {
            let length = stdout.read(&mut bytes).expect("it prints");
            assert!(length > 0, "it ended after: {seen}");
            seen.push_str(std::str::from_utf8(&bytes[..length]).expect("it is UTF-8"));
        }
        seen.clone()
    };
    read_until("web.1", 1);
    let before = hsup.dyno_pid("web.2");
    procs::signal(before, Signal::SIGKILL);
    let seen = read_until("SIGKILL", 1);
    assert!(seen.lines().count() <= 3, "what has not changed is told once: {seen}");
    procs::signal(watching.id(), Signal::SIGTERM);
    assert!(!watching.wait().expect("it is ours").success());
}

#[test]
fn output_that_cannot_be_written_is_a_failure_and_a_reader_that_has_seen_enough_is_none() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let hsup = running(&room);
    let file = room.control_dir().join("loaded");
    let file = file.to_str().expect("it is text");
    let cases: [&[&str]; 11] = [
        &["version"],
        &["--help"],
        &["completions", "bash"],
        &["ps"],
        &["ps", "--watch"],
        &["releases", "--json"],
        &["logs"],
        &["events"],
        &["check", file],
        &["stack", "list"],
        &["doctor"],
    ];
    let end = |args: &[&str], stdout: &str| {
        let script = format!("\"$@\" {stdout}; exit ${{PIPESTATUS[0]}}");
        let launch = room.hsup([]).through(["bash", "-c", &script, "bash"]);
        args.iter().fold(launch, |launch, arg| launch.arg(arg)).end()
    };
    for args in cases {
        let ended = end(args, "> /dev/full");
        assert_eq!(ended.code, 74, "{args:?}: {ended:?}");
        assert!(
            ended.stderr.contains("hsup: cannot write standard output: No space left"),
            "{args:?}: {ended:?}"
        );
        let ended = end(args, "| :");
        assert!([0, 75].contains(&ended.code), "{args:?}: {ended:?}");
        assert!(!ended.stderr.contains("standard output"), "{args:?}: {ended:?}");
    }
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_crash_loop_is_a_state_that_tells_when_and_ends_when_asked() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let dir = room.path("work/flag");
    fs::create_dir(&dir).expect("a directory can be made");
    let line = format!("test -e {0}/mended && exec sleep 600; echo no luck >&2; exit 3", dir.display());
    room.release(&room.app().process("web", &line, 1));
    let hsup = room.hsup(["start"]).up();
    let waits = |dyno: &Value| dyno["State"] == "crashed" && dyno["Crashes"].as_u64() >= Some(4);
    let dyno = hsup.wait_dyno("web.1", "waits for its next start", waits);
    assert!(dyno["NextRetryAt"].is_string(), "{dyno}");
    let ended = room.hsup(["ps"]).end();
    let row = ended.stdout.lines().find(|line| line.starts_with("web.1")).expect("it is there").to_owned();
    assert!(row.contains("crashed") && row.contains("exit 3") && row.contains(" in "), "{row}");
    let ended = room.hsup(["explain", "web.1"]).end();
    assert!(ended.stdout.contains("times in a row and is started again in "), "{ended:?}");
    fs::write(dir.join("mended"), "").expect("a file can be written");
    assert_eq!(room.hsup(["restart", "web.1"]).end().code, 0);
    let well = hsup.wait_dyno("web.1", "is up and has no next start", |dyno| {
        dyno["State"] == "up" && dyno["NextRetryAt"].is_null()
    });
    assert!(well["Pid"].is_u64(), "{well}");
}

#[test]
fn a_run_that_does_not_end_when_it_is_told_to_says_so() {
    let room = Room::new();
    let line = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    room.release(&room.app().process("worker", line, 1));
    let hsup = room.hsup(["--stop-timeout", "300ms", "start"]).up();
    hsup.wait_line("worker.1 | ready");
    assert_eq!(hsup.post("/control/restart", r#"{"Processes":["worker"]}"#).status, 200);
    let dyno = hsup.wait_dyno("worker.1", "has ended once", |dyno| !dyno["LastExit"].is_null());
    assert_eq!(
        [&dyno["LastExit"]["Reason"], &dyno["LastExit"]["Name"]],
        ["exit-timeout", "SIGKILL"],
        "{dyno}"
    );
    let ended = room.bare(["explain", "worker.1", "-s"]).arg(room.socket()).end();
    assert!(ended.stdout.contains("had not within the stop timeout, and was killed (R12)"), "{ended:?}");
}
