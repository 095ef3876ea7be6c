//! The processes that native dynos come from: they may be killed, and may run out of descriptors, and no dyno suffers.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use hsup_ftest::{Driver, Hsup, Room, eventually, is_about, procs};
use nix::sys::signal::Signal;

/// The zygote of an hsup.
fn zygote(hsup: &Hsup) -> u32 {
    let is_zygote = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "hsup-zygote\n")
            && procs::alive(*pid)
    };
    let find = || procs::children(hsup.proper()).into_iter().find(is_zygote);
    eventually("there is a zygote", || hsup.printed(), find)
}

/// Kills a process when it is about to send a message for the nth time from now on.
const KILL_BEFORE_ANSWER: &str = r#"
import ctypes, os, platform, signal, struct, sys
SEIZE, INTERRUPT, SYSCALL, SYSCALL_INFO, SYSGOOD = 0x4206, 0x4207, 24, 0x420e, 1
SENDMSG = {"x86_64": 46, "aarch64": 211}[platform.machine()]
libc, pid, left = ctypes.CDLL(None, use_errno=True), int(sys.argv[1]), int(sys.argv[2])
info = ctypes.create_string_buffer(128)
def ptrace(request, address, data):
    if libc.ptrace(request, pid, ctypes.c_void_p(address), data) < 0:
        sys.exit("ptrace: " + os.strerror(ctypes.get_errno()))
ptrace(SEIZE, 0, ctypes.c_void_p(SYSGOOD))
ptrace(INTERRUPT, 0, None)
os.waitpid(pid, 0x40000000)
print("attached", flush=True)
while True:
    ptrace(SYSCALL, 0, None)
    _, status = os.waitpid(pid, 0x40000000)
    if os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
        ptrace(SYSCALL_INFO, len(info), info)
        entered, number = info.raw[0] == 1, struct.unpack_from("Q", info.raw, 24)[0]
        left -= entered and number == SENDMSG
        if left == 0:
            os.kill(pid, signal.SIGKILL)
            break
"#;

/// Sets the soft limit of open files of a process.
fn limit_files(pid: u32, most: &str) {
    let (pid, most) = (pid.to_string(), format!("--nofile={most}:"));
    let limited = Command::new("prlimit").args(["--pid", &pid, &most]).status().expect("there is prlimit");
    assert!(limited.success());
}

/// The limit with which a process may open so many files more: it is one of their numbers, of which some are free.
fn limit_that_leaves(pid: u32, free: usize) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").flatten();
    let open: Vec<usize> = entries
        .map(|entry| entry.file_name().to_str().and_then(|n| n.parse().ok()).expect("a number"))
        .collect();
    (0..).filter(|number| !open.contains(number)).nth(free).expect("there is always one more")
}

fn web(room: &Room) -> Hsup {
    room.release(&room.app().process("web", "echo ready; exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | ready");
    hsup
}

#[test]
fn a_zygote_that_is_killed_is_replaced_and_no_dyno_suffers() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let hsup = web(&room);
    let web = hsup.wait_up("web.1");
    for round in 1..=3 {
        let first = zygote(&hsup);
        procs::signal(first, Signal::SIGKILL);
        hsup.wait_nth_line("another one has taken its place", round);
        assert_ne!(zygote(&hsup), first);
    }
    assert_eq!(hsup.dyno_pid("web.1"), web, "it runs on");
    let dead = procs::children(hsup.proper()).into_iter().filter(|pid| !procs::alive(*pid)).count();
    assert_eq!(dead, 0, "each is reaped");
    // At once: a dyno that is to be started finds nobody, and hsup has not heard of it either.
    procs::signal(zygote(&hsup), Signal::SIGKILL);
    procs::signal(web, Signal::SIGKILL);
    hsup.wait_nth_line("web.1 | ready", 2);
    assert_ne!(hsup.wait_up("web.1"), web);
    let proper = hsup.proper();
    assert_eq!(hsup.stop().code, 0);
    let left = || room.left_by(&[proper]);
    eventually("nothing is left", || format!("{:#?}", left()), || left().is_empty().then_some(()));
    room.assert_nothing_left();
}

#[test]
fn an_init_of_which_the_zygote_could_not_tell_any_more_is_not_left() {
    if !is_about(Driver::Native) {
        return;
    }
    // It tells of the network, and then of init.
    ["1", "2"].into_iter().for_each(nothing_is_left_of_a_start_without_answer);
}

fn nothing_is_left_of_a_start_without_answer(nth: &str) {
    let room = Room::new();
    let hsup = web(&room);
    let pid = zygote(&hsup).to_string();
    let mut tracer = Command::new("python3")
        .args(["-c", KILL_BEFORE_ANSWER, &pid, nth])
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is python3");
    let mut line = String::new();
    BufReader::new(tracer.stdout.take().expect("it is piped")).read_line(&mut line).expect("it can be read");
    assert_eq!(line, "attached\n");
    procs::signal(hsup.wait_up("web.1"), Signal::SIGKILL);
    hsup.wait_line("web.1: Cannot start");
    assert!(tracer.wait().expect("it is our child").success());
    hsup.wait_nth_line("web.1 | ready", 2);
    // the zygote, and the init of the one dyno
    let two = || (procs::children(hsup.proper()).len() == 2).then_some(());
    let children = || {
        let all = procs::children(hsup.proper()).into_iter().map(procs::describe);
        format!("{}\n{}", all.collect::<Vec<_>>().join("\n"), hsup.printed())
    };
    eventually("no other is left", children, two);
    let proper = hsup.proper();
    assert_eq!(hsup.stop().code, 0);
    let left = || room.left_by(&[proper]);
    eventually("nothing is left", || format!("{:#?}", left()), || left().is_empty().then_some(()));
    room.assert_nothing_left();
}

#[test]
fn a_zygote_that_has_replaced_another_is_no_target_of_signals_for_hsup_and_shows_nothing() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let hsup = web(&room);
    procs::signal(zygote(&hsup), Signal::SIGKILL);
    hsup.wait_line("another one has taken its place");
    let second = zygote(&hsup);
    let field = |pid: u32, name: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let line = status.lines().find(|line| line.starts_with(name)).expect("there is such a field");
        line.split_whitespace().nth(1).expect("it has a value").to_owned()
    };
    let blocked = |pid| u64::from_str_radix(&field(pid, "SigBlk"), 16).expect("a number");
    let asked = || (blocked(second) == blocked(hsup.proper())).then_some(());
    eventually("it blocks what hsup blocks", || field(second, "SigBlk"), asked);
    assert_eq!(procs::environment_now(second), Vec::<String>::new());
    assert_eq!(hsup.stop().code, 0);
    let gone = || (!procs::alive(second)).then_some(());
    eventually("it ends with hsup", || procs::describe(second), gone);
}

#[test]
fn a_zygote_without_descriptors_fails_the_start_only() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let hsup = web(&room);
    let zygote = zygote(&hsup);
    // of the five that are sent
    limit_files(zygote, &limit_that_leaves(zygote, 1).to_string());
    procs::signal(hsup.wait_up("web.1"), Signal::SIGKILL);
    hsup.wait_line("Too many open files");
    limit_files(zygote, "1024");
    hsup.wait_nth_line("web.1 | ready", 2);
    assert!(procs::alive(zygote), "it is the same");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_start_that_runs_out_of_descriptors_leaves_nothing() {
    if !is_about(Driver::Native) {
        return;
    }
    const DYNOS: u32 = 20;
    let room = Room::new();
    room.release(&room.app().process("web", "echo ready; exec sleep 600", DYNOS));
    let hsup = room.hsup(["start"]).up();
    let mains: Vec<u32> = (1..=DYNOS).map(|number| hsup.wait_up(&format!("web.{number}"))).collect();
    let proper = hsup.proper();
    let mut failed = 0;
    // Each dyno has one descriptor more than the one before, so that each fails in another place.
    for (number, main) in (1..).zip(mains) {
        let dyno = format!("web.{number}");
        limit_files(proper, &limit_that_leaves(proper, number - 1).to_string());
        procs::signal(main, Signal::SIGKILL);
        let failures =
            || hsup.lines("Too many open files").into_iter().filter(|line| line.contains(&dyno)).count();
        let again = || hsup.lines(&format!("{dyno} | ready")).len() == 2;
        let came_of_it = || (failures() > 0 || again()).then_some(());
        eventually("it fails or starts", || format!("{dyno}: {}", hsup.printed()), came_of_it);
        failed += u32::from(failures() > 0);
        limit_files(proper, "1024");
    }
    assert!((5..DYNOS).contains(&failed), "{failed}; {}", hsup.printed());
    for number in 1..=DYNOS {
        hsup.wait_nth_line(&format!("web.{number} | ready"), 2);
    }
    assert_eq!(hsup.lines("doctor --fix"), Vec::<String>::new(), "{}", hsup.printed());
    assert_eq!(hsup.stop().code, 0);
    let left = || room.left_by(&[proper]);
    eventually("nothing is left", || format!("{:#?}", left()), || left().is_empty().then_some(()));
    room.assert_nothing_left();
}
