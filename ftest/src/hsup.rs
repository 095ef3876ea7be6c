//! A running hsup: what it prints, what it says of its dynos, and its end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::answer::{Answer, get, post};
use crate::binary::hsup_binary;
use crate::procs;
use crate::room::Room;
use crate::wait::{PATIENCE, eventually};

/// How long a killed hsup may take to be gone, with its socket.
const DYING: Duration = Duration::from_secs(5);

/// A running hsup. It is killed when dropped.
#[derive(Debug)]
pub struct Hsup {
    child: Child,
    output: Arc<Output>,
    socket: PathBuf,
    /// What it is typed at, where a test types.
    keyboard: Option<Mutex<ChildStdin>>,
}

/// How an hsup ended, and all that it printed.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code, 128 + n if signal n ended it.
    pub code: i32,
    /// Its output.
    pub stdout: String,
    /// Its log.
    pub stderr: String,
}

#[derive(Debug, Default)]
struct Output {
    printed: Mutex<Printed>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Printed {
    lines: Vec<String>,
    stdout: String,
    stderr: String,
    closed: u32,
}

impl Output {
    fn printed(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one of the two streams to its end.
    fn follow(self: Arc<Self>, stream: impl Read + Send + 'static, text: fn(&mut Printed) -> &mut String) {
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut bytes = Vec::new();
            while let Ok(1..) = stream.read_until(b'\n', &mut bytes) {
                let line = String::from_utf8_lossy(&bytes).into_owned();
                let mut printed = self.printed();
                text(&mut printed).push_str(&line);
                printed.lines.push(line.trim_end_matches('\n').to_owned());
                self.changed.notify_all();
                bytes.clear();
            }
            self.printed().closed += 1;
            self.changed.notify_all();
        });
    }

    fn wait<T>(&self, what: &str, find: impl Fn(&Printed) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut printed = self.printed();
        loop {
            if let Some(found) = find(&printed) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text = printed.lines.join("\n");
                drop(printed);
                panic!("waited {PATIENCE:?} in vain for this: {what}\nhsup has printed:\n{text}");
            }
            printed = self.changed.wait_timeout(printed, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Hsup {
    fn drop(&mut self) {
        // The child of the guardian first, so that the guardian does its work; what is left is the room's.
        let children = procs::children(self.pid());
        children.iter().for_each(|pid| procs::signal(*pid, Signal::SIGKILL));
        let deadline = Instant::now() + DYING;
        while Instant::now() < deadline && children.iter().any(|pid| procs::alive(*pid)) {
            thread::yield_now();
        }
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Hsup {
    pub(crate) fn spawn(mut command: Command, input: Option<Vec<u8>>, room: &Room) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let output = Arc::new(Output::default());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Arc::clone(&output).follow(stdout.expect("it is piped"), |printed| &mut printed.stdout);
        Arc::clone(&output).follow(stderr.expect("it is piped"), |printed| &mut printed.stderr);
        if let Some(input) = input {
            let mut stdin = child.stdin.take().expect("it is piped");
            thread::spawn(move || {
                let _nobody_reads = stdin.write_all(&input);
            });
        }
        Self { child, output, socket: room.socket(), keyboard: None }
    }

    /// Starts a command that gives hsup a terminal, at which the test types.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn type_at(mut command: Command, room: &Room) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut hsup = Self::spawn(command, None, room);
        hsup.keyboard = hsup.child.stdin.take().map(Mutex::new);
        hsup
    }

    /// Types.
    ///
    /// # Panics
    /// If there is no terminal, or not any more.
    pub fn type_text(&self, text: &str) {
        let keyboard = self.keyboard.as_ref().expect("hsup is at a terminal");
        let mut keyboard = keyboard.lock().unwrap_or_else(PoisonError::into_inner);
        let typed = keyboard.write_all(text.as_bytes()).and_then(|()| keyboard.flush());
        typed.unwrap_or_else(|error| panic!("cannot type: {error}; {}", self.printed()));
    }

    /// The pid of the process that was started: hsup's guardian.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pid of hsup proper, the guardian's child.
    pub fn proper(&self) -> u32 {
        let hsup = hsup_binary();
        let is_hsup = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == hsup);
        let find = || procs::children(self.pid()).into_iter().find(is_hsup);
        eventually("hsup proper is there", || self.printed(), find)
    }

    /// Everything printed so far, for messages.
    pub fn printed(&self) -> String {
        format!("hsup has printed:\n{}", self.output.printed().lines.join("\n"))
    }

    /// The lines printed so far that hold a text.
    pub fn lines(&self, text: &str) -> Vec<String> {
        self.output.printed().lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// Waits for a line that holds a text.
    pub fn wait_line(&self, text: &str) -> String {
        self.wait_nth_line(text, 1)
    }

    /// Waits for the n-th line that holds a text.
    pub fn wait_nth_line(&self, text: &str, n: usize) -> String {
        let find =
            |printed: &Printed| printed.lines.iter().filter(|line| line.contains(text)).nth(n - 1).cloned();
        self.output.wait(&format!("line {n} with {text:?}"), find)
    }

    /// `GET`s a resource of its control API.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn get(&self, resource: &str) -> Answer {
        get(&self.socket, resource)
            .unwrap_or_else(|| panic!("no answer to GET {resource}; {}", self.printed()))
    }

    /// `POST`s to a resource of its control API.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn post(&self, resource: &str, body: &str) -> Answer {
        let answer = post(&self.socket, resource, body);
        answer.unwrap_or_else(|| panic!("no answer to POST {resource} {body}; {}", self.printed()))
    }

    /// A dyno as `/status` has it; null if it has not.
    pub fn dyno(&self, name: &str) -> Value {
        let status = self.get("/status").json();
        let dynos = status.get("Dynos").and_then(Value::as_array).expect("there are Dynos");
        dynos.iter().find(|dyno| dyno["Name"] == name).cloned().unwrap_or_default()
    }

    /// Waits until `/status` has a dyno as it should be.
    pub fn wait_dyno(&self, name: &str, what: &str, as_it_should_be: impl Fn(&Value) -> bool) -> Value {
        let context = || format!("it is {}; {}", self.dyno(name), self.printed());
        let look = || Some(self.dyno(name)).filter(&as_it_should_be);
        eventually(&format!("{name} {what}"), context, look)
    }

    /// Waits until a dyno is up, and gives the pid of its main process.
    pub fn wait_up(&self, name: &str) -> u32 {
        let up = |dyno: &Value| dyno["State"] == "up" && dyno["Pid"].is_u64();
        pid_of(&self.wait_dyno(name, "is up", up))
    }

    /// The pid of a dyno's main process now.
    pub fn dyno_pid(&self, name: &str) -> u32 {
        pid_of(&self.dyno(name))
    }

    /// Signals it: its guardian, as whoever started it would.
    pub fn signal(&self, signal: Signal) {
        procs::signal(self.pid(), signal);
    }

    /// Waits for its end and the end of what it prints.
    ///
    /// # Panics
    /// If it does not end, or processes that it has left behind hold its output open.
    pub fn end(mut self) -> Ended {
        let output = Arc::clone(&self.output);
        let context = || format!("hsup has printed:\n{}", output.printed().lines.join("\n"));
        let status = eventually("hsup ends", context, || self.child.try_wait().expect("it is our child"));
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        self.output.wait("the end of what hsup prints, which nobody holds open", |printed| {
            (printed.closed == 2).then(|| Ended {
                code: code.expect("it was ended by itself or by a signal"),
                stdout: printed.stdout.clone(),
                stderr: printed.stderr.clone(),
            })
        })
    }

    /// Stops it with SIGTERM and waits for its end.
    pub fn stop(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.end()
    }
}

fn pid_of(dyno: &Value) -> u32 {
    let pid = dyno["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    pid.unwrap_or_else(|| panic!("the dyno has no pid: {dyno}"))
}
