//! What the first process of a dyno, or of a command inside one, has to do with hsup and with its main process: it waits
//! for hsup, tells how the start went, and stays to reap, to hand on signals and to tell how the main process ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::protocol::{ExitText, Failure, Order, Report, hear, say};
use crate::sys;

/// What a first process exits with when there is nobody to tell what it failed at.
pub(super) const FAILED: i32 = 70;

/// How long all has to be quiet for a first process to make itself small, in milliseconds: what is over sooner is over
/// before anybody could count the memory.
const SETTLED_MS: u16 = 1000;

/// What signals every process that a first process answers for.
pub(super) type Everybody = fn(Signal) -> nix::Result<()>;

/// Waits until hsup says that all of the host's side of the dyno is there.
pub(super) fn wait_to_go_on(control: BorrowedFd<'_>) -> Result<(), Failure> {
    let heard = hear::<Order>(control).map_err(Failure::io("hear of the host's side of the dyno"))?;
    if heard == Some(Order::GoOn) {
        Ok(())
    } else {
        Err(Failure::step("wait for the host's side of the dyno")(Errno::ECANCELED))
    }
}

/// Tells how the start went, and stays until no process is left or hsup is gone.
///
/// # Errors
/// If hsup cannot be told.
pub(super) fn stay(
    main: Result<Pid, Failure>,
    control: BorrowedFd<'_>,
    everybody: Everybody,
) -> io::Result<()> {
    let main = match main {
        Ok(main) => main,
        Err(failure) => return say(control, &Report::Failed(failure.cut())),
    };
    keep_to_kill()?;
    say(control, &Report::Started { main: main.as_raw().cast_unsigned() })?;
    watch(main, control, everybody)
}

/// Reaps, hands on signals and tells of the main process, until no process is left or hsup is gone.
fn watch(main: Pid, control: BorrowedFd<'_>, everybody: Everybody) -> io::Result<()> {
    let children: SigSet = Signal::SIGCHLD.into();
    children.thread_block()?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut main = Some(main);
    let mut patience = PollTimeout::from(SETTLED_MS);
    loop {
        // First a look: what ended before signals were watched is told by no signal.
        if reap(&mut main, control)? == Left::Nobody {
            return Ok(());
        }
        let mut ready =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(control, PollFlags::POLLIN)];
        match poll(&mut ready, patience) {
            Ok(0) => {
                // What comes is sleep, beside each dyno.
                sys::release_free_memory();
                patience = PollTimeout::NONE;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [_, ordered] = ready;
        while signals.read_signal()?.is_some() {}
        if ordered.any().unwrap_or(true) {
            match hear::<Order>(control)? {
                Some(Order::Terminate) => everybody(Signal::SIGTERM)?,
                Some(Order::GoOn) => {}
                // hsup is gone, or wants nothing more of this: what it has started goes with it.
                None => return Ok(()),
            }
        }
    }
}

/// Gives up what was needed for the start, all but the right to signal the dyno's processes.
fn keep_to_kill() -> io::Result<()> {
    let kept = [Capability::CAP_KILL].into_iter().collect();
    [CapSet::Effective, CapSet::Permitted]
        .into_iter()
        .try_for_each(|set| caps::set(None, set, &kept))
        .map_err(io::Error::other)
}

/// Whether any process is left but this one.
#[derive(PartialEq, Eq)]
enum Left {
    Somebody,
    Nobody,
}

/// Reaps whatever has ended.
fn reap(main: &mut Option<Pid>, control: BorrowedFd<'_>) -> io::Result<Left> {
    let mut ended = None;
    let left = loop {
        let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => {
                (pid, ExitText::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExitText::Signal(signal as i32)),
            Ok(WaitStatus::StillAlive) => break Left::Somebody,
            Err(Errno::ECHILD) => break Left::Nobody,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if *main == Some(pid) {
            (*main, ended) = (None, Some(exit));
        }
    };
    if let Some(exit) = ended {
        let report = Report::Exited { exit, alone: left == Left::Nobody };
        say(control, &report)?;
    }
    Ok(left)
}
