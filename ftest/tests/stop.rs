//! Stopping: signals to hsup, `hsup stop`, the control API; and what may not be left behind.

use std::process::Command;
use std::time::{Duration, Instant};

use hsup_ftest::{App, Driver, Hsup, Room, driver, eventually, isolated_network, procs};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Ends in its own way, and not at once.
const POLITE: &str =
    "trap 'sleep 0.3; echo bye; exit 0' TERM; echo ready; while :; do sleep 600 & wait; done";
/// Does not end for a SIGTERM.
const STUBBORN: &str = "trap '' TERM; echo ready; while :; do sleep 600; done";

fn start(room: &Room, app: &App) -> Hsup {
    room.release(app);
    room.hsup(["start"]).up()
}

#[test]
fn sigterm_and_sigint_end_everything_in_good_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let room = Room::new();
        let hsup = start(&room, &room.app().process("web", POLITE, 2).process("worker", "exec sleep 600", 1));
        for name in ["web.1", "web.2"] {
            hsup.wait_line(&format!("{name} | ready"));
        }
        hsup.signal(signal);
        let ended = hsup.end();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stdout.contains("web.1 | bye") && ended.stdout.contains("web.2 | bye"), "{ended:?}");
        assert!(!ended.stderr.contains("SIGKILL") && !ended.stderr.contains("killing"), "{ended:?}");
        room.assert_nothing_left();
        assert!(!room.socket().exists(), "the control socket is left");
    }
}

#[test]
fn one_signal_to_all_of_hsups_processes_counts_once() {
    // As `timeout hsup`, `kill -- -PGID` and systemd (KillMode=control-group, its default) do.
    let room = Room::new();
    let hsup = start(&room, &room.app().process("web", POLITE, 1));
    hsup.wait_line("web.1 | ready");
    // the guardian is held, so that the two do not come as one by chance
    hsup.signal(Signal::SIGSTOP);
    procs::signal(hsup.proper(), Signal::SIGTERM);
    hsup.signal(Signal::SIGTERM);
    // so many answers take longer than to hear a signal
    (0..50).for_each(|_| assert_eq!(hsup.get("/status").status, 200));
    hsup.signal(Signal::SIGCONT);
    let ended = hsup.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("web.1 | bye"), "the dyno did not have its time: {ended:?}");
    assert!(!ended.stderr.contains("killing"), "{ended:?}");
}

#[test]
fn signals_in_quick_succession_count_once() {
    // As `timeout hsup` sends two: one to hsup, and one to its process group.
    let room = Room::new();
    let hsup = start(&room, &room.app().process("web", POLITE, 1));
    hsup.wait_line("web.1 | ready");
    (0..5).for_each(|_| hsup.signal(Signal::SIGTERM));
    let ended = hsup.end();
    assert!(ended.stdout.contains("web.1 | bye") && !ended.stderr.contains("killing"), "{ended:?}");
}

#[test]
fn whoever_signals_what_is_called_hsup_is_heard() {
    // As `killall hsup` and `pkill -x hsup` do.
    let room = Room::new();
    let hsup = start(&room, &room.app().process("web", POLITE, 1));
    hsup.wait_line("web.1 | ready");
    let is_called_hsup =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "hsup\n");
    let called: Vec<u32> = [hsup.pid(), hsup.proper()].into_iter().filter(is_called_hsup).collect();
    assert_eq!(called, [hsup.pid()], "one is, and that one hears signals");
    called.into_iter().for_each(|pid| procs::signal(pid, Signal::SIGTERM));
    let ended = hsup.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("web.1 | bye") && !ended.stderr.contains("killing"), "{ended:?}");
}

#[test]
fn a_dyno_that_ignores_sigterm_is_killed_after_the_stop_timeout() {
    let room = Room::new();
    room.release(&room.app().process("web", STUBBORN, 1));
    let hsup = room.hsup(["--stop-timeout", "500ms", "start"]).up();
    hsup.wait_line("web.1 | ready");
    let asked = Instant::now();
    let ended = hsup.stop();
    assert!(asked.elapsed() >= Duration::from_millis(500), "it had its time: {ended:?}");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("web.1: Error R12 (Exit timeout)"), "{ended:?}");
    room.assert_nothing_left();
}

#[test]
fn a_dyno_is_killed_though_hsup_can_open_nothing() {
    if driver() == Driver::Docker {
        println!("skip: to kill a container is a request, which takes a connection");
        return;
    }
    let room = Room::new();
    let daemon = "setsid sh -c \"trap '' TERM; sleep 600\" &";
    room.release(&room.app().process("web", &format!("{daemon} {STUBBORN}"), 1));
    let hsup = room.hsup(["--stop-timeout", "300ms", "start"]).up();
    hsup.wait_line("web.1 | ready");
    let (main, proper) = (hsup.dyno_pid("web.1"), hsup.proper().to_string());
    let may_open = |files: &str| {
        let limit = Command::new("prlimit").args(["--pid", &proper, &format!("--nofile={files}:")]).status();
        assert!(limit.is_ok_and(|status| status.success()));
    };
    may_open("3");
    hsup.signal(Signal::SIGTERM);
    let killed = || (!procs::alive(main)).then_some(());
    eventually("the main process is killed", || hsup.printed(), killed);
    may_open("1024");
    let ended = hsup.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    room.assert_nothing_left();
}

#[test]
fn what_a_process_does_to_end_is_not_told_to_end_itself() {
    let room = Room::new();
    let quick = "(trap 'sleep 0.2; exit' TERM; while :; do sleep 600 & wait; done) &";
    let slow = "(trap 'sleep 0.5 && echo bye; exit' TERM; echo ready; while :; do sleep 600 & wait; done) &";
    let hsup = start(&room, &room.app().process("web", &format!("{quick} {slow} trap exit TERM; wait"), 1));
    hsup.wait_line("web.1 | ready");
    // The main process ends first, then one of the others: the third is still at it.
    let ended = hsup.stop();
    assert!(ended.stdout.contains("web.1 | bye"), "{ended:?}");
    assert!(!ended.stderr.contains("SIGKILL"), "{ended:?}");
}

#[test]
fn a_second_signal_kills_at_once() {
    let room = Room::new();
    let hsup = start(&room, &room.app().process("web", STUBBORN, 2));
    hsup.wait_line("web.1 | ready");
    hsup.wait_line("web.2 | ready");
    hsup.signal(Signal::SIGTERM);
    hsup.wait_line("stopping 2 dynos");
    // One that follows as quickly as `timeout` sends two is no second one.
    std::thread::sleep(Duration::from_millis(100));
    hsup.signal(Signal::SIGTERM);
    let ended = hsup.end();
    assert!(!ended.stderr.contains("R12"), "{ended:?}");
    room.assert_nothing_left();
}

#[test]
fn a_signal_while_hsup_waits_for_a_release_ends_it() {
    let room = Room::new();
    let ended = room.hsup(["start"]).up().stop();
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn a_signal_ends_hsup_in_good_order_however_early_it_comes() {
    for _ in 0..5 {
        let room = Room::new();
        room.release(&room.app().process("web", "exec sleep 600", 1));
        let hsup = room.hsup(["start"]).spawn();
        hsup.proper();
        let ended = hsup.stop();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(!room.socket().exists(), "the control socket is left: {ended:?}");
        room.assert_nothing_left();
    }
}

#[test]
fn a_signal_while_a_dyno_backs_off_ends_it() {
    let room = Room::new();
    let hsup = start(&room, &room.app().process("web", "exit 1", 1));
    hsup.wait_dyno("web.1", "is crashed", |dyno| dyno["State"] == "crashed");
    let ended = hsup.stop();
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn where_there_are_no_dynos_to_stop_or_to_restart_it_is_said() {
    let room = Room::new();
    let hsup = room.hsup(["start"]).up();
    for command in ["stop", "restart"] {
        let ended = room.bare([command, "--all", "-s"]).arg(room.socket()).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "there are no dynos\n"), "{ended:?}");
    }
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn stop_stops_one_dyno_or_a_type_and_hsup_ends_when_all_are_stopped() {
    let room = Room::new();
    let hsup = start(&room, &room.app().process("web", "exec sleep 600", 2).process("worker", POLITE, 1));
    let pids = ["web.1", "web.2", "worker.1"].map(|name| hsup.wait_up(name));
    hsup.wait_line("worker.1 | ready");
    let stop = |target: &str| {
        let ended = room.bare(["stop", target, "-s"]).arg(room.socket()).end();
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    };
    assert_eq!(stop("web.1"), "stopped: web.1\n");
    assert_eq!(pids.map(procs::alive), [false, true, true]);
    assert_eq!(hsup.dyno("web.1")["State"], "down");
    assert!(stop("web.1").contains("nothing to stop"));
    assert_eq!(stop("worker"), "stopped: worker\n");
    assert!(!procs::alive(pids[2]), "stop answers when the dyno is gone");
    hsup.wait_line("worker.1 | bye");
    assert_eq!(stop("web"), "stopped: web\n");
    let ended = hsup.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    room.assert_nothing_left();
}

#[test]
fn stop_all_stops_all() {
    let room = Room::new();
    let hsup =
        start(&room, &room.app().process("web", "exec sleep 600", 2).process("worker", "exec sleep 600", 1));
    hsup.wait_up("worker.1");
    let ended = room.bare(["stop", "--all", "--json", "-s"]).arg(room.socket()).end();
    let answer: Value = serde_json::from_str(&ended.stdout).expect("it is JSON");
    assert_eq!(answer, json!({"StoppedProcesses": ["web", "web", "worker"]}), "{ended:?}");
    assert_eq!(hsup.end().code, 0);
    room.assert_nothing_left();
}

#[test]
fn a_stopped_dyno_starts_again_with_the_next_release() {
    let room = Room::new();
    let app = room.app().process("web", "exec sleep 600", 1).process("worker", "exec sleep 600", 1);
    let hsup = start(&room, &app);
    hsup.wait_up("web.1");
    hsup.post("/control/stop", r#"{"Processes":["web"]}"#);
    assert_eq!(hsup.dyno("web.1")["State"], "down");
    room.release(&app.version(2).env("NEW", "1"));
    hsup.wait_dyno("web.1", "is up again", |dyno| dyno["State"] == "up" && dyno["Release"] == "v2");
}

#[test]
fn a_new_release_is_started_beside_a_stubborn_old_one_only_if_it_has_a_network_of_its_own() {
    let room = Room::new();
    let app = room.app().process("web", STUBBORN, 1);
    room.release(&app);
    // longer than a container takes to start on a busy machine
    let timeout = if isolated_network() { "6s" } else { "700ms" };
    let hsup = room.hsup(["--stop-timeout", timeout, "start"]).up();
    hsup.wait_line("web.1 | ready");
    let old = hsup.dyno_pid("web.1");
    room.release(&app.version(2).env("NEW", "1"));
    hsup.wait_nth_line("web.1 | ready", 2);
    assert_eq!(procs::alive(old), isolated_network(), "where there is one network, both have the same port");
    hsup.wait_line("R12");
    eventually("the old dyno is gone", || hsup.printed(), || (!procs::alive(old)).then_some(()));
}

#[test]
fn a_one_off_dyno_that_never_came_to_run_is_no_success() {
    let room = Room::new();
    let hsup = room.hsup(["run", "true"]).up();
    hsup.signal(Signal::SIGTERM);
    assert_eq!(hsup.end().code, 128 + 15);
}
