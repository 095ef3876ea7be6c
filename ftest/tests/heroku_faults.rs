//! A Heroku Platform API that refuses, breaks or is slow: it is said once, and no dyno suffers.

use std::time::Duration;

use hsup_ftest::{Endpoint, FakeHeroku, Fault, Hsup, Room, at_once, runs_slugs};
use nix::sys::signal::Signal;
use serde_json::json;

const WEB: (&str, &str) = ("web", "echo number $N; exec sleep 600");

/// A config var of no meaning to anybody else.
const SECRET: &str = "s3cret-config-value";

const UNREADABLE: &str = "cannot read the releases of myapp";
const AGAIN: &str = "can be read again";

/// The first release runs.
fn running(room: &Room, api: &FakeHeroku) -> (Hsup, u32) {
    api.deploy(&[("version", "one\n")], &[WEB], &[("N", "one"), ("SECRET", SECRET)]);
    let hsup = room.heroku(api, ["start"]).up();
    hsup.wait_line("release v1 of myapp is live");
    let pid = hsup.wait_up("web.1");
    (hsup, pid)
}

/// Polls once more than it has so far.
fn poll(hsup: &Hsup, api: &FakeHeroku) {
    let before = api.requests_of(Endpoint::Releases).len();
    hsup.signal(Signal::SIGHUP);
    api.wait_requests(Endpoint::Releases, before + 1);
}

#[test]
fn a_refusal_is_said_once_and_the_dynos_run_on() {
    at_once([401, 403, 404], |status| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        let (hsup, pid) = running(&room, &api);
        if status == 401 {
            api.revoke_token();
        } else {
            api.fail(None, Fault::Status(status));
        }
        let said = if status == 404 { " 404" } else { "HEROKU_ACCESS_TOKEN" };
        let line = hsup.wait_line(said);
        assert!(line.contains("myapp") && line.contains(&format!(" {status}")), "{line}");
        (0..3).for_each(|_| poll(&hsup, &api));
        // nobody asks often where the answer is no
        let slow = api.wait_further(Endpoint::Releases, 1)[0].at;
        let polls = api.requests_of(Endpoint::Releases);
        let before = polls[polls.len() - 2].at;
        assert!(slow - before > Duration::from_millis(4500), "polled again after {:?}", slow - before);
        assert_eq!(hsup.lines(said).len(), 1, "{}", hsup.printed());
        assert_eq!(hsup.dyno_pid("web.1"), pid);
        api.restore_token();
        api.mend();
        api.set_config(&[("N", "two")]);
        poll(&hsup, &api);
        hsup.wait_line(AGAIN);
        hsup.wait_line("web.1 | number two");
        // a second time is said again
        api.revoke_token();
        poll(&hsup, &api);
        hsup.wait_nth_line("HEROKU_ACCESS_TOKEN", if status == 404 { 1 } else { 2 });
        assert!(!hsup.printed().contains(api.token()));
    });
}

#[test]
fn an_answer_that_cannot_be_read_is_said_once_and_the_dynos_run_on() {
    let releases = Endpoint::Releases;
    let cases = [
        ("500", releases, Fault::Status(500)),
        ("503", releases, Fault::Status(503)),
        ("cut", releases, Fault::Cut),
        ("truncated", releases, Fault::Truncated),
        ("malformed", releases, Fault::Body("[{\"id\": \"s3cret-config-value\", ".to_owned())),
        ("empty", releases, Fault::Body(String::new())),
        ("an object for a list", releases, Fault::Body("{\"s3cret-config-value\": 1}".to_owned())),
        ("no JSON", releases, Fault::Body("<html>s3cret-config-value</html>".to_owned())),
        ("a text for a version", releases, Fault::edited(|body| body[0]["version"] = json!(SECRET))),
        ("a negative version", releases, Fault::edited(|body| body[0]["version"] = json!(-1))),
        ("a number for a slug", releases, Fault::edited(|body| body[0]["slug"] = json!(7))),
    ];
    at_once(cases, |(what, endpoint, fault)| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        let (hsup, pid) = running(&room, &api);
        api.fail(endpoint, fault);
        hsup.wait_line(UNREADABLE);
        api.wait_further(endpoint, 2);
        assert_eq!(hsup.lines(UNREADABLE).len(), 1, "{what}: {}", hsup.printed());
        assert_eq!(hsup.lines(AGAIN).len(), 0, "{what}: {}", hsup.printed());
        assert_eq!(hsup.dyno_pid("web.1"), pid, "{what}");
        api.mend();
        hsup.wait_line(AGAIN);
        assert_eq!(hsup.dyno_pid("web.1"), pid, "{what}");
        api.set_config(&[("N", "two")]);
        hsup.wait_line("web.1 | number two");
        assert!(!hsup.printed().contains(SECRET), "{what}: {}", hsup.printed());
    });
}

#[test]
fn a_part_of_a_release_that_cannot_be_read_holds_back_all_of_it() {
    let (config, formation) = (Endpoint::ReleaseConfigVars, Endpoint::Formation);
    let cases = [
        ("config vars: 500", config, Fault::Status(500)),
        ("formation: 503", formation, Fault::Status(503)),
        ("config vars: cut", config, Fault::Cut),
        ("formation: truncated", formation, Fault::Truncated),
        ("formation: malformed", formation, Fault::Body("[{".to_owned())),
        ("a config var that is a number", config, Fault::edited(|body| body["SECRET"] = json!(31_337_001))),
        ("config vars that are a list", config, Fault::Body(format!("[\"{SECRET}\"]"))),
        ("a quantity that is a text", formation, Fault::edited(|body| body[0]["quantity"] = json!("one"))),
    ];
    at_once(cases, |(what, endpoint, fault)| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        let (hsup, pid) = running(&room, &api);
        api.fail(endpoint, fault);
        let slug = api.pack(&[("version", "two\n")]);
        api.change(|app| app.deploy(slug, &[WEB], &[("N", "two"), ("SECRET", SECRET)]));
        hsup.wait_line(UNREADABLE);
        api.wait_further(endpoint, 2);
        assert_eq!(hsup.lines(UNREADABLE).len(), 1, "{what}: {}", hsup.printed());
        assert_eq!(hsup.dyno_pid("web.1"), pid, "{what}");
        assert_eq!(hsup.lines("number two").len(), 0, "{what}");
        api.mend();
        hsup.wait_line("release v2 of myapp is live");
        hsup.wait_line("web.1 | number two");
        assert_eq!(hsup.lines(AGAIN).len(), 1, "{what}: {}", hsup.printed());
        let printed = hsup.printed();
        assert!(!printed.contains(SECRET) && !printed.contains("31337001"), "{what}: {printed}");
    });
}

#[test]
fn a_slug_that_the_api_does_not_tell_of_is_asked_for_again() {
    if !runs_slugs() {
        return;
    }
    at_once([Fault::Status(500), Fault::Cut, Fault::Body("{}".to_owned())], |fault| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        let (hsup, pid) = running(&room, &api);
        let what = format!("{fault:?}");
        api.fail(Endpoint::Slug, fault);
        api.deploy(&[("version", "two\n")], &[WEB], &[("N", "two")]);
        api.wait_further(Endpoint::Slug, 2);
        assert_eq!(hsup.dyno_pid("web.1"), pid, "{what}");
        api.mend();
        hsup.wait_line("release v2 of myapp is live");
        hsup.wait_line("web.1 | number two");
    });
}

#[test]
fn retries_come_sooner_than_polls_but_ever_later() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[("version", "one\n")], &[WEB], &[("N", "one")]);
    api.fail_next(3, Endpoint::Releases, Fault::Status(503));
    let hsup = room.heroku_every(&api, "1h", ["start"]).up();
    hsup.wait_line("web.1 | number one");
    let asked: Vec<_> = api.requests_of(Endpoint::Releases).iter().map(|request| request.at).collect();
    let pauses: Vec<_> = asked.windows(2).take(3).map(|two| two[1] - two[0]).collect();
    assert!(pauses[0] > Duration::from_millis(450), "{pauses:?}");
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert_eq!(hsup.lines(UNREADABLE).len(), 1, "{}", hsup.printed());
}

#[test]
fn refused_connections_are_waited_out() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    let (hsup, pid) = running(&room, &api);
    api.down();
    hsup.wait_line(UNREADABLE);
    assert_eq!(hsup.dyno_pid("web.1"), pid);
    // a dyno that crashes meanwhile is none of the API's business
    hsup_ftest::procs::signal(pid, Signal::SIGKILL);
    let again = hsup.wait_dyno("web.1", "is up again", |dyno| dyno["State"] == "up" && dyno["Pid"] != pid);
    api.up();
    hsup.wait_line(AGAIN);
    assert_eq!(hsup.dyno("web.1")["Pid"], again["Pid"]);
    api.set_config(&[("N", "two")]);
    hsup.wait_line("web.1 | number two");
    assert_eq!(hsup.lines(UNREADABLE).len(), 1, "{}", hsup.printed());
}

#[test]
fn a_rate_limit_is_waited_out() {
    // without an end of it hsup slows down of its own accord, to some 6 s
    let cases = [(Fault::RateLimited(8), 8000), (Fault::Status(429), 4500)];
    at_once(cases, |(fault, pause_ms)| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        let (hsup, pid) = running(&room, &api);
        api.fail_next(1, None, fault);
        let line = hsup.wait_line(" 429");
        assert!(line.contains(UNREADABLE), "{line}");
        assert_eq!(hsup.dyno_pid("web.1"), pid);
        api.set_config(&[("N", "two")]);
        hsup.wait_line("web.1 | number two");
        let requests = api.requests();
        let at = requests.iter().position(|request| request.status == Some(429)).expect("it was answered");
        let pause = requests[at + 1].at - requests[at].at;
        assert!(pause > Duration::from_millis(pause_ms), "asked again after {pause:?}");
    });
}

#[test]
fn an_answer_that_does_not_come_holds_up_neither_dynos_nor_the_end() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    let (hsup, pid) = running(&room, &api);
    api.fail(Endpoint::Releases, Fault::Held);
    api.set_config(&[("N", "two")]);
    api.wait_further(Endpoint::Releases, 1);
    hsup_ftest::procs::signal(pid, Signal::SIGKILL);
    hsup.wait_dyno("web.1", "is up again", |dyno| dyno["State"] == "up" && dyno["Pid"] != pid);
    assert_eq!(hsup.lines("number two").len(), 0);
    api.mend();
    hsup.wait_line("web.1 | number two");
    api.fail(Endpoint::Releases, Fault::Held);
    api.wait_further(Endpoint::Releases, 1);
    assert_eq!(hsup.stop().code, 0);
    room.assert_nothing_left();
}
