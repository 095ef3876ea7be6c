//! The API over real sockets, with a formation that is a small script.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::body::AnswerBody;
use super::client::{Client, ClientError};
use super::inspect::Here;
use super::routes::Api;
use super::server::serve_with;
use super::wire::{StatusResponse, StopRequest, StopResponse};
use super::{bind, serve};
use crate::dyno::{DynoState, DynoStatus};
use crate::events::Events;
use crate::formation::{CannotRun, Command, FormationHandle, FormationStatus, Question};
use crate::history::{self, Keeper, Place};
use crate::logs::Logs;
use crate::model::{DynoName, ReleaseVersion, Target};
use crate::sources::Looks;

/// A server on a socket of its own; it ends with `stop`.
struct Server {
    _directory: TempDir,
    path: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(formation: FormationHandle) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        let socket = bind(&path).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let (_, releases) = watch::channel(None);
        let history = history::Settings { place: Place::Memory, forget_scale: false, newest_only: false };
        let (_, _, history, keeping) = Keeper::start(history, releases, Events::new());
        tokio::spawn(keeping);
        let here = Here {
            live: watch::channel(None).1,
            driver: "simple",
            state_dir: "/state".into(),
            directory: "/".into(),
            folder: None,
            binds: Vec::new(),
        };
        let (events, looks) = (Events::new(), Looks::new(Events::new()));
        let api = Api::new(formation, history, here, Logs::for_tests(), events, looks);
        let task = tokio::spawn(serve(socket, api, async { _ = stopped.await }));
        Self { _directory: directory, path, stop, task }
    }

    fn client(&self) -> Client {
        Client::new(&self.path)
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    /// What comes back for these bytes until the server closes.
    async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        read_all(&mut stream).await
    }

    async fn send(&self, method: &str, resource: &str, body: &str) -> Reply {
        let length = body.len();
        let request = format!(
            "{method} {resource} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        Reply::parse(&self.raw(request).await)
    }

    async fn assert_well(&self) {
        assert_eq!(self.send("GET", "/health", "").await.body, "OK");
    }
}

async fn read_all(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    // A server that closes while bytes of ours are unread resets the connection, after what it has said.
    while let Ok(1..) = stream.read_buf(&mut answer).await {}
    String::from_utf8(answer).unwrap()
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn parse(answer: &str) -> Self {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }

    fn assert_error(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.json()["error"].is_string(), "{self:?}");
    }
}

fn dyno(name: &str) -> DynoStatus {
    DynoStatus {
        name: name.parse().unwrap(),
        state: DynoState::Up,
        health: Default::default(),
        up_since: None,
        release: ReleaseVersion(3),
        pid: Some(42),
        address: "127.0.0.1".parse().unwrap(),
        port: 5000,
        started_at: None,
        restarts: 0,
        crashes: 0,
        last_exit: None,
        next_retry_at: None,
    }
}

/// A formation of these dynos: each is up until it is stopped.
fn formation(names: &'static [&'static str]) -> FormationHandle {
    let (handle, mut mailbox) = FormationHandle::new();
    tokio::spawn(async move {
        let mut dynos: Vec<_> = names.iter().map(|name| dyno(name)).collect();
        while let Some(command) = mailbox.recv().await {
            match command {
                Command::Ask(Question::Status(reply)) => {
                    let app = Some("myapp".parse().unwrap());
                    let release = Some(ReleaseVersion(3));
                    _ = reply.send(FormationStatus {
                        app,
                        release,
                        formation: BTreeMap::new(),
                        dynos: dynos.iter().cloned().map(Arc::new).collect(),
                    });
                }
                Command::Stop { targets, reply } => {
                    let meant = |dyno: &DynoStatus| targets.iter().any(|target| target.covers(&dyno.name));
                    let (stopped, rest): (Vec<_>, Vec<_>) = dynos.into_iter().partition(meant);
                    dynos = rest;
                    _ = reply.send(stopped.into_iter().map(|dyno| dyno.name).collect());
                }
                Command::Ask(Question::Preview { arrival, reply }) => {
                    let why = "it is a script".to_owned();
                    _ = reply.send(Err(CannotRun { release: arrival.release.version, why }));
                }
                Command::Ask(Question::CheckScale { quantities: _, reply }) => _ = reply.send(Ok(())),
                Command::Restart { targets, rolling: _, reply } => {
                    let names = dynos.iter().map(|dyno| dyno.name.clone());
                    _ = reply.send(names.filter(|name| targets.iter().any(|t| t.covers(name))).collect());
                }
            }
        }
    });
    handle
}

#[tokio::test]
async fn health_is_ok() {
    let server = Server::start(formation(&[])).await;
    for resource in ["/health", "/health?verbose=1"] {
        let reply = server.send("GET", resource, "").await;
        assert_eq!((reply.status, reply.body.as_str()), (200, "OK"));
        assert!(reply.head.contains("content-type: text/plain"), "{reply:?}");
    }
    let reply = server.send("HEAD", "/health", "").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
}

#[tokio::test]
async fn status_describes_the_formation() {
    let server = Server::start(formation(&["web.1", "web.2", "worker.1"])).await;
    let reply = server.send("GET", "/status", "").await;
    assert_eq!(reply.status, 200);
    let status = reply.json();
    let web = json!({"Status": "Started", "IPAddress": "127.0.0.1", "Port": 5000, "ProcessID": 1});
    assert_eq!(status["Processes"]["web"], web);
    assert_eq!(status["Dynos"][2]["Name"], "worker.1");
    assert_eq!(status["Release"], json!({"App": "myapp", "Version": "v3"}));
    let status: StatusResponse = server.client().get_json("/status").await.unwrap();
    assert_eq!(status.dynos.len(), 3);
}

#[tokio::test]
async fn stop_takes_types_and_dynos_and_says_what_has_stopped() {
    let server = Server::start(formation(&["web.1", "web.2", "worker.1", "worker.2", "run.1"])).await;
    let cases = [
        (json!(["web"]), json!(["web", "web"])),
        (json!(["web"]), json!([])),
        (json!(["worker.2", "none", "none.7", "not a name", ""]), json!(["worker.2"])),
        (json!(["run"]), json!(["run"])),
        (json!([]), json!([])),
    ];
    for (processes, stopped) in cases {
        let body = json!({"Processes": processes}).to_string();
        let reply = server.send("POST", "/control/stop", &body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.json(), json!({"StoppedProcesses": stopped}));
    }
    let request = StopRequest { processes: vec!["worker".to_owned()] };
    let stopped: StopResponse = server.client().post_json("/control/stop", &request).await.unwrap();
    assert_eq!(stopped.stopped_processes, ["worker"]);
}

#[tokio::test]
async fn a_content_type_is_not_asked_for() {
    let server = Server::start(formation(&["web.1"])).await;
    let reply = server
        .raw(
            "POST /control/stop HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Connection: close\r\nContent-Length: 21\r\n\r\n{\"Processes\":[\"web\"]}",
        )
        .await;
    assert_eq!(Reply::parse(&reply).json(), json!({"StoppedProcesses": ["web"]}));
}

#[tokio::test]
async fn what_is_wrong_is_said_in_json() {
    let server = Server::start(formation(&["web.1"])).await;
    for (method, resource, allowed) in [
        ("POST", "/health", "allow: get, head"),
        ("DELETE", "/status", "allow: get, head"),
        ("GET", "/control/stop", "allow: post"),
        ("BREW", "/control/stop", "allow: post"),
    ] {
        let reply = server.send(method, resource, "").await;
        reply.assert_error(405);
        assert!(reply.head.contains(allowed), "{reply:?}");
    }
    for resource in ["/", "/statusx", "/control", "/health/", "//health", "/%68ealth"] {
        server.send("GET", resource, "").await.assert_error(404);
    }
    for body in
        ["", "{", "nope", "[]", "{}", r#"{"Processes":"web"}"#, r#"{"Processes":[1]}"#, "{}{}", "\u{0}"]
    {
        let reply = server.send("POST", "/control/stop", body).await;
        reply.assert_error(400);
        assert!(reply.json()["hint"].as_str().unwrap().contains("Processes"), "{reply:?}");
    }
    server.assert_well().await;
}

#[tokio::test]
async fn a_body_has_its_limit() {
    let server = Server::start(formation(&[])).await;
    let body = |bytes: usize| {
        let rest = bytes - r#"{"Processes":[]}"#.len();
        format!(r#"{{"Processes":[{}]}}"#, " ".repeat(rest))
    };
    assert_eq!(server.send("POST", "/control/stop", &body(65_536)).await.status, 200);
    server.send("POST", "/control/stop", &body(65_537)).await.assert_error(413);
    let chunked = "POST /control/stop HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n";
    let reply = server.raw(format!("{chunked}{}\r\n0\r\n\r\n", " ".repeat(0x20000))).await;
    Reply::parse(&reply).assert_error(413);
    server.assert_well().await;
}

#[tokio::test]
async fn bytes_that_are_no_request_harm_nobody() {
    let server = Server::start(formation(&[])).await;
    assert_eq!(Reply::parse(&server.raw("\u{1}\u{2}\u{3}garbage\r\n\r\n").await).status, 400);
    assert_eq!(Reply::parse(&server.raw("GET /health HTTP/9.9\r\n\r\n").await).status, 400);
    let huge = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert_eq!(Reply::parse(&server.raw(huge).await).status, 431);
    let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(500));
    assert_eq!(Reply::parse(&server.raw(many).await).status, 431);
    let both = "POST /control/stop HTTP/1.1\r\nContent-Length: x\r\n\r\n";
    assert_eq!(Reply::parse(&server.raw(both).await).status, 400);
    for half in ["GET /hea", "POST /control/stop HTTP/1.1\r\nContent-Length: 50\r\n\r\n{\"Proc"] {
        let mut stream = server.connect().await;
        stream.write_all(half.as_bytes()).await.unwrap();
        drop(stream);
    }
    server.assert_well().await;
}

#[tokio::test]
async fn half_a_body_is_a_bad_request() {
    let server = Server::start(formation(&[])).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST /control/stop HTTP/1.1\r\nContent-Length: 50\r\n\r\n{\"Proc").await.unwrap();
    stream.shutdown().await.unwrap();
    Reply::parse(&read_all(&mut stream).await).assert_error(400);
}

#[tokio::test]
async fn a_client_may_close_its_side_once_it_has_asked() {
    let server = Server::start(formation(&[])).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(Reply::parse(&read_all(&mut stream).await).body, "OK");
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let server = Server::start(formation(&[])).await;
    let mut stream = server.connect().await;
    stream.write_all(&b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3)).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await.matches("\r\n\r\nOK").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_sent_away() {
    let server = Server::start(formation(&[])).await;
    for started in ["", "GET /health HTTP/1.1\r\nHost:"] {
        let before = Instant::now();
        server.raw(started).await;
        assert!(before.elapsed() >= Duration::from_secs(10), "{started:?}");
    }
    let reply = server.raw("POST /control/stop HTTP/1.1\r\nContent-Length: 9\r\n\r\n{").await;
    Reply::parse(&reply).assert_error(408);
}

#[tokio::test(start_paused = true)]
async fn many_silent_clients_delay_the_others_but_do_not_lock_them_out() {
    let server = Server::start(formation(&[])).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(server.connect().await);
    }
    server.assert_well().await;
}

#[tokio::test]
async fn a_panic_reaches_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let socket = bind(&path).await.unwrap();
    let handler = |request: hyper::Request<hyper::body::Incoming>| async move {
        assert_ne!(request.uri().path(), "/panic", "as the test wants it");
        hyper::Response::new(AnswerBody::Whole(Full::new("true".into())))
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(serve_with(socket, handler, async { _ = stopped.await }));
    let client = Client::new(&path);
    let error = client.get_json::<bool>("/panic").await.unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }), "{error}");
    assert!(client.get_json::<bool>("/fine").await.unwrap());
    stop.send(()).unwrap();
    task.await.unwrap();
}

#[tokio::test]
async fn a_formation_that_has_ended_is_service_unavailable() {
    let (ended, _) = FormationHandle::new();
    let server = Server::start(ended).await;
    let reply = server.send("GET", "/status", "").await;
    reply.assert_error(503);
    assert_eq!(reply.json()["error"], "hsup is shutting down");
    server.send("POST", "/control/stop", r#"{"Processes":["web"]}"#).await.assert_error(503);
    server.assert_well().await;
}

/// A formation whose one stop is answered by the test.
async fn stop_in_flight(handle: FormationHandle, mailbox: &mut Mailbox) -> (Server, UnixStream, StopReply) {
    let server = Server::start(handle).await;
    let mut stream = server.connect().await;
    let request = "POST /control/stop HTTP/1.1\r\nContent-Length: 21\r\n\r\n{\"Processes\":[\"web\"]}";
    stream.write_all(request.as_bytes()).await.unwrap();
    let Some(Command::Stop { targets, reply }) = mailbox.recv().await else { panic!("no stop") };
    assert_eq!(targets, ["web".parse::<Target>().unwrap()]);
    (server, stream, reply)
}

type Mailbox = tokio::sync::mpsc::Receiver<Command>;
type StopReply = oneshot::Sender<Vec<DynoName>>;

#[tokio::test]
async fn a_long_stop_delays_nobody() {
    let (handle, mut mailbox) = FormationHandle::new();
    let (server, mut stream, reply) = stop_in_flight(handle, &mut mailbox).await;
    server.assert_well().await;
    reply.send(vec!["web.1".parse().unwrap()]).unwrap();
    stream.shutdown().await.unwrap();
    let reply = Reply::parse(&read_all(&mut stream).await);
    assert_eq!(reply.json(), json!({"StoppedProcesses": ["web"]}));
}

#[tokio::test]
async fn who_asks_for_a_stop_and_goes_has_it_and_keeps_nobody_out() {
    let (handle, mut mailbox) = FormationHandle::new();
    let server = Server::start(handle).await;
    let request = "POST /control/stop HTTP/1.1\r\nContent-Length: 21\r\n\r\n{\"Processes\":[\"web\"]}";
    // more than are served at a time, some of whom are gone before hsup has looked
    for waits in [true, false].repeat(40) {
        let mut stream = server.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let stream = waits.then_some(stream);
        let told = timeout(Duration::from_secs(30), mailbox.recv()).await;
        let Some(Command::Stop { reply: mut asked, .. }) = told.expect("hsup looks") else {
            panic!("no stop")
        };
        drop(stream);
        timeout(Duration::from_secs(30), asked.closed()).await.expect("nobody is answered");
    }
    server.assert_well().await;
}

#[tokio::test]
async fn shutdown_lets_answers_finish_and_frees_the_path() {
    let (handle, mut mailbox) = FormationHandle::new();
    let (server, mut stream, reply) = stop_in_flight(handle, &mut mailbox).await;
    let Server { stop, task, path, _directory: directory } = server;
    let mut idle = UnixStream::connect(&path).await.unwrap();
    stop.send(()).unwrap();
    // The idle one is closed at once, and by then the socket file is gone.
    read_all(&mut idle).await;
    assert!(!path.exists());
    reply.send(vec!["web.1".parse().unwrap()]).unwrap();
    let reply = Reply::parse(&read_all(&mut stream).await);
    assert_eq!(reply.json(), json!({"StoppedProcesses": ["web"]}));
    task.await.unwrap();
    drop(directory);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_an_answer_only_so_long() {
    let (handle, mut mailbox) = FormationHandle::new();
    let (server, mut stream, _reply) = stop_in_flight(handle, &mut mailbox).await;
    let before = Instant::now();
    server.stop.send(()).unwrap();
    server.task.await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 5);
    assert_eq!(read_all(&mut stream).await, "");
}

#[tokio::test]
async fn a_client_learns_what_is_wrong_with_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let client = Client::new(&path);
    let error = client.get_json::<Value>("/status").await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("no hsup is running at {}: ", path.display())), "{error}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = client.get_json::<Value>("/status").await.unwrap_err();
    assert!(matches!(error, ClientError::Stale { .. }), "{error}");
    for other in [directory.path(), "/etc/passwd".as_ref()] {
        let error = Client::new(other).get_json::<Value>("/status").await.unwrap_err();
        assert!(matches!(error, ClientError::NotASocket { .. }), "{error}");
    }
    let denied = Client::new(&path).unreachable(nix::errno::Errno::EACCES.into());
    assert!(denied.to_string().contains("you need to be in the group of the socket or root"), "{denied}");
}

#[tokio::test]
async fn a_client_hears_what_the_server_says() {
    let server = Server::start(formation(&[])).await;
    let error = server.client().get_json::<Value>("/nowhere").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is nothing at /nowhere: there are /health, /status, /logs, /events, /metrics, /releases, /config, /release, /plan, \
         /openapi.json, /control/stop, /control/restart, /control/scale, /control/rollback"
    );
    assert!(matches!(error, ClientError::Refused { status: 404, .. }), "{error}");
    let error = server.client().get_json::<Value>("/health").await.unwrap_err();
    assert!(matches!(error, ClientError::Unexpected { .. }), "{error}");
}

const A_DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn a_client_does_not_wait_for_ever_for_a_hung_hsup() {
    let (handle, _mailbox) = FormationHandle::new();
    let server = Server::start(handle).await;
    let error = server.client().get_json::<Value>("/status").await.unwrap_err();
    assert!(matches!(error, ClientError::Silent { .. }), "{error}");
    let body = json!({"Processes": ["web"]});
    let told = server.client();
    let told = timeout(A_DAY, told.post_json::<_, Value>("/control/restart", &body)).await.unwrap();
    assert!(matches!(told, Err(ClientError::Silent { .. })), "{told:?}");
    // dynos may take that long to stop
    let done = server.client();
    let done = timeout(A_DAY, done.wait_for::<_, Value>("/control/stop", &body)).await;
    assert!(done.is_err(), "{done:?}");
}
