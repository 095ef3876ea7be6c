//! What a native dyno may use of the host: bounded where hsup was told to, and by itself where all would suffer.

use std::fs;

use hsup_ftest::{Driver, Hsup, Room, is_about, procs};

/// What a control file of a dyno's cgroup says: that of the controller's own hierarchy, else the common one.
fn control(pid: u32, controller: &str, own: &str, common: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the dyno lives");
    let path_of = |name: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            controllers.split(',').any(|other| other == name).then(|| fields.next())?
        })
    };
    // a path below the root of the hierarchy; what is mounted may begin further down
    let read = |dir: &str, path: &str, file: &str| {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        (0..=parts.len())
            .find_map(|skip| fs::read_to_string(format!("{dir}/{}/{file}", parts[skip..].join("/"))).ok())
    };
    let own = path_of(controller).and_then(|path| read(&format!("/sys/fs/cgroup/{controller}"), path, own));
    let found = own.or_else(|| path_of("").and_then(|path| read("/sys/fs/cgroup", path, common)));
    found.unwrap_or_else(|| panic!("no {controller} in {text}")).trim().to_owned()
}

fn web(room: &Room, limits: &str) -> (Hsup, u32) {
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = room.hsup(["--limits", limits, "start"]).up();
    let pid = hsup.wait_up("web.1");
    (hsup, pid)
}

#[test]
fn a_dyno_that_takes_too_much_memory_is_killed() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let line = "python3 -c 'x = b\"x\" * (40 << 20); print(\"little\", flush=True); y = b\"y\" * (200 << 20); print(\"much\")'";
    let run = room.hsup(["--limits", "memory=64MiB", "run", &format!("exec {line}")]);
    let ended = run.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (128 + 9, "little\n"), "{ended:?}");
    let ended = room.hsup(["run", line]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "little\nmuch\n"), "{ended:?}");
}

#[test]
fn a_fork_bomb_is_bounded() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let bomb = "python3 -c '\nimport os, signal\nn = 0\ntry:\n  while n < 200:\n    if os.fork() == 0: signal.pause()\n    n += 1\n\
                except OSError as error: print(error.errno, flush=True)\nprint(n, flush=True)\nos._exit(0)'";
    let ended = room.hsup(["--limits", "pids=32", "run", bomb]).end();
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.first(), Some(&"11"), "EAGAIN: {ended:?}");
    let forked: u32 = lines[1].parse().expect("a number");
    assert!((20..32).contains(&forked), "{ended:?}");
    room.assert_nothing_left();
    // and where nobody has said anything
    let ended = room.hsup(["run", "ulimit -u; ulimit -c; ulimit -Hn"]).end();
    let limits: Vec<u64> = ended.stdout.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(limits.len(), 3, "{ended:?}");
    assert_eq!(limits[..2], [4096, 0], "{ended:?}");
    assert!(limits[2] <= 1 << 20, "{ended:?}");
}

#[test]
fn limits_are_those_of_the_cgroup() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let (hsup, pid) = web(&room, "memory=96MiB,cpu=0.5,pids=77");
    let memory = control(pid, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory, (96 << 20).to_string());
    assert_eq!(control(pid, "pids", "pids.max", "pids.max"), "77");
    let cpu = control(pid, "cpu", "cpu.cfs_quota_us", "cpu.max");
    let quota: u32 = cpu.split(' ').next().and_then(|quota| quota.parse().ok()).expect("a number");
    let period = match cpu.split_once(' ') {
        Some((_, period)) => period.to_owned(),
        None => control(pid, "cpu", "cpu.cfs_period_us", "cpu.max"),
    };
    assert_eq!(quota * 2, period.parse::<u32>().expect("a number"), "half a processor");
    assert_eq!(hsup.stop().code, 0);
    assert!(!procs::alive(pid));
}

#[test]
fn what_is_wrong_with_a_limit_is_said() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    for limits in ["memory=1", "pids=0", "cpu=-1", "colour=blue"] {
        let ended = room.hsup(["--limits", limits, "run", "true"]).end();
        assert_eq!(ended.code, 64, "{limits}: {ended:?}");
        assert!(ended.stderr.contains("--limits"), "{limits}: {ended:?}");
    }
}

#[test]
fn a_full_tmp_is_full_for_one_dyno_only() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let fill = "trap 'exit 0' TERM; head -c 600M /dev/zero > /tmp/fill; echo full $?; (echo x > /var/tmp/x && echo elsewhere); \
                while :; do sleep 600 & wait; done";
    room.release(&room.app().process("web", fill, 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("No space left");
    hsup.wait_line("web.1 | full 1");
    hsup.wait_line("web.1 | elsewhere");
    let ended = room.hsup(["-s", "none", "run", "head -c 1M /dev/zero > /tmp/x && ls /tmp"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "x\n"), "{ended:?}");
    assert_eq!(hsup.dyno("web.1")["State"], "up");
    assert_eq!(hsup.stop().code, 0);
}
