//! What dynos do not inherit of hsup: its standing with the kernel.

use std::process::Command;

use hsup_ftest::{Driver, Room, is_about};

/// Says how the kernel treats a process.
const STANDING: &str = r#"
import ctypes, os, resource
libc = ctypes.CDLL(None)
print("nice", os.getpriority(os.PRIO_PROCESS, 0))
print("scheduler", os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
print("processors", len(os.sched_getaffinity(0)))
print("personality", libc.personality(0xffffffff))
print("slack", libc.prctl(30, 0, 0, 0, 0))
print("disk", libc.syscall({"x86_64": 252, "aarch64": 31}[os.uname().machine], 1, 0) >> 13)
for name in ("NICE", "RTPRIO", "FSIZE", "STACK", "CORE"):
    print(name, *resource.getrlimit(getattr(resource, "RLIMIT_" + name)))
print("score", open("/proc/self/oom_score_adj").read().strip())
"#;

/// Has hsup executed with these words before it, and gives what a one-off dyno says of its standing.
fn standing(room: &Room, through: &str) -> String {
    let through = format!("{through} exec \"$@\"");
    let ended =
        room.hsup(["run", &format!("python3 -c '{STANDING}'")]).through(["sh", "-c", &through, "sh"]).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.stdout
}

#[test]
fn a_native_dyno_is_an_ordinary_process_whatever_hsup_is() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let ordinary = standing(&room, "");
    let set = "ulimit -f 20000 2>/dev/null; ulimit -s 4096; prlimit --pid $$ --nice=7:7 --rtprio=3:3 2>/dev/null; \
               renice -n -5 -p $$ >/dev/null; ionice -c 2 -n 1 -p $$; taskset -p 1 $$ >/dev/null; \
               echo 1000000 > /proc/$$/timerslack_ns; chrt -b -p 0 $$; set -- setarch -R \"$@\";";
    let said = standing(&room, set);
    // What hsup may not raise again, without CAP_SYS_RESOURCE, stays: here the hard limits.
    let line = |said: &str, name: &str| {
        said.lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {said}"))
            .to_owned()
    };
    for name in ["nice", "scheduler", "processors", "personality", "slack", "disk", "CORE", "score"] {
        assert_eq!(line(&said, name), line(&ordinary, name), "{said}");
    }
    for (name, expected) in [("nice", "nice 0"), ("scheduler", "scheduler 0"), ("slack", "slack 50000")] {
        assert_eq!(line(&said, name), expected);
    }
    for name in ["NICE 0 0", "RTPRIO 0 0", "CORE 0 0"] {
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn a_dyno_is_not_spared_when_memory_runs_out_though_hsup_is() {
    let spared = Command::new("choom").args(["-n", "-500", "true"]).output().expect("there is choom");
    if !spared.status.success() {
        eprintln!("skipped: this container may not spare a process (CAP_SYS_RESOURCE)");
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    // A driver that has no say before the exec restores it a moment later.
    let line = "until grep -qx 0 /proc/self/oom_score_adj; do :; done; cat /proc/self/oom_score_adj";
    let ended = room.hsup(["run", line]).through(["choom", "-n", "-500", "--"]).end();
    assert_eq!(ended.stdout, "0\n", "{ended:?}");
}

#[test]
fn an_hsup_that_was_started_with_the_ends_of_children_ignored_hears_of_them() {
    let room = Room::new();
    room.release(&room.app().process("web", "echo ready; read -r line < /proc/self/fd/0; exit 3", 1));
    let ignoring = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"];
    let ended = room.hsup(["run", "sh -c 'exit 4'; (exit 5); exit 6"]).through(ignoring).end();
    assert_eq!(ended.code, 6, "{ended:?}");
    let hsup = room.hsup(["start"]).through(ignoring).up();
    hsup.wait_nth_line("web.1 | ready", 2);
    hsup.wait_line("web.1: Process exited with status 3");
    assert_eq!(hsup.stop().code, 0);
    room.wait_nothing_left();
}
