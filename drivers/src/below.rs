//! The processes below this one, where it is their child subreaper: however they stray, they are its descendants.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::process;

/// Kills every process below this one, and reaps them. What a killed process has started becomes a child of this one,
/// and is killed in its turn: nobody but children is signalled, whose pids nobody else can have.
///
/// # Errors
/// If they cannot be waited for.
pub(crate) fn end_all() -> nix::Result<()> {
    loop {
        for child in process::children(std::process::id()) {
            let _has_ended = kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL);
        }
        // All that have ended, before the next look: of thousands, one each time would take a minute.
        let mut patience = None;
        loop {
            match waitpid(None, patience) {
                Err(Errno::ECHILD) => return Ok(()),
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) => patience = Some(WaitPidFlag::WNOHANG),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
