//! Bad control files, and what they get: a clear error, and dynos that run on.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hsup_ftest::{App, Hsup, Room, eventually};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

/// A release of one web dyno that runs, and the pid of that.
fn running(room: &Room) -> (Hsup, App, u32) {
    let app = room.app().process("web", "exec sleep 600", 1);
    room.release(&app);
    let hsup = room.hsup(["start"]).up();
    let pid = hsup.wait_up("web.1");
    (hsup, app, pid)
}

/// What `last_error` says of the `new` that has just been put there; cleared for the next one.
fn refusal(room: &Room) -> String {
    let said = room.control_file("last_error");
    let dir = room.control_dir();
    assert!(fs::symlink_metadata(dir.join("rejected")).is_ok(), "{:?}", room.control_files());
    assert!(!dir.join("new").exists(), "{:?}", room.control_files());
    fs::remove_file(dir.join("last_error")).expect("it is there");
    fs::remove_file(dir.join("rejected"))
        .or_else(|_| fs::remove_dir(dir.join("rejected")))
        .expect("it is there");
    said
}

#[test]
fn a_bad_control_file_is_rejected_with_its_reason_and_the_dynos_run_on() {
    let room = Room::new();
    let (hsup, app, pid) = running(&room);
    let app = app.version(2);
    let whole = app.text();
    let web = |name: &str| room.app().process(name, "true", 1).text().into_bytes();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("truncated", whole[..whole.len() / 2].into(), "line 1"),
        ("empty", Vec::new(), "empty"),
        ("not UTF-8", b"{\"Version\": 2, \"Name\": \"\xff\xfe\"}".into(), "UTF-8"),
        ("not JSON", b"version: 2".into(), "line 1"),
        ("an array", b"[]".into(), "object"),
        ("a text as version", app.clone().field("Version", "two").text().into(), "Version"),
        ("a negative version", app.clone().field("Version", -1).text().into(), "Version"),
        ("a number as config var", app.clone().field("Env", json!({"A": 1})).text().into(), "Env.A"),
        (
            "Args as text",
            app.clone().field("Processes", json!([{"Type": "web", "Args": "x"}])).text().into(),
            "Args",
        ),
        (
            "no Args",
            app.clone().field("Processes", json!([{"Type": "web", "Args": []}])).text().into(),
            "Args",
        ),
        ("PORT not a number", app.clone().env("PORT", "http").text().into(), "PORT"),
        (
            "two types of one name",
            room.app().process("web", "a", 1).process("web", "b", 1).text().into(),
            "web",
        ),
        ("a type that climbs", web("web/../x"), "web/../x"),
        ("a type without a name", web(""), "empty"),
        ("a type of 300 characters", web(&"x".repeat(300)), "63"),
        ("the type of one-off dynos", web("run"), "run"),
        ("a NUL in the environment", app.clone().env("A", "a\0b").text().into(), "Env.A"),
    ];
    for (what, bytes, expected) in cases {
        room.put(&bytes);
        let said = refusal(&room);
        assert!(said.contains(expected), "{what}: {expected:?} is not in {said:?}");
        assert!(said.contains("what runs keeps running"), "{what}: {said:?}");
        assert_eq!(hsup.dyno_pid("web.1"), pid, "{what}");
    }
    assert_eq!(hsup.dyno("web.1")["Restarts"], 0);
    // and then a good one is taken
    room.release(&app.env("NEW", "1"));
    hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2");
}

#[test]
fn an_error_tells_line_column_field_and_the_mend_and_no_secret() {
    let room = Room::new();
    let (hsup, ..) = running(&room);
    room.put(b"{\n  \"Version\": 2,\n  \"Env\": {\"PORT\": \"s3cret\"},\n  \"Processes\": []\n}");
    let said = refusal(&room);
    assert!(said.contains("line 3") && said.contains("column") && said.contains("Env.PORT"), "{said:?}");
    assert!(said.contains("1 to 65535"), "{said:?}");
    assert!(!said.contains("s3cret") && !hsup.printed().contains("s3cret"), "{said:?}");
}

#[test]
fn a_huge_control_file_is_rejected_unread() {
    let room = Room::new();
    let (hsup, _, pid) = running(&room);
    let huge = room.path("huge");
    File::create(&huge).and_then(|file| file.set_len(100 << 20)).expect("a sparse file can be made");
    fs::rename(huge, room.control_dir().join("new")).expect("it can be renamed");
    let said = refusal(&room);
    assert!(said.contains("MiB") || said.contains("large"), "{said:?}");
    assert_eq!(hsup.dyno_pid("web.1"), pid);
}

#[test]
fn a_new_that_is_no_file_is_rejected() {
    let room = Room::new();
    let (hsup, _, pid) = running(&room);
    let new = room.control_dir().join("new");
    fs::create_dir(&new).expect("a directory can be made");
    assert!(refusal(&room).contains("a directory"));
    mkfifo(&new, Mode::S_IRWXU).expect("a FIFO can be made");
    assert!(refusal(&room).contains("a FIFO"));
    std::os::unix::fs::symlink("/nowhere/at/all", &new).expect("a link can be made");
    assert!(refusal(&room).contains("symlink"));
    assert_eq!(hsup.dyno_pid("web.1"), pid);
}

#[test]
fn a_file_that_is_written_in_place_is_taken_when_it_is_whole() {
    let room = Room::new();
    let (hsup, app, _) = running(&room);
    let text = app.version(2).env("NEW", "1").text();
    let (first, second) = text.split_at(text.len() / 2);
    let mut new = File::create(room.control_dir().join("new")).expect("a file can be made");
    std::io::Write::write_all(&mut new, first.as_bytes()).expect("it can be written");
    // an answer of hsup says that it has had the time to look
    hsup.get("/status");
    std::io::Write::write_all(&mut new, second.as_bytes()).expect("it can be written");
    drop(new);
    hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2");
    assert!(!room.control_files().contains(&"rejected".to_owned()), "{:?}", room.control_files());
}

#[test]
fn an_unknown_field_is_warned_of_and_the_release_is_taken() {
    let room = Room::new();
    let (hsup, app, _) = running(&room);
    room.release(&app.version(2).env("NEW", "1").field("Colour", "blue"));
    hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2");
    let warning = hsup.wait_line("Colour");
    assert!(warning.contains("WARN"), "{warning}");
    assert_eq!(room.control_files(), ["loaded"]);
}

#[test]
fn a_good_release_takes_rejected_and_last_error_away() {
    let room = Room::new();
    let (hsup, app, _) = running(&room);
    room.put(b"[]");
    room.control_file("last_error");
    assert_eq!(room.control_files(), ["last_error", "loaded", "rejected"]);
    room.release(&app.version(2).env("NEW", "1"));
    hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2");
    assert_eq!(room.control_files(), ["loaded"]);
}

#[test]
fn what_runs_once_is_of_the_newest_release_alone() {
    let room = Room::new();
    let once = |code: i32, expected: &str| {
        for args in [&["run", "echo once"][..], &["build"], &["--oneshot", "start"]] {
            let ended = args.iter().fold(room.hsup([]), |launch, arg| launch.arg(arg)).end();
            assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{args:?}: {ended:?}");
            let said = ended.stderr.lines().filter(|line| line.contains(expected)).count();
            assert_eq!(said, 1, "{args:?}: {expected:?} is said once: {ended:?}");
        }
    };
    once(66, "/new");
    let text = room.app().process("web", "echo once", 1).text();
    for loaded in [None, Some(&text)] {
        if let Some(text) = loaded {
            fs::write(room.control_dir().join("loaded"), text).expect("a file can be written");
        }
        // the first of them makes it `rejected`, and that is the newest for those after it
        room.put(b"[]");
        once(65, "object");
    }
    room.put(text.as_bytes());
    let ended = room.hsup(["run", "echo once"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "once\n"), "{ended:?}");
    assert_eq!(room.control_files(), ["loaded"]);
}

#[test]
fn a_cold_start_uses_the_release_that_was_loaded() {
    let room = Room::new();
    let (hsup, app, _) = running(&room);
    let text = app.version(2).env("NEW", "1").text();
    room.put(text.as_bytes());
    hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2");
    assert_eq!(hsup.stop().code, 0);
    assert_eq!(room.control_file("loaded"), text, "byte for byte");
    let mode = fs::metadata(room.control_dir().join("loaded")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "it holds secrets: mode {mode:o}");
    let hsup = room.hsup(["start"]).up();
    hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2" && dyno["State"] == "up");
}

#[test]
fn a_bad_loaded_is_told_and_a_new_one_mends_it() {
    let room = Room::new();
    fs::write(room.control_dir().join("loaded"), "{").expect("a file can be written");
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("loaded");
    room.release(&room.app().process("web", "exec sleep 600", 1));
    hsup.wait_up("web.1");
}

#[test]
fn a_full_disk_leaves_the_old_release_running_and_the_new_one_follows_when_there_is_room() {
    let room = Room::new();
    let mount = format!("mount -t tmpfs -o size=16k ftest {} && exec \"$@\"", room.control_dir().display());
    let hsup = room.hsup(["--poll-interval", "1s", "start"]);
    let hsup =
        hsup.through(["unshare", "--mount", "--propagation", "private", "sh", "-c", &mount, "sh"]).up();
    // the control dir as hsup sees it
    let dir = format!("/proc/{}/root{}", hsup.pid(), room.control_dir().display());
    let put = |app: &App| {
        fs::write(format!("{dir}/written"), app.text()).expect("there is room for it");
    };
    let rename = || fs::rename(format!("{dir}/written"), format!("{dir}/new")).expect("it can be renamed");
    let app = room.app().process("web", "exec sleep 600", 1);
    put(&app);
    rename();
    let pid = hsup.wait_up("web.1");
    put(&app.version(2).env("NEW", "1"));
    let filled = fs::write(format!("{dir}/filler"), vec![0; 64 << 10]);
    assert!(filled.is_err(), "the control dir is full now");
    rename();
    let said = hsup.wait_line("free some space");
    assert!(said.contains("it is tried again"), "{said}");
    let dyno = hsup.dyno("web.1");
    assert_eq!((&dyno["Pid"], &dyno["Release"]), (&pid.into(), &"v1".into()));
    let loaded = fs::read_to_string(format!("{dir}/loaded")).expect("it is there");
    assert!(loaded.contains("\"Version\":1"), "the old one is whole: {loaded}");
    fs::remove_file(format!("{dir}/filler")).expect("it is there");
    hsup.signal(Signal::SIGHUP);
    hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2" && dyno["State"] == "up");
}

#[test]
fn a_control_dir_that_goes_away_and_comes_back_is_followed() {
    let room = Room::new();
    let hsup = {
        room.release(&room.app().process("web", "exec sleep 600", 1));
        room.hsup(["--poll-interval", "1s", "start"]).up()
    };
    let pid = hsup.wait_up("web.1");
    fs::remove_dir_all(room.control_dir()).expect("it is there");
    hsup.wait_line("is gone");
    assert_eq!(hsup.dyno_pid("web.1"), pid);
    fs::create_dir(room.control_dir()).expect("it can be made");
    room.release(&room.app().process("web", "exec sleep 600", 1).version(2).env("NEW", "1"));
    hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2");
}

#[test]
fn check_says_what_hsup_would_say_and_starts_nothing() {
    let room = Room::new();
    let good = room.path("good.json");
    fs::write(&good, room.app().process("web", "x", 2).text()).expect("a file can be written");
    let ended = room.bare(["check"]).arg(&good).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("valid") && ended.stdout.contains("web=2"), "{ended:?}");
    let bad = room.path("bad.json");
    fs::write(&bad, "{\"Version\": 1,\n \"Processes\": 3}").expect("a file can be written");
    let ended = room.bare(["check"]).arg(&bad).end();
    assert_eq!(ended.code, 65, "{ended:?}");
    assert!(ended.stderr.contains("line 2") && ended.stderr.contains("Processes"), "{ended:?}");
    let found = |file: &Path| -> (i32, Value) {
        let ended = room.bare(["check", "--json"]).arg(file).end();
        (ended.code, serde_json::from_str(&ended.stdout).expect("it is JSON"))
    };
    let (code, finding) = found(&good);
    assert_eq!((code, &finding["Valid"], &finding["Formation"]), (0, &json!(true), &json!({"web": 2})));
    let (code, finding) = found(&bad);
    let error = finding["Error"].as_str().expect("it says why");
    assert!(code == 65 && finding["Valid"] == false && error.contains("line 2"), "{finding}");
    let ended = room.bare(["check", "/no/such/file"]).end();
    assert_eq!(ended.code, 66, "{ended:?}");
    let ended = room.bare(["check", "-"]).input("{}").end();
    assert_eq!(ended.code, 65, "{ended:?}");
}

#[test]
fn a_release_without_dynos_is_waited_for_not_ended_by() {
    let room = Room::new();
    let hsup = room.hsup(["start"]).up();
    let status = hsup.get("/status").json();
    assert_eq!((&status["Processes"], &status["Release"]["Version"]), (&json!({}), &Value::Null));
    let said = hsup.wait_line("waiting for a release");
    assert!(said.contains(&format!("{}/new", room.control_dir().display())), "{said}");
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let up = || (hsup.dyno("web.1")["State"] == "up").then_some(());
    eventually("the first release is taken", || hsup.printed(), up);
}
