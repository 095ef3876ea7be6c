//! Releases from the Heroku Platform API: which one runs, with which config vars, and how it is replaced.

use std::time::Duration;

use hsup_ftest::{Endpoint, FakeHeroku, Fault, Hsup, Room, at_once};
use nix::sys::signal::Signal;

/// A web dyno that shows its release by a config var.
const WEB: (&str, &str) = ("web", "echo number $N; exec sleep 600");

/// The first release runs.
fn running(room: &Room, api: &FakeHeroku) -> (Hsup, u32) {
    api.deploy(&[("version", "one\n")], &[WEB], &[("N", "one")]);
    let hsup = room.heroku(api, ["start"]).up();
    hsup.wait_line("release v1 of myapp is live");
    hsup.wait_line("web.1 | number one");
    let pid = hsup.wait_up("web.1");
    (hsup, pid)
}

#[test]
fn a_day_with_the_api() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[("version", "one\n")], &[WEB], &[("N", "one")]);
    let hsup = room.heroku(&api, ["start", "--whole-formation"]).up();
    hsup.wait_line("web.1 | number one");
    hsup.wait_line("web.1: State changed from starting to up");
    let first = hsup.wait_up("web.1");
    // release 2 replaces release 1
    api.deploy(&[("version", "two\n")], &[WEB], &[("N", "two")]);
    hsup.wait_line("release v2 of myapp: preparing");
    hsup.wait_line("release v2 of myapp is live");
    hsup.wait_line("web.1 | number two");
    let second = hsup.wait_up("web.1");
    assert_ne!(second, first);
    // web goes from 1 to 3 in place
    api.scale("web", 3);
    hsup.wait_line("release v2: scaling");
    let pids = [hsup.wait_up("web.1"), hsup.wait_up("web.2"), hsup.wait_up("web.3")];
    assert_eq!(pids[0], second, "{}", hsup.printed());
    // the API is down for a while: refused connections, and then errors
    api.down();
    hsup.wait_line("cannot read the releases of myapp");
    api.fail(None, Fault::Status(503));
    api.up();
    api.wait_further(Endpoint::Releases, 3);
    assert_eq!(["web.1", "web.2", "web.3"].map(|name| hsup.dyno_pid(name)), pids, "{}", hsup.printed());
    // it is back with release 3, which is live with the next poll
    let before = api.requests_of(Endpoint::Releases).len();
    api.deploy(&[("version", "three\n")], &[WEB], &[("N", "three")]);
    api.mend();
    hsup.wait_line("can be read again");
    hsup.wait_line("release v3 of myapp is live");
    hsup.wait_line("web.3 | number three");
    let polls = api.requests_of(Endpoint::Releases).len() - before;
    // one that was on its way, the one that found it, one that makes sure of it, and one that is by now due
    assert!(polls <= 4, "{polls} polls");
    assert_eq!(hsup.stop().code, 0);
    room.assert_nothing_left();
}

#[test]
fn a_change_of_config_vars_is_a_release_and_replaces_the_dynos() {
    at_once([true, false], |of_the_release| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        // without config vars of a release those of the app are taken
        api.change(|app| app.has_release_config_vars(of_the_release));
        let (hsup, pid) = running(&room, &api);
        api.set_config(&[("N", "changed")]);
        hsup.wait_line("web.1 | number changed");
        hsup.wait_line("release v2 of myapp is live");
        assert_ne!(hsup.wait_up("web.1"), pid);
        let of_the_app = !api.requests_of(Endpoint::ConfigVars).is_empty();
        assert_eq!(of_the_app, !of_the_release);
        // a rollback is a release, too
        api.change(|app| app.rollback(1));
        hsup.wait_line("release v3 of myapp is live");
        hsup.wait_nth_line("web.1 | number one", 2);
        assert_eq!(hsup.stop().code, 0);
        room.assert_nothing_left();
    });
}

#[test]
fn a_release_that_has_not_succeeded_or_is_not_current_is_not_run() {
    let sent = ["pending", "failed", "expired"].map(|status| (status, true));
    let not_sent = ["pending", "failed", "expired"].map(|status| (status, false));
    // and one that has succeeded, but is not current
    at_once(sent.into_iter().chain(not_sent).chain([("succeeded", true)]), |(status, sends_current)| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        api.change(|app| app.sends_current(sends_current));
        let (hsup, pid) = running(&room, &api);
        let slug = api.pack(&[("version", "two\n")]);
        let version = api.change(|app| {
            app.current(Some(1));
            let version = app.deploy(slug, &[WEB], &[("N", "two")]);
            app.release_status(version, status);
            version
        });
        api.wait_polls(2);
        assert_eq!(hsup.dyno_pid("web.1"), pid, "{status}");
        assert_eq!(hsup.lines("number two").len(), 0, "{status}");
        api.change(|app| {
            app.release_status(version, "succeeded");
            app.current(None);
        });
        hsup.wait_line("web.1 | number two");
        assert_eq!(hsup.wait_dyno("web.1", "is of v2", |dyno| dyno["Release"] == "v2")["Restarts"], 0);
    });
}

#[test]
fn many_failed_releases_hide_no_good_one() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[("version", "one\n")], &[WEB], &[("N", "one")]);
    (0..25).for_each(|_| _ = api.change(|app| app.failed_release()));
    let hsup = room.heroku(&api, ["start"]).up();
    hsup.wait_line("release v1 of myapp is live");
    hsup.wait_line("web.1 | number one");
    let ranges: Vec<_> =
        api.requests_of(Endpoint::Releases).into_iter().map(|request| request.range).collect();
    let next = ranges.iter().flatten().filter(|range| range.starts_with("version ]")).count();
    assert!(next >= 2, "pages after the first were not asked for: {ranges:?}");
}

#[test]
fn an_app_without_code_is_waited_for() {
    at_once([false, true], |has_a_release| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        if has_a_release {
            api.change(|app| app.empty_release());
        }
        let hsup = room.heroku(&api, ["start"]).up();
        let line = hsup.wait_line("waiting for");
        assert!(line.contains("myapp"), "{line}");
        api.wait_polls(1);
        assert_eq!(hsup.lines("waiting for").len(), 1, "{}", hsup.printed());
        let version = api.deploy(&[("version", "one\n")], &[WEB], &[("N", "one")]);
        hsup.wait_line(&format!("release v{version} of myapp is live"));
        hsup.wait_line("web.1 | number one");
        assert_eq!(hsup.stop().code, 0);
    });
}

#[test]
fn a_container_is_refused_and_what_ran_runs_on() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    let (hsup, pid) = running(&room, &api);
    api.change(|app| app.container_release());
    let line = hsup.wait_line("container");
    assert!(line.contains("myapp"), "{line}");
    api.wait_polls(1);
    assert_eq!(hsup.dyno_pid("web.1"), pid);
    let slug = api.pack(&[("version", "two\n")]);
    api.change(|app| {
        app.stack("heroku-24");
        app.deploy(slug, &[WEB], &[("N", "two")])
    });
    hsup.wait_line("web.1 | number two");
}

#[test]
fn what_has_not_changed_is_asked_for_conditionally_once_an_interval() {
    at_once([true, false], |config_of_the_release| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        api.change(|app| app.has_release_config_vars(config_of_the_release));
        let (hsup, pid) = running(&room, &api);
        api.wait_polls(1);
        let before = api.requests().len() - 1;
        api.wait_polls(2);
        let all = api.requests();
        let later: Vec<_> = all[before..].iter().filter(|request| request.status.is_some()).collect();
        for request in &later {
            assert!(request.if_none_match.is_some() && request.status == Some(304), "{request:#?}");
        }
        let polls: Vec<_> = later.iter().filter(|request| request.endpoint == Endpoint::Releases).collect();
        assert!(polls.len() >= 2, "{polls:#?}");
        for two in polls.windows(2) {
            // 20 % of jitter, and a little for the way
            let pause = two[1].at - two[0].at;
            assert!(pause > Duration::from_millis(770), "{pause:?} between two polls");
        }
        assert_eq!(hsup.dyno_pid("web.1"), pid);
    });
}

#[test]
fn sighup_polls_at_once() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[("version", "one\n")], &[WEB], &[("N", "one")]);
    let hsup = room.heroku_every(&api, "1h", ["start"]).up();
    hsup.wait_line("web.1 | number one");
    api.deploy(&[("version", "two\n")], &[WEB], &[("N", "two")]);
    hsup.signal(Signal::SIGHUP);
    hsup.wait_line("web.1 | number two");
}

#[test]
fn no_code_runs_with_the_config_vars_of_another_release() {
    let (releases, formation, slug) = (Endpoint::Releases, Endpoint::Formation, Endpoint::Slug);
    let of_release = [releases, Endpoint::ReleaseConfigVars, formation, slug].map(|middle| (middle, true));
    let of_app = [releases, Endpoint::ConfigVars, formation, slug].map(|middle| (middle, false));
    at_once(of_release.into_iter().chain(of_app), |(middle, config_of_release)| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        api.change(|app| app.has_release_config_vars(config_of_release));
        // where there is no slug at hand, the command alone is the code
        let deploy = |n: &str| {
            let line = format!("echo code {n} config $N file $(cat version || echo {n}).; exec sleep 600");
            let slug = api.pack(&[("version", n)]);
            let n = n.to_owned();
            move |app: &mut hsup_ftest::HerokuApp| _ = app.deploy(slug, &[("web", &line)], &[("N", &n)])
        };
        api.change(deploy("1"));
        // release 2 comes in the middle of the first reading, release 3 in the middle of a poll
        api.after_next(middle, deploy("2"));
        let hsup = room.heroku(&api, ["start"]).up();
        hsup.wait_line("web.1 | code ");
        if !api.requests_of(middle).is_empty() {
            hsup.wait_line("web.1 | code 2 config 2 file 2.");
        }
        api.after_next(Endpoint::Releases, deploy("3"));
        hsup.wait_line("web.1 | code 3 config 3 file 3.");
        for line in hsup.lines("web.1 | code ") {
            let numbers: String = line.chars().skip("web.1 | ".len()).filter(char::is_ascii_digit).collect();
            assert!(["111", "222", "333"].contains(&numbers.as_str()), "{middle:?}: {line}");
        }
        assert_eq!(hsup.stop().code, 0);
        room.assert_nothing_left();
    });
}
