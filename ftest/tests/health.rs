//! How dynos show that they are ready and well, and what becomes of those that are not.

use std::net::TcpListener;

use hsup_ftest::{Room, isolated_network};
use serde_json::{Value, json};

/// Answers every request with 200 until the file that `SICK` names is there, and then with 500.
const SERVER: &str = r#"exec python3 -c '
import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(500 if os.path.exists(os.environ["SICK"]) else 200)
        self.end_headers()
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Page).serve_forever()
'"#;

/// A port that no other test of this crate uses, since those with the host's network share it, and none that the kernel
/// gives to connections (from 32768 on).
fn port(n: u32) -> String {
    (7000 + 10 * n + std::process::id() % 250 * 100).to_string()
}

#[test]
fn a_web_dyno_is_up_when_it_listens_on_its_port() {
    let room = Room::new();
    let listens = "sleep 1; exec python3 -m http.server $PORT";
    room.release(&room.app().env("PORT", &port(0)).process("web", listens, 1));
    let hsup = room.hsup(["start"]).env("HSUP_READINESS", "").up();
    hsup.wait_dyno("web.1", "boots", |dyno| dyno["Health"] == "booting" && dyno["State"] == "starting");
    let dyno = hsup.wait_dyno("web.1", "is up", |dyno| dyno["State"] == "up");
    assert_eq!(dyno["Health"], "healthy", "{dyno}");
    hsup.wait_line("web.1: State changed from starting to up");
}

#[test]
fn a_web_dyno_that_does_not_listen_in_time_is_started_anew_and_says_why() {
    let room = Room::new();
    room.release(&room.app().env("PORT", &port(1)).process("web", "exec sleep 600", 1).process(
        "worker",
        "exec sleep 600",
        1,
    ));
    let hsup = room.hsup(["start", "--boot-timeout", "500ms"]).env("HSUP_READINESS", "").up();
    hsup.wait_up("worker.1");
    hsup.wait_line(
        "web.1: Error R10 (Boot timeout) -> Not ready within 500ms of launch: nothing listens on port",
    );
    let reason = |dyno: &Value| dyno["LastExit"]["Reason"] == "boot-timeout";
    let dyno = hsup.wait_dyno("web.1", "has had a boot timeout", reason);
    assert_eq!(dyno["LastExit"]["Detail"], format!("nothing listens on port {}", port(1)), "{dyno}");
    let ended = room.bare(["ps", "-s"]).arg(room.socket()).end();
    assert!(ended.stdout.contains("(boot timeout)"), "{}", ended.stdout);
    let ended = room.bare(["explain", "web.1", "-s"]).arg(room.socket()).end();
    let why = format!("since it was not ready in time (R10): nothing listens on port {}", port(1));
    assert!(ended.stdout.contains(&why), "{}", ended.stdout);
}

#[test]
fn what_another_process_listens_on_says_nothing_of_a_dyno() {
    let room = Room::new();
    let other = TcpListener::bind(("127.0.0.1", port(9).parse().unwrap())).expect("the port is free");
    // it waits for the port, as few servers do
    let listens = "while ! python3 -m http.server $PORT; do sleep 0.1; done";
    room.release(&room.app().env("PORT", &port(9)).process("web", listens, 1));
    let hsup = room.hsup(["start"]).env("HSUP_READINESS", "").up();
    let is_up = |dyno: &Value| dyno["State"] == "up" && dyno["Health"] == "healthy";
    if isolated_network() {
        hsup.wait_dyno("web.1", "is up on a port of its own", is_up);
        return;
    }
    let says = format!("another process of this host listens on port {}", port(9));
    let dyno = hsup.wait_dyno("web.1", "says why it is not up", |dyno| dyno["Missing"] == says);
    assert_eq!((&dyno["State"], &dyno["Health"]), (&json!("starting"), &json!("booting")), "{dyno}");
    hsup.wait_line(&format!("web.1: Another process of this host listens on port {}: end it", port(9)));
    drop(other);
    hsup.wait_dyno("web.1", "is up", is_up);
}

#[test]
fn a_dyno_that_fails_its_liveness_check_is_restarted() {
    let room = Room::new();
    let sick = format!("/tmp/{}-sick", room.mark());
    room.release(&room.app().env("PORT", &port(2)).env("SICK", &sick).process("web", SERVER, 1));
    let liveness = "web:period=100ms,failure-threshold=2,http=/up";
    let hsup = room.hsup(["start", "--liveness", liveness]).env("HSUP_READINESS", "web:http=/up").up();
    let before = hsup.wait_up("web.1");
    // as the dyno sees it, whatever its root is
    let seen = format!("/proc/{before}/root{sick}");
    std::fs::write(&seen, "").unwrap();
    let dyno = hsup.wait_dyno("web.1", "is restarted", |dyno| dyno["LastExit"]["Reason"] == "liveness");
    let detail = dyno["LastExit"]["Detail"].as_str().unwrap();
    assert_eq!(detail, "GET /up was answered with 500 Internal Server Error");
    hsup.wait_line("web.1: Not well: GET /up was answered with 500");
    let _of_a_root_that_is_gone = std::fs::remove_file(sick);
}

#[test]
fn a_line_can_tell_that_a_worker_is_ready() {
    let room = Room::new();
    let go = format!("/tmp/{}-go", room.mark());
    let line = format!(
        "echo listening soon; until test -e {go}; do sleep 0.05; done; echo now Listening, at last >&2; exec sleep 600"
    );
    room.release(&room.app().process("worker", &line, 1));
    let hsup = room.hsup(["start", "--readiness", "worker:log=Listening, at"]).env("HSUP_READINESS", "").up();
    hsup.wait_line("worker.1 | listening soon");
    let dyno =
        hsup.wait_dyno("worker.1", "boots", |dyno| dyno["Health"] == "booting" && dyno["Pid"].is_u64());
    // as the dyno sees it, whatever its root is
    let seen = format!("/proc/{}/root{go}", dyno["Pid"]);
    std::fs::write(&seen, "").unwrap();
    let dyno = hsup.wait_dyno("worker.1", "is up", |dyno| dyno["State"] == "up");
    assert_eq!(dyno["Health"], "healthy", "{dyno}");
    let _of_a_root_that_is_gone = std::fs::remove_file(go);
}

#[test]
fn a_check_that_cannot_be_meant_is_refused_at_once() {
    let room = Room::new();
    let cases = [
        ("--readiness", "web:http=up", "--readiness: http=\"up\" is no path: write one that begins with /"),
        (
            "--liveness",
            "log=ready",
            "--liveness: a log line tells when a dyno is ready, not that it still is",
        ),
        ("--rollout", "web:slow", "--rollout: \"slow\" is no rollout: write replace, rolling or overlap"),
        ("--boot-timeout", "60", "--boot-timeout: \"60\" has no unit"),
    ];
    for (flag, value, said) in cases {
        let ended = room.hsup(["start", flag, value]).end();
        assert_eq!(ended.code, 64, "{}", ended.stderr);
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
    }
}

#[test]
fn a_check_that_would_begin_when_time_is_up_is_refused_with_its_release() {
    let room = Room::new();
    let worker = json!([{"Type": "worker", "Args": ["exec sleep 600"], "Quantity": 1, "Readiness": "initial-delay=60s,port"}]);
    room.release(&room.app().field("Processes", worker));
    let hsup = room.hsup(["start"]).env("HSUP_READINESS", "").up();
    hsup.wait_line(
        "is refused: the readiness check of worker: initial-delay=1m is not shorter than the boot timeout of 1m",
    );
    assert!(hsup.dyno("worker.1").is_null(), "{}", hsup.printed());
}
