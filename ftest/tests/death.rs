//! hsup is killed: its dynos die with it, or at the latest when the next hsup starts.

use std::fs::File;

use hsup_ftest::{Driver, Hsup, Launch, Room, driver, eventually, procs};
use nix::sys::signal::Signal;

/// A running hsup with two dynos, one of which has a daemon.
fn running(room: &Room) -> Hsup {
    let daemon = "setsid sh -c 'sleep 600 &'; echo ready; exec sleep 600";
    room.release(&room.app().process("web", "exec sleep 600", 1).process("worker", daemon, 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("web.1");
    hsup.wait_line("worker.1 | ready");
    let three = || (procs::marked(room.mark()).len() >= 3).then_some(());
    eventually("web, worker and the daemon of that are there", || hsup.printed(), three);
    hsup
}

/// Kills guardian and hsup proper so that neither can do anything about it.
fn kill_both(hsup: &Hsup) {
    let both = [hsup.pid(), hsup.proper()];
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        both.iter().for_each(|pid| procs::signal(*pid, signal));
    }
    let dead = || both.iter().all(|pid| !procs::alive(*pid)).then_some(());
    eventually("both have died", || both.map(procs::describe).join("\n"), dead);
}

#[test]
fn the_guardian_kills_everything_when_hsup_is_killed() {
    let room = Room::new();
    let hsup = running(&room);
    procs::signal(hsup.proper(), Signal::SIGKILL);
    let ended = hsup.end();
    match driver() {
        Driver::Simple | Driver::Abspath | Driver::Native => room.assert_nothing_left(),
        // What ends a container is its entry, which sees that hsup is gone.
        Driver::Docker => room.wait_nothing_left(),
    }
    assert_eq!(ended.code, 128 + 9, "{ended:?}");
    assert!(ended.stderr.contains("killed by SIGKILL"), "{ended:?}");
}

#[test]
fn hsup_kills_everything_when_the_guardian_is_killed() {
    let room = Room::new();
    let hsup = running(&room);
    let proper = hsup.proper();
    procs::signal(hsup.pid(), Signal::SIGKILL);
    hsup.end();
    room.wait_nothing_left();
    let gone = || (!procs::alive(proper)).then_some(());
    eventually("hsup proper has ended", || procs::describe(proper), gone);
}

#[test]
fn the_next_start_kills_what_was_left_and_takes_the_socket_over() {
    let room = Room::new();
    let hsup = running(&room);
    let pids = [hsup.dyno_pid("web.1"), hsup.dyno_pid("worker.1")];
    kill_both(&hsup);
    drop(hsup);
    match driver() {
        Driver::Simple | Driver::Abspath => {
            assert_eq!(pids.map(procs::alive), [true, true], "nobody could kill them");
        }
        // where each dyno has an init, which sees that hsup is gone
        Driver::Docker | Driver::Native => room.wait_nothing_left(),
    }
    assert!(room.socket().exists(), "nobody could remove it");
    let hsup = room.hsup(["start"]).up();
    assert!(!hsup.lines("left behind").is_empty(), "{}", hsup.printed());
    assert_eq!(pids.map(procs::alive), [false, false]);
    hsup.wait_up("web.1");
    hsup.wait_line("worker.1 | ready");
    let sleeps = || (procs::marked(room.mark()).len() == 3).then_some(());
    eventually("the dynos and the daemon of this hsup are all there is", || hsup.printed(), sleeps);
    assert_eq!(hsup.stop().code, 0);
    room.assert_nothing_left();
    let ledger = match driver() {
        Driver::Simple | Driver::Abspath | Driver::Docker => "state/running",
        Driver::Native => "state/native/dynos",
    };
    let running = std::fs::read_dir(room.path(ledger)).expect("the ledger is there").count();
    assert_eq!(running, 0, "the ledger is empty");
}

#[test]
fn doctor_shows_what_still_runs_and_ends_it() {
    let room = Room::new();
    let hsup = running(&room);
    let web = hsup.dyno_pid("web.1");
    kill_both(&hsup);
    drop(hsup);
    match driver() {
        Driver::Simple | Driver::Abspath => {}
        Driver::Docker | Driver::Native => room.wait_nothing_left(),
    }
    // what else is left of the network and the cgroups of this host is not the test's
    let entry = format!("entry {}", room.path("state/running").display());
    let doctor = |launch: Launch<'_>| match driver() {
        Driver::Simple | Driver::Abspath | Driver::Docker => launch.through(["unshare", "--net"]).end(),
        Driver::Native => launch.end(),
    };
    let found = doctor(room.bare(["doctor"]));
    assert!(found.code == 75 && found.stdout.contains(&entry), "{found:?}");
    assert!(found.stdout.contains("`hsup doctor --fix` removes it"), "{found:?}");
    match driver() {
        Driver::Simple | Driver::Abspath => {
            assert!(found.stdout.contains(&format!("process {web} of web.1: left behind")), "{found:?}");
            assert!(procs::alive(web), "to look changes nothing");
        }
        Driver::Docker | Driver::Native => {}
    }
    let mended = doctor(room.bare(["doctor", "--fix"]));
    let removed = |line: &str| line.starts_with(&entry) && line.ends_with(": removed");
    assert!(mended.stdout.lines().any(removed), "{mended:?}");
    room.assert_nothing_left();
    let found = doctor(room.bare(["doctor"]));
    assert!(!found.stdout.contains(&entry) && !found.stdout.contains("process"), "{found:?}");
}

/// What gives hsup a pid namespace of its own, as that of a container.
const CONTAINED: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// Starts hsup in a pid namespace that no later one is taken for: it stays while what is given beside it is open.
fn contained(room: &Room) -> (Hsup, File) {
    let daemon = "setsid sh -c 'sleep 600 &'; echo ready; exec sleep 600";
    room.release(&room.app().process("web", daemon, 1));
    let hsup = room.hsup(["start"]).through(CONTAINED).up();
    hsup.wait_line("web.1 | ready");
    let first = procs::children(hsup.pid())[0];
    (hsup, File::open(format!("/proc/{first}/ns/pid")).expect("it lives"))
}

/// What holds the pid namespace hands on no signals.
fn stop_contained(hsup: Hsup) {
    procs::signal(procs::children(hsup.pid())[0], Signal::SIGTERM);
    let ended = hsup.end();
    assert_eq!(ended.code, 0, "{ended:?}");
}

/// What hsup has written down of what runs: below the state dir, and what is claimed.
fn books(room: &Room) -> Vec<String> {
    let dirs = ["running", "native/runs", "native/dynos"];
    let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(room.path("state").join(dir)));
    let paths = entries.flatten().map(|entry| entry.expect("a directory can be read").path());
    let written = paths.filter(|path| !path.ends_with(".lock")).map(|path| path.display().to_string());
    let claimed = match driver() {
        Driver::Simple | Driver::Abspath | Driver::Docker => Vec::new(),
        Driver::Native => room.left_by(&[]),
    };
    written.chain(claimed.into_iter().filter(|left| left.starts_with("claim "))).collect()
}

#[test]
fn what_a_killed_container_has_left_is_taken_away_by_the_next_one() {
    let room = Room::new();
    let (hsup, _pinned) = contained(&room);
    hsup.signal(Signal::SIGKILL);
    hsup.end();
    room.wait_nothing_left();
    let left = books(&room);
    assert!(!left.is_empty(), "nobody could clean up");
    let is_claim = |left: &String| left.starts_with("claim ");
    assert_eq!(left.iter().any(is_claim), driver() == Driver::Native, "{left:#?}");
    let (next, _pinned) = contained(&room);
    stop_contained(next);
    eventually(
        "the books are empty",
        || format!("{:#?}", books(&room)),
        || books(&room).is_empty().then_some(()),
    );
}

#[test]
fn what_runs_in_another_container_is_left_alone() {
    let room = Room::new();
    let (hsup, _pinned) = contained(&room);
    // what an engine has started has no pid there
    let run = || {
        let dyno = hsup.dyno("web.1");
        (dyno["State"].clone(), dyno["Pid"].clone(), dyno["StartedAt"].clone())
    };
    let before = (run(), books(&room));
    let doctor = room.bare(["doctor", "--fix"]).through(["unshare", "--net"]).end();
    let place = room.dir().to_string_lossy().into_owned();
    assert!(doctor.stderr.is_empty() && !doctor.stdout.contains(&place), "{doctor:?}");
    let beside = room.hsup(["-s", "none", "run", "echo beside"]).through(CONTAINED).end();
    assert_eq!((beside.code, beside.stdout.as_str()), (0, "beside\n"), "{beside:?}");
    assert_eq!((run(), books(&room)), before);
    stop_contained(hsup);
}

#[test]
fn doctor_tells_whoever_is_not_root_what_it_cannot_see() {
    let room = Room::new();
    std::os::unix::fs::chown(room.dir(), Some(65534), Some(65534)).expect("the tests are root's");
    let hsup = room.path("hsup");
    std::fs::copy(hsup_ftest::hsup_binary(), &hsup).expect("it can be copied");
    let script = format!("shift; exec {} \"$@\"", hsup.display());
    let somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &script, "sh"];
    let launch = room.bare(["doctor"]).with_the_app_that_is_there().through(somebody);
    let said = launch.end();
    assert!(said.stdout.contains("as root") && !said.stdout.contains("packet filter"), "{said:?}");
}

#[test]
fn a_second_hsup_does_not_touch_the_dynos_of_a_living_one() {
    let room = Room::new();
    let hsup = running(&room);
    let before = [hsup.dyno_pid("web.1"), hsup.dyno_pid("worker.1")];
    // a one-off dyno beside the formation: same state dir, no socket
    let ended = room.hsup(["-s", "none", "run", "echo beside"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "beside\n"), "{ended:?}");
    assert_eq!([hsup.dyno_pid("web.1"), hsup.dyno_pid("worker.1")], before);
    assert_eq!(before.map(procs::alive), [true, true]);
}
