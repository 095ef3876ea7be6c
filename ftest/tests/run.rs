//! One-off dynos: what users of `hsup run` rely on.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use hsup_ftest::{Driver, Room, driver, post, runs_slugs};
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn the_output_of_a_one_off_dyno_is_its_own_and_nothing_else() {
    let room = Room::new();
    room.release(&room.app().env("TESTENTRY", "a value"));
    let ended = room.hsup(["run", "echo $TESTENTRY"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "a value\n"), "{ended:?}");
}

#[test]
fn options_stand_before_or_after_the_command() {
    let room = Room::new();
    room.release(&room.app().env("TESTENTRY", "either"));
    let driver = driver().to_string();
    let (socket, control_dir) = (room.socket(), room.control_dir());
    let before = room.bare(["-d", &driver, "-a", "x", "--control-dir"]).arg(&control_dir);
    let before = before.arg("-s").arg(&socket).args(["run", "echo $TESTENTRY"]).end();
    let after = room.bare(["run", "-d", &driver, "-a", "x", "--control-dir"]).arg(&control_dir);
    let after = after.arg("-s").arg(&socket).arg("echo $TESTENTRY").end();
    for ended in [before, after] {
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "either\n"), "{ended:?}");
    }
}

#[test]
fn a_variable_that_tells_where_hsup_is_is_in_the_way_of_no_one_off_dyno() {
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("web.1");
    let driver = driver().to_string();
    for (args, printed) in [(vec!["run", "echo once"], "once\n"), (vec!["build"], "")] {
        let launch = room.bare(["-d", &driver, "--control-dir"]).arg(room.control_dir());
        let launch = launch.env("HSUP_CONTROL_SOCKET", room.socket());
        let ended = args.iter().fold(launch, |launch, arg| launch.arg(arg)).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, printed), "{ended:?}");
    }
    // a flag asks for a socket of its own there, and may be meant otherwise
    let ended = room.hsup(["run", "echo once"]).end();
    assert_eq!(ended.code, 73, "{ended:?}");
    assert!(ended.stderr.contains("in use") && ended.stderr.contains("--live"), "{ended:?}");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn status_shows_a_one_off_dyno_and_stop_ends_it() {
    let room = Room::new();
    room.release(&room.app());
    let hsup = room.hsup(["run", "sleep 20"]).up();
    let pid = hsup.wait_up("run.1");
    let status = hsup.get("/status").json();
    let run = &status["Processes"]["run"];
    assert_eq!(run["Status"], "Started", "{status}");
    assert!(run["IPAddress"].as_str().is_some_and(|address| !address.is_empty()), "{status}");
    assert!(run["Port"].as_u64().is_some_and(|port| port > 0), "{status}");
    let stopped = post(&room.socket(), "/control/stop", r#"{"Processes":["run"]}"#);
    let stopped = stopped.map(|answer| (answer.status, answer.json()));
    assert_eq!(stopped, Some((200, json!({"StoppedProcesses": ["run"]}))));
    assert!(!hsup_ftest::procs::alive(pid), "stop answers when the dyno is gone");
    hsup.end();
    room.assert_nothing_left();
}

#[test]
fn the_environment_is_that_of_a_dyno() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let ended = room.hsup(["run", "env"]).env("SECRET_OF_HSUP", "x").end();
    let vars: Vec<&str> = ended.stdout.lines().collect();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for var in ["DYNO=run.1", "HOME=/app", "PWD=/app", path] {
        assert!(vars.contains(&var), "{var} is not there: {vars:#?}");
    }
    for name in ["SECRET_OF_HSUP", "HSUP_STATE_DIR", "HSUP_CONTROL_DIR", "XDG_RUNTIME_DIR"] {
        assert!(!ended.stdout.contains(name), "{name} is hsup's own: {vars:#?}");
    }
}

#[test]
fn the_environment_of_hsup_itself_is_not_the_dynos() {
    let room = Room::new();
    room.release(&room.app());
    let ended =
        room.hsup(["run", "env"]).env("SECRET_OF_HSUP", "x").env("HEROKU_ACCESS_TOKEN", "t0ken").end();
    assert!(ended.stdout.contains("DYNO=run.1"), "{ended:?}");
    for name in ["SECRET_OF_HSUP", "t0ken", "HSUP_STATE_DIR", "HSUP_CONTROL_DIR"] {
        assert!(!ended.stdout.contains(name), "{name} is hsup's own: {}", ended.stdout);
    }
}

#[test]
fn the_exit_code_is_that_of_the_dyno() {
    let room = Room::new();
    room.release(&room.app());
    let plain = room.path("plain");
    fs::write(&plain, "text").expect("a file can be written");
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).expect("a mode can be set");
    let not_executable = match driver() {
        // which sees nothing of the room
        Driver::Docker | Driver::Native => "/app/version".to_owned(),
        Driver::Simple | Driver::Abspath => plain.display().to_string(),
    };
    let cases = [
        ("true", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -TERM $$", 128 + 15),
        ("kill -KILL $$", 128 + 9),
        ("no-such-program-at-all", 127),
        ("/no/such/program x", 127),
        (&not_executable, 126),
        ("no-such-program-at-all; exit 4", 4),
    ];
    for (line, code) in cases {
        let ended = room.hsup(["run", line]).end();
        assert_eq!(ended.code, code, "{line}: {ended:?}");
    }
}

#[test]
fn a_command_that_cannot_start_says_why() {
    let room = Room::new();
    room.release(&room.app());
    let ended = room.hsup(["run", "no-such-program-at-all"]).end();
    assert!(ended.stderr.contains("no-such-program-at-all"), "{ended:?}");
    assert!(ended.stderr.contains("not found"), "{ended:?}");
}

#[test]
fn words_of_a_command_stay_words_and_variables_expand() {
    let room = Room::new();
    room.release(&room.app().env("PORT", "7000").env("NAME", "x"));
    let ended = room.hsup(["run", "printf", "[%s]", "$PORT", "a  b", "", "it's", "$NAME"]).end();
    assert_eq!(ended.stdout, "[7000][a  b][][it's][x]", "{ended:?}");
}

#[test]
fn a_one_off_dyno_reads_what_hsup_is_given() {
    let room = Room::new();
    room.release(&room.app());
    let ended = room.hsup(["run", "tr a-z A-Z"]).input("some input\n").end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "SOME INPUT\n"), "{ended:?}");
    let large = "0123456789".repeat(100_000);
    let ended = room.hsup(["run", "wc -c"]).input(large).end();
    assert_eq!(ended.stdout.trim(), "1000000", "{ended:?}");
}

#[test]
fn errors_of_a_one_off_dyno_go_to_stderr() {
    let room = Room::new();
    room.release(&room.app());
    let ended = room.hsup(["run", "echo oops >&2; echo fine"]).end();
    assert_eq!(ended.stdout, "fine\n");
    assert!(ended.stderr.lines().any(|line| line == "oops"), "{ended:?}");
}

#[test]
fn sigterm_ends_a_one_off_dyno_and_hsup_tells_how_it_ended() {
    let room = Room::new();
    room.release(&room.app());
    let hsup = room
        .hsup(["run", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 600 & wait; done"])
        .up();
    hsup.wait_line("ready");
    hsup.signal(Signal::SIGTERM);
    let ended = hsup.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (7, "ready\nbye\n"), "{ended:?}");
    room.assert_nothing_left();
}
