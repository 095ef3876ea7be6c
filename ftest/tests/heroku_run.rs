//! One-off dynos and builds with releases from the Heroku Platform API, how that source is chosen, and what is
//! never shown of it.

use std::fs;
use std::os::unix::fs::chown;

use hsup_ftest::{Driver, Endpoint, FakeHeroku, Fault, Room, at_once, driver, is_about, procs, runs_slugs};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde_json::json;

const WEB: (&str, &str) = ("web", "echo number $N; exec sleep 600");

/// An API whose app has a release.
fn released(room: &Room) -> FakeHeroku {
    let api = FakeHeroku::start(room, "myapp");
    api.deploy(&[("version", "one\n")], &[WEB], &[("N", "one")]);
    api
}

#[test]
fn a_one_off_dyno_has_the_config_vars_and_hands_on_its_code() {
    let room = Room::new();
    let api = released(&room);
    let ended = room.heroku(&api, ["run", "--", "sh", "-c", "echo number $N; exit 7"]).end();
    assert_eq!(ended.code, 7, "{ended:?}");
    let ended = room.heroku(&api, ["run", "echo number $N on $PORT; exit 3"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (3, "number one on 5000\n"), "{ended:?}");
    if runs_slugs() {
        let ended = room.heroku(&api, ["run", "cat", "version"]).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "one\n"), "{ended:?}");
    }
    room.assert_nothing_left();
}

#[test]
fn a_one_off_dyno_goes_on_whatever_the_api_does() {
    let room = Room::new();
    let api = released(&room);
    let hsup = room.heroku(&api, ["run", "echo number $N; read line; echo got it; exit 4"]);
    let hsup = hsup.input(Vec::new()).up();
    hsup.wait_line("number one");
    let ended = hsup.end();
    assert_eq!(ended.code, 4, "{ended:?}");
    let hsup =
        room.heroku(&api, ["run", "trap 'exit 9' TERM; echo ready; while :; do sleep 600 & wait; done"]).up();
    hsup.wait_line("ready");
    let pid = hsup.wait_up("run.1");
    api.set_config(&[("N", "two")]);
    api.down();
    assert_eq!(hsup.dyno_pid("run.1"), pid);
    assert_eq!(hsup.stop().code, 9);
}

#[test]
fn a_dyno_that_runs_once_goes_on_whatever_becomes_of_the_app() {
    // for longer than it is until the next polls
    const LINE: &str = "echo number $N; sleep 3; exit 7";
    let (run, start): ([&str; 2], [&str; 2]) = (["run", LINE], ["start", "--oneshot"]);
    at_once([(run, true), (run, false), (start, true), (start, false)], |(args, image)| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        api.deploy(&[("version", "one\n")], &[("web", LINE)], &[("N", "one")]);
        let hsup = room.heroku(&api, args).up();
        hsup.wait_line("number one");
        let polls = api.requests_of(Endpoint::Releases).len();
        api.change(|app| if image { app.container_release() } else { app.empty_release() });
        // nor does a look that somebody asks for
        hsup.signal(Signal::SIGHUP);
        let ended = hsup.end();
        assert_eq!(ended.code, 7, "{ended:?}");
        // its release is the only one that counts
        assert_eq!(api.requests_of(Endpoint::Releases).len(), polls, "{:#?}", api.requests());
    });
}

#[test]
fn a_refused_one_off_dyno_ends_at_once() {
    at_once([401, 403, 404], |status| {
        let room = Room::new();
        let api = released(&room);
        api.fail(None, Fault::Status(status));
        let ended = room.heroku(&api, ["run", "true"]).end();
        assert_eq!(ended.code, 66, "{ended:?}");
        let status = format!(" {status}");
        assert!(ended.stderr.contains(&status) && ended.stderr.contains("myapp"), "{ended:?}");
        assert!(api.requests().len() <= 2, "{:#?}", api.requests());
    });
}

#[test]
fn a_failed_call_is_tried_again_for_a_one_off_dyno() {
    at_once([Endpoint::Releases, Endpoint::ReleaseConfigVars, Endpoint::Formation], |endpoint| {
        let room = Room::new();
        let api = released(&room);
        api.fail_next(1, endpoint, Fault::Status(503));
        let ended = room.heroku(&api, ["run", "echo number $N"]).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "number one\n"), "{endpoint:?}: {ended:?}");
    });
}

#[test]
fn a_container_has_no_one_off_dynos() {
    let room = Room::new();
    let api = released(&room);
    api.change(|app| app.container_release());
    let ended = room.heroku(&api, ["run", "true"]).end();
    assert_eq!(ended.code, 65, "{ended:?}");
    assert!(ended.stderr.contains("container") && ended.stderr.contains("myapp"), "{ended:?}");
}

#[test]
fn build_prepares_the_release_and_starts_nothing() {
    let room = Room::new();
    let api = released(&room);
    let ended = room.heroku(&api, ["build"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""), "{ended:?}");
    assert!(!ended.stderr.contains("State changed"), "{ended:?}");
    if runs_slugs() {
        assert_eq!(api.requests_of(Endpoint::Blob).len(), 1);
        // and then it is there
        assert_eq!(room.heroku(&api, ["run", "cat version"]).end().stdout, "one\n");
        assert_eq!(api.requests_of(Endpoint::Blob).len(), 1);
    }
}

#[test]
fn a_token_and_an_app_beat_what_lies_about() {
    let room = Room::new();
    let api = released(&room);
    let procfile = "web: echo from the Procfile; exec sleep 600\n";
    fs::write(room.path("work/Procfile"), procfile).expect("a file can be written");
    room.release(&room.app().env("N", "from the control dir"));
    let show = "echo number $N";
    let run = || room.heroku(&api, ["run", show]).env("HSUP_CONTROL_DIR", room.control_dir());
    let ended = run().end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "number one\n"), "{ended:?}");
    let ended = room.heroku(&api, ["run", show]).env("HSUP_PROCFILE", "Procfile").end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "number one\n"), "{ended:?}");
    // but not what is named on the command line
    let asked = api.requests().len();
    let ended = room.heroku(&api, ["run", "--control-dir"]).arg(room.control_dir()).arg(show).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "number from the control dir\n"), "{ended:?}");
    let ended = room.heroku(&api, ["run", "--procfile", "Procfile", "echo number none"]).end();
    if driver() != Driver::Abspath {
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "number none\n"), "{ended:?}");
    }
    assert_eq!(api.requests().len(), asked, "the API was asked in spite of the flags");
}

#[test]
fn a_one_off_dyno_does_not_wait_an_hour_for_a_rate_limit() {
    let room = Room::new();
    let api = released(&room);
    api.fail(None, Fault::RateLimited(3600));
    let ended = room.heroku(&api, ["run", "true"]).end();
    assert_eq!(ended.code, 66, "{ended:?}");
    assert!(ended.stderr.contains("429"), "{ended:?}");
}

#[test]
fn a_failed_call_is_tried_again_whenever_the_rate_limit_is_reset() {
    at_once([500, 503], |status| {
        let room = Room::new();
        let api = released(&room);
        api.fail_next(1, None, Fault::Resets(status, 3500));
        let ended = room.heroku(&api, ["run", "echo number $N"]).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "number one\n"), "{ended:?}");
    });
}

#[test]
fn a_token_without_an_app_is_no_source() {
    let room = Room::new();
    let driver = driver().to_string();
    let bare = || room.bare(["start", "-d", &driver, "-s", "none"]).env("HEROKU_ACCESS_TOKEN", "t0ken-t0ken");
    let ended = bare().end();
    assert_eq!(ended.code, 66, "{ended:?}");
    assert!(ended.stderr.contains("HEROKU_ACCESS_TOKEN") && ended.stderr.contains("--app"), "{ended:?}");
    assert!(!ended.stderr.contains("t0ken-t0ken"), "{ended:?}");
}

#[test]
fn a_url_that_is_none_is_refused_by_name() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    at_once(["nonsense", "ftp://api.example.invalid", "http://", "/apps"], |url| {
        let ended = room.heroku(&api, ["start"]).env("HSUP_HEROKU_API_URL", url).end();
        assert_eq!(ended.code, 64, "{url}: {ended:?}");
        assert!(ended.stderr.contains("HSUP_HEROKU_API_URL"), "{url}: {ended:?}");
    });
}

#[test]
fn a_proxy_is_used() {
    let room = Room::new();
    let api = released(&room);
    let launch = room.heroku(&api, ["run", "echo number $N"]).env("HTTP_PROXY", api.url());
    let ended = launch.env("HSUP_HEROKU_API_URL", "http://api.example.invalid").end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "number one\n"), "{ended:?}");
    for request in api.requests().iter().filter(|request| request.endpoint != Endpoint::Blob) {
        assert_eq!(request.authority.as_deref(), Some("api.example.invalid"), "{request:#?}");
    }
}

#[test]
fn no_secret_is_ever_shown() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    let secret = "s3cret-config-value";
    api.deploy(&[("version", "one\n")], &[WEB], &[("N", "one"), ("SECRET", secret)]);
    let hsup = room.heroku(&api, ["start"]).env("HSUP_LOG", "trace").up();
    hsup.wait_line("web.1 | number one");
    let environment = procs::environment(hsup.wait_up("web.1"));
    assert!(environment.contains(&format!("SECRET={secret}")), "{environment:?}");
    for hidden in [api.token(), "HEROKU_ACCESS_TOKEN", "HSUP_HEROKU_API_URL"] {
        assert!(!environment.iter().any(|var| var.contains(hidden)), "{hidden}: {environment:?}");
    }
    // all that may make it talk of what it has read
    let wrong = json!({"N": "one", "SECRET": secret, "NUMBER": 31_337_001}).to_string();
    api.fail(Endpoint::ReleaseConfigVars, Fault::Body(wrong));
    api.deploy(&[("version", "two\n")], &[WEB], &[("N", "two"), ("SECRET", secret)]);
    hsup.wait_line("cannot read the releases of myapp");
    api.mend();
    api.fail_next(1, Endpoint::Blob, Fault::Status(403));
    hsup.wait_line("web.1 | number two");
    api.revoke_token();
    hsup.wait_line("HEROKU_ACCESS_TOKEN");
    // all that was said since the start once more, traces included
    let live = hsup.lines("release v1 of myapp is live").len();
    hsup.signal(Signal::SIGUSR1);
    hsup.wait_nth_line("release v1 of myapp is live", live + 1);
    let status = hsup.get("/status").body;
    let hidden = [api.token(), secret, "Signature=", "31337001"];
    for text in hidden {
        assert!(!status.contains(text), "{text}: {status}");
    }
    assert!(room.state_files_with(api.token()).is_empty(), "the token is below the state dir");
    let ended = hsup.stop();
    assert_eq!(ended.code, 0, "{ended:?}");
    for text in hidden {
        assert!(!ended.stdout.contains(text) && !ended.stderr.contains(text), "{text}: {ended:?}");
    }
}

#[test]
fn no_redirect_leads_the_token_elsewhere() {
    let room = Room::new();
    let api = released(&room);
    let elsewhere = FakeHeroku::start(&room, "myapp");
    api.fail(None, Fault::Redirect(format!("{}/apps/myapp/releases", elsewhere.url())));
    let ended = room.heroku(&api, ["run", "true"]).end();
    assert_eq!(ended.code, 66, "{ended:?}");
    assert!(elsewhere.requests().iter().all(|request| !request.authorized), "{:#?}", elsewhere.requests());
    // whether it is asked without a token does not matter
    elsewhere.take_violations();
}

/// What makes hsup that of somebody who is not root: the room, and a copy of the binary in it, are theirs.
fn as_somebody(room: &Room) -> [String; 8] {
    for name in [".", "control", "state", "work", "runtime"] {
        chown(room.path(name), Some(65534), Some(65534)).expect("root can give files away");
    }
    let hsup = room.path("hsup");
    fs::copy(hsup_ftest::hsup_binary(), &hsup).expect("it can be copied");
    let script = format!("shift; exec {} \"$@\"", hsup.display());
    let words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &script, "sh"];
    words.map(str::to_owned)
}

#[test]
fn a_dyno_of_the_same_user_cannot_read_the_token() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    // Of all processes that it comes from: the environment, as far as it may be read.
    let line = "p=$PPID; while [ $p -gt 1 ]; do tr '\\0' '\\n' < /proc/$p/environ; \
                p=$(awk '/^PPid/ {print $2}' /proc/$p/status); done; echo looked; exec sleep 600";
    api.deploy(&[("version", "one\n")], &[("web", line)], &[]);
    let launch = room.heroku(&api, ["start"]);
    // root may read everything, so it is somebody else's hsup
    let launch = if geteuid().is_root() {
        launch.through(as_somebody(&room).each_ref().map(String::as_str))
    } else {
        launch
    };
    let hsup = launch.up();
    hsup.wait_line("web.1 | looked");
    assert!(hsup.lines("Permission denied").len() >= 2, "{}", hsup.printed());
    assert!(!hsup.printed().contains(api.token()), "{}", hsup.printed());
    assert_eq!(hsup.stop().code, 0);
}
