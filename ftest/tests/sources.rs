//! Sources other than the control dir: the Procfile of an app's folder, and the payload.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hsup_ftest::{Driver, Room, driver, procs};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The payload of a formation, as hsup makes it for the hsup inside a container.
fn payload(room: &Room, line: &str) -> String {
    let app = room.app().env("SECRET", "s3cret").process("web", line, 1);
    let startup = json!({
        "App": app.value(), "Action": "start", "Quantities": null, "Args": [], "OneShot": false,
        "StartNumber": 1, "SkipBuild": false, "Binds": [],
    });
    STANDARD.encode(startup.to_string())
}

#[test]
fn the_procfile_of_the_folder_runs_with_its_env() {
    if driver() == Driver::Abspath {
        println!("skip: a Procfile has no slug, which the abspath driver needs");
        return;
    }
    let room = Room::new();
    let work = room.path("work");
    fs::write(
        work.join("Procfile"),
        "# my app\nweb: test -f Procfile && echo $GREETING on $PORT; exec sleep 600\nworker: exec sleep 600\n",
    )
    .expect("a file can be written");
    fs::write(
        work.join(".env"),
        format!("GREETING=\"hello world\"\nPORT=6200\nFTEST_MARK={}\n", room.mark()),
    )
    .expect("a file can be written");
    let hsup = room.bare(["start", "-d", &driver().to_string(), "-s"]).arg(room.socket()).up();
    assert_eq!(hsup.wait_line("web.1 | "), "web.1 | hello world on 6200");
    hsup.wait_up("worker.1");
    let live =
        room.bare(["run", "--live", "-s"]).arg(room.socket()).arg("test -f Procfile && echo $GREETING");
    let ended = live.dir("/").end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "hello world\n"), "{ended:?}");
    // SIGHUP: read it again
    fs::write(work.join("Procfile"), "web: echo second; exec sleep 600\n").expect("a file can be written");
    hsup.signal(Signal::SIGHUP);
    hsup.wait_line("web.1 | second");
    hsup.wait_dyno("worker.1", "is gone", Value::is_null);
    // a wrong one changes nothing
    let pid = hsup.wait_up("web.1");
    let wrong = "this is no process type\nnor: is\nthis\n";
    fs::write(work.join("Procfile"), wrong).expect("a file can be written");
    hsup.signal(Signal::SIGHUP);
    for line in ["Procfile:1: ", "Procfile:3: "] {
        let said = hsup.wait_line(line);
        assert!(said.contains("the release stays as it was") && !said.contains("\\n"), "{said}");
    }
    assert_eq!(hsup.dyno_pid("web.1"), pid);
    assert_eq!(hsup.stop().code, 0);
    room.assert_nothing_left();
}

#[test]
fn a_procfile_may_stand_anywhere_and_a_wrong_one_names_its_lines() {
    if driver() == Driver::Abspath {
        println!("skip: a Procfile has no slug, which the abspath driver needs");
        return;
    }
    let room = Room::new();
    let procfile = room.path("Procfile.dev");
    fs::write(&procfile, "web: echo found; exit 0\n").expect("a file can be written");
    let driver = driver().to_string();
    let ended =
        room.bare(["-d", &driver, "--oneshot", "-s", "none", "start", "--procfile"]).arg(&procfile).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "web.1 | found\n"), "{ended:?}");
    fs::write(&procfile, "web: x\nnonsense\n").expect("a file can be written");
    let ended = room.bare(["-s", "none", "start", "--procfile"]).arg(&procfile).end();
    assert_eq!(ended.code, 65, "{ended:?}");
    assert!(ended.stderr.contains("Procfile.dev:2"), "{ended:?}");
    let ended = room.bare(["-d", "abspath", "-s", "none", "start", "--procfile"]).arg(&procfile).end();
    assert_eq!(ended.code, 65, "what is wrong with it comes first: {ended:?}");
    fs::write(&procfile, "web: x\n").expect("a file can be written");
    let ended = room.bare(["-d", "abspath", "-s", "none", "start", "--procfile"]).arg(&procfile).end();
    assert_eq!(ended.code, 64, "{ended:?}");
    assert!(ended.stderr.contains("use another driver"), "{ended:?}");
    fs::create_dir(room.path(".env")).expect("a directory can be made");
    let ended = room.bare(["-s", "none", "start", "--procfile"]).arg(&procfile).end();
    assert_eq!((ended.code, ended.stderr.matches("is a directory").count()), (66, 1), "{ended:?}");
}

#[test]
fn a_payload_file_is_removed_and_nothing_of_it_is_in_an_environment() {
    let room = Room::new();
    let file = room.path("payload");
    fs::write(&file, payload(&room, "echo $SECRET; exec sleep 600")).expect("a file can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("a mode can be set");
    let hsup = room.bare(["start", "-d", &driver().to_string(), "-s"]).arg(room.socket());
    let hsup = hsup.env("HSUP_CONTROL_GOB_FILE", &file).up();
    hsup.wait_line("web.1 | s3cret");
    assert!(!file.exists(), "it holds secrets");
    let environment = procs::environment(hsup.wait_up("web.1"));
    assert!(environment.contains(&"SECRET=s3cret".to_owned()), "{environment:?}");
    assert!(!environment.iter().any(|var| var.contains("HSUP_CONTROL_GOB")), "{environment:?}");
    for pid in [hsup.pid(), hsup.proper()] {
        assert!(!procs::environment(pid).iter().any(|var| var.contains("s3cret")));
    }
}

#[test]
fn a_payload_variable_does_not_reach_the_dynos() {
    let room = Room::new();
    let hsup = room.bare(["start", "-d", &driver().to_string(), "-s"]).arg(room.socket());
    let hsup = hsup.env("HSUP_CONTROL_GOB", payload(&room, "echo $SECRET; exec sleep 600")).up();
    hsup.wait_line("web.1 | s3cret");
    let environment = procs::environment(hsup.wait_up("web.1"));
    assert!(!environment.iter().any(|var| var.contains("HSUP_CONTROL_GOB")), "{environment:?}");
}

#[test]
fn a_wrong_payload_is_refused_and_shows_nothing_of_itself() {
    let room = Room::new();
    let wrong = STANDARD.encode(r#"{"App": {"Version": "s3cret"}}"#);
    for payload in ["no base64 s3cret!", &wrong] {
        let ended = room.bare(["start", "-s", "none"]).env("HSUP_CONTROL_GOB", payload).end();
        assert_eq!(ended.code, 65, "{ended:?}");
        assert!(!ended.stderr.contains("s3cret"), "{ended:?}");
        assert!(ended.stderr.matches("Version").count() <= 1, "a cause is said once: {ended:?}");
    }
}
