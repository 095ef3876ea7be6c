//! Processes that leave their dyno: a dyno has stopped when all of them are gone.

use std::process::Command;

use hsup_ftest::{Hsup, Room, eventually, missing, procs};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A program whose command line names it, so that it is found whatever becomes of its environment.
fn sleeper(room: &Room) -> String {
    format!("bash -c \"exec -a {}-daemon sleep 600\"", room.mark())
}

fn daemons(room: &Room) -> Vec<u32> {
    procs::marked(&format!("{}-daemon", room.mark())).into_iter().filter(is_sleep).collect()
}

fn is_sleep(pid: &u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep")
}

/// Starts a dyno with this command beside one that goes on, stops it by the control API, and expects that
/// nothing of it is left by the time of the answer while the other one lives, and that nothing had to be killed.
fn stops_with_its_dyno(line: &str, room: &Room) {
    let hsup = stops_within("30s", line, room);
    assert!(!hsup.printed().contains("SIGKILL"), "it was not told to end: {}", hsup.printed());
    assert_eq!(hsup.stop().code, 0);
    room.assert_nothing_left();
}

fn stops_within(timeout: &str, line: &str, room: &Room) -> Hsup {
    room.release(&room.app().process("web", "exec sleep 600", 1).process("worker", line, 1));
    let hsup = room.hsup(["--stop-timeout", timeout, "start"]).up();
    let web = hsup.wait_up("web.1");
    let daemon = wait_daemon(room, &hsup);
    let answer = hsup.post("/control/stop", r#"{"Processes":["worker"]}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!procs::alive(daemon), "left behind: {}; {}", procs::describe(daemon), hsup.printed());
    assert!(procs::alive(web), "the other dyno goes on");
    assert_eq!(hsup.dyno_pid("web.1"), web);
    hsup
}

fn wait_daemon(room: &Room, hsup: &Hsup) -> u32 {
    eventually("the daemon runs", || hsup.printed(), || daemons(room).first().copied())
}

#[test]
fn a_background_process() {
    let room = Room::new();
    stops_with_its_dyno(&format!("{} & exec sleep 600", sleeper(&room)), &room);
}

#[test]
fn a_process_in_a_session_of_its_own() {
    let room = Room::new();
    stops_with_its_dyno(&format!("setsid {} & exec sleep 600", sleeper(&room)), &room);
}

#[test]
fn a_daemon_whose_parent_has_ended() {
    let room = Room::new();
    let line = format!("setsid sh -c '{} &' ; exec sleep 600", sleeper(&room));
    stops_with_its_dyno(&line, &room);
}

#[test]
fn a_daemon_that_forked_twice() {
    if Command::new("python3").arg("--version").output().is_err() {
        return missing("python3");
    }
    let room = Room::new();
    let fork = "os.fork() and os._exit(0)";
    let exec = format!("os.execvp(\"sleep\", [\"{}-daemon\", \"600\"])", room.mark());
    let line = format!("python3 -c 'import os; {fork}; os.setsid(); {fork}; {exec}'; exec sleep 600");
    stops_with_its_dyno(&line, &room);
}

#[test]
fn a_daemon_that_ignores_sigterm() {
    let room = Room::new();
    let line = format!("setsid sh -c 'trap \"\" TERM; {} &' ; exec sleep 600", sleeper(&room));
    let hsup = stops_within("1s", &line, &room);
    assert!(hsup.printed().contains("SIGKILL"), "{}", hsup.printed());
    assert_eq!(hsup.stop().code, 0);
    room.assert_nothing_left();
}

#[test]
fn a_daemon_that_clears_its_environment_ends_with_hsup() {
    let room = Room::new();
    let line = format!("env -i setsid sh -c '{} &' ; echo ready; exec sleep 600", sleeper(&room));
    room.release(&room.app().process("worker", &line, 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("worker.1 | ready");
    wait_daemon(&room, &hsup);
    assert_eq!(hsup.stop().code, 0);
    room.assert_nothing_left();
}

#[test]
fn what_a_one_off_dyno_leaves_behind_ends_with_it_and_its_code_counts() {
    let room = Room::new();
    room.release(&room.app());
    for line in ["sleep 600 & exit 3", "setsid sleep 600 & exit 3"] {
        let ended = room.hsup(["run", line]).end();
        assert_eq!(ended.code, 3, "{line}: {ended:?}");
        room.assert_nothing_left();
    }
}

#[test]
fn a_leader_that_ends_does_not_save_a_stubborn_child_from_the_kill() {
    let room = Room::new();
    room.release(&room.app());
    let line = "trap 'exit 5' TERM; (trap '' TERM; echo ready; while :; do sleep 600; done) & wait";
    let hsup = room.hsup(["--stop-timeout", "500ms", "run", line]).up();
    hsup.wait_line("ready");
    hsup.signal(Signal::SIGTERM);
    let ended = hsup.end();
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(ended.stderr.contains("R12"), "{ended:?}");
    room.assert_nothing_left();
}

#[test]
fn a_crashed_dyno_is_not_started_again_beside_what_its_last_run_left() {
    let room = Room::new();
    let line = format!("{} & sleep 0.2; echo run; exit 1", sleeper(&room));
    room.release(&room.app().process("worker", &line, 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_nth_line("worker.1 | run", 3);
    assert!(daemons(&room).len() <= 1, "{}", hsup.printed());
    hsup.wait_dyno("worker.1", "is crashed", |dyno: &Value| dyno["State"] == "crashed");
    assert_eq!(daemons(&room), [0; 0], "{}", hsup.printed());
}

#[test]
fn a_dyno_whose_first_thread_has_ended_is_stopped_like_any_other() {
    if Command::new("python3").arg("--version").output().is_err() {
        return missing("python3");
    }
    let room = Room::new();
    let program = "import ctypes, threading, time\n\
        threading.Thread(target=lambda: (time.sleep(0.1), print(\"ready\", flush=True), time.sleep(600))).start()\n\
        ctypes.CDLL(None).pthread_exit(None)";
    room.release(&room.app().process("worker", &format!("exec python3 -c '{program}'"), 1));
    let hsup = room.hsup(["--stop-timeout", "1s", "start"]).up();
    hsup.wait_line("worker.1 | ready");
    assert_eq!(hsup.stop().code, 0);
    room.assert_nothing_left();
}
