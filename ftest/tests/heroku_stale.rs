//! The last good release: kept for the day on which hsup starts and the Heroku Platform API is down.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use hsup_ftest::{Endpoint, FakeHeroku, Fault, Room, at_once, eventually};
use serde_json::json;

const WEB: (&str, &str) = ("web", "echo number $N; exec sleep 600");
const STALE: &str = "last good release";
const UNREADABLE: &str = "cannot read the releases of myapp";

/// Release 1 has been live, and hsup has ended.
fn kept(room: &Room, api: &FakeHeroku) {
    let config = [("N", "one"), ("SECRET", "s3cret-config-value")];
    api.deploy(&[("version", "one\n")], &[WEB, ("worker", "exec sleep 600")], &config);
    let hsup = room.heroku(api, ["start"]).up();
    hsup.wait_line("release v1 of myapp is live");
    hsup.wait_line("web.1 | number one");
    assert_eq!(hsup.lines(STALE).len(), 0, "{}", hsup.printed());
    wait_kept(room, "s3cret-config-value");
    assert_eq!(hsup.stop().code, 0);
}

/// Waits until a release with a config var of this value is kept.
fn wait_kept(room: &Room, value: &str) {
    let is_whole = |path: &PathBuf| {
        !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".hsup-tmp-"))
    };
    // the history of releases has it as well, and sooner
    let is_last_good = |path: &PathBuf| path.parent().is_some_and(|parent| parent.ends_with("last-good"));
    let kept = || room.state_files_with(value).into_iter().find(|path| is_last_good(path) && is_whole(path));
    eventually("the release is kept", || value.to_owned(), kept);
}

fn break_down(api: &FakeHeroku, refused: bool) {
    if refused {
        api.down();
    } else {
        api.fail(None, Fault::Status(503));
    }
}

fn repair(api: &FakeHeroku, refused: bool) {
    if refused {
        api.up();
    } else {
        api.mend();
    }
}

#[test]
fn the_last_good_release_runs_while_the_api_is_down() {
    at_once([true, false], |refused| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        kept(&room, &api);
        for file in room.state_files_with("s3cret-config-value") {
            let mode = fs::metadata(&file).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
        assert!(room.state_files_with(api.token()).is_empty(), "the token is kept");
        break_down(&api, refused);
        let hsup = room.heroku(&api, ["start"]).up();
        hsup.wait_line(STALE);
        hsup.wait_line("web.1 | number one");
        let pid = hsup.wait_up("web.1");
        assert!(hsup.dyno("worker.1").is_null(), "a type that had no dyno has none");
        // it comes back with the same release: nothing changes
        repair(&api, refused);
        api.wait_polls(2);
        assert_eq!(hsup.dyno_pid("web.1"), pid, "{}", hsup.printed());
        assert_eq!(hsup.dyno("web.1")["Restarts"], 0);
        // and then there is another one
        api.set_config(&[("N", "two"), ("SECRET", "another-config-value")]);
        hsup.wait_line("web.1 | number two");
        wait_kept(&room, "another-config-value");
        assert_eq!(hsup.stop().code, 0);
        room.assert_nothing_left();
        // which is then the last good one
        break_down(&api, refused);
        let hsup = room.heroku(&api, ["start"]).up();
        hsup.wait_line(STALE);
        hsup.wait_line("web.1 | number two");
    });
}

#[test]
fn a_stale_release_is_replaced_by_the_one_that_came_meanwhile() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    kept(&room, &api);
    api.set_config(&[("N", "two")]);
    api.down();
    let hsup = room.heroku(&api, ["start"]).up();
    hsup.wait_line("web.1 | number one");
    api.up();
    hsup.wait_line("release v2 of myapp is live");
    hsup.wait_line("web.1 | number two");
}

#[test]
fn what_was_rolled_back_stays_so_when_hsup_starts_while_the_api_is_down() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[("version", "one\n")], &[WEB], &[("N", "one")]);
    let hsup = room.heroku(&api, ["start"]).up();
    hsup.wait_line("web.1 | number one");
    api.set_config(&[("N", "two")]);
    hsup.wait_line("web.1 | number two");
    let rolled_back = room.bare(["rollback", "v1", "-s"]).arg(room.socket()).end();
    assert_eq!(rolled_back.code, 0, "{}", rolled_back.stderr);
    hsup.wait_nth_line("web.1 | number one", 2);
    assert_eq!(hsup.stop().code, 0);
    api.down();
    let hsup = room.heroku(&api, ["start"]).up();
    hsup.wait_line("web.1 | number one");
    let pid = hsup.wait_up("web.1");
    api.up();
    api.wait_polls(2);
    assert_eq!((hsup.dyno_pid("web.1"), hsup.lines("number two").len()), (pid, 0), "{}", hsup.printed());
    api.set_config(&[("N", "three")]);
    hsup.wait_line("web.1 | number three");
}

#[test]
fn no_stale_release_runs_if_so_asked() {
    at_once([true, false], |by_flag| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        kept(&room, &api);
        api.fail(None, Fault::Status(503));
        let launch = room.heroku(&api, ["start"]);
        let hsup = if by_flag { launch.arg("--no-stale") } else { launch.env("HSUP_NO_STALE", "true") }.up();
        hsup.wait_line(UNREADABLE);
        api.wait_further(Endpoint::Releases, 2);
        assert_eq!(hsup.get("/status").json()["Dynos"], json!([]), "{}", hsup.printed());
        assert_eq!(hsup.lines(STALE).len(), 0, "{}", hsup.printed());
        api.mend();
        hsup.wait_line("release v1 of myapp is live");
        hsup.wait_line("web.1 | number one");
    });
}

#[test]
fn where_the_api_refuses_no_stale_release_runs() {
    at_once([401, 403, 404], |status| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        kept(&room, &api);
        api.fail(None, Fault::Status(status));
        let hsup = room.heroku(&api, ["start"]).up();
        let line = hsup.wait_line(&format!(" {status}"));
        assert!(line.contains("myapp"), "{line}");
        assert_eq!(hsup.get("/status").json()["Dynos"], json!([]), "{}", hsup.printed());
        assert_eq!(hsup.lines(STALE).len(), 0, "{}", hsup.printed());
        hsup.signal(nix::sys::signal::Signal::SIGHUP);
        api.wait_further(Endpoint::Releases, 1);
        assert_eq!(hsup.lines("number one").len(), 0, "{}", hsup.printed());
        assert_eq!(hsup.stop().code, 0);
    });
}

#[test]
fn a_kept_release_that_is_damaged_is_as_good_as_none() {
    at_once(["", "{", "null", "cut"], |text| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        kept(&room, &api);
        for file in room.state_files_with("s3cret-config-value") {
            let bytes = fs::read(&file).expect("it is there");
            let damaged = if text == "cut" { &bytes[..bytes.len() / 2] } else { text.as_bytes() };
            fs::write(&file, damaged).expect("it can be written");
        }
        api.fail(None, Fault::Status(503));
        let hsup = room.heroku(&api, ["start"]).up();
        hsup.wait_line(UNREADABLE);
        api.wait_further(Endpoint::Releases, 2);
        assert_eq!(hsup.get("/status").json()["Dynos"], json!([]), "{}", hsup.printed());
        let said = hsup.lines("last good release");
        assert_eq!(said.len(), 1, "it is said once: {said:#?}");
        api.mend();
        hsup.wait_line("web.1 | number one");
        assert!(!hsup.printed().contains("s3cret-config-value"), "{}", hsup.printed());
    });
}

#[test]
fn a_one_off_dyno_runs_the_last_good_release_or_gives_up() {
    at_once(["kept", "nothing kept", "of another app", "not if so asked"], |what| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        if what != "nothing kept" {
            kept(&room, &api);
        }
        api.down();
        let run = match what {
            "of another app" => {
                api.change(|app| app.rename("other"));
                room.heroku(&api, ["run"])
            }
            "not if so asked" => room.heroku(&api, ["run", "--no-stale"]),
            _ => room.heroku(&api, ["run"]),
        };
        let ended = run.arg("echo number $N; exit 5").end();
        if what == "kept" {
            assert_eq!((ended.code, ended.stdout.as_str()), (5, "number one\n"), "{ended:?}");
            assert!(ended.stderr.contains(STALE), "{ended:?}");
        } else {
            assert_eq!((ended.code, ended.stdout.as_str()), (66, ""), "{what}: {ended:?}");
        }
    });
}
