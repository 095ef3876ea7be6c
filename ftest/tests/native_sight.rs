//! What a native dyno sees: itself, its files and what every program expects, and nothing of the host.

use std::fs;
use std::path::Path;

use hsup_ftest::{Driver, Room, is_about, procs, slug};

/// The output of a one-off dyno, which has ended well.
fn output(room: &Room, line: &str) -> String {
    let ended = room.hsup(["run", line]).end();
    assert_eq!(ended.code, 0, "{line}: {ended:?}");
    ended.stdout
}

fn released() -> Room {
    let room = Room::new();
    room.release(&room.app());
    room
}

#[test]
fn a_dyno_has_a_user_of_its_own_and_no_privileges() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let said =
        output(&room, "id -u; id -g; id -G; id -un; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status");
    let lines: Vec<&str> = said.lines().collect();
    let uid: u32 = lines[0].parse().expect("a number");
    assert!((3000..=11000).contains(&uid), "{said}");
    assert_eq!((lines[1], lines[2], lines[3]), (lines[0], lines[0], "dyno"), "{said}");
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(lines.contains(&format!("{field}:\t0000000000000000").as_str()), "{field}: {said}");
    }
    assert!(lines.contains(&"NoNewPrivs:\t1") && lines.contains(&"Seccomp:\t2"), "{said}");
}

#[test]
fn the_user_can_be_forced() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    for prefix in ["LIBCONTAINER", "HSUP_NATIVE"] {
        let run = room.hsup(["run", "id -u; id -g; stat -c %u /app /proc/self/"]);
        let run = run.env(&format!("{prefix}_DYNO_UID_MIN"), "5555");
        let ended = run.env(&format!("{prefix}_DYNO_UID_MAX"), "5555").end();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "5555\n5555\n5555\n5555\n"), "{ended:?}");
    }
}

#[test]
fn its_own_names_and_users_are_in_etc() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let said = output(
        &room,
        "hostname; cat /etc/hostname; getent passwd $(id -u); getent group $(id -g); \
         getent hosts run-1; ip -4 -o addr show eth0; cat /etc/resolv.conf; echo $HOME $USER; pwd; echo end",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["run-1", "run-1"], "{said}");
    assert!(lines[2].starts_with("dyno:x:") && lines[2].ends_with(":/app:/bin/bash"), "{said}");
    assert!(lines[3].starts_with("dyno:x:"), "{said}");
    let address = lines[4].split_whitespace().next().expect("an address");
    assert!(lines[5].contains(&format!("inet {address}/30 ")), "{said}");
    assert!(lines.iter().any(|line| line.starts_with("nameserver ")), "{said}");
    assert_eq!(lines[lines.len() - 3..], ["/app dyno", "/app", "end"], "{said}");
}

#[test]
fn it_sees_its_own_processes_only() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    let pid = hsup.wait_up("web.1");
    let ended = room
        .hsup(["-s", "none", "run", "sleep 77 & ps -e -o args=; ls -d /proc/[0-9]*; cat /proc/1/cmdline"])
        .end();
    let said = &ended.stdout;
    assert!(said.contains("sleep 77") && !said.contains("sleep 600") && !said.contains("hsup"), "{ended:?}");
    assert!(!said.contains(&format!("/proc/{pid}\n")) && !said.contains("/proc/1\n"), "{ended:?}");
    // and it is in namespaces of its own, all of them
    for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup"] {
        let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("it lives");
        assert_ne!(of(pid), of(std::process::id()), "{kind}");
        assert_ne!(of(pid), of(hsup.pid()), "{kind}");
    }
    assert!(procs::alive(pid));
}

#[test]
fn devices_are_those_that_every_program_expects() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let said = output(
        &room,
        "ls -m -w 0 /dev; echo x > /dev/null; head -c 4 /dev/zero | od -An -tx1; head -c 8 /dev/urandom | wc -c; \
         echo x 2>&1 > /dev/full; touch /dev/x 2>&1; echo done",
    );
    let lines: Vec<&str> = said.lines().collect();
    let devices = "fd, full, mqueue, null, ptmx, pts, random, shm, stderr, stdin, stdout, tty, urandom, zero";
    assert_eq!(lines[0].trim(), devices, "{said}");
    assert_eq!((lines[1].trim(), lines[2].trim()), ("00 00 00 00", "8"), "{said}");
    assert!(lines[3].contains("No space left") && lines[4].contains("Read-only"), "{said}");
    // the output of a dyno of a formation is the dyno's own, and nothing else that it has open
    let namespaces = room.namespaces().expect("the driver is native");
    let null = room.path("work/null").display().to_string();
    namespaces.sh(&format!("mknod -m 666 {null} c 1 3; mount --bind {null} /dev/null"));
    room.release(&room.app().version(2).process("web", "echo out > /dev/stdout; echo err > /dev/stderr", 1));
    let ended = room.hsup(["--oneshot", "start"]).end();
    for line in ["web.1 | out\n", "web.1 | err\n"] {
        assert!(ended.stdout.contains(line), "{ended:?}");
    }
    assert_eq!(namespaces.sh("stat -c '%u %g %a' /dev/null; umount /dev/null"), "0 0 666\n", "the host's");
}

#[test]
fn what_is_its_own_can_be_written_and_nothing_else() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let own = ["/app", "/tmp", "/var/tmp", "/dev/shm"];
    let others = [
        "/",
        "/etc",
        "/etc/hosts",
        "/etc/passwd",
        "/usr",
        "/usr/bin",
        "/var",
        "/root",
        "/run",
        "/dev",
        "/dev/pts",
        "/proc",
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/sys",
        "/sys/kernel",
        "/sys/fs/cgroup",
        "/bin/sh",
    ];
    let line = "for f in \"$@\"; do if [ -d $f ]; then t=$f/.t; else t=$f; fi; \
                if (: >> $t) 2>/dev/null; then echo $f yes; else echo $f no; fi; done";
    let mut run = room.hsup(["run", "--", "sh", "-c", line, "sh"]);
    for path in own.iter().chain(&others) {
        run = run.arg(path);
    }
    let ended = run.end();
    let expected: Vec<String> = own
        .iter()
        .map(|path| format!("{path} yes"))
        .chain(others.iter().map(|path| format!("{path} no")))
        .collect();
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), expected, "{ended:?}");
    assert!(!hsup_ftest::stack().join(".t").exists(), "the stack image has been written to");
}

#[test]
fn mounts_are_no_more_than_they_have_to_be() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let mounts = output(&room, "cat /proc/self/mountinfo");
    for mount in mounts.lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        let (place, options) = (fields[4], fields[5]);
        let writable =
            ["/app", "/tmp", "/var/tmp", "/dev/shm", "/proc", "/dev/pts", "/dev/mqueue"].contains(&place);
        let has = |option: &str| options.split(',').any(|other| other == option);
        assert_eq!(has("rw"), writable, "{mount}");
        assert!(has("nosuid"), "{mount}");
        assert!(
            has("nodev")
                || place.starts_with("/dev")
                || place.starts_with("/proc/")
                || place.starts_with("/sys/"),
            "{mount}"
        );
    }
    assert!(mounts.lines().any(|mount| mount.contains(" /proc ") && mount.contains("hidepid=")), "{mounts}");
    let said = output(&room, "cat /proc/kcore /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l");
    assert_eq!(said, "0\n0\n");
}

#[test]
fn the_slug_is_its_users_and_its_profile_is_read() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let files = [
        (".profile.d/a.sh", "export FROM_PROFILE=yes\n"),
        ("bin/tool", "#!/bin/sh\necho tool\n"),
        ("data", "text\n"),
    ];
    let slug = slug::pack(room.dir(), "app.tgz", &files);
    room.release(&room.app().slug(&slug.display().to_string()));
    let said = output(
        &room,
        "echo $FROM_PROFILE; stat -c '%U %n' . data bin bin/tool; bin/tool; echo more >> data; rm -r bin; mkdir new; cat data",
    );
    assert_eq!(said, "yes\ndyno .\ndyno data\ndyno bin\ndyno bin/tool\ntool\ntext\nmore\n");
    // another dyno sees nothing of that
    assert_eq!(output(&room, "cat data; ls"), "text\nbin\ndata\n");
}

#[test]
fn dynos_of_a_release_share_one_slug_and_write_for_themselves() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let line = "cat version; ls -m; echo $DYNO > version; touch mine-$DYNO; echo written; exec sleep 600";
    room.release(&room.app().process("web", line, 3));
    let hsup = room.hsup(["start"]).up();
    for dyno in ["web.1", "web.2", "web.3"] {
        hsup.wait_line(&format!("{dyno} | one"));
        hsup.wait_line(&format!("{dyno} | version"));
        hsup.wait_line(&format!("{dyno} | written"));
        let pid = hsup.wait_up(dyno);
        let root = format!("/proc/{pid}/root/app");
        assert_eq!(fs::read_to_string(format!("{root}/version")).expect("it is there"), format!("{dyno}\n"));
    }
    let slugs: Vec<_> = fs::read_dir(room.path("state/slugs"))
        .expect("there are slugs")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    let trees = slugs
        .iter()
        .filter(|path| path.join("app/version").exists() || path.join("version").exists())
        .count();
    assert_eq!(trees, 1, "{slugs:?}");
    // a restarted one begins anew
    let pid = hsup.dyno_pid("web.2");
    procs::signal(pid, nix::sys::signal::Signal::SIGKILL);
    hsup.wait_nth_line("web.2 | one", 2);
    hsup.wait_nth_line("web.2 | version", 2);
}

#[test]
fn paths_of_the_host_can_be_shown_to_dynos() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    fs::write(room.path("work/shown"), "of the host\n").expect("a file can be written");
    let world = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(room.path("work"), world).expect("a mode can be set");
    let work = room.path("work").display().to_string();
    let bind = |inside: &str| format!("{work}:{inside}");
    let line = |place: &str| {
        format!("cat {place}/shown; (echo w > {place}/written) 2>/dev/null && echo yes || echo no")
    };
    for place in ["/app/shared", "/tmp/shared", "/mnt"] {
        let ended = room.hsup(["--bind", &(bind(place) + ":ro"), "run", &line(place)]).end();
        assert_eq!(ended.stdout, "of the host\nno\n", "{place}: {ended:?}");
        assert!(!room.path("work/written").exists());
        let ended = room.hsup(["--bind", &bind(place), "run", &line(place)]).end();
        assert_eq!(ended.stdout, "of the host\nyes\n", "{place}: {ended:?}");
        fs::remove_file(room.path("work/written")).expect("it has been written");
    }
    // where the stack image has no such place
    let ended = room.hsup(["--bind", &bind("/no/such/place"), "run", "true"]).end();
    assert!(ended.code != 0 && ended.stderr.contains("/no/such/place"), "{ended:?}");
    assert!(!hsup_ftest::stack().join("no").exists());
}

#[test]
fn what_is_mounted_below_a_path_of_the_host_is_read_only_with_it() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let work = room.path("work").display().to_string();
    let namespaces = room.namespaces().expect("the driver is native");
    namespaces.sh(&format!(
        "mkdir {work}/sub; mount -t tmpfs -o mode=777 sub {work}/sub; echo below > {work}/sub/file"
    ));
    let line = "cat /mnt/sub/file; (echo w > /mnt/sub/written) 2>/dev/null && echo yes || echo no; \
                awk '$5 ~ /^.mnt/ {print $6}' /proc/self/mountinfo";
    let ended = room.hsup(["--bind", &format!("{work}:/mnt:ro"), "run", line]).end();
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[..2], ["below", "no"], "{ended:?}");
    assert_eq!(lines.len(), 4, "{ended:?}");
    for options in &lines[2..] {
        assert!(["ro", "nosuid", "nodev"].iter().all(|option| options.contains(option)), "{ended:?}");
    }
    namespaces.sh(&format!("umount {work}/sub"));
}

#[test]
fn links_of_a_slug_lead_no_bind_to_the_host() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let stage = room.path("stage");
    fs::create_dir_all(stage.join("app/inner")).expect("a directory can be made");
    // such links are in slugs: they mean the dyno's /app, and there may be one on the host
    std::os::unix::fs::symlink("/app", stage.join("app/link")).expect("a link can be made");
    std::os::unix::fs::symlink("/app/inner", stage.join("app/other")).expect("a link can be made");
    let _is_there = fs::create_dir("/app");
    let slug = room.path("links.tgz");
    let mut tar = std::process::Command::new("tar");
    let status =
        tar.arg("-czf").arg(&slug).arg("-C").arg(&stage).arg("./app").status().expect("there is tar");
    assert!(status.success());
    room.release(&room.app().slug(&slug.display().to_string()));
    fs::write(room.path("work/file"), "bound\n").expect("a file can be written");
    let work = room.path("work").display().to_string();
    let name = format!("made-{}", room.mark());
    for (inside, seen) in [
        (format!("/app/link/{name}/here"), format!("/app/{name}/here")),
        (format!("/app/other/{name}"), format!("/app/inner/{name}")),
        ("/app/other".to_owned(), "/app/inner".to_owned()),
    ] {
        let ended =
            room.hsup(["--bind", &format!("{work}:{inside}"), "run", &format!("cat {seen}/file")]).end();
        assert!(!Path::new("/app").join(&name).exists(), "made on the host for {inside}: {ended:?}");
        assert_eq!(ended.stdout, "bound\n", "{inside}: {ended:?}");
    }
    let file = room.path("work/file").display().to_string();
    let ended = room
        .hsup(["--bind", &format!("{file}:/app/other/new/file:ro"), "run", "cat /app/inner/new/file"])
        .end();
    assert_eq!(ended.stdout, "bound\n", "{ended:?}");
}

#[test]
fn the_calls_of_ordinary_programs_are_allowed() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let line = "cd /tmp && mkfifo f && touch a && mv a b && ln b c && ls | tr '\\n' ' '; cat /proc/self/oom_score_adj";
    assert_eq!(output(&room, line), "b c f 0\n");
}

/// What some calls say, made with arguments that lead to nothing.
const CALLS: &str = r#"
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
processor = platform.machine()
calls = {"mount": {"x86_64": 165, "aarch64": 40}, "setns": {"x86_64": 308, "aarch64": 268}, "pidfd_getfd": 438,
    "lsm_list_modules": 461, "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454,
    "futex_wait": 455, "futex_requeue": 456, "statmount": 457, "listmount": 458, "mseal": 462, "setxattrat": 463,
    "getxattrat": 464, "listxattrat": 465, "removexattrat": 466, "io_pgetevents": {"x86_64": 333, "aarch64": 292},
    "sync_file_range": {"x86_64": 277, "aarch64": 84}, "of tomorrow": 467, "of next year": 700, "of no kernel": 1 << 29}
for name, number in calls.items():
    number = number if isinstance(number, int) else number[processor]
    ctypes.set_errno(0)
    result = libc.syscall(number, *(ctypes.c_long(-1) for _ in range(6)))
    print(name, "done" if result >= 0 else errno.errorcode[ctypes.get_errno()])
"#;

#[test]
fn calls_are_refused_as_ordinary_programs_expect() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let slug = slug::pack(room.dir(), "calls.tgz", &[("calls.py", CALLS)]);
    room.release(&room.app().slug(&slug.display().to_string()));
    let said = output(&room, "python3 calls.py");
    for line in said.lines() {
        let (name, result) = line.rsplit_once(' ').expect("a name and a result");
        match name {
            "mount" | "setns" | "pidfd_getfd" | "lsm_list_modules" => assert_eq!(result, "EPERM", "{said}"),
            // A program that hears this goes on with what it did before there was such a call.
            _ if name.starts_with("of ") => assert_eq!(result, "ENOSYS", "{said}"),
            // To the kernel it has come: an old one does not have it, a new one does not like the arguments.
            _ => assert_ne!(result, "EPERM", "{said}"),
        }
    }
    assert_eq!(said.lines().count(), 22, "{said}");
}

#[test]
fn a_program_that_is_not_on_a_very_long_path_is_told_so() {
    if !is_about(Driver::Native) {
        return;
    }
    for length in [20_000, 100_000, 300_000] {
        let room = Room::new();
        let path = format!("/usr/bin:/bin{}", ":/nowhere".repeat(length / 9));
        room.release(&room.app().env("PATH", &path));
        let ended = room.hsup(["run", "no-such-program"]).end();
        let said = ended.stderr.contains("no-such-program") && ended.stderr.contains("/nowhere");
        assert!(ended.code == 127 && said, "{length}: {} {:.500}", ended.code, ended.stderr);
    }
}
