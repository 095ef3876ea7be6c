//! Processes of this host, as /proc has them: an oracle that knows nothing of how hsup looks for them.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::eventually;

/// How long the clean-up of a test waits for what it has killed.
const KILLED: Duration = Duration::from_secs(5);

/// Whether a process is there and has not ended. One whose first thread has ended shows as a zombie and lives, with
/// all that it has open, while it has other threads.
pub fn alive(pid: u32) -> bool {
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X') || threads() > 1)
}

fn state(pid: u32) -> Option<char> {
    after_name(pid)?.chars().next()
}

/// What `/proc/PID/stat` has after the name, which may hold blanks and parentheses.
fn after_name(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.get(stat.rfind(')')? + 2..)?.to_owned())
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    after_name(pid)?.split(' ').nth(1)?.parse().ok()
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    all().into_iter().filter(|other| parent(*other) == Some(pid)).collect()
}

/// Every process of this host.
fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("there is a /proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The processes that hold a text in their command line or in the environment they were started with.
pub fn marked(mark: &str) -> Vec<u32> {
    let holds = |pid: u32, file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.windows(mark.len()).any(|window| window == mark.as_bytes())
    };
    let marked = |pid: &u32| alive(*pid) && (holds(*pid, "environ") || holds(*pid, "cmdline"));
    all().into_iter().filter(marked).collect()
}

/// A process in words, for the messages of a test that fails.
pub fn describe(pid: u32) -> String {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
    format!("{pid} (state {:?}, parent {:?}): {cmdline}", state(pid), parent(pid))
}

/// The environment that a process was started with. In the middle of an exec there is none to be read.
pub fn environment(pid: u32) -> Vec<String> {
    let read = || fs::read(format!("/proc/{pid}/environ")).ok().filter(|bytes| !bytes.is_empty());
    let bytes = eventually("the environment of a process", || describe(pid), read);
    let vars = bytes.split(|byte| *byte == 0).filter(|var| !var.is_empty());
    vars.map(|var| String::from_utf8_lossy(var).into_owned()).collect()
}

/// The environment of a process that may well have none.
pub fn environment_now(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let vars = bytes.split(|byte| *byte == 0).filter(|var| !var.is_empty());
    vars.map(|var| String::from_utf8_lossy(var).into_owned()).collect()
}

/// Signals a process; one that is gone does not mind.
pub fn signal(pid: u32, signal: Signal) {
    let _gone = kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// Kills the processes with a mark until there are none.
pub fn kill_marked(mark: &str) {
    let deadline = Instant::now() + KILLED;
    loop {
        let left = marked(mark);
        if left.is_empty() || Instant::now() > deadline {
            return;
        }
        left.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    }
}
