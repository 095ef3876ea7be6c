//! The ledger of running hsups, and the clean-up after those that could not clean up themselves.
//!
//! Each hsup has a file under `running/` of the state dir, made before its first dyno. When hsup *and* its
//! guardian are killed at once, the file stays, and with it the name by which the next hsup finds the
//! processes that were left behind.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::finding::{Finding, State, What};
use crate::guardian::{Guardian, MARK};
use crate::owner::{Owner, OwnerState, Place};
use crate::{KillSignal, process, sys};

/// How long to wait for the processes that a dead hsup left behind to be gone once they are killed.
const KILLED: Duration = Duration::from_secs(5);

/// A file operation on the ledger failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} {}", path.display())]
pub struct LedgerError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// This hsup's entry in the ledger; dropping it removes the entry.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove this hsup's ledger entry");
        }
    }
}

/// Kills what dead hsups left behind and enters this one. Returns the entry and how many processes it killed.
///
/// # Errors
/// If the ledger cannot be read or written.
pub fn enter(state_dir: &Path, guardian: &Guardian) -> Result<(Entry, usize), LedgerError> {
    let dir = dir(state_dir);
    fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
    let mut killed = 0;
    for dead in dead(&dir)? {
        wait_for_owner(&fs::read_to_string(&dead.path).unwrap_or_default());
        killed += kill_marked(&dead.mark);
        dead.strike()?;
    }
    let path = dir.join(guardian.instance());
    let me = std::process::id();
    let start_time = process::stat(me).map_or(0, |stat| stat.start_time);
    fs::write(&path, format!("{me} {start_time}")).map_err(failed("write", &path))?;
    Ok((Entry { path }, killed))
}

fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("running")
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError { operation, path, source }
}

/// The entry of a dead hsup.
struct Dead {
    path: PathBuf,
    /// What the marks of its dynos begin with.
    mark: String,
}

impl Dead {
    /// Removes it, unless somebody else was first.
    fn strike(&self) -> Result<(), LedgerError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.path)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Its processes, and itself.
    fn look(&self) -> Vec<Finding> {
        let processes = marked(&self.mark).into_iter().map(|pid| {
            let mark = process::variable(pid, MARK).unwrap_or_default();
            let run = mark.strip_prefix(&self.mark).unwrap_or_default();
            let dyno = run.rsplit_once('.').map_or(run, |(dyno, _number)| dyno);
            Finding { what: What::Process, place: format!("{pid} of {dyno}"), state: State::Found }
        });
        let entry =
            Finding { what: What::Entry, place: self.path.display().to_string(), state: State::Found };
        processes.chain([entry]).collect()
    }

    fn mend(&self) -> Vec<Finding> {
        let mut findings = self.look();
        kill_marked(&self.mark);
        let state = if marked(&self.mark).is_empty() {
            self.strike().map_or_else(|error| State::Kept(crate::explain(&error)), |()| State::Mended)
        } else {
            State::Kept("not all processes of its dynos can be killed; see ps -e for state D".to_owned())
        };
        findings.iter_mut().for_each(|finding| finding.state = state.clone());
        findings
    }
}

/// The entries of dead hsups; none where there is no ledger.
fn dead(dir: &Path) -> Result<Vec<Dead>, LedgerError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("read", dir))?,
    };
    let mut dead = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("read", dir))?;
        if let Some(instance) = entry.file_name().to_str().filter(|name| is_dead(name)) {
            dead.push(Dead { path: entry.path(), mark: format!("{instance}/") });
        }
    }
    Ok(dead)
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
    let dir = dir(state_dir);
    let dead = match dead(&dir) {
        Ok(dead) => dead,
        Err(error) => {
            let (place, state) = (dir.display().to_string(), State::Kept(crate::explain(&error)));
            return vec![Finding { what: What::Entry, place, state }];
        }
    };
    dead.iter().flat_map(|dead| if mends { dead.mend() } else { dead.look() }).collect()
}

/// Waits for an hsup proper (`<pid> <start time>`) whose guardian is dead to be gone, and its socket with it:
/// it is either being killed or killing its dynos.
fn wait_for_owner(owner: &str) {
    let Some((pid, start_time)) = owner.split_once(' ') else { return };
    let (Ok(pid), Ok(start_time)) = (pid.parse(), start_time.parse::<u64>()) else { return };
    let Ok(pidfd) = sys::pidfd_open(pid) else { return };
    if process::stat(pid).is_some_and(|stat| stat.start_time == start_time)
        && !process::ends_within(pidfd.as_fd(), KILLED)
    {
        tracing::error!("an hsup whose guardian was killed does not end: process {pid}");
    }
}

/// Whether the guardian of that instance is dead. A name that is none says nothing of an hsup of this boot.
fn is_dead(instance: &str) -> bool {
    match instance.parse::<Owner>() {
        Ok(guardian) => guardian.state() == OwnerState::Dead,
        Err(_) => instance.split('-').next() != Some(Place::here().boot.as_str()),
    }
}

/// Kills every process that was started with such a mark, until none is left or `KILLED` has passed.
fn kill_marked(mark: &str) -> usize {
    let mut killed = 0;
    loop {
        let left: Vec<OwnedFd> =
            marked(mark).into_iter().filter_map(|pid| kill_if_marked(pid, mark)).collect();
        if left.is_empty() {
            return killed;
        }
        killed += left.len();
        for pidfd in left {
            if !process::ends_within(pidfd.as_fd(), KILLED) {
                tracing::error!(
                    "a process that a dead hsup left behind cannot be killed; see ps -e for state D"
                );
                return killed;
            }
        }
    }
}

fn marked(mark: &str) -> Vec<u32> {
    process::all().unwrap_or_default().into_iter().filter(|pid| is_marked(*pid, mark)).collect()
}

fn is_marked(pid: u32, mark: &str) -> bool {
    process::is_alive(pid) && process::variable(pid, MARK).is_some_and(|value| value.starts_with(mark))
}

/// The pidfd is opened first and the mark read again after, so that a reused pid is not killed.
fn kill_if_marked(pid: u32, mark: &str) -> Option<OwnedFd> {
    let pidfd = sys::pidfd_open(pid).ok()?;
    if !is_marked(pid, mark) {
        return None;
    }
    sys::pidfd_signal(pidfd.as_fd(), KillSignal::Kill).ok()?;
    Some(pidfd)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

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
        fs::create_dir_all(&running).unwrap();
        let dead = &format!("{}-4194304-1", place());
        let live = Guardian::none();
        // One of a container: its pid says nothing here, whether or not there is such a process.
        let boot = place().split('-').next().unwrap().to_owned();
        let foreign = &format!("{boot}-1-4194304-1");
        let mut left = marked_sleep(dead);
        let mut foreign_dyno = marked_sleep(foreign);
        let mut kept = marked_sleep(live.instance());
        fs::write(running.join(dead), "").unwrap();
        fs::write(running.join(foreign), "").unwrap();
        fs::write(running.join(live.instance()), "").unwrap();

        let (entry, killed) = enter(state.path(), &live).unwrap();

        assert_eq!(killed, 1);
        assert!(!left.wait().unwrap().success());
        assert!(kept.try_wait().unwrap().is_none());
        assert!(!running.join(dead).exists());
        assert!(foreign_dyno.try_wait().unwrap().is_none());
        assert!(running.join(foreign).exists());
        for mut child in [kept, foreign_dyno] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        drop(entry);
        assert_eq!(fs::read_dir(&running).unwrap().count(), 1);
    }

    #[test]
    fn the_doctor_shows_what_a_dead_hsup_left_running_and_ends_it_when_told_to() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(look(state.path()), []);
        let running = state.path().join("running");
        fs::create_dir_all(&running).unwrap();
        let dead = &format!("{}-4194304-2", place());
        fs::write(running.join(dead), "").unwrap();
        fs::write(running.join(Guardian::none().instance()), "").unwrap();
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
