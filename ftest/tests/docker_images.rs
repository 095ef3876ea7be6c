//! Images: made once of what they are made of, removed in the end, and pulled where a stack is missing.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use hsup_ftest::engine::{STACK_IMAGE, docker, program, shared_engine};
use hsup_ftest::{App, Driver, Hsup, Room, eventually, is_about, slug};

const REUSED: &str = "its image is there already";

/// A release with a slug of its own.
fn release(room: &Room, version: u64) -> App {
    let name = format!("slug-{version}.tgz");
    slug::pack(room.dir(), &name, &[("version", &format!("{version}\n"))]);
    let slug = room.path(&name).display().to_string();
    room.app().version(version).slug(&slug).process("web", "cat version; exec sleep 600", 1)
}

fn deploy(room: &Room, hsup: &Hsup, version: u64) {
    room.release(&release(room, version));
    hsup.wait_line(&format!("web.1 | {version}"));
    hsup.wait_dyno("web.1", "runs the release", |dyno| {
        dyno["Release"] == format!("v{version}") && dyno["State"] == "up"
    });
}

#[test]
fn an_image_is_made_once_and_the_oldest_are_removed() {
    if !is_about(Driver::Docker) {
        return;
    }
    let (room, engine) = (Room::new(), shared_engine());
    let hsup = room.hsup(["start"]).env("DOCKER_IMAGE_CACHE", "2").up();
    for version in 1..=4 {
        deploy(&room, &hsup, version);
    }
    // at most the two that are kept, and one whose dyno was still there when the last was made
    let images = room.images(&engine).len();
    assert!((2..=3).contains(&images), "{images}");
    assert!(hsup.lines(REUSED).is_empty(), "{}", hsup.printed());
    assert_eq!(hsup.stop().code, 0);
    let ended = room.hsup(["run", "cat version"]).end();
    assert!(ended.stdout == "4\n" && ended.stderr.contains(REUSED), "{ended:?}");
    let ended = room.hsup(["run", "cat version"]).env("DOCKER_IMAGE_CACHE", "0").end();
    assert!(ended.stdout == "4\n" && !ended.stderr.contains(REUSED), "{ended:?}");
    assert_eq!(room.images(&engine).len(), 1);
}

#[test]
fn a_release_that_cannot_be_built_leaves_the_old_one_running() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    let hsup = room.hsup(["start"]).up();
    deploy(&room, &hsup, 1);
    let pid = hsup.dyno_pid("web.1");
    room.release(&release(&room, 2).field("Stack", "no-such-stack"));
    let line = hsup.wait_line("failed to build release v2");
    assert!(line.contains("no-such-stack") && line.contains("release v1 runs on"), "{line}");
    assert_eq!(hsup.dyno_pid("web.1"), pid);
    deploy(&room, &hsup, 3);
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_folder_with_a_procfile_is_an_app_too() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    let write = |name: &str, text: &str| std::fs::write(room.path("work").join(name), text).expect("a file");
    write("Procfile", "web: cat text; exit 5\n");
    for text in ["one", "two"] {
        write("text", text);
        let ended = room.bare(["-d", "docker", "start", "--oneshot"]).env("FTEST_MARK", room.mark()).end();
        assert!(ended.code == 5 && ended.stdout.contains(&format!("web.1 | {text}")), "{ended:?}");
    }
}

/// A registry on loopback, which ends with the test.
struct Registry {
    child: Child,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Registry {
    fn start(room: &Room) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.expect("a port is free").port();
        let config = room.path("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            room.path("registry").display()
        );
        std::fs::write(&config, text).expect("a file can be written");
        let mut command = Command::new(program("docker-registry"));
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().expect("there is a registry"), port }
    }
}

#[test]
fn a_stack_is_pulled_when_it_is_missing_and_never_when_it_is_there() {
    if !is_about(Driver::Docker) {
        return;
    }
    let (room, engine) = (Room::new(), shared_engine());
    let registry = Registry::start(&room);
    let image = format!("127.0.0.1:{}/stack:24", registry.port);
    docker(&engine, &["tag", STACK_IMAGE, &image]);
    let pushed = || {
        let listening = std::net::TcpStream::connect(("127.0.0.1", registry.port)).is_ok();
        listening.then(|| docker(&engine, &["push", "-q", &image]))
    };
    eventually("the registry listens", String::new, pushed);
    // An image without the layers of the other one's name: these stay, and only the name is to be had again.
    docker(&engine, &["rmi", &image]);
    room.release(&room.app());
    let setting = format!("heroku-24={image}");
    let pulling = format!("pulled the image {image}");
    let ended = room.hsup(["--stack-image", &setting, "run", "echo on it"]).end();
    assert!(ended.stdout == "on it\n" && ended.stderr.contains(&pulling), "{ended:?}");
    drop(registry);
    let ended = room.hsup(["--stack-image", &setting, "run", "echo again"]).end();
    assert!(ended.stdout == "again\n" && !ended.stderr.contains("pulling"), "{ended:?}");
    docker(&engine, &["rmi", "-f", &image]);
    let ended = room.hsup(["--stack-image", &setting, "run", "true"]).end();
    assert!(
        ended.code == 65 && ended.stderr.contains(&format!("cannot pull the image {image}")),
        "{ended:?}"
    );
}
