//! How many dynos run of a release from the Heroku Platform API, and how that changes without a release.

use hsup_ftest::{Endpoint, FakeHeroku, Hsup, Room, at_once};
use serde_json::Value;

const TYPES: [(&str, &str); 3] =
    [("web", "echo PORT=$PORT; exec sleep 600"), ("worker", "exec sleep 600"), ("clock", "exec sleep 600")];

/// The names of all dynos, sorted.
fn dynos(hsup: &Hsup) -> Vec<String> {
    let status = hsup.get("/status").json();
    let name = |dyno: &Value| dyno["Name"].as_str().expect("a dyno has a name").to_owned();
    let mut names: Vec<String> = status["Dynos"].as_array().into_iter().flatten().map(name).collect();
    names.sort();
    names
}

#[test]
fn one_of_each_type_runs_however_many_the_whole_app_has() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[("version", "one\n")], &TYPES, &[]);
    api.scale("web", 4);
    api.scale("clock", 2);
    let hsup = room.heroku(&api, ["start"]).up();
    hsup.wait_up("clock.1");
    let web = hsup.wait_up("web.1");
    assert_eq!(dynos(&hsup), ["clock.1", "web.1"]);
    // more of them are no more here; but a type that had none has one now
    api.scale("web", 9);
    api.scale("worker", 3);
    hsup.wait_line("release v1: scaling");
    hsup.wait_up("worker.1");
    assert_eq!(dynos(&hsup), ["clock.1", "web.1", "worker.1"]);
    api.scale("worker", 0);
    hsup.wait_dyno("worker.1", "is gone", Value::is_null);
    assert_eq!(hsup.dyno_pid("web.1"), web);
    assert_eq!(hsup.stop().code, 0);
    room.assert_nothing_left();
}

#[test]
fn the_whole_formation_runs_if_so_asked() {
    at_once([true, false], |by_flag| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        api.deploy(&[("version", "one\n")], &TYPES, &[]);
        let launch = room.heroku(&api, ["start"]);
        let launch = if by_flag {
            launch.arg("--whole-formation")
        } else {
            launch.env("HSUP_WHOLE_FORMATION", "true")
        };
        let hsup = launch.up();
        let first = hsup.wait_up("web.1");
        assert_eq!(dynos(&hsup), ["web.1"]);
        let slugs = api.requests_of(Endpoint::Slug).len();
        api.scale("web", 3);
        hsup.wait_up("web.2");
        let last = hsup.wait_up("web.3");
        assert_eq!(hsup.dyno_pid("web.1"), first);
        assert_eq!(api.requests_of(Endpoint::Slug).len(), slugs, "scaling needs no slug");
        api.scale("web", 2);
        hsup.wait_dyno("web.3", "is gone", Value::is_null);
        assert!(!hsup_ftest::procs::alive(last));
        assert_eq!(hsup.dyno_pid("web.1"), first);
        // a new release has these quantities, too
        api.set_config(&[("A", "1")]);
        hsup.wait_dyno("web.2", "is of v2", |dyno| dyno["Release"] == "v2" && dyno["State"] == "up");
        assert_eq!(dynos(&hsup), ["web.1", "web.2"]);
        assert_eq!(hsup.stop().code, 0);
        room.assert_nothing_left();
    });
}

#[test]
fn a_quantity_on_the_command_line_beats_the_api() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[("version", "one\n")], &TYPES, &[]);
    let hsup = room.heroku(&api, ["start", "web=2"]).up();
    let pids = [hsup.wait_up("web.1"), hsup.wait_up("web.2")];
    api.scale("web", 5);
    api.wait_polls(2);
    assert_eq!(["web.1", "web.2"].map(|name| hsup.dyno_pid(name)), pids);
    assert!(hsup.dyno("web.3").is_null());
    assert_eq!(hsup.stop().code, 0);
    let both = room.heroku(&api, ["start", "--whole-formation", "web=2"]).end();
    assert_eq!(both.code, 64, "{both:?}");
    assert!(both.stderr.contains("--whole-formation"), "{both:?}");
}

#[test]
fn the_port_is_5000_or_that_of_the_config_vars() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[("version", "one\n")], &TYPES, &[]);
    let hsup = room.heroku(&api, ["start"]).up();
    hsup.wait_line("web.1 | PORT=5000");
    api.set_config(&[("PORT", "7100")]);
    hsup.wait_line("web.1 | PORT=7100");
}

#[test]
fn a_process_type_comes_and_another_goes_with_a_release() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.change(|app| app.scale("worker", 1));
    api.deploy(&[("version", "one\n")], &TYPES[..2], &[]);
    let hsup = room.heroku(&api, ["start"]).up();
    hsup.wait_up("worker.1");
    api.scale("clock", 1);
    api.deploy(&[("version", "two\n")], &[TYPES[0], TYPES[2]], &[]);
    hsup.wait_up("clock.1");
    hsup.wait_dyno("worker.1", "is gone", Value::is_null);
    hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2");
}

#[test]
fn the_release_phase_which_heroku_has_run_is_not_run_again() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[("version", "one\n")], &[TYPES[0], ("release", "echo migrating")], &[]);
    let hsup = room.heroku(&api, ["start", "--whole-formation"]).up();
    hsup.wait_up("web.1");
    assert_eq!(hsup.lines("migrating").len(), 0, "{}", hsup.printed());
    assert_eq!(hsup.lines("release.1").len(), 0, "{}", hsup.printed());
}
