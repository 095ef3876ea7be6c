//! What native dynos hold of the host: claimed by one hsup at a time, and given back however that hsup ends.

use std::collections::BTreeSet;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::time::Instant;

use hsup_ftest::{Driver, Hsup, Room, eventually, is_about, procs, stack};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;

/// Two dynos, one of which has a daemon in a session of its own.
fn running(room: &Room) -> Hsup {
    let daemon = "setsid sh -c 'sleep 600 &'; echo ready; exec sleep 600";
    room.release(&room.app().process("web", "exec sleep 600", 1).process("worker", daemon, 1));
    let hsup = room.hsup(["--limits", "memory=64MiB,pids=50", "start"]).up();
    hsup.wait_up("web.1");
    hsup.wait_line("worker.1 | ready");
    hsup
}

/// The kernel removes the link of a dyno that is gone by itself, and some time after it.
fn nothing_is_left(room: &Room, hsups: &[u32]) {
    let left = || room.left_by(hsups);
    eventually("nothing is left", || format!("{:#?}", left()), || left().is_empty().then_some(()));
}

/// Kills guardian and hsup proper at once, and waits until they and the dynos are gone; gives the pid of hsup proper.
fn kill_both(hsup: Hsup, room: &Room) -> u32 {
    let both = [hsup.pid(), hsup.proper()];
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        both.iter().for_each(|pid| procs::signal(*pid, signal));
    }
    room.wait_nothing_left();
    let gone = || both.iter().all(|pid| !procs::alive(*pid)).then_some(());
    eventually("both are gone", || hsup.printed(), gone);
    both[1]
}

/// The next hsup starts and ends, and then nothing is left of either.
fn the_next_start_takes_all_away(room: &Room, killed: u32) {
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("web.1");
    let pids = [killed, hsup.proper()];
    let of_killed = room.left_by(&[killed]);
    assert!(!of_killed.iter().any(|left| left.starts_with("cgroup")), "{of_killed:#?}");
    assert_eq!(hsup.stop().code, 0);
    nothing_is_left(room, &pids);
}

#[test]
fn nothing_is_left_of_an_hsup_that_has_ended_well() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let hsup = running(&room);
    let proper = hsup.proper();
    let held = room.left_by(&[proper]);
    for what in ["claim", "record", "directory", "cgroup", "link", "packet filter"] {
        assert!(held.iter().any(|held| held.starts_with(what)), "{what} is not found: {held:#?}");
    }
    assert_eq!(hsup.stop().code, 0);
    nothing_is_left(&room, &[proper]);
    room.assert_nothing_left();
    // one-off dynos, of which some cannot start
    for line in ["true", "no-such-program-at-all", "kill -9 $$"] {
        room.hsup(["run", line]).end();
        nothing_is_left(&room, &[]);
    }
}

#[test]
fn nothing_is_left_after_hsup_proper_was_killed() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let hsup = running(&room);
    let proper = hsup.proper();
    procs::signal(proper, Signal::SIGKILL);
    assert_eq!(hsup.end().code, 128 + 9);
    room.wait_nothing_left();
    the_next_start_takes_all_away(&room, proper);
}

#[test]
fn nothing_is_left_after_the_guardian_was_killed() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let hsup = running(&room);
    let proper = hsup.proper();
    procs::signal(hsup.pid(), Signal::SIGKILL);
    hsup.end();
    room.wait_nothing_left();
    let gone = || (!procs::alive(proper)).then_some(());
    eventually("hsup proper has ended", || procs::describe(proper), gone);
    the_next_start_takes_all_away(&room, proper);
}

/// A one-off dyno, away from a terminal, for which hsup does without its guardian; gives its main process, too.
fn one_off(room: &Room) -> (Hsup, u32) {
    let hsup = room
        .hsup(["run", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 600 & wait; done"])
        .up();
    hsup.wait_line("ready");
    let init = || {
        let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        procs::children(hsup.pid()).into_iter().find(|pid| name(*pid) == "hsup-init\n")
    };
    let init = eventually("the init of the dyno is a child of what was started", || hsup.printed(), init);
    let main = || procs::children(init).into_iter().next();
    let main = eventually("it has a main process", || procs::describe(init), main);
    (hsup, main)
}

#[test]
fn a_one_off_dyno_hears_what_hsup_hears_without_a_guardian() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (hsup, _main) = one_off(&room);
        procs::signal(hsup.pid(), signal);
        let ended = hsup.end();
        assert!(ended.code == 7 && ended.stdout.contains("bye"), "{signal}: {ended:?}");
        nothing_is_left(&room, &[]);
    }
}

#[test]
fn a_second_signal_kills_a_one_off_dyno_without_a_guardian() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let hsup = room.hsup(["run", "trap '' TERM; echo ready; while :; do sleep 600; done"]).up();
    hsup.wait_line("ready");
    procs::signal(hsup.pid(), Signal::SIGTERM);
    hsup.wait_line("stopping 1 dyno");
    procs::signal(hsup.pid(), Signal::SIGTERM);
    assert_eq!(hsup.end().code, 128 + 9);
    nothing_is_left(&room, &[]);
}

#[test]
fn no_process_is_left_to_whoever_inherits_it_and_does_not_wait() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    // The first process of a pid namespace, which waits for hsup alone.
    let first = "import os, subprocess, sys\n\
        code = subprocess.run(sys.argv[1:]).returncode\n\
        print('left:', [pid for pid in os.listdir('/proc') if pid.isdigit() and pid != '1'])\n\
        sys.exit(code)";
    let through = ["unshare", "--pid", "--fork", "--mount-proc", "python3", "-c", first];
    for (line, code) in [("true", 0), ("exit 3", 3), ("no-such-program-at-all", 127)] {
        let ended = room.hsup(["run", line]).through(through).end();
        assert!(ended.code == code && ended.stdout.contains("left: []"), "{ended:?}");
    }
}

#[test]
fn the_disk_of_the_app_is_free_as_soon_as_a_one_off_dyno_has_ended() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let namespaces = room.namespaces().expect("the driver is native");
    let (disk, app) = (room.path("disk").display().to_string(), room.path("work").display().to_string());
    namespaces.sh(&format!("mke2fs -q -F -t ext4 {disk} 16M"));
    for n in 0..5 {
        namespaces.sh(&format!("mount -o loop {disk} {app}; echo 'web: true' > {app}/Procfile"));
        namespaces.sh(&format!("findmnt -n -o SOURCE {app} > {disk}.device"));
        let device = std::fs::read_to_string(format!("{disk}.device")).expect("it has been written");
        let device = device.trim();
        // So that it does not become another's meanwhile.
        let _held = std::fs::File::open(device).expect("it can be opened");
        let ended = room.bare(["-d", "native", "run", "echo hello > file; cat file"]).dir(&app).end();
        namespaces.sh(&format!("umount {app}"));
        // The kernel opens it so only where nothing of it is mounted, be it where nobody sees it.
        let alone = std::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_EXCL.bits()).open(device);
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "hello\n"), "{ended:?}");
        assert!(alone.is_ok(), "after run {n}: {alone:?}");
    }
}

#[test]
fn a_one_off_dyno_ends_with_its_hsup_without_a_guardian() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let (hsup, main) = one_off(&room);
    procs::signal(hsup.pid(), Signal::SIGKILL);
    hsup.end();
    let gone = || (!procs::alive(main)).then_some(());
    eventually("the dyno has ended", || procs::describe(main), gone);
    assert!(!room.left_by(&[]).is_empty(), "nobody could give back what it held");
    assert_eq!(room.hsup(["run", "true"]).end().code, 0);
    nothing_is_left(&room, &[]);
}

#[test]
fn nothing_is_left_after_both_were_killed() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let hsup = running(&room);
    let killed = kill_both(hsup, &room);
    the_next_start_takes_all_away(&room, killed);
}

#[test]
fn doctor_finds_and_mends_what_is_left() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let hsup = running(&room);
    let killed = kill_both(hsup, &room);
    let found = room.bare(["doctor"]).end();
    assert!(found.code != 0 && found.stdout.contains("worker.1"), "{found:?}");
    let mended = room.bare(["doctor", "--fix"]).end();
    assert_eq!(mended.code, 0, "{mended:?}");
    nothing_is_left(&room, &[killed]);
    // of other tests there may be something left
    let found = room.bare(["doctor"]).end();
    assert!(!found.stdout.contains(&format!("-{killed}-")), "{found:?}");
}

#[test]
fn what_an_hsup_has_left_that_named_the_state_dir_otherwise_is_taken_away() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = room.hsup(["--state-dir", "../state", "start"]).up();
    hsup.wait_up("web.1");
    let proper = kill_both(hsup, &room);
    std::os::unix::fs::symlink(room.path("state"), room.path("link")).expect("a link can be made");
    let mended = room.bare(["doctor", "--fix", "--state-dir"]).arg(room.path("link")).end();
    assert!(mended.code == 0 && !mended.stdout.contains("kept"), "{mended:?}");
    nothing_is_left(&room, &[proper]);
}

#[test]
fn the_init_of_a_dyno_that_is_killed_takes_all_of_it_along_and_the_dyno_starts_again() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let hsup = running(&room);
    let main = hsup.dyno_pid("worker.1");
    let init = procs::parent(main).expect("it has an init");
    let before = procs::marked(room.mark());
    procs::signal(init, Signal::SIGKILL);
    hsup.wait_nth_line("worker.1 | ready", 2);
    assert!(!procs::alive(main));
    let again = hsup.wait_up("worker.1");
    assert!(!before.contains(&again));
    let three = || (procs::marked(room.mark()).len() == 3).then_some(());
    eventually("one run of it is there", || hsup.printed(), three);
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn two_hsups_share_neither_users_nor_networks_be_it_with_one_state_dir_or_two() {
    if !is_about(Driver::Native) {
        return;
    }
    for one_state_dir in [true, false] {
        let room = Room::new();
        let line = "echo $(id -u) $(ip -4 -o addr show eth0 | awk '{print $4}') end; exec sleep 600";
        room.release(&room.app().process("web", line, 8));
        let other = Room::new();
        other.release(&other.app().process("web", line, 9));
        let state = if one_state_dir { room.path("state") } else { other.path("state") };
        let second = room.hsup(["-s"]).arg(other.socket()).env("HSUP_CONTROL_DIR", other.control_dir());
        let second = second.env("HSUP_STATE_DIR", state);
        let hsups = [room.hsup(["start"]), second.args(["start"])];
        // no more users than they need; side by side, from the first moment on
        let hsups = hsups.map(|hsup| {
            let hsup = hsup.env("LIBCONTAINER_DYNO_UID_MIN", "7200");
            hsup.env("LIBCONTAINER_DYNO_UID_MAX", "7216").spawn()
        });
        let mut seen: BTreeSet<String> = BTreeSet::new();
        for (hsup, dynos) in hsups.iter().zip([8, 9]) {
            for number in 1..=dynos {
                let said = hsup.wait_line(&format!("web.{number} | "));
                for word in said.split(" | ").nth(1).unwrap_or_default().split_whitespace().take(2) {
                    assert!(seen.insert(word.to_owned()), "{word} is had twice: {seen:?}");
                }
            }
        }
        assert_eq!(seen.len(), 2 * 17, "{seen:?}");
        let proper = hsups.each_ref().map(Hsup::proper);
        let [one, two] = hsups;
        assert_eq!(one.stop().code, 0);
        // the packet filter is still needed
        assert!(room.left_by(&[proper[0]]).iter().any(|left| left.starts_with("packet filter")));
        assert_eq!(two.stop().code, 0);
        nothing_is_left(&room, &proper);
    }
}

#[test]
fn an_hsup_with_another_state_dir_leaves_the_links_of_living_dynos_alone() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let block = "192.168.200.0/30";
    let hsup = room.hsup(["start"]).env("LIBCONTAINER_DYNO_SUBNET", block).up();
    let pid = hsup.wait_up("web.1");
    let network = room.namespaces().expect("the driver is native");
    let link = || network.sh("ip -o link show hsc0a8c800 | cut -d: -f1");
    let before = link();
    let other = room.path("other");
    std::fs::create_dir_all(other.join("stacks")).expect("a directory can be made");
    symlink(stack(), other.join("stacks/heroku-24-1")).expect("a link can be made");
    let run = room.hsup(["-s", "none", "run", "true"]).env("HSUP_STATE_DIR", &other);
    let ended = run.env("LIBCONTAINER_DYNO_SUBNET", block).end();
    assert!(ended.code != 0 && ended.stderr.contains("LIBCONTAINER_DYNO_SUBNET"), "{ended:?}");
    assert_eq!(link(), before);
    let addresses = format!("nsenter --net=/proc/{pid}/ns/net ip -4 -o addr show eth0");
    assert!(network.sh(&addresses).contains("inet 192.168.200.2/30"), "it has its end of it");
    assert_eq!(hsup.stop().code, 0);
    // and once the dyno is gone, its subnet is to be had
    let run = room.hsup(["-s", "none", "run", "true"]).env("HSUP_STATE_DIR", &other);
    let ended = run.env("LIBCONTAINER_DYNO_SUBNET", block).end();
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn when_users_or_networks_run_out_it_is_said_and_the_other_dynos_go_on() {
    if !is_about(Driver::Native) {
        return;
    }
    for (least, most, block, said) in [
        ("7000", "7001", "10.250.0.0/24", "LIBCONTAINER_DYNO_UID_MAX"),
        ("7000", "7100", "10.251.0.0/29", "LIBCONTAINER_DYNO_SUBNET"),
    ] {
        let room = Room::new();
        room.release(&room.app().process("web", "exec sleep 600", 3));
        let launch = room.hsup(["start"]).env("LIBCONTAINER_DYNO_UID_MIN", least);
        let launch = launch.env("LIBCONTAINER_DYNO_UID_MAX", most).env("LIBCONTAINER_DYNO_SUBNET", block);
        let hsup = launch.up();
        let line = hsup.wait_line(said);
        assert!(line.contains("are claimed"), "{line}");
        let up = || {
            let status = hsup.get("/status").json();
            let up =
                status["Dynos"].as_array().into_iter().flatten().filter(|dyno| dyno["State"] == "up").count();
            (up == 2).then_some(())
        };
        eventually("two dynos are up", || hsup.printed(), up);
        let proper = hsup.proper();
        assert_eq!(hsup.stop().code, 0);
        nothing_is_left(&room, &[proper]);
    }
}

#[test]
fn fifty_dynos_at_once_start_and_stop() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "echo up; exec sleep 600", 50));
    let begun = Instant::now();
    let hsup = room.hsup(["start"]).up();
    for number in 1..=50 {
        hsup.wait_line(&format!("web.{number} | up"));
    }
    println!("50 dynos run after {:?}", begun.elapsed());
    let proper = hsup.proper();
    let begun = Instant::now();
    assert_eq!(hsup.stop().code, 0);
    println!("and are gone after {:?}", begun.elapsed());
    room.assert_nothing_left();
    nothing_is_left(&room, &[proper]);
}

#[test]
fn a_stop_reaches_every_process_of_a_dyno() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let polite = |name: &str| {
        format!(
            "trap \"echo {name} says bye; exit 0\" TERM; echo {name} ready; while :; do sleep 600 & wait; done"
        )
    };
    let line = format!("(setsid bash -c '{}' &); {}", polite("daemon"), polite("main"));
    room.release(&room.app().process("web", &line, 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | daemon ready");
    hsup.wait_line("web.1 | main ready");
    let ended = hsup.stop();
    assert_eq!(ended.code, 0, "{ended:?}");
    for said in ["web.1 | daemon says bye", "web.1 | main says bye"] {
        assert!(ended.stdout.contains(said), "{ended:?}");
    }
    assert!(!ended.stderr.contains("R12"), "{ended:?}");
    room.assert_nothing_left();
}

#[test]
fn nothing_is_left_of_an_hsup_that_is_killed_while_its_dynos_start() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "echo up; exec sleep 600", 20));
    let mut killed = Vec::new();
    // at another moment each time: as soon as so many dynos are up
    for up in [0, 1, 3, 9, 15] {
        let hsup = room.hsup(["start"]).spawn();
        let proper = hsup.proper();
        hsup.wait_line("release v1 of app");
        if up > 0 {
            hsup.wait_nth_line("State changed from starting to up", up);
        }
        procs::signal(proper, Signal::SIGKILL);
        assert_eq!(hsup.end().code, 128 + 9);
        room.wait_nothing_left();
        killed.push(proper);
    }
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("web.20");
    assert!(
        !room.left_by(&killed).iter().any(|left| left.starts_with("cgroup")),
        "{:#?}",
        room.left_by(&killed)
    );
    killed.push(hsup.proper());
    assert_eq!(hsup.stop().code, 0);
    nothing_is_left(&room, &killed);
}
