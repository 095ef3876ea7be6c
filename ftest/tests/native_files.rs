//! The files of native dynos on hosts that cannot do all that new kernels can: their apps are copied, and what is bound
//! is restricted mount by mount.

use std::fs;
use std::os::unix::fs::chown;

use hsup_ftest::{Driver, Launch, Room, eventually, is_about, slug};

/// Executes what follows on a kernel that has no mount_setattr(2), as those before Linux 5.12: a filter says so.
const OLD_KERNEL: &str = r#"
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 442), (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
program = Program(4, ctypes.addressof(code))
if ctypes.CDLL(None, use_errno=True).prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit("no filter: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
"#;

fn on_old_kernel(launch: Launch<'_>) -> Launch<'_> {
    launch.through(["python3", "-c", OLD_KERNEL])
}

/// A slug, and a line that shows whose its files are and that they can be changed.
fn with_files(room: &Room) -> &'static str {
    let files = [("bin/tool", "#!/bin/sh\necho tool\n"), ("data", "text\n")];
    let slug = slug::pack(room.dir(), "app.tgz", &files);
    room.release(&room.app().slug(&slug.display().to_string()));
    "stat -c '%U %G %n' . data bin bin/tool; bin/tool; cat data; echo more >> data; rm -r bin; mkdir new; ls -m"
}

const SHOWN: &str = "dyno dyno .\ndyno dyno data\ndyno dyno bin\ndyno dyno bin/tool\ntool\ntext\ndata, new\n";

const COPIED: &str = "copied for each dyno";

fn nothing_is_left(room: &Room) {
    let left = || room.left_by(&[]);
    eventually("nothing is left", || format!("{:#?}", left()), || left().is_empty().then_some(()));
}

#[test]
fn an_app_is_copied_where_the_kernel_cannot_show_it_as_the_dynos() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let line = with_files(&room);
    for _ in 0..2 {
        let ended = on_old_kernel(room.hsup(["run", line])).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, SHOWN), "{ended:?}");
        assert!(ended.stderr.contains(COPIED), "{ended:?}");
        assert!(!ended.stderr.contains("another one has taken its place"), "{ended:?}");
        nothing_is_left(&room);
    }
    // it is said once, not for each dyno
    room.release(&room.app().version(2).process("web", "cat version; exec sleep 600", 4));
    let hsup = on_old_kernel(room.hsup(["start"])).up();
    for number in 1..=4 {
        hsup.wait_line(&format!("web.{number} | one"));
    }
    assert_eq!(hsup.lines(COPIED).len(), 1, "{}", hsup.printed());
    assert_eq!(hsup.lines("Cannot start"), Vec::<String>::new());
    assert_eq!(hsup.stop().code, 0);
    nothing_is_left(&room);
}

#[test]
fn an_app_is_copied_from_a_file_system_that_cannot_show_it_as_the_dynos() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let line = with_files(&room);
    let slugs = room.path("state/slugs").display().to_string();
    let namespaces = room.namespaces().expect("the driver is native");
    namespaces.sh(&format!("mkdir {slugs}; mount -t ramfs -o mode=755 slugs {slugs}"));
    let ended = room.hsup(["run", line]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, SHOWN), "{ended:?}");
    assert!(ended.stderr.contains(COPIED), "{ended:?}");
    namespaces.sh(&format!("umount {slugs}"));
    nothing_is_left(&room);
}

#[test]
fn an_app_whose_files_have_several_owners_is_copied() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let line = "stat -c '%U %n' mine others sub sub/file; cat others; echo x > others; cat others";
    for (name, text) in
        [("Procfile", format!("web: {line}\n")), ("mine", "m\n".into()), ("others", "o\n".into())]
    {
        fs::write(room.path("work").join(name), text).expect("a file can be written");
    }
    fs::create_dir(room.path("work/sub")).expect("a directory can be made");
    fs::write(room.path("work/sub/file"), "f\n").expect("a file can be written");
    let run = || room.bare(["-d", "native", "run", line]).dir(room.path("work")).end();
    let shown = "dyno mine\ndyno others\ndyno sub\ndyno sub/file\no\nx\n";
    let ended = run();
    assert_eq!((ended.stdout.as_str(), ended.stderr.contains(COPIED)), (shown, false), "{ended:?}");
    for (name, owner) in [("others", 1234), ("sub", 1235), ("sub/file", 1236)] {
        chown(room.path("work").join(name), Some(owner), Some(owner)).expect("the tests are root's");
    }
    let ended = run();
    assert_eq!((ended.stdout.as_str(), ended.stderr.contains(COPIED)), (shown, true), "{ended:?}");
    assert_eq!(fs::read_to_string(room.path("work/others")).expect("it is there"), "o\n");
    nothing_is_left(&room);
}

#[test]
fn what_is_bound_is_restricted_mount_by_mount_on_an_old_kernel() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let work = room.path("work").display().to_string();
    let namespaces = room.namespaces().expect("the driver is native");
    // Below the one of two that lie on one another there is one that nobody can reach.
    namespaces.sh(&format!(
        "mkdir {work}/sub; mount -t tmpfs -o mode=777 low {work}/sub; mkdir {work}/sub/hidden; \
         mount -t tmpfs hidden {work}/sub/hidden; mount -t tmpfs -o mode=777,noexec,noatime sub {work}/sub; \
         mkdir '{work}/sub/a b'; mount -t tmpfs -o mode=777 deep '{work}/sub/a b'"
    ));
    let line = "for d in /mnt/sub '/mnt/sub/a b'; do (: > \"$d/w\") 2>/dev/null && echo yes || echo no; done; \
                awk '$5 ~ /^.mnt/ {print $5, $6}' /proc/self/mountinfo";
    for (mode, can) in [(":ro", "no"), ("", "yes")] {
        let ended = on_old_kernel(room.hsup(["--bind", &format!("{work}:/mnt{mode}"), "run", line])).end();
        let lines: Vec<&str> = ended.stdout.lines().collect();
        assert_eq!(lines.get(..2), Some(&[can, can][..]), "{ended:?}");
        let plain = |line: &&&str| {
            let options: Vec<&str> = line.rsplit(' ').next().expect("options").split(',').collect();
            let read_only = options.contains(&"ro") == (mode == ":ro");
            read_only && options.contains(&"nosuid") && options.contains(&"nodev")
        };
        // What had been set for a mount still is.
        let kept =
            lines.iter().filter(|line| line.starts_with("/mnt/sub ") && line.contains("noexec,noatime"));
        assert_eq!((kept.count(), lines[2..].iter().filter(plain).count()), (1, 3), "{ended:?}");
    }
}

#[test]
fn what_is_mounted_below_a_stack_on_the_host_is_as_read_only_as_the_stack() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let below = room.path("state/stacks/heroku-24-1/opt").display().to_string();
    let namespaces = room.namespaces().expect("the driver is native");
    namespaces.sh(&format!(
        "mount -t tmpfs -o mode=777,noexec below {below}; echo shared > {below}/file; chmod 666 {below}/file"
    ));
    let line = "cat /opt/file; (: > /opt/file) 2>/dev/null && echo written || echo kept; \
                awk '$5 == \"/opt\" {print $6}' /proc/self/mountinfo";
    for old in [false, true] {
        let run = room.hsup(["run", line]);
        let ended = if old { on_old_kernel(run) } else { run }.end();
        assert_eq!(ended.stdout, "shared\nkept\nro,nosuid,nodev,noexec,relatime\n", "{ended:?}");
    }
    assert_eq!(namespaces.sh(&format!("cat {below}/file")), "shared\n");
}
