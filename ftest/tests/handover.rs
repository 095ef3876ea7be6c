//! Restarts and releases under load: on a socket that hsup holds no request fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hsup_ftest::{Driver, Hsup, Room, eventually, is_about, isolated_network, procs};
use nix::sys::signal::Signal;
use serde_json::json;

/// Serves on descriptor 3 where it has been passed a socket. Told to end it answers what it has accepted. A thread waits
/// for the signal: a handler could interrupt the start of another thread, whose locks it would need itself.
const SERVER: &str = r#"exec python3 -c '
import http.server, os, signal, socket, threading
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
passed = os.environ.get("LISTEN_FDS") == "1" and os.environ["LISTEN_PID"] == str(os.getpid())
assert not passed or os.environ["LISTEN_FDNAMES"] == "web"
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["V"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 1024
server = Server(("", 0) if passed else ("", int(os.environ["PORT"])), Page)
if passed:
    server.socket.close()
    server.socket = socket.socket(fileno=3)
    server.socket.setblocking(False)
def end():
    signal.sigwait([signal.SIGTERM])
    server.shutdown()
threading.Thread(target=end, daemon=True).start()
print("serving" + (" what was passed" if passed else ""), flush=True)
server.serve_forever()
server.server_close()
'"#;

/// Requests one after the other, each on a connection of its own, until it is told to stop.
struct Load {
    stop: AtomicBool,
    good: AtomicU64,
    bad: AtomicU64,
}

impl Load {
    fn new() -> Self {
        Self { stop: AtomicBool::new(false), good: AtomicU64::new(0), bad: AtomicU64::new(0) }
    }

    fn run(&self, address: impl Fn() -> SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            match get(address()) {
                Ok(()) => self.good.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    eprintln!("a request failed: {error}");
                    self.bad.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }

    /// Ends the load with the work, however that ends; how many requests were good, and how many were not.
    fn during(&self, address: impl Fn() -> SocketAddr + Sync, work: impl FnOnce()) -> (u64, u64) {
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        thread::scope(|scope| {
            let _stop = Stop(&self.stop);
            for _ in 0..2 {
                scope.spawn(|| self.run(&address));
            }
            work();
        });
        (self.good.load(Ordering::Relaxed), self.bad.load(Ordering::Relaxed))
    }
}

fn get(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.0 200") {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("{answer:?}")))
    }
}

fn release(room: &Room, version: u64, line: &str) {
    let port = free_port().to_string();
    let app = room.app().version(version).env("V", &version.to_string()).env("PORT", &port);
    room.release(&app.process("web", line, 2));
}

/// A port that nobody listens on, none twice; below those that the kernel gives to connections (from 32768 on).
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports =
        std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed)).take_while(|port| *port < 32_000);
    ports.find(is_free).expect("loopback has a free port")
}

fn wait_release(hsup: &Hsup, version: u64) {
    let is_live = || {
        let status = hsup.get("/status").json();
        (status["Release"]["Version"] == format!("v{version}")).then_some(())
    };
    eventually(&format!("release v{version} is live"), || hsup.printed(), is_live);
}

fn restart(room: &Room, hsup: &Hsup) {
    let before = hsup.dyno("web.1")["StartedAt"].clone();
    let ended = room.bare(["restart", "web.1", "-s"]).arg(room.socket()).end();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    hsup.wait_dyno("web.1", "has been restarted", |dyno| {
        dyno["State"] == "up" && dyno["StartedAt"] != before
    });
}

/// Restarts, releases and bad releases, as many as a test has time for; the last release is a good one.
fn work(room: &Room, hsup: &Hsup) {
    for round in 1..=3 {
        restart(room, hsup);
        let good = 10 * round;
        release(room, good, SERVER);
        hsup.wait_line(&format!("release v{good} is good"));
        release(room, good + 1, "exit 1");
        hsup.wait_line(&format!("release v{} is bad", good + 1));
        wait_release(hsup, good);
    }
}

#[test]
fn no_request_fails_on_a_socket_that_hsup_holds() {
    let room = Room::new();
    let port = free_port();
    release(&room, 1, SERVER);
    let listen = format!("web=127.0.0.1:{port}");
    if isolated_network() {
        let ended = room.hsup(["start", "--listen", &listen]).end();
        assert_eq!(ended.code, 64, "{}", ended.stderr);
        let said = "--listen: docker and native dynos have networks of their own: let them overlap";
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
        return;
    }
    let hsup = room.hsup(["start", "--min-healthy-time", "300ms", "--listen", &listen]).up();
    hsup.wait_line("web.1 | serving what was passed");
    hsup.wait_line("release v1 is good");
    let dyno = hsup.dyno("web.1");
    assert_eq!((&dyno["IPAddress"], &dyno["Port"]), (&json!("127.0.0.1"), &json!(port)), "{dyno}");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let (good, bad) = Load::new().during(|| address, || work(&room, &hsup));
    assert!(good > 50 && bad == 0, "{good} requests were good and {bad} were not");
    let room = Room::new();
    release(&room, 1, SERVER);
    let ended = room.hsup(["start", "--listen", &listen]).end();
    assert_eq!(ended.code, 71, "{}", ended.stderr);
    assert!(
        ended.stderr.contains(&format!("cannot listen for {listen}: Address already in use")),
        "{}",
        ended.stderr
    );
}

/// What `wrk` says of its requests, all of which it makes while there is work.
struct Wrk {
    requests: u64,
    report: String,
}

/// Eight connections at a time, until the work is done or five minutes are over.
fn wrk_during(port: u16, work: impl FnOnce()) -> Wrk {
    let url = format!("http://127.0.0.1:{port}/");
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c8", "-d300s", "--timeout", "20s", &url]).stdout(Stdio::piped());
    let mut wrk = Ends(command.spawn().expect("there is wrk (apt-get install wrk)"));
    work();
    // it says then what it has found
    procs::signal(wrk.0.id(), Signal::SIGINT);
    let mut report = String::new();
    wrk.0.stdout.take().expect("it is piped").read_to_string(&mut report).expect("it is text");
    let count = report.lines().find_map(|line| line.trim().split_once(" requests in"));
    let requests = count.and_then(|(count, _)| count.parse().ok()).unwrap_or_else(|| panic!("{report}"));
    Wrk { requests, report }
}

/// A process that ends with its test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _it_has_ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Twenty restarts and twenty rollouts, each fourth of a release that does not run.
fn twenty_of_each(room: &Room, hsup: &Hsup) {
    let mut good = 1;
    for version in 2..=21 {
        restart(room, hsup);
        if version % 4 == 0 {
            release(room, version, "exit 1");
            hsup.wait_line(&format!("release v{version} is bad"));
            wait_release(hsup, good);
        } else {
            release(room, version, SERVER);
            hsup.wait_line(&format!("release v{version} is good"));
            good = version;
        }
    }
}

fn not_a_request_fails(more: &[&str]) {
    let room = Room::new();
    let port = free_port();
    release(&room, 1, SERVER);
    let mut start = room.hsup(["start", "--min-healthy-time", "300ms", "--readiness", "web:log=serving"]);
    for word in more {
        start = start.arg(word);
    }
    let hsup = start.arg("--listen").arg(format!("web=127.0.0.1:{port}")).up();
    hsup.wait_line("release v1 is good");
    let Wrk { requests, report } = wrk_during(port, || twenty_of_each(&room, &hsup));
    println!("{report}");
    let failed = ["Socket errors", "Non-2xx"].iter().any(|failure| report.contains(failure));
    assert!(requests > 1000 && !failed, "{report}");
    assert_eq!(hsup.stop().code, 0);
    room.assert_nothing_left();
}

#[test]
fn no_request_of_wrk_fails_while_dynos_are_replaced_on_a_socket_that_hsup_holds() {
    if is_about(Driver::Simple) {
        not_a_request_fails(&[]);
    }
}

#[test]
fn no_request_of_wrk_fails_while_releases_overlap() {
    if is_about(Driver::Simple) {
        not_a_request_fails(&["--rollout", "web:overlap"]);
    }
}
