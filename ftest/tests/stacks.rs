//! Stacks: added whole or not at all, shown, mounted and removed, and nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hsup_ftest::{Driver, Ended, FileServer, Launch, Room, Served, driver, eventually, missing};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Whether this user may mount; says so if not.
fn may_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        missing("root, which mounting takes");
    }
    root
}

/// Whether rooms have no stack of their own yet. To keep stacks is no business of drivers.
fn is_about_stacks() -> bool {
    let empty = driver() != Driver::Native;
    if !empty {
        println!("skip: each room has a stack with the native driver, and no driver keeps stacks");
    }
    empty
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A tiny root file system as a directory.
fn root(room: &Room) -> PathBuf {
    let root = room.path("root");
    fs::create_dir_all(root.join("bin")).expect("a directory can be made");
    fs::write(root.join("bin/sh"), "#!").expect("a file can be written");
    root
}

fn tarball(room: &Room) -> PathBuf {
    let file = room.path("stack.tgz");
    run(Command::new("tar").arg("-C").arg(root(room)).arg("-czf").arg(&file).arg("."));
    file
}

fn squashfs(room: &Room) -> PathBuf {
    let file = room.path("stack.squashfs");
    let mut command = Command::new("mksquashfs");
    run(command.arg(root(room)).arg(&file).args(["-quiet", "-no-progress", "-noappend"]));
    file
}

fn ext4(room: &Room) -> PathBuf {
    let file = room.path("stack.ext4");
    run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(root(room)).arg(&file).arg("4M"));
    file
}

fn stack<'a, const N: usize>(room: &'a Room, args: [&str; N]) -> Launch<'a> {
    room.bare(["stack"]).with_the_app_that_is_there().args(args)
}

/// What is in the folder of stacks.
fn names(room: &Room) -> Vec<String> {
    let Ok(entries) = fs::read_dir(room.path("state/stacks")) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().map(|entry| entry.file_name().into_string().expect("hsup writes UTF-8")).collect();
    names.sort();
    names
}

fn wait_no_loop_device(below: &Path) {
    let devices = || {
        let devices = fs::read_dir("/sys/block").expect("there is a /sys").flatten();
        let files =
            devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
        files.filter(|file| Path::new(file).starts_with(below)).collect::<Vec<_>>()
    };
    eventually(
        "no loop device is left",
        || format!("{:?}", devices()),
        || devices().is_empty().then_some(()),
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("there is a /proc");
    assert!(!mounts.contains(&below.display().to_string()), "{mounts}");
}

#[track_caller]
fn fails_with(ended: &Ended, code: i32, said: &[&str]) {
    assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{ended:?}");
    for said in said {
        assert!(ended.stderr.contains(said), "{said:?} is not in {ended:?}");
    }
}

#[test]
fn stacks_are_added_shown_and_removed() {
    if !is_about_stacks() {
        return;
    }
    if !may_mount() {
        return;
    }
    let room = Room::new();
    let ended = stack(&room, ["list"]).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("hsup stack add"), "{ended:?}");
    for (id, file) in
        [("heroku-24-v9", tarball(&room)), ("heroku-24-v10", squashfs(&room)), ("ext-1", ext4(&room))]
    {
        let ended = stack(&room, ["add", id]).arg(file).end();
        assert_eq!((ended.code, ended.stdout), (0, format!("added stack {id}\n")), "{}", ended.stderr);
    }
    assert_eq!(names(&room), ["ext-1.img", "heroku-24-v10.img", "heroku-24-v9"]);
    wait_no_loop_device(room.dir());
    let ended = stack(&room, ["list", "--json"]).end();
    let list: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let told: Vec<_> = list["Stacks"]
        .as_array()
        .expect("it is an array")
        .iter()
        .map(|stack| format!("{} {} {} {}", stack["Name"], stack["Version"], stack["Kind"], stack["Newest"]))
        .collect();
    assert_eq!(
        told,
        [
            r#""ext" "1" "image (ext)" true"#,
            r#""heroku-24" "v9" "directory" false"#,
            r#""heroku-24" "v10" "image (squashfs)" true"#
        ]
    );
    for id in ["ext-1", "heroku-24-v9", "heroku-24-v10"] {
        let ended = stack(&room, ["remove", id]).end();
        assert_eq!((ended.code, ended.stdout), (0, format!("removed stack {id}\n")), "{}", ended.stderr);
    }
    assert_eq!(names(&room), [""; 0]);
}

#[test]
fn what_cannot_be_added_is_said_and_leaves_nothing() {
    if !is_about_stacks() {
        return;
    }
    if !may_mount() {
        return;
    }
    let room = Room::new();
    let good = tarball(&room);
    let write = |name: &str, bytes: &[u8]| {
        fs::write(room.path(name), bytes).expect("a file can be written");
        room.path(name)
    };
    let add = |id: &str, from: &Path| stack(&room, ["add", id]).arg(from).end();
    fails_with(&add("x", &good), 64, &["NAME-VERSION"]);
    fails_with(&add("../x-1", &good), 64, &["../x"]);
    fails_with(&add("x-1", &room.path("missing.tgz")), 66, &["missing.tgz"]);
    fails_with(&add("x-1", &root(&room)), 65, &["is a directory", "tar -C"]);
    fails_with(&add("x-1", &write("text", b"some text")), 65, &["root tarball"]);
    let image = fs::read(squashfs(&room)).expect("it is there");
    fails_with(&add("x-1", &write("cut.img", &image[..100])), 65, &["damaged"]);
    let archive = fs::read(&good).expect("it is there");
    fails_with(&add("x-1", &write("cut.tgz", &archive[..archive.len() - 10])), 65, &["cut short"]);
    let wrong = format!("SHA256:{}", "0".repeat(64));
    let ended = stack(&room, ["add", "x-1"]).arg(&good).args(["--checksum", &wrong]).end();
    fails_with(&ended, 65, &["checksum", &wrong]);
    fails_with(
        &stack(&room, ["add", "x-1"]).arg(&good).args(["--checksum", "abc"]).end(),
        64,
        &["--checksum"],
    );
    fails_with(&stack(&room, ["add", "x"]).end(), 64, &["--stack-manifest"]);
    fails_with(&stack(&room, ["remove", "x-1"]).end(), 66, &["no stack x-1"]);
    assert_eq!(names(&room), [""; 0]);
    assert_eq!(add("x-1", &good).code, 0);
    fails_with(&add("x-1", &good), 64, &["already", "hsup stack remove x-1"]);
    let ended = stack(&room, ["add", "y-1"]).arg(&good).env("HSUP_STATE_DIR", good.join("state")).end();
    fails_with(&ended, 71, &["stack.tgz/state"]);
    wait_no_loop_device(room.dir());
}

fn manifest(server: &FileServer, name: &str, version: &str, file: &Path) -> String {
    let md5 = Command::new("md5sum").arg(file).output().expect("coreutils are installed");
    let md5 = String::from_utf8_lossy(&md5.stdout).split(' ').next().unwrap_or_default().to_owned();
    let url = server.url(&format!("{name}-{version}"));
    format!("- name: {name}\n  version: {version}\n  url: {url}\n  md5: {md5}\n  primary: false\n")
}

fn serve_file(server: &FileServer, name: &str, file: &Path) {
    server.serve(name, Served::Whole(fs::read(file).expect("it is there")));
}

#[test]
fn the_newest_of_the_manifest_is_downloaded_once_by_two_at_the_same_time() {
    if !is_about_stacks() {
        return;
    }
    let room = Room::new();
    let (server, file) = (FileServer::new(), tarball(&room));
    let text = manifest(&server, "a", "1.9", &file) + &manifest(&server, "a", "1.10", &file);
    server.serve("manifest.yml", Served::Whole(text.into_bytes()));
    server.serve("a-1.10", Served::Held);
    let add = || stack(&room, ["add", "a"]).env("HSUP_STACK_MANIFEST", server.url("manifest.yml")).spawn();
    let (one, two) = (add(), add());
    let waiting =
        || one.lines("waiting for another hsup").len() + two.lines("waiting for another hsup").len();
    let context = || one.printed() + &two.printed();
    eventually("one of them waits", context, || {
        (waiting() == 1 && server.requests("a-1.10") == 1).then_some(())
    });
    serve_file(&server, "a-1.10", &file);
    let ended = [one.end(), two.end()];
    assert!(ended.iter().all(|ended| ended.code == 0), "{ended:?}");
    let mut said: Vec<_> = ended.iter().map(|ended| ended.stdout.as_str()).collect();
    said.sort_unstable();
    assert_eq!(said, ["added stack a-1.10\n", "stack a-1.10 is on this host already\n"]);
    assert!(ended.iter().any(|ended| ended.stderr.contains("MD5")), "{ended:?}");
    assert_eq!((server.requests("a-1.10"), server.requests("a-1.9")), (1, 0));
    assert_eq!(names(&room), [".manifest.json", "a-1.10"]);
}

#[test]
fn a_manifest_that_cannot_be_had_is_that_of_the_last_time() {
    if !is_about_stacks() {
        return;
    }
    let room = Room::new();
    let (server, file) = (FileServer::new(), tarball(&room));
    let text = manifest(&server, "a", "1", &file) + &manifest(&server, "b", "1", &file);
    let url = server.url("manifest.yml");
    let add = |name: &str| stack(&room, ["add", name, "--stack-manifest", &url]).end();
    server.serve("manifest.yml", Served::Refused("503 Service Unavailable"));
    fails_with(&add("a"), 66, &["manifest.yml", "503"]);
    server.serve("manifest.yml", Served::Whole(text.into_bytes()));
    serve_file(&server, "a-1", &file);
    serve_file(&server, "b-1", &file);
    assert_eq!(add("a").code, 0);
    fails_with(&add("c"), 66, &["no stack c", "which has a, b"]);
    server.serve("manifest.yml", Served::Refused("500 Internal Server Error"));
    let ended = add("b");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("going on with that of"), "{ended:?}");
    assert_eq!(names(&room), [".manifest.json", "a-1", "b-1"]);
}

#[test]
fn a_download_that_breaks_off_or_is_given_up_leaves_nothing() {
    if !is_about_stacks() {
        return;
    }
    let room = Room::new();
    let (server, file) = (FileServer::new(), tarball(&room));
    let bytes = fs::read(&file).expect("it is there");
    let half = bytes.len() / 2;
    server.serve("stack.tgz", Served::Cut(bytes.clone(), half));
    let url = server.url("stack.tgz");
    let hsup = stack(&room, ["add", "x-1", &url]).spawn();
    hsup.wait_line("trying again");
    // what is whole by then is taken
    server.serve("stack.tgz", Served::Whole(bytes));
    assert_eq!(hsup.end().code, 0);
    assert_eq!(stack(&room, ["remove", "x-1"]).end().code, 0);

    server.serve("stack.tgz", Served::Held);
    let asked = server.requests("stack.tgz");
    let hsup = stack(&room, ["add", "x-1", &url]).spawn();
    eventually("it is asked for", || hsup.printed(), || (server.requests("stack.tgz") > asked).then_some(()));
    assert!(names(&room).iter().any(|name| name.starts_with(".lock-")), "{:?}", names(&room));
    hsup.signal(Signal::SIGTERM);
    assert_eq!(hsup.end().code, 143);
    assert_eq!(names(&room), [""; 0]);

    // what an hsup that was killed has left is in nobody's way, and is removed by the next one
    let asked = server.requests("stack.tgz");
    let hsup = stack(&room, ["add", "x-1", &url]).spawn();
    eventually("it is asked for", || hsup.printed(), || (server.requests("stack.tgz") > asked).then_some(()));
    hsup.signal(Signal::SIGKILL);
    assert_eq!(hsup.end().code, 137);
    fs::create_dir_all(room.path("state/stacks/.stage-dead/root/bin")).expect("a directory can be made");
    assert!(stack(&room, ["list"]).end().stdout.contains("no stacks"));
    assert_eq!(stack(&room, ["add", "x-1"]).arg(&file).end().code, 0);
    assert_eq!(names(&room), ["x-1"]);
}

#[test]
fn a_mounted_image_is_shown_and_unmounted_unless_it_is_in_use() {
    if !is_about_stacks() {
        return;
    }
    if !may_mount() {
        return;
    }
    let room = Room::new();
    assert_eq!(stack(&room, ["add", "img-1"]).arg(squashfs(&room)).end().code, 0);
    // The mount is one that no other process sees; hsup is told of it by its mount namespace.
    let script = r#"
        set -e; cd "$HSUP_STATE_DIR/stacks"; mkdir -p img-1; mount -o loop,ro img-1.img img-1; cd /; hsup=$1
        "$hsup" stack list
        exec 9< "$HSUP_STATE_DIR/stacks/img-1/bin/sh"; code=0; "$hsup" stack remove img-1 9<&- || code=$?
        echo "in use: $code"
        exec 9<&-; "$hsup" stack remove img-1
        grep -c "$HSUP_STATE_DIR" /proc/self/mountinfo || true"#;
    let through = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"];
    let ended = room.bare([]).with_the_app_that_is_there().through(through).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert!(lines[1].starts_with("img") && lines[1].ends_with("newest, mounted"), "{ended:?}");
    assert_eq!(lines[2..], ["in use: 71", "removed stack img-1", "0"], "{ended:?}");
    assert!(ended.stderr.contains("stack img-1 is in use"), "{ended:?}");
    assert_eq!(names(&room), [""; 0]);
    wait_no_loop_device(room.dir());
}
