//! The end of a cgroup: its processes are killed, its directories removed.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::controller::write;
use super::dirs::{children, keyed, procs};
use super::{Cgroup, CgroupError};
use crate::{KillSignal, sys};

/// How long killed processes may take to be gone. A process that takes longer is stuck in the kernel.
const ENDED: Duration = Duration::from_secs(5);
/// How long to wait for one round of killed processes, before those that they have forked meanwhile are killed.
const ROUND: Duration = Duration::from_millis(20);
/// How long all processes may take to stand still.
const FROZEN: Duration = Duration::from_millis(200);
/// How long to wait for the kernel to let go of a cgroup whose last process has ended, of which it may send no word
/// in time.
const LET_GO: Duration = Duration::from_millis(1);

impl Cgroup {
    /// The processes in it, and in cgroups that the dyno has made below it.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn procs(&self) -> Result<Vec<u32>, CgroupError> {
        let mut pids = Vec::new();
        for dir in self.paths() {
            pids.extend(procs(dir)?);
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Kills all processes in it. With a kernel that does so at once (5.14), they may still be ending when this
    /// returns, which [`Cgroup::remove`] waits for; else it returns when none is left.
    ///
    /// # Errors
    /// If they cannot be killed, or do not end.
    pub fn kill(&self) -> Result<(), CgroupError> {
        if let Some(dir) = &self.unified {
            let path = dir.join("cgroup.kill");
            if path.exists() {
                return gone_is_fine(write(&path, "1"));
            }
        }
        self.kill_each()
    }

    /// Kills the processes one by one, until none is left. For that they are frozen where they can be, and may not
    /// fork where that can be forbidden, so that there are not more of them meanwhile; SIGKILL reaches them all the
    /// same.
    pub(super) fn kill_each(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + ENDED;
        let frozen = self.unified.as_deref().filter(|dir| dir.join("cgroup.freeze").exists());
        if let Some(dir) = frozen {
            gone_is_fine(write(&dir.join("cgroup.freeze"), "1"))?;
            wait_until_frozen(dir, Instant::now() + FROZEN)?;
        }
        for dir in self.paths() {
            let path = dir.join("pids.max");
            if path.exists() {
                gone_is_fine(write(&path, "0"))?;
            }
        }
        let killed = self.kill_rounds(deadline);
        if let Some(dir) = frozen {
            gone_is_fine(write(&dir.join("cgroup.freeze"), "0"))?;
        }
        killed
    }

    fn kill_rounds(&self, deadline: Instant) -> Result<(), CgroupError> {
        loop {
            let pidfds: Vec<(u32, OwnedFd)> =
                self.procs()?.into_iter().filter_map(|pid| Some((pid, sys::pidfd_open(pid).ok()?))).collect();
            // Who is still in the cgroup now was it when the pidfd was opened: no reused pid is killed.
            let members = self.procs()?;
            if members.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let path = self.paths().next().map(Path::to_owned).unwrap_or_default();
                return Err(CgroupError::Populated { path, pids: members });
            }
            for (_, pidfd) in pidfds.iter().filter(|(pid, _)| members.contains(pid)) {
                let _ended_by_itself = sys::pidfd_signal(pidfd.as_fd(), KillSignal::Kill);
            }
            let round = Instant::now() + ROUND;
            for (_, pidfd) in &pidfds {
                wait(&[(pidfd.as_fd(), PollFlags::POLLIN)], None, round);
            }
            if pidfds.is_empty() {
                wait(&[], None, Instant::now() + LET_GO);
            }
        }
    }

    /// Removes its directories, with the cgroups that the dyno has made below, once the last process is gone.
    ///
    /// # Errors
    /// If there are processes that do not end: they must have been killed before.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + ENDED;
        self.paths().try_for_each(|dir| remove(dir, deadline))
    }
}

/// Removes one directory of a cgroup, those below it first.
fn remove(dir: &Path, deadline: Instant) -> Result<(), CgroupError> {
    loop {
        let error = match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(CgroupError::io("remove the cgroup", dir)(error));
        }
        if Instant::now() > deadline {
            return Err(CgroupError::Populated { path: dir.to_owned(), pids: procs(dir)? });
        }
        let below = children(dir)?;
        if below.is_empty() {
            wait_for_change(dir, deadline)?;
        }
        below.iter().try_for_each(|child| remove(child, deadline))?;
    }
}

/// Waits for something to change about the processes of a cgroup that is not empty.
///
/// In v2 the kernel says when the last is gone, but up to 10 ms late if it has just said something else. Each
/// process says so at once.
fn wait_for_change(dir: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let events = File::open(dir.join("cgroup.events")).ok();
    if let Some(mut events) = events.as_ref() {
        // What has been read is no news any more.
        let _gone = events.read_to_string(&mut String::new());
    }
    let pidfds: Vec<OwnedFd> = procs(dir)?.into_iter().filter_map(|pid| sys::pidfd_open(pid).ok()).collect();
    for pidfd in &pidfds {
        if wait(&[(pidfd.as_fd(), PollFlags::POLLIN)], events.as_ref(), deadline) {
            return Ok(());
        }
    }
    if pidfds.is_empty() {
        // What is left is a process between its last word and its end.
        wait(&[], events.as_ref(), deadline.min(Instant::now() + LET_GO));
    }
    Ok(())
}

/// Waits until a cgroup stands still, is gone, or time is up.
fn wait_until_frozen(dir: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let path = dir.join("cgroup.events");
    let Ok(mut events) = File::open(&path) else { return Ok(()) };
    while Instant::now() < deadline {
        let mut text = String::new();
        let read = events.rewind().and_then(|()| events.read_to_string(&mut text));
        match read {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            read => read.map_err(CgroupError::io("read", &path))?,
        };
        if keyed(&text, "frozen") == Some(1) {
            return Ok(());
        }
        wait(&[], Some(&events), deadline);
    }
    Ok(())
}

/// Waits for one of some descriptors, or for an event of a cgroup, at most until then. Returns whether there was
/// such an event.
fn wait(fds: &[(BorrowedFd<'_>, PollFlags)], events: Option<&File>, deadline: Instant) -> bool {
    // Rounded up, so as not to come back too early and often.
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let events = events.map(|events| (events.as_fd(), PollFlags::POLLPRI));
    let mut fds: Vec<PollFd<'_>> =
        events.iter().chain(fds).map(|(fd, what)| PollFd::new(*fd, *what)).collect();
    // Whatever comes of it is looked at again by the caller.
    let _woken = poll(&mut fds, timeout);
    let is_event = |fd: &PollFd<'_>| fd.revents().is_some_and(|what| what.contains(PollFlags::POLLPRI));
    events.is_some() && fds.first().is_some_and(is_event)
}

/// In a cgroup that is gone, no process is left.
fn gone_is_fine(written: Result<(), CgroupError>) -> Result<(), CgroupError> {
    match written {
        Err(CgroupError::Write { source, .. })
            if source.kind() == ErrorKind::NotFound || source.raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(())
        }
        written => written,
    }
}
