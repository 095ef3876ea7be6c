//! The ledger of running hsups, and the clean-up after those that could not clean up themselves.
//!
//! Each hsup has a file under `running/` of the state dir, made before it owns anything and removed last, and holds a lock
//! on it. When hsup *and* its guardian are killed at once, the file stays without the lock, and with it the name by which
//! the next hsup finds the processes that were left behind.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::finding::{Finding, State, What};
use crate::guardian::MARK;
use crate::owner::{Owner, OwnerState};
use crate::running::{self, Running};
use crate::{KillSignal, process, sys};

/// How long to wait for the processes that a dead hsup left behind to be gone once they are killed.
const KILLED: Duration = Duration::from_secs(5);

/// Of an entry that has to stay.
const ALIVE: &str = "not all processes of its dynos can be killed; see ps -e for state D";

/// A file operation on the ledger failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} {}", path.display())]
pub struct LedgerError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// This hsup's entry in the ledger; dropping it removes the entry. Its lock is held by every process of this hsup, and
/// tells those in other pid namespaces that it lives: see [`Running`].
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    lock: Flock<File>,
    /// Who removes it: no other process that was forked with it.
    pid: u32,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove this hsup's ledger entry");
        }
    }
}

/// Enters this hsup. To be called by the process that was started, before it forks.
///
/// # Errors
/// If the entry cannot be made or locked.
pub fn enter(state_dir: &Path) -> Result<Entry, LedgerError> {
    let dir = running::dir(state_dir);
    fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
    let path = dir.join(Owner::me().to_string());
    // Under its name it is locked from the first moment on.
    let new = path.with_extension("new");
    let file = File::create(&new).map_err(failed("create", &new))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    let lock = lock.map_err(|(_, error)| failed("lock", &new)(error.into()))?;
    let mut entry = Entry { path: new.clone(), lock, pid: 0 };
    entry.join()?;
    fs::rename(&new, &path).map_err(failed("rename", &new))?;
    entry.path = path;
    Ok(entry)
}

impl Entry {
    /// Adds this process, which was forked by the one that made the entry, before it owns anything, and has it remove the
    /// entry.
    ///
    /// # Errors
    /// If the entry cannot be written.
    pub fn join(&mut self) -> Result<(), LedgerError> {
        self.pid = std::process::id();
        let written = self.lock.write_all(format!("{}\n", Owner::me()).as_bytes());
        written.map_err(failed("write", &self.path))
    }
}

/// Kills what dead hsups have left running; gives how many processes.
///
/// # Errors
/// If the ledger cannot be read or written.
pub fn kill_left(state_dir: &Path) -> Result<usize, LedgerError> {
    let mut killed = 0;
    for dead in entries(state_dir, OwnerState::Dead)? {
        wait_for_owner(&dead.path);
        killed += kill_marked(&dead.mark);
        if none_is_marked(&dead.mark) {
            dead.strike()?;
        } else {
            // By the entry the next start finds them again.
            let entry = dead.path.display();
            tracing::error!(
                "of the hsup of {entry}, which is dead, {ALIVE}; `hsup doctor --fix` tries again"
            );
        }
    }
    Ok(killed)
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError { operation, path, source }
}

/// The entry of an hsup that is dead, or may be.
struct Left {
    path: PathBuf,
    /// What the marks of its dynos begin with.
    mark: String,
}

impl Left {
    /// Removes it, unless somebody else was first.
    fn strike(&self) -> Result<(), LedgerError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.path)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn look(&self) -> Vec<Finding> {
        let mut findings = self.processes();
        findings.push(self.finding(State::Found));
        findings
    }

    fn mend(&self) -> Vec<Finding> {
        let mut findings = self.processes();
        kill_marked(&self.mark);
        let (of_processes, of_entry) = if none_is_marked(&self.mark) {
            let kept = |error| State::Kept(crate::explain(&error));
            (State::Mended, self.strike().map_or_else(kept, |()| State::Mended))
        } else {
            (State::Kept(ALIVE.to_owned()), State::Kept(ALIVE.to_owned()))
        };
        findings.iter_mut().for_each(|process| process.state = of_processes.clone());
        findings.push(self.finding(of_entry));
        findings
    }

    /// The processes of its dynos.
    fn processes(&self) -> Vec<Finding> {
        let processes = marked(&self.mark).unwrap_or_default().into_iter().map(|pid| {
            let mark = process::variable(pid, MARK).unwrap_or_default();
            let run = mark.strip_prefix(&self.mark).unwrap_or_default();
            let dyno = run.rsplit_once('.').map_or(run, |(dyno, _number)| dyno);
            Finding { what: What::Process, place: format!("{pid} of {dyno}"), state: State::Found }
        });
        processes.collect()
    }

    fn finding(&self, state: State) -> Finding {
        Finding { what: What::Entry, place: self.path.display().to_string(), state }
    }
}

/// The entries of hsups in this state; none where there is no ledger.
fn entries(state_dir: &Path, state: OwnerState) -> Result<Vec<Left>, LedgerError> {
    let (dir, running) = (&running::dir(state_dir), Running::of(state_dir));
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(failed("read", dir))?,
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry.map_err(failed("read", dir))?;
        if let Some(instance) = entry.file_name().to_str().filter(|name| state_of(name, &running) == state) {
            entries.push(Left { path: entry.path(), mark: format!("{instance}/") });
        }
    }
    Ok(entries)
}

/// Looks for what dead hsups have left: entries in the ledger, and processes of their dynos. Changes nothing.
pub fn look(state_dir: &Path) -> Vec<Finding> {
    find(state_dir, false)
}

/// Kills and removes what dead hsups have left, as the next start of an hsup does.
pub fn mend(state_dir: &Path) -> Vec<Finding> {
    find(state_dir, true)
}

fn find(state_dir: &Path, mends: bool) -> Vec<Finding> {
    let both = entries(state_dir, OwnerState::Dead)
        .and_then(|dead| Ok((dead, entries(state_dir, OwnerState::Unknown)?)));
    let (dead, unknown) = match both {
        Ok(both) => both,
        Err(error) => {
            let place = running::dir(state_dir).display().to_string();
            let state = State::Kept(crate::explain(&error));
            return vec![Finding { what: What::Entry, place, state }];
        }
    };
    let dead = dead.iter().flat_map(|dead| if mends { dead.mend() } else { dead.look() });
    let unknown = unknown.iter().map(|entry| entry.finding(State::Kept(running::UNKNOWN.to_owned())));
    dead.chain(unknown).collect()
}

/// Waits for an hsup proper whose guardian is dead to be gone, and its socket with it: it is either being killed or
/// killing its dynos.
fn wait_for_owner(entry: &Path) {
    let Some(proper) = running::owners(entry).and_then(|mut owners| owners.pop()) else { return };
    let Ok(pidfd) = sys::pidfd_open(proper.pid) else { return };
    if proper.state() == OwnerState::Alive && !process::ends_within(pidfd.as_fd(), KILLED) {
        tracing::error!("an hsup whose guardian was killed does not end: process {}", proper.pid);
    }
}

/// Whether the guardian of that instance lives. A name that is none says nothing of an hsup of this boot.
fn state_of(instance: &str, running: &Running) -> OwnerState {
    match instance.parse::<Owner>() {
        Ok(guardian) => running.state_of(&guardian),
        Err(_) if instance.split('-').next() == Some(running.here.boot.as_str()) => OwnerState::Alive,
        Err(_) => OwnerState::Dead,
    }
}

/// Kills every process that was started with such a mark, until none is left or `KILLED` has passed.
fn kill_marked(mark: &str) -> usize {
    let mut killed = 0;
    loop {
        let marked = marked(mark).unwrap_or_default();
        let left: Vec<OwnedFd> = marked.into_iter().filter_map(|pid| kill_if_marked(pid, mark)).collect();
        if left.is_empty() {
            return killed;
        }
        killed += left.len();
        for pidfd in left {
            if !process::ends_within(pidfd.as_fd(), KILLED) {
                return killed;
            }
        }
    }
}

/// Whether it is known that no process with such a mark is alive.
fn none_is_marked(mark: &str) -> bool {
    marked(mark).is_ok_and(|marked| marked.is_empty())
}

fn marked(mark: &str) -> io::Result<Vec<u32>> {
    let mut marked = Vec::new();
    for pid in process::all()? {
        if is_marked(pid, mark)? {
            marked.push(pid);
        }
    }
    Ok(marked)
}

fn is_marked(pid: u32, mark: &str) -> io::Result<bool> {
    let is_alive = process::look(pid)?.is_some_and(|stat| stat.is_alive(pid));
    Ok(is_alive && process::look_for_variable(pid, MARK)?.is_some_and(|value| value.starts_with(mark)))
}

/// The pidfd is opened first and the mark read again after, so that a reused pid is not killed.
fn kill_if_marked(pid: u32, mark: &str) -> Option<OwnedFd> {
    let pidfd = sys::pidfd_open(pid).ok()?;
    if !is_marked(pid, mark).unwrap_or_default() {
        return None;
    }
    sys::pidfd_signal(pidfd.as_fd(), KillSignal::Kill).ok()?;
    Some(pidfd)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::owner::Place;

    fn place() -> String {
        Place::here().to_string()
    }

    fn marked_sleep(instance: &str) -> Child {
        Command::new("sleep").arg("600").env(MARK, format!("{instance}/web.1.0")).spawn().unwrap()
    }

    #[test]
    fn what_a_dead_hsup_left_is_killed_and_what_a_live_one_runs_is_not() {
        let state = tempfile::tempdir().unwrap();
        let running = state.path().join("running");
        let entry = enter(state.path()).unwrap();
        let live = Owner::me().to_string();
        let dead = &format!("{}-4194304-1", place());
        // One of a container: its pid says nothing here, whether or not there is such a process.
        let boot = place().split('-').next().unwrap().to_owned();
        let foreign = &format!("{boot}-1-4194304-1");
        let mut left = marked_sleep(dead);
        let mut foreign_dyno = marked_sleep(foreign);
        let mut kept = marked_sleep(&live);
        fs::write(running.join(dead), "").unwrap();
        fs::write(running.join(foreign), "").unwrap();

        assert_eq!(kill_left(state.path()).unwrap(), 1);

        assert!(!left.wait().unwrap().success());
        assert!(kept.try_wait().unwrap().is_none());
        assert!(!running.join(dead).exists());
        assert!(foreign_dyno.try_wait().unwrap().is_none());
        assert!(running.join(foreign).exists());

        let unknown = Finding {
            what: What::Entry,
            place: running.join(foreign).display().to_string(),
            state: State::Kept(crate::running::UNKNOWN.to_owned()),
        };
        assert_eq!([look(state.path()), mend(state.path())].concat(), [unknown.clone(), unknown]);

        // It has entered itself as hsups do, and does not hold its entry.
        fs::write(running.join(foreign), format!("{foreign}\n")).unwrap();
        assert_eq!(kill_left(state.path()).unwrap(), 1);
        assert!(!foreign_dyno.wait().unwrap().success());
        assert!(!running.join(foreign).exists());

        kept.kill().unwrap();
        kept.wait().unwrap();
        drop(entry);
        assert_eq!(fs::read_dir(&running).unwrap().count(), 0);
    }

    #[test]
    fn the_doctor_shows_what_a_dead_hsup_left_running_and_ends_it_when_told_to() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(look(state.path()), []);
        let running = state.path().join("running");
        fs::create_dir_all(&running).unwrap();
        let dead = &format!("{}-4194304-2", place());
        fs::write(running.join(dead), "").unwrap();
        fs::write(running.join(Owner::me().to_string()), "").unwrap();
        let mut left = marked_sleep(dead);
        let finding = |what, place: String, state| Finding { what, place, state };
        let both = |state: &State| {
            let entry = running.join(dead).display().to_string();
            let process = format!("{} of web.1", left.id());
            [finding(What::Process, process, state.clone()), finding(What::Entry, entry, state.clone())]
        };

        assert_eq!(look(state.path()), both(&State::Found));
        let mended = mend(state.path());
        assert_eq!(mended, both(&State::Mended));

        assert!(!left.wait().unwrap().success());
        assert_eq!(look(state.path()), []);
        assert_eq!(fs::read_dir(&running).unwrap().count(), 1);
    }
}
