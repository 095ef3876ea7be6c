//! The command line: exit codes and messages of what cannot be, and the log.

use std::fs;

use hsup_ftest::{Driver, Room, driver, is_about};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[test]
fn what_is_wrong_with_the_command_line_is_said_with_code_64() {
    let room = Room::new();
    let long = format!("/tmp/{}", "x".repeat(120));
    let cases: [(&[&str], &str); 10] = [
        (&["start", "--no-such-flag"], "--no-such-flag"),
        (&["no-such-command"], "no-such-command"),
        (&["start", "-s", &long], "108"),
        (&["start", "-d", "podman"], "simple, abspath, docker or native"),
        (&["start", "--stop-timeout", "30"], "unit"),
        (&["start", "web=many"], "web=many"),
        (&["start", "--start-number", "0"], "--start-number"),
        (&["run"], "CMD"),
        (&["start", "--limits", "memory=64MiB"], "use native or docker"),
        (&["start", "--allow", "dynos"], "use native"),
    ];
    for (args, expected) in cases {
        let launch = room.bare([]).env("HSUP_CONTROL_DIR", room.control_dir());
        let ended = args.iter().fold(launch, |launch, arg| launch.arg(arg)).end();
        assert_eq!(ended.code, 64, "{args:?}: {ended:?}");
        let expected = if expected == "108" { "107" } else { expected };
        assert!(ended.stderr.contains(expected), "{args:?}: {expected:?} is not in {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
    }
}

#[test]
fn limits_that_would_not_be_kept_are_refused_or_warned_of() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let ended = room.hsup(["start"]).env("HSUP_LIMITS", "web:pids=9").end();
    assert_eq!(ended.code, 64, "{ended:?}");
    let web = json!([{"Type": "web", "Args": ["true"], "Quantity": 1, "Limits": {"Memory": "64MiB"}}]);
    room.release(&room.app().field("Processes", web));
    // what a variable allows to native dynos of this host is no mistake
    let ended = room.hsup(["--oneshot", "start"]).env("HSUP_ALLOW", "dynos").end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.stderr.matches("the Limits of web are not kept").count(), 1, "{ended:?}");
}

#[test]
fn without_a_source_hsup_says_what_to_do_with_code_66() {
    let room = Room::new();
    let ended = room.bare(["start", "-s", "none"]).end();
    assert_eq!(ended.code, 66, "{ended:?}");
    assert!(ended.stderr.contains("Procfile") && ended.stderr.contains("--control-dir"), "{ended:?}");
    let ended = room.bare(["start", "-s", "none", "--control-dir", "/no/such/dir"]).end();
    assert_eq!(ended.code, 66, "{ended:?}");
    assert!(ended.stderr.contains("/no/such/dir") && ended.stderr.contains("mkdir -p"), "{ended:?}");
    assert_eq!(ended.stderr.trim().lines().count(), 1, "one line says it: {ended:?}");
}

#[test]
fn two_flags_that_choose_a_source_are_named() {
    let room = Room::new();
    let ended = room.bare(["start", "--control-dir", "/tmp", "--procfile", "Procfile"]).end();
    assert_eq!(ended.code, 64, "{ended:?}");
    assert!(ended.stderr.contains("--control-dir") && ended.stderr.contains("--procfile"), "{ended:?}");
}

#[test]
fn a_process_type_that_there_is_not_is_warned_of_wherever_it_is_named() {
    let room = Room::new();
    room.release(&room.app().process("web", "true", 1));
    let args = ["--readiness", "wbe:none", "--liveness", "wbe:none", "--rollout", "wbe:rolling"];
    let hsup =
        args.iter().fold(room.hsup(["--oneshot", "start", "web=1", "wbe=2"]), |hsup, arg| hsup.arg(arg));
    let ended = hsup.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    for said in ["no process type wbe", "--readiness wbe", "--liveness wbe", "--rollout wbe"] {
        let lines: Vec<&str> = ended.stderr.lines().filter(|line| line.contains(said)).collect();
        assert!(matches!(lines[..], [line] if line.contains("it has: web")), "{said}: {ended:?}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let room = Room::new();
    for args in [["--help"], ["version"], ["--version"]] {
        let ended = room.bare(args).end();
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{args:?}");
        assert!(ended.stdout.contains("hsup"), "{ended:?}");
    }
}

#[test]
fn a_state_dir_that_cannot_be_is_said() {
    let room = Room::new();
    let file = room.path("file");
    fs::write(&file, "").expect("a file can be written");
    room.release(&room.app().process("web", "true", 1));
    let ended = room.hsup(["start"]).env("HSUP_STATE_DIR", file.join("state")).end();
    assert_eq!(ended.code, 71, "{ended:?}");
    assert!(ended.stderr.contains("file/state"), "{ended:?}");
}

#[test]
fn the_log_is_json_if_asked_for() {
    let room = Room::new();
    room.release(&room.app().process("web", "echo out; exit 0", 1));
    let ended = room.hsup(["--oneshot", "--log-format", "json", "start"]).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.lines().count() > 3, "{ended:?}");
    for line in ended.stderr.lines() {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(record["timestamp"].is_string() && record["level"].is_string(), "{line}");
        assert!(record["message"].is_string(), "{line}");
    }
    assert_eq!(ended.stdout, "web.1 | out\n");
}

#[test]
fn the_level_of_the_log_can_be_set() {
    let room = Room::new();
    room.release(&room.app().process("web", "true", 1));
    let ended = room.hsup(["--oneshot", "--log-level", "error", "start"]).end();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn sigusr1_dumps_the_diagnostic_ring_and_goes_on() {
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = room.hsup(["--log-level", "error", "start"]).up_at_once();
    hsup.wait_up("web.1");
    assert!(hsup.lines("State changed").is_empty(), "{}", hsup.printed());
    hsup.signal(Signal::SIGUSR1);
    hsup.wait_line("web.1: State changed from starting to up");
    assert_eq!(hsup.dyno("web.1")["State"], "up");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_flag_beats_its_variable() {
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = room.hsup(["--start-number", "4", "start"]).env("HSUP_START_NUMBER", "7").up();
    hsup.wait_up("web.4");
    drop(hsup);
    let hsup = room.bare(["start", "-s"]).arg(room.socket()).env("HSUP_START_NUMBER", "7");
    let hsup =
        hsup.env("HSUP_DYNODRIVER", driver().to_string()).env("HSUP_CONTROL_DIR", room.control_dir()).up();
    hsup.wait_up("web.7");
}
