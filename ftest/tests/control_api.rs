//! The control API and its clients, over the real socket.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use hsup_ftest::{Driver, Hsup, Room, driver, request};
use serde_json::Value;

fn running(room: &Room) -> Hsup {
    room.release(&room.app().process("web", "exec sleep 600", 2).process("worker", "exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("web.1");
    hsup.wait_up("web.2");
    hsup.wait_up("worker.1");
    hsup
}

#[test]
fn health_is_ok() {
    let room = Room::new();
    let hsup = running(&room);
    let answer = hsup.get("/health");
    assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
}

#[test]
fn the_socket_is_for_owner_and_group() {
    let room = Room::new();
    let _hsup = running(&room);
    let socket = fs::metadata(room.socket()).expect("it is there");
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o770);
}

#[test]
fn status_has_an_entry_a_type_and_one_a_dyno() {
    let room = Room::new();
    let hsup = running(&room);
    let answer = hsup.get("/status");
    assert_eq!(answer.status, 200);
    assert!(answer.head.to_lowercase().contains("content-type: application/json"), "{answer:?}");
    let status = answer.json();
    let types: Vec<&String> = status["Processes"].as_object().expect("an object").keys().collect();
    assert_eq!(types, ["web", "worker"]);
    for dyno in status["Dynos"].as_array().expect("an array") {
        let fields: Vec<&str> = dyno.as_object().expect("an object").keys().map(String::as_str).collect();
        for field in [
            "Name",
            "Type",
            "State",
            "Health",
            "Pid",
            "IPAddress",
            "Port",
            "Release",
            "StartedAt",
            "Restarts",
            "LastExit",
            "NextRetryAt",
            "MemoryBytes",
            "CpuSeconds",
        ] {
            assert!(fields.contains(&field), "{field} is not in {dyno}");
        }
        assert_eq!((&dyno["State"], &dyno["Restarts"]), (&"up".into(), &0.into()), "{dyno}");
    }
    let ports: Vec<u64> =
        status["Dynos"].as_array().into_iter().flatten().filter_map(|d| d["Port"].as_u64()).collect();
    match driver() {
        Driver::Simple | Driver::Abspath => assert_eq!(ports, [5000, 5001, 5100]),
        Driver::Native => assert_eq!(ports, [5000, 5000, 5000]),
        // those that the engine has published
        Driver::Docker => {
            let distinct: BTreeSet<u64> = ports.iter().copied().collect();
            assert_eq!((distinct.len(), distinct.contains(&5000)), (3, false), "{ports:?}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_request_is_answered_in_json() {
    let room = Room::new();
    let hsup = running(&room);
    let error = |answer: &hsup_ftest::Answer| {
        let text = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(!text.is_empty(), "{answer:?}");
    };
    for body in ["", "{", "[]", r#"{"Processes":"web"}"#, r#"{"processes":["web"]}"#, "null"] {
        let answer = hsup.post("/control/stop", body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        error(&answer);
    }
    let answer = hsup.get("/control/stop");
    assert_eq!(answer.status, 405, "{answer:?}");
    assert!(answer.head.to_lowercase().contains("allow: post"), "{answer:?}");
    for resource in ["/health", "/status"] {
        let answer = hsup.post(resource, "{}");
        assert_eq!(answer.status, 405, "{answer:?}");
        error(&answer);
    }
    let answer = hsup.get("/no/such/thing");
    assert_eq!(answer.status, 404);
    error(&answer);
    let large = format!(r#"{{"Processes":["{}"]}}"#, "x".repeat(1 << 20));
    let answer = hsup_ftest::post(&room.socket(), "/control/stop", &large);
    assert!(answer.is_none_or(|answer| answer.status == 413));
    assert_eq!(hsup.dyno("web.1")["State"], "up");
}

#[test]
fn nonsense_and_silent_clients_disturb_nobody() {
    let room = Room::new();
    let hsup = running(&room);
    let _silent: Vec<UnixStream> =
        (0..50).map(|_| UnixStream::connect(room.socket()).expect("it listens")).collect();
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let answer = request(&room.socket(), bytes);
        assert!(answer.is_none_or(|answer| answer.status == 400), "{bytes:?}");
    }
    assert_eq!(hsup.get("/health").status, 200);
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn what_nothing_has_stops_nothing() {
    let room = Room::new();
    let hsup = running(&room);
    let answer = hsup.post("/control/stop", r#"{"Processes":["clock","web.9","web/../x",""]}"#);
    assert_eq!((answer.status, answer.json()["StoppedProcesses"].clone()), (200, Value::Array(Vec::new())));
    let answer = hsup.post("/control/stop", r#"{"Processes":["web.2","worker"]}"#);
    assert_eq!(answer.json()["StoppedProcesses"], serde_json::json!(["web.2", "worker"]));
    assert_eq!(hsup.dyno("web.1")["State"], "up");
}

#[test]
fn ps_shows_a_table_and_json() {
    let room = Room::new();
    let hsup = running(&room);
    let ended = room.bare(["ps", "-s"]).arg(room.socket()).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    let rows: Vec<Vec<&str>> = ended.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 4, "{}", ended.stdout);
    assert_eq!(rows[0][..2], ["DYNO", "STATE"], "{}", ended.stdout);
    assert_eq!([rows[1][0], rows[2][0], rows[3][0]], ["web.1", "web.2", "worker.1"], "{}", ended.stdout);
    let pid = hsup.dyno_pid("web.1").to_string();
    assert!(rows[1].contains(&"up") && rows[1].contains(&pid.as_str()), "{}", ended.stdout);
    let ended = room.bare(["status", "--json", "-s"]).arg(room.socket()).end();
    let json: Value = serde_json::from_str(&ended.stdout).expect("it is JSON");
    assert_eq!(json["Dynos"][0]["Name"], "web.1", "{ended:?}");
}

#[test]
fn clients_find_the_default_socket_of_their_app() {
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let driver = hsup_ftest::driver().to_string();
    let hsup =
        room.bare(["start", "-a", "shop", "-d", &driver]).env("HSUP_CONTROL_DIR", room.control_dir()).up();
    hsup.wait_line("web.1: State changed from starting to up");
    assert!(room.path("runtime/hsup/shop.sock").exists());
    for args in [["ps", "-a", "shop"], ["ps", "--json", "--log-level=info"]] {
        let ended = room.bare(args).end();
        assert_eq!(ended.code, 0, "{args:?}: {ended:?}");
        assert!(ended.stdout.contains("web.1"), "{ended:?}");
    }
}

#[test]
fn clients_say_when_no_hsup_runs() {
    let room = Room::new();
    for command in [&["ps"][..], &["stop", "web"]] {
        let launch = command.iter().fold(room.bare([]), |launch, word| launch.arg(word));
        let ended = launch.arg("-s").arg(room.socket()).end();
        assert_eq!(ended.code, 69, "{ended:?}");
        assert!(ended.stderr.contains("no hsup is running"), "{ended:?}");
    }
}

#[test]
fn a_socket_in_use_is_said_and_nothing_is_started() {
    let room = Room::new();
    let hsup = running(&room);
    let ended = room.hsup(["start"]).end();
    assert_eq!(ended.code, 73, "{ended:?}");
    assert!(ended.stderr.contains("socket in use"), "{ended:?}");
    assert!(!ended.stderr.contains("State changed"), "{ended:?}");
    assert_eq!(hsup.get("/health").status, 200);
}

#[test]
fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let room = Room::new();
    fs::write(room.socket(), "precious").expect("a file can be written");
    let ended = room.hsup(["start"]).end();
    assert_eq!(ended.code, 73, "{ended:?}");
    assert_eq!(fs::read_to_string(room.socket()).expect("it is there"), "precious");
}

#[test]
fn to_stop_what_has_never_been_is_an_error_that_says_what_there_is() {
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    let pid = hsup.wait_up("web.1");
    let ended = room.hsup(["stop", "wbe"]).end();
    assert_eq!(ended.code, 64, "{ended:?}");
    assert!(ended.stderr.contains("no dyno is called wbe; there are: web"), "{ended:?}");
    assert_eq!(hsup.dyno_pid("web.1"), pid);
}
