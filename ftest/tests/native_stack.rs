//! The root of native dynos: a stack that is a directory or an image, or a clear word where there is none.

use std::fs;
use std::path::Path;
use std::process::Command;

use hsup_ftest::{Driver, Room, is_about, stack};

/// Leaves a room without its stack.
fn without_stack(room: &Room) {
    fs::remove_file(room.path("state/stacks/heroku-24-1")).expect("it is a link");
}

/// A small root: what `sh` and a few programs need.
fn small(room: &Room) -> std::path::PathBuf {
    let root = room.path("small");
    let copy = "mkdir -p $1/usr $1/etc && cd $0 && cp -a bin lib $1 && if [ -e lib64 ]; then cp -a lib64 $1; fi && \
                mkdir -p $1/usr/bin $1/usr/lib && cp -a usr/bin/bash usr/bin/sh usr/bin/dash usr/bin/cat usr/bin/id usr/bin/sleep usr/bin/grep $1/usr/bin && \
                cp -a --parents usr/lib/*-linux-gnu/libc.so* usr/lib/*-linux-gnu/libtinfo.so* usr/lib/*-linux-gnu/libselinux.so* \
                usr/lib/*-linux-gnu/libpcre2-8.so* usr/lib/*-linux-gnu/ld-linux* $1 && if [ -e usr/lib64 ]; then cp -a --parents usr/lib64 $1; fi && \
                cp etc/passwd etc/group $1/etc && cd $1 && mkdir -p app dev proc sys tmp var/tmp";
    let output = Command::new("sh").args(["-c", copy]).arg(stack()).arg(&root).output().expect("there is sh");
    assert!(output.status.success(), "{output:?}");
    root
}

fn make(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn squashfs(root: &Path, image: &Path) {
    make(Command::new("mksquashfs").arg(root).arg(image).args(["-quiet", "-no-progress", "-noappend"]));
}

fn ext4(root: &Path, image: &Path) {
    make(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(root).arg(image).arg("64M"));
}

#[test]
fn dynos_run_on_the_image_of_a_stack() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    without_stack(&room);
    let root = small(&room);
    for (version, image) in [("2", squashfs as fn(&Path, &Path)), ("3", ext4)] {
        image(&root, &room.path(&format!("state/stacks/heroku-24-{version}.img")));
        room.release(&room.app().process(
            "web",
            "cat version; echo x > /app/x && echo written; exec sleep 600",
            2,
        ));
        let hsup = room.hsup(["start"]).up();
        for dyno in ["web.1", "web.2"] {
            hsup.wait_line(&format!("{dyno} | one"));
            hsup.wait_line(&format!("{dyno} | written"));
        }
        let ended = room
            .hsup([
                "-s",
                "none",
                "run",
                "(echo x > /x) 2>/dev/null || echo no; grep -c ' / ' /proc/self/mountinfo",
            ])
            .end();
        assert!(ended.stdout.starts_with("no\n"), "{ended:?}");
        assert_eq!(hsup.stop().code, 0);
    }
}

#[test]
fn without_a_stack_it_is_said_and_the_old_release_goes_on() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    let pid = hsup.wait_up("web.1");
    room.release(&room.app().version(2).field("Stack", "cedar-14").process("web", "exec sleep 600", 1));
    let line = hsup.wait_line("release v1 runs on");
    assert!(line.contains("cedar-14"), "{line}");
    assert_eq!(hsup.dyno_pid("web.1"), pid);
    assert_eq!(hsup.stop().code, 0);
    without_stack(&room);
    room.release(&room.app().version(3));
    let ended = room.hsup(["run", "true"]).end();
    assert_eq!(ended.code, 65, "{ended:?}");
    assert!(ended.stderr.contains("heroku-24") && ended.stderr.contains("stack"), "{ended:?}");
}

#[test]
fn the_old_name_of_the_driver_is_good() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let run = room.bare(["run", "-d", "libcontainer", "-s", "none", "echo $DYNO in $HOME"]);
    let ended = run.env("HSUP_CONTROL_DIR", room.control_dir()).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "run.1 in /app\n"), "{ended:?}");
}

#[test]
fn whoever_is_not_root_is_told_so() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let names = [".", "control", "control/new", "state", "work", "runtime"];
    for name in names {
        std::os::unix::fs::chown(room.path(name), Some(65534), Some(65534)).expect("the tests are root's");
    }
    let hsup = room.path("hsup");
    fs::copy(hsup_ftest::hsup_binary(), &hsup).expect("it can be copied");
    let script = format!("shift; exec {} \"$@\"", hsup.display());
    let somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &script, "sh"];
    let ended = room.hsup(["run", "true"]).through(somebody).end();
    assert!(ended.code != 0 && ended.stderr.contains("root"), "{ended:?}");
}

#[test]
fn links_of_a_stack_image_lead_nowhere_on_the_host() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let namespaces = room.namespaces().expect("the driver is native");
    let (at, up) = (room.path("state/stacks/heroku-24-1"), room.path("work/up"));
    // The image with links that are there on no host, or lead elsewhere there.
    namespaces.sh(&format!(
        "rm {at}; mkdir {at} {up}; mount -t tmpfs up {up}; mkdir {up}/upper {up}/work; \
         mount -t overlay -o lowerdir={stack},upperdir={up}/upper,workdir={up}/work stack {at}; \
         mv {at}/etc/passwd {at}/etc/passwd-of-{mark}; ln -s /etc/passwd-of-{mark} {at}/etc/passwd; \
         rmdir {at}/app; mkdir {at}/opt/app-{mark}; ln -s /opt/app-{mark} {at}/app; \
         rm -rf {at}/var/tmp; ln -s /tmp {at}/var/tmp; echo image:x:4711:4711::/:/bin/sh >> {at}/etc/passwd-of-{mark}",
        at = at.display(),
        up = up.display(),
        stack = hsup_ftest::stack().display(),
        mark = room.mark(),
    ));
    let line = "getent passwd image; touch /app/x /var/tmp/y && ls /tmp /app; readlink -f /app";
    let ended = room.hsup(["run", line]).end();
    namespaces.sh(&format!("umount {} {}", at.display(), up.display()));
    let said = ended.stdout.replace(room.mark(), "MARK");
    let expected = "image:x:4711:4711::/:/bin/sh\n/app:\nversion\nx\n\n/tmp:\ny\n/opt/app-MARK\n";
    assert_eq!(said, expected, "{ended:?}");
}
