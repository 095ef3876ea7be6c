//! Checks that reach into dynos, however far these are from the host: commands, and sd_notify.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use hsup_ftest::{Driver, Room, driver, eventually, is_about, isolated_network, procs};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The port of the one test that needs any: none that another test uses, where dynos share the network of the host, nor
/// one that the kernel gives to connections (from 32768 on).
fn port() -> String {
    (7090 + std::process::id() % 250 * 100).to_string()
}

/// Where this host has what is at a path in a dyno, whatever the root of that is.
fn inside(dyno: &Value, path: &str) -> String {
    format!("/proc/{}/root{path}", dyno["Pid"])
}

#[test]
fn a_command_can_tell_that_a_worker_is_ready() {
    let room = Room::new();
    let ready = format!("/tmp/{}-ready", room.mark());
    // what it prints is for nobody, and must not be what ends it
    let check = format!("worker:period=50ms,command=echo asked; test -e {ready}");
    room.release(&room.app().process("worker", "exec sleep 600", 1));
    let hsup = room.hsup(["start", "--readiness", &check]).env("HSUP_READINESS", "").up();
    let missing = format!("\"echo asked; test -e {ready}\" ended with exit status 1");
    let dyno = hsup.wait_dyno("worker.1", "boots", |dyno| dyno["Missing"] == missing);
    assert_eq!(dyno["Health"], "booting", "{dyno}");
    // it is inside: there is no such file in any other dyno, nor on the host if its root is not the host's
    let seen = inside(&dyno, &ready);
    fs::write(&seen, "").unwrap();
    assert_eq!(Path::new(&ready).exists(), !isolated_network());
    hsup.wait_up("worker.1");
    let _of_a_root_that_is_gone = fs::remove_file(seen);
}

#[test]
fn a_command_reaches_the_port_of_its_dyno() {
    let room = Room::new();
    let listens = "exec python3 -m http.server --bind 127.0.0.1 $PORT";
    room.release(&room.app().env("PORT", &port()).process("web", listens, 1));
    let check = r#"web:command=bash -c ': < /dev/tcp/127.0.0.1/$PORT'"#;
    let hsup = room.hsup(["start", "--readiness", check]).env("HSUP_READINESS", "").up();
    hsup.wait_up("web.1");
}

/// What a process is: who it is, what it may do, where it is, and what it has been told.
const ABOUT: &str = r#"{ grep -E '^(Uid|Gid|Groups|Umask|Cap|NoNewPrivs|Seccomp|SigBlk|SigIgn)' /proc/self/status; cat /proc/self/cgroup; \
    for kind in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$kind; done; pwd; readlink /proc/self/root; \
    ulimit -a | grep -v pipe; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l; env | grep -E '^(DYNO|HOME|PATH|PORT|FTEST_MARK|USER)=' | sort; }"#;

#[test]
fn a_command_is_what_its_dyno_is() {
    let room = Room::new();
    let [main, asked] = ["main", "asked"].map(|name| format!("/tmp/{}-{name}", room.mark()));
    let about = |path: &str| format!("{ABOUT} > {path}.new 2>&1; mv {path}.new {path}");
    room.release(&room.app().process("worker", &format!("{}; exec sleep 600", about(&main)), 1));
    let check = format!("worker:timeout=10s,command={}", about(&asked));
    let hsup = room.hsup(["start", "--readiness", &check]).env("HSUP_READINESS", "").up();
    hsup.wait_up("worker.1");
    let dyno = hsup.dyno("worker.1");
    let [main, asked] = [main, asked].map(|path| {
        let seen = inside(&dyno, &path);
        let text =
            eventually("a process has said what it is", || hsup.printed(), || fs::read_to_string(&seen).ok());
        let _of_a_root_that_is_gone = fs::remove_file(seen);
        text
    });
    assert!(main.lines().count() > 30, "{main}");
    assert_eq!(asked, main);
    if driver() == Driver::Native {
        for line in
            ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
        {
            assert!(asked.lines().any(|found| found == line), "no {line} in {asked}");
        }
        assert!(!asked.contains("Uid:\t0"), "{asked}");
    }
}

#[test]
fn a_command_that_fails_has_its_dyno_restarted() {
    let room = Room::new();
    let sick = format!("/tmp/{}-sick", room.mark());
    room.release(&room.app().process("worker", "exec sleep 600", 1));
    let check = format!("worker:period=100ms,failure-threshold=2,command=test ! -e {sick}");
    let hsup = room.hsup(["start", "--liveness", &check]).env("HSUP_READINESS", "").up();
    hsup.wait_up("worker.1");
    let seen = inside(&hsup.dyno("worker.1"), &sick);
    fs::write(&seen, "").unwrap();
    let dyno = hsup.wait_dyno("worker.1", "is restarted", |dyno| dyno["LastExit"]["Reason"] == "liveness");
    let detail = format!("\"test ! -e {sick}\" ended with exit status 1");
    assert_eq!(dyno["LastExit"]["Detail"], detail, "{dyno}");
    let ended = room.bare(["ps", "-s"]).arg(room.socket()).end();
    assert!(ended.stdout.contains("(not well)"), "{}", ended.stdout);
    let _of_a_root_that_is_gone = fs::remove_file(seen);
    let _where_it_is_the_hosts = fs::remove_file(sick);
}

/// What of this test's checks sleeps.
fn sleepers(room: &Room) -> Vec<u32> {
    let sleeps = |pid: &u32| procs::describe(*pid).contains(": sleep 61");
    procs::marked(room.mark()).into_iter().filter(sleeps).collect()
}

/// A command that does not end, and of which a part goes its own way, beside all that could hold it.
const HANGS: &str = "(setsid sh -c 'sleep 6140 & wait' &); exec sleep 6150";

#[test]
fn a_command_that_hangs_is_ended_with_all_that_it_has_started() {
    let room = Room::new();
    let check = format!("worker:timeout=1s,command={HANGS}");
    room.release(&room.app().process("worker", "exec sleep 600", 1));
    let hsup = room.hsup(["start", "--readiness", &check]).env("HSUP_READINESS", "").up();
    let runs = || (sleepers(&room).len() == 2).then_some(());
    eventually("the command runs", || hsup.printed(), runs);
    let missing = format!("{HANGS:?} did not end within 1s");
    let dyno = hsup.wait_dyno("worker.1", "tells what is missing", |dyno| dyno["Missing"] == missing);
    let nothing = || sleepers(&room).is_empty().then_some(());
    eventually("nothing of the command is left", || hsup.printed(), nothing);
    assert!(procs::alive(u32::try_from(dyno["Pid"].as_u64().unwrap()).unwrap()), "the dyno has been ended");
}

#[test]
fn what_a_command_leaves_is_ended() {
    let room = Room::new();
    let mark = format!("/tmp/{}-left", room.mark());
    let daemon = format!("(setsid sh -c 'touch {mark}; sleep 6160; true' &)");
    let check = format!("worker:timeout=10s,command={daemon}; until test -e {mark}; do sleep 0.01; done");
    room.release(&room.app().process("worker", "exec sleep 600", 1));
    let hsup = room.hsup(["start", "--readiness", &check]).env("HSUP_READINESS", "").up();
    hsup.wait_up("worker.1");
    let seen = inside(&hsup.dyno("worker.1"), &mark);
    assert!(Path::new(&seen).exists());
    eventually("nothing of it is left", || hsup.printed(), || sleepers(&room).is_empty().then_some(()));
    let _of_a_root_that_is_gone = fs::remove_file(seen);
}

/// Stops what is started beside it as its user, until one of these has not been executed yet: it is not to be seen.
const HOLDS_ONE: &str = r#"exec python3 -c '
import os, signal, time
newest = os.open("/proc/loadavg", os.O_RDONLY)
while True:
    last = int(os.pread(newest, 100, 0).split()[4])
    for pid in range(last, last + 3):
        try:
            if pid != os.getpid():
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.05)
                if not os.path.exists(f"/proc/{pid}"):
                    os.kill(pid, 0)
                    signal.pause()
        except OSError:
            pass
'"#;

#[test]
fn dynos_that_hold_their_checks_up_hold_up_nothing_else() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    // nine are more than hsup has threads to wait with
    room.release(&room.app().process("worker", HOLDS_ONE, 9));
    let check = "worker:period=50ms,timeout=100ms,failure-threshold=100,command=true";
    let hsup = room.hsup(["start", "--liveness", check]).up();
    let is_held = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.starts_with("Name:\thsup-attendant") && status.contains("State:\tT")
    };
    let mut held = BTreeSet::new();
    let all = || {
        let attendants = procs::children(hsup.proper()).into_iter().flat_map(procs::children);
        held.extend(attendants.filter(is_held));
        (held.len() >= 9).then_some(())
    };
    eventually("a check of each has been held up", || hsup.printed(), all);
    let dyno = hsup.dyno("worker.1");
    procs::signal(u32::try_from(dyno["Pid"].as_u64().unwrap()).unwrap(), Signal::SIGKILL);
    hsup.wait_dyno("worker.1", "is started again", |dyno| dyno["Restarts"] == 1 && dyno["Pid"].is_u64());
    let left = || held.iter().copied().filter(|pid| procs::alive(*pid)).collect::<Vec<_>>();
    let describe = || left().into_iter().map(procs::describe).collect::<Vec<_>>().join("\n");
    eventually("nothing is left that was held up", describe, || left().is_empty().then_some(()));
}

#[test]
fn the_command_of_a_check_is_gone_with_its_dyno() {
    let room = Room::new();
    let check = format!("worker:timeout=600s,command={HANGS}");
    room.release(&room.app().process("worker", "exec sleep 600", 1));
    let hsup = room.hsup(["start", "--readiness", &check]).env("HSUP_READINESS", "").up();
    let runs = || (sleepers(&room).len() == 2).then_some(());
    eventually("the command runs", || hsup.printed(), runs);
    // the dyno ends by itself, in the middle of it
    let dyno = hsup.dyno("worker.1");
    let first = sleepers(&room);
    procs::signal(u32::try_from(dyno["Pid"].as_u64().unwrap()).unwrap(), Signal::SIGKILL);
    let ended = || first.iter().all(|pid| !procs::alive(*pid)).then_some(());
    eventually("the command is gone", || hsup.printed(), ended);
    eventually("the next one runs", || hsup.printed(), runs);
    assert_eq!(room.bare(["stop", "--all", "-s"]).arg(room.socket()).end().code, 0);
    room.assert_nothing_left();
}

#[test]
fn the_command_of_a_check_is_gone_with_hsup() {
    let room = Room::new();
    let check = format!("worker:timeout=600s,command={HANGS}");
    room.release(&room.app().process("worker", "exec sleep 600", 1));
    let hsup = room.hsup(["start", "--readiness", &check]).env("HSUP_READINESS", "").up();
    let runs = || (sleepers(&room).len() == 2).then_some(());
    eventually("the command runs", || hsup.printed(), runs);
    procs::signal(hsup.proper(), Signal::SIGKILL);
    room.wait_nothing_left();
}

#[test]
fn a_dyno_can_say_itself_that_it_is_ready_and_that_it_lives() {
    let room = Room::new();
    // READY=1 comes as systemd-notify sends it: by a process that is gone when it is heard, which says who it is
    let line = r#"exec python3 -c '
import os, socket, struct, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
address = chr(0) + os.environ["NOTIFY_SOCKET"][1:]
notify.sendto(b"STATUS=nearly", address)
time.sleep(0.5)
child = os.fork()
if child == 0:
    sender = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
    about = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, sender)]
    notify.sendmsg([b"READY=1\nSTATUS=up"], about, 0, address)
    os._exit(0)
os.waitpid(child, 0)
for beat in range(10):
    notify.sendto(b"WATCHDOG=1", address)
    time.sleep(int(os.environ["WATCHDOG_USEC"]) / 2e6)
time.sleep(600)
'"#;
    room.release(&room.app().process("worker", line, 1));
    let checks = ["start", "--readiness", "notify", "--liveness", "period=300ms,failure-threshold=1,notify"];
    let hsup = room.hsup(checks).env("HSUP_READINESS", "").up();
    hsup.wait_dyno("worker.1", "boots", |dyno| dyno["Health"] == "booting" && dyno["Pid"].is_u64());
    hsup.wait_up("worker.1");
    let dyno = hsup.wait_dyno("worker.1", "is restarted", |dyno| dyno["LastExit"]["Reason"] == "liveness");
    assert_eq!(dyno["LastExit"]["Detail"], "it has not sent WATCHDOG=1 for 300ms", "{dyno}");
}

#[test]
fn an_old_dyno_goes_on_until_a_command_in_the_new_one_is_content() {
    let room = Room::new();
    let ready = format!("/tmp/{}-$V", room.mark());
    let release = |n: u64, line: &str| {
        room.release(&room.app().version(n).env("V", &n.to_string()).process("worker", line, 1))
    };
    release(1, &format!("touch {ready}; exec sleep 600"));
    let check = format!("worker:period=50ms,command=test -e {ready}");
    let hsup =
        room.hsup(["start", "--min-healthy-time", "300ms", "--rollout", "overlap", "--readiness", &check]);
    let hsup = hsup.env("HSUP_READINESS", "").up();
    hsup.wait_line("release v1 is good");
    let old = hsup.dyno_pid("worker.1");
    release(2, "exec sleep 600");
    let dynos = || hsup.get("/status").json()["Dynos"].as_array().cloned().unwrap_or_default();
    let of = |release: &str| dynos().into_iter().find(|dyno| dyno["Release"] == release);
    let asked = || of("v2").filter(|dyno| dyno["Missing"].is_string());
    let new = eventually("the new dyno has been asked", || hsup.printed(), asked);
    assert_eq!((&of("v1").unwrap()["State"], procs::alive(old)), (&Value::from("up"), true));
    let files = [("1", old.to_string()), ("2", new["Pid"].to_string())];
    let files = files.map(|(v, pid)| format!("/proc/{pid}/root/tmp/{}-{v}", room.mark()));
    // in its own place, which where dynos are apart is not that of the old one
    fs::write(&files[1], "").unwrap();
    let both = || {
        assert!(dynos().iter().any(|dyno| dyno["State"] == "up"), "none is up: {:?}", dynos());
        (dynos().len() == 1 && dynos()[0]["Release"] == "v2").then_some(())
    };
    eventually("v2 alone is left", || hsup.printed(), both);
    for file in files {
        let _of_a_root_that_is_gone = fs::remove_file(file);
    }
}
