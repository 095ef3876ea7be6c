//! A receiver of log lines on loopback that checks every frame. It can be slow, refuse, cut connections, answer with
//! errors, hold requests, and come back.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use nix::sys::socket::{Backlog, listen, shutdown};
use sha2::{Digest, Sha256};

use crate::frames::{Delivery, Frame, frame};
use crate::namespaces::Namespaces;
use crate::room::Room;
use crate::wait::PATIENCE;

/// What it does with requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Accepts them.
    Accept,
    /// Accepts them, after so long.
    Slow(Duration),
    /// Reads them and answers with this status.
    Status(u16),
    /// Reads them and closes the connection.
    Cut,
    /// Reads them and says nothing before its mood changes.
    Hold,
    /// Lets nobody connect.
    Refuse,
}

/// What it has got.
#[derive(Clone, Debug, Default)]
pub struct Got {
    /// The frames, in order of arrival; numbered ones only where they are kept.
    pub frames: Vec<Frame>,
    /// How many numbered lines (`L0E`, `L1E`, ...) of each dyno have come, in order and without a gap.
    pub numbered: BTreeMap<String, u64>,
    /// Numbers that were missing, where the next one came.
    pub missing: u64,
    /// Everything that was wrong.
    pub faults: Vec<String>,
    /// Requests that were accepted.
    pub requests: u64,
    /// Requests that came again after they had been accepted.
    pub again: u64,
    /// The `Authorization` headers of requests.
    pub authorization: Vec<String>,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    keep_numbered: bool,
    got: Got,
    /// The digest of what came under an id, and whether it was accepted.
    ids: HashMap<String, ([u8; 32], bool)>,
    connections: Vec<TcpStream>,
}

/// A receiver. It ends with the process of the test.
#[derive(Clone, Debug)]
pub struct Sink {
    port: u16,
    listener: Arc<TcpListener>,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Sink {
    /// A receiver of requests, in the network of the room.
    pub fn new(room: &Room) -> Self {
        Self::start(room, Self::converse)
    }

    /// A receiver of syslog over TCP.
    pub fn syslog(room: &Room) -> Self {
        Self::start(room, Self::hear)
    }

    fn start(room: &Room, serve: fn(&Self, TcpStream)) -> Self {
        let listener = Arc::new(room.namespaces().map_or_else(bind, |own: &Namespaces| own.within(bind)));
        let port = listener.local_addr().expect("it is bound").port();
        let state = State {
            mood: Mood::Accept,
            keep_numbered: true,
            got: Got::default(),
            ids: HashMap::new(),
            connections: Vec::new(),
        };
        let sink = Self { port, listener, state: Arc::new((Mutex::new(state), Condvar::new())) };
        let accepting = sink.clone();
        thread::spawn(move || accepting.accept(serve));
        sink
    }

    /// The URL that a drain to it has: with a user and a password.
    pub fn url(&self) -> String {
        format!("http://token:s3cret@127.0.0.1:{}/logs", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Does not keep numbered lines, of which there may be millions.
    #[must_use]
    pub fn counting(self) -> Self {
        self.state().keep_numbered = false;
        self
    }

    /// From now on it is in another mood. Connections that there are are closed where nobody may connect.
    ///
    /// # Panics
    /// If the system does not let it.
    pub fn set(&self, mood: Mood) {
        let mut state = self.state();
        let (was, is) = (state.mood == Mood::Refuse, mood == Mood::Refuse);
        if is && !was {
            shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).expect("it listens");
            for connection in state.connections.drain(..) {
                let _closed_already = connection.shutdown(Shutdown::Both);
            }
        }
        if was && !is {
            listen(&self.listener, Backlog::MAXCONN).expect("the port is ours");
        }
        state.mood = mood;
        self.state.1.notify_all();
    }

    /// What it has got so far.
    pub fn got(&self) -> Got {
        self.state().got.clone()
    }

    /// Waits until it has got something.
    ///
    /// # Panics
    /// If it has not in good time.
    pub fn wait<T>(&self, what: &str, look: impl Fn(&Got) -> Option<T>) -> T {
        self.wait_long(what, PATIENCE, look)
    }

    /// The same, for a long time.
    ///
    /// # Panics
    /// If it has not in that time.
    pub fn wait_long<T>(&self, what: &str, patience: Duration, look: impl Fn(&Got) -> Option<T>) -> T {
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        loop {
            if let Some(found) = look(&state.got) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the sink has waited {patience:?} in vain for this: {what}; {:?}",
                Got {
                    frames: state.got.frames.iter().rev().take(20).rev().cloned().collect(),
                    ..state.got.clone()
                }
            );
            state = self.state.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a line of a dyno that holds a text.
    pub fn wait_line(&self, dyno: &str, text: &str) -> Frame {
        self.wait(&format!("{text:?} of {dyno}"), |got| {
            got.frames.iter().find(|frame| frame.dyno == dyno && frame.text().contains(text)).cloned()
        })
    }

    /// The lines that a dyno has printed, which have to be all that they should be.
    ///
    /// # Panics
    /// If anything that came was wrong.
    pub fn lines(&self, dyno: &str) -> Vec<String> {
        let got = self.got();
        assert_eq!(got.faults, [""; 0]);
        let of_dyno = |frame: &&Frame| frame.dyno == dyno && frame.source == "app";
        got.frames.iter().filter(of_dyno).map(Frame::text).collect()
    }

    fn accept(&self, serve: fn(&Self, TcpStream)) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    self.state().connections.push(stream.try_clone().expect("a descriptor can be copied"));
                    let sink = self.clone();
                    thread::spawn(move || serve(&sink, stream));
                }
                Err(_it_refuses) => {
                    let mut state = self.state();
                    while state.mood == Mood::Refuse {
                        state = self.state.1.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
    }

    fn converse(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a descriptor can be copied"));
        let mut writer = stream;
        while let Some(delivery) = read(&mut reader) {
            let Some(status) = self.judge(&delivery) else {
                let _closed_already = writer.shutdown(Shutdown::Both);
                return;
            };
            let answer = format!("HTTP/1.1 {status} Told\r\nContent-Length: 0\r\n\r\n");
            if writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// Takes a request as the mood is; gives the status to answer with, or none to hang up.
    fn judge(&self, delivery: &Delivery) -> Option<u16> {
        let id = delivery.header("logplex-frame-id").to_owned();
        let digest: [u8; 32] = Sha256::digest(&delivery.body).into();
        let frames = delivery.frames();
        let mut state = self.state();
        if !state.got.authorization.contains(&delivery.header("authorization").to_owned()) {
            let authorization = delivery.header("authorization").to_owned();
            state.got.authorization.push(authorization);
        }
        if delivery.path != "/logs" {
            state.got.faults.push(format!("the path is {}", delivery.path));
        }
        let known = state.ids.entry(id.clone()).or_insert((digest, false)).0;
        if known != digest {
            state.got.faults.push(format!("{id} was sent again with another body"));
        }
        while state.mood == Mood::Hold {
            state = self.state.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.mood.clone() {
            Mood::Accept | Mood::Hold => {}
            Mood::Slow(time) => {
                drop(state);
                thread::sleep(time);
                state = self.state();
            }
            Mood::Status(status) => return Some(status),
            Mood::Cut | Mood::Refuse => return None,
        }
        match state.ids.insert(id, (digest, true)) {
            Some((_, true)) => state.got.again += 1,
            Some((_, false)) | None => match frames {
                Ok(frames) => frames.into_iter().for_each(|frame| state.take(frame)),
                Err(fault) => state.got.faults.push(fault),
            },
        }
        state.got.requests += 1;
        self.state.1.notify_all();
        Some(204)
    }

    /// Takes syslog messages until the connection ends.
    fn hear(&self, mut stream: TcpStream) {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..length]);
            let mut taken = 0;
            loop {
                match frame(&bytes[taken..]) {
                    Ok(Some((frame, length))) => {
                        taken += length;
                        self.state().take(frame);
                    }
                    Ok(None) => break,
                    Err(fault) => {
                        self.state().got.faults.push(fault);
                        return;
                    }
                }
            }
            bytes.drain(..taken);
            self.state.1.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, frame: Frame) {
        if let Some(number) = number(&frame.message).filter(|_| frame.source == "app") {
            let next = self.got.numbered.entry(frame.dyno.clone()).or_default();
            if number < *next {
                self.got.faults.push(format!("{} of {} came when {next} was next", number, frame.dyno));
            } else {
                self.got.missing += number - *next;
                *next = number + 1;
            }
            if !self.keep_numbered {
                return;
            }
        }
        self.got.frames.push(frame);
    }
}

/// The number in `L17E...`.
fn number(message: &[u8]) -> Option<u64> {
    let end = message.iter().take(22).position(|byte| *byte == b'E')?;
    std::str::from_utf8(message.get(1..end)?).ok()?.parse().ok().filter(|_| message.starts_with(b"L"))
}

/// A listener whose port stays its own while it does not listen.
fn bind() -> TcpListener {
    for _ in 0..100 {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|any| any.local_addr()).expect("a port is free").port();
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener;
        }
    }
    panic!("no port can be had")
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Delivery> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let path = line.strip_prefix("POST ")?.split(' ').next()?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        let mut plain = Vec::new();
        GzDecoder::new(body.as_slice()).read_to_end(&mut plain).ok()?;
        body = plain;
    }
    Some(Delivery { path, headers, body })
}
