//! The engine itself: where it is, that it is not there, and that it goes away and comes back.

use std::fs;
use std::process::Command;

use hsup_ftest::{Driver, Engine, Launch, Room, eventually, is_about, procs};
use nix::sys::signal::Signal;

/// hsup in the network of an engine of the test's own.
fn with<'a>(room: &'a Room, engine: &Engine, args: &[&str]) -> Launch<'a> {
    let network = format!("--net={}", engine.namespaces().proc("ns/net").display());
    let launch = args.iter().fold(room.hsup([]), Launch::arg);
    launch.through(["nsenter", &network]).env("DOCKER_HOST", engine.host())
}

#[test]
fn an_engine_that_is_restarted_or_killed_is_a_fault_and_the_dynos_come_back() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    let mut engine = Engine::start();
    room.release(&room.app().process("web", "echo ready $PORT; exec sleep 600", 2));
    let hsup = with(&room, &engine, &["start"]).up();
    hsup.wait_up("web.1");
    hsup.wait_up("web.2");
    for (n, signal) in [(1, Signal::SIGTERM), (2, Signal::SIGKILL)] {
        let before = [hsup.dyno_pid("web.1"), hsup.dyno_pid("web.2")];
        engine.kill(signal);
        hsup.wait_nth_line("no Docker Engine answers at", n);
        engine.up();
        let is_new =
            |pid: Option<u64>| pid.is_some_and(|pid| before.iter().all(|old| u64::from(*old) != pid));
        for name in ["web.1", "web.2"] {
            hsup.wait_dyno(name, "is up again", |dyno| dyno["State"] == "up" && is_new(dyno["Pid"].as_u64()));
        }
        assert_eq!(before.map(procs::alive), [false, false]);
    }
    assert!(hsup.lines("answers again").len() >= 2, "{}", hsup.printed());
    let two = || (room.containers(&engine.host(), None).len() == 2).then_some(());
    eventually("nothing is left of the containers before", || hsup.printed(), two);
    assert_eq!(hsup.stop().code, 0);
    assert!(room.containers(&engine.host(), None).is_empty());
}

#[test]
fn hsup_ends_without_its_engine_and_the_next_start_removes_what_was_left() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    let mut engine = Engine::start_with(&["--live-restore"]);
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = with(&room, &engine, &["--stop-timeout", "1s", "start"]).up();
    hsup.wait_up("web.1");
    engine.kill(Signal::SIGKILL);
    let ended = hsup.stop();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("the next start of hsup removes it"), "{ended:?}");
    engine.up();
    assert_eq!(room.containers(&engine.host(), None).len(), 1);
    let ended = with(&room, &engine, &["run", "echo fine"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "fine\n"), "{ended:?}");
    assert!(ended.stderr.contains("removed 1 containers"), "{ended:?}");
    assert!(room.containers(&engine.host(), None).is_empty());
}

#[test]
fn hsup_ends_though_its_engine_says_nothing_any_more() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    let engine = Engine::start();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = with(&room, &engine, &["--stop-timeout", "1s", "start"]).up();
    hsup.wait_up("web.1");
    engine.freeze();
    let ended = hsup.stop();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("did not answer in time"), "{ended:?}");
    assert!(ended.stderr.contains("the next start of hsup removes it"), "{ended:?}");
}

#[test]
fn an_engine_over_tcp_is_as_good_and_with_tls_both_sides_are_verified() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    certificates(&room);
    let pem = |name: &str| format!("{}/certs/{name}.pem", room.dir().display());
    let tls = ["--tlsverify", "--tlscacert", &pem("ca"), "--tlscert", &pem("cert"), "--tlskey", &pem("key")]
        .map(str::to_owned);
    let options: Vec<&str> = tls.iter().map(String::as_str).chain(["--host=tcp://127.0.0.1:2376"]).collect();
    let engine = Engine::start_with(&options);
    room.release(&room.app());
    let tcp = |args: &[&str]| with(&room, &engine, args).env("DOCKER_HOST", "tcp://127.0.0.1:2376");
    let good = tcp(&["run", "echo over TLS"]).env("DOCKER_CERT_PATH", room.path("certs")).end();
    assert_eq!((good.code, good.stdout.as_str()), (0, "over TLS\n"), "{good:?}");
    let plain = tcp(&["run", "true"]).end();
    assert_eq!(plain.code, 71, "{plain:?}");
    fs::copy(room.path("certs/other.pem"), room.path("certs/ca.pem")).expect("a file can be copied");
    let stranger = tcp(&["run", "true"]).env("DOCKER_CERT_PATH", room.path("certs")).end();
    assert!(stranger.code == 71 && stranger.stderr.contains("certificate"), "{stranger:?}");
    fs::remove_file(room.path("certs/ca.pem")).expect("it is there");
    let none = tcp(&["run", "true"]).env("DOCKER_CERT_PATH", room.path("certs")).end();
    assert!(none.code == 71 && none.stderr.contains("DOCKER_CERT_PATH"), "{none:?}");
}

/// An authority, a certificate of it for 127.0.0.1, which both sides use, and another authority.
fn certificates(room: &Room) {
    let script = "mkdir certs && cd certs
        authority() { openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout $1-key.pem -out $1.pem -subj /CN=$1 \\
            -addext basicConstraints=critical,CA:TRUE; }
        authority ca; authority other
        openssl req -newkey rsa:2048 -nodes -keyout key.pem -out own.csr -subj /CN=engine
        printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' > own.ext
        openssl x509 -req -in own.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile own.ext -out cert.pem";
    let made =
        Command::new("sh").args(["-ec", script]).current_dir(room.dir()).output().expect("there is sh");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn what_keeps_the_driver_from_working_is_said_at_once() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let none = format!("unix://{}", room.path("no-engine").display());
    let ended = room.hsup(["start"]).env("DOCKER_HOST", &none).end();
    assert_eq!(ended.code, 71, "{ended:?}");
    assert!(ended.stderr.contains(&format!("no Docker Engine answers at {none}")), "{ended:?}");
    assert!(ended.stderr.contains("DOCKER_HOST"), "{ended:?}");
    for wrong in ["engine", "ssh://engine", "tcp://engine:port"] {
        let ended = room.hsup(["start"]).env("DOCKER_HOST", wrong).end();
        assert!(ended.code == 64 && ended.stderr.contains(&format!("DOCKER_HOST: {wrong:?}")), "{ended:?}");
    }
    let ended = room.hsup(["--docker-entry", "/bin/sh", "run", "true"]).end();
    assert_eq!(ended.code, 71, "{ended:?}");
    assert!(ended.stderr.contains("it is not linked statically"), "{ended:?}");
    assert!(ended.stderr.contains("make static"), "{ended:?}");
}
