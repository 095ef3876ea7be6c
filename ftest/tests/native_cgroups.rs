//! Native dynos on hosts with the unified cgroup hierarchy only, and on hosts with those of v1 only. Both are views that a
//! test makes of the hierarchies of this host, in its own mount namespace.

use std::fs;

use hsup_ftest::{Driver, Room, eventually, is_about, procs};
use nix::sys::signal::Signal;

/// What a host with systemd's default of today has.
const UNIFIED_ONLY: &str = "umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup /sys/fs/cgroup";

/// What a host of the time before has: no unified hierarchy, not even beside the others.
const V1_ONLY: &str = "awk '$0 ~ / - cgroup2 / {print $5}' /proc/self/mountinfo | xargs -r -n 1 umount";

fn view(room: &Room, script: &str) -> String {
    room.namespaces().expect("the driver is native").sh(script)
}

/// The lines of a process's cgroups that name the run of a dyno.
fn own_cgroups(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    text.lines().filter(|line| line.contains("hsup")).map(str::to_owned).collect()
}

/// Starts a dyno with a daemon, sees where it is and what it uses, restarts it, kills it in each way, and stops it.
fn lives_and_dies(room: &Room, limits: &str, is_there: impl Fn(&[String])) {
    let daemon = "setsid sh -c 'sleep 600 &'; echo ready; exec sleep 600";
    room.release(&room.app().process("web", daemon, 2));
    let hsup = room.hsup(["--limits", limits, "start"]).up();
    for dyno in ["web.1", "web.2"] {
        hsup.wait_line(&format!("{dyno} | ready"));
        let pid = hsup.wait_up(dyno);
        is_there(&own_cgroups(pid));
    }
    hsup.wait_dyno("web.1", "uses memory", |dyno| {
        dyno["MemoryBytes"].as_u64().is_some_and(|bytes| bytes > 0)
    });
    // its main process, and its init
    procs::signal(hsup.dyno_pid("web.1"), Signal::SIGKILL);
    hsup.wait_nth_line("web.1 | ready", 2);
    let main = hsup.dyno_pid("web.2");
    procs::signal(procs::parent(main).expect("it has an init"), Signal::SIGKILL);
    hsup.wait_nth_line("web.2 | ready", 2);
    let four = || (procs::marked(room.mark()).len() == 4).then_some(());
    let list = || procs::marked(room.mark()).into_iter().map(procs::describe).collect::<Vec<_>>().join("\n");
    eventually("one run of each is there, a main process and a daemon", list, four);
    let proper = hsup.proper();
    assert_eq!(hsup.stop().code, 0);
    room.assert_nothing_left();
    let left = || room.left_by(&[proper]);
    eventually("nothing is left", || format!("{:#?}", left()), || left().is_empty().then_some(()));
    // and what an hsup that was killed leaves
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("web.1");
    let killed = [hsup.pid(), hsup.proper()];
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        killed.iter().for_each(|pid| procs::signal(*pid, signal));
    }
    room.wait_nothing_left();
    let gone = || killed.iter().all(|pid| !procs::alive(*pid)).then_some(());
    eventually("both are gone", || hsup.printed(), gone);
    drop(hsup);
    let mended = room.bare(["doctor", "--fix"]).end();
    assert_eq!(mended.code, 0, "{mended:?}");
    let left = || room.left_by(&[killed[1]]);
    eventually("nothing is left", || format!("{:#?}", left()), || left().is_empty().then_some(()));
}

#[test]
fn dynos_live_and_die_where_there_is_the_unified_hierarchy_only() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    view(&room, UNIFIED_ONLY);
    lives_and_dies(&room, "", |cgroups| {
        assert!(cgroups.len() == 1 && cgroups[0].starts_with("0::/"), "{cgroups:?}");
    });
    // The controllers of this host are in v1, so that there a limit cannot be kept: no dyno runs without it.
    room.release(&room.app().version(2));
    let ended = room.hsup(["--limits", "memory=64MiB", "run", "true"]).end();
    let controllers = view(&room, "cat /sys/fs/cgroup/cgroup.controllers");
    let kept = controllers.contains("memory");
    assert_eq!(ended.code == 0, kept, "{ended:?}");
    assert!(kept || ended.stderr.contains("memory"), "{ended:?}");
}

#[test]
fn dynos_live_and_die_where_there_are_the_hierarchies_of_v1_only() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    view(&room, V1_ONLY);
    lives_and_dies(&room, "memory=64MiB,pids=50,cpu=0.5", |cgroups| {
        for controller in ["memory", "pids", "cpu"] {
            let has = |line: &String| {
                line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == controller))
            };
            assert!(cgroups.iter().any(has), "{controller}: {cgroups:?}");
        }
        assert!(!cgroups.iter().any(|line| line.starts_with("0::")), "{cgroups:?}");
    });
}
