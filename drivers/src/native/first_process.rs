//! hsup's end of a first process, which is the init of a dyno or the attendant of a command inside one: what it is told,
//! what it reports, and its end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::protocol::{ExitText, Failure, Order, Report, hear, say};
use crate::{Exit, KillSignal, MainExit, StartError, sys};

/// How long a command may take to be executed: as long as it may with every driver.
const PATIENCE: Duration = Duration::from_secs(5);

/// A first process that has been cloned.
pub(super) struct Started {
    pub(super) dyno: String,
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) control: OwnedFd,
}

/// A main process that there is not.
pub(super) enum Unstarted {
    /// The first process has said why, or the zygote why there is none.
    Inside(Failure),
    /// What it waited for could not be done, or it has not said anything.
    Outside(StartError),
}

impl From<StartError> for Unstarted {
    fn from(error: StartError) -> Self {
        Self::Outside(error)
    }
}

impl From<Unstarted> for StartError {
    fn from(unstarted: Unstarted) -> Self {
        match unstarted {
            Unstarted::Inside(failure) => failure.into(),
            Unstarted::Outside(error) => error,
        }
    }
}

/// Tells a first process that has been cloned to go on, once all is ready that it waits for, and waits for its word on the
/// main process: the pid of that, as the dyno sees it. Where it comes to nothing the first process is ended.
pub(super) fn begin<T>(
    pidfd: BorrowedFd<'_>,
    control: BorrowedFd<'_>,
    ready: Result<T, StartError>,
) -> Result<(u32, T), Unstarted> {
    let failed = |source| StartError::SetUp { what: "hear of the main process".to_owned(), source };
    let begun = ready.map_err(Unstarted::Outside).and_then(|ready| {
        let heard = say(control, &Order::GoOn).and_then(|()| hear::<Report>(control));
        match heard.map_err(failed).map_err(Unstarted::Outside)? {
            Some(Report::Started { main }) => Ok((main, ready)),
            Some(Report::Failed(failure)) => Err(Unstarted::Inside(failure)),
            Some(Report::Exited { .. }) | None => {
                Err(Unstarted::Outside(failed(io::ErrorKind::UnexpectedEof.into())))
            }
        }
    });
    begun.map_err(|unstarted| {
        let _gone = sys::pidfd_signal(pidfd, KillSignal::Kill);
        let _reaped = waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED);
        // Where it gave up, what failed here is only that it is gone.
        match hear::<Report>(control) {
            Ok(Some(Report::Failed(failure))) => Unstarted::Inside(failure),
            Ok(Some(Report::Started { .. } | Report::Exited { .. }) | None) | Err(_) => unstarted,
        }
    })
}

/// A first process that is watched.
pub(super) struct FirstProcess {
    dyno: String,
    pid: u32,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    control: AsyncFd<OwnedFd>,
    ended: Mutex<Option<MainExit>>,
}

impl FirstProcess {
    /// Begins to watch one.
    ///
    /// # Errors
    /// If the runtime cannot watch it, which is its end.
    pub(super) fn watch(started: Started) -> io::Result<Self> {
        let Started { dyno, pid, pidfd, control } = started;
        let watch = || {
            fcntl(&control, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            Ok((Arc::new(sys::watch(pidfd)?), sys::watch(control)?))
        };
        match watch() {
            Ok((pidfd, control)) => Ok(Self { dyno, pid, pidfd, control, ended: Mutex::default() }),
            Err(error) => {
                // The control socket is closed by now, which ends it.
                let _reaped = waitpid(Pid::from_raw(pid.cast_signed()), None);
                Err(error)
            }
        }
    }

    /// The dyno, for messages.
    pub(super) fn dyno(&self) -> &str {
        &self.dyno
    }

    /// Its pid.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its pidfd.
    pub(super) fn pidfd(&self) -> &Arc<AsyncFd<OwnedFd>> {
        &self.pidfd
    }

    fn ended(&self) -> MutexGuard<'_, Option<MainExit>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it to go on, and waits until its main process has been executed. What it starts may be held up by whoever is
    /// of the same user, so that there is an end to that.
    ///
    /// # Errors
    /// If there will be no main process, or it is not there in time. The first process is to be ended then.
    pub(super) async fn begin(&self) -> Result<(), StartError> {
        let failed =
            |source| StartError::SetUp { what: "hear of the main process of the command".to_owned(), source };
        self.tell(Order::GoOn).map_err(failed)?;
        match timeout(PATIENCE, self.next_report()).await {
            Ok(Ok(Some(Report::Started { .. }))) => Ok(()),
            Ok(Ok(Some(Report::Failed(failure)))) => Err(failure.into()),
            Ok(Ok(Some(Report::Exited { .. }) | None)) => Err(failed(io::ErrorKind::UnexpectedEof.into())),
            Ok(Err(error)) => Err(failed(error)),
            Err(_elapsed) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    /// The next that it says; none once it is gone. Cancel safe.
    async fn next_report(&self) -> io::Result<Option<Report>> {
        loop {
            let mut ready = self.control.readable().await?;
            match hear::<Report>(self.control.get_ref().as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                heard => return heard,
            }
        }
    }

    /// Waits for its word on the end of the main process. Cancel safe.
    pub(super) async fn reported(&self) -> MainExit {
        loop {
            if let Some(ended) = *self.ended() {
                return ended;
            }
            let ended = match self.next_report().await {
                Ok(Some(Report::Exited { exit, alone })) => MainExit { exit: exit.into(), alone },
                Ok(Some(Report::Started { .. } | Report::Failed(_))) => continue,
                // It has been killed; where it is init, with everything below it.
                Ok(None) => MainExit { exit: Exit::Signal(libc::SIGKILL), alone: true },
                Err(error) => {
                    tracing::error!(dyno = self.dyno, %error, "cannot hear the first process of a dyno");
                    MainExit { exit: Exit::Signal(libc::SIGKILL), alone: false }
                }
            };
            *self.ended() = Some(ended);
        }
    }

    /// Waits for its end. Cancel safe.
    pub(super) async fn gone(&self) {
        if let Err(error) = self.pidfd.readable().await {
            tracing::error!(dyno = self.dyno, %error, "cannot wait for the first process of a dyno");
        }
    }

    /// Tells it something. That it is over is no error.
    pub(super) fn tell(&self, order: Order) -> io::Result<()> {
        unless_over(say(self.control.get_ref().as_fd(), &order))
    }

    /// Tells it that hsup wants nothing more of it. What it has reported by then can be heard.
    pub(super) fn let_go(&self) -> io::Result<()> {
        unless_over(shutdown(self.control.as_raw_fd(), Shutdown::Write).map_err(io::Error::from))
    }

    /// Kills it. That it is over is no error.
    pub(super) fn kill(&self) -> io::Result<()> {
        unless_over(sys::pidfd_signal(self.pidfd.get_ref().as_fd(), KillSignal::Kill))
    }
}

fn unless_over(told: io::Result<()>) -> io::Result<()> {
    let is_over = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN))
    };
    told.or_else(|error| if is_over(&error) { Ok(()) } else { Err(error) })
}

/// Waits for a first process, and reaps it.
pub(super) fn reap(dyno: &str, pidfd: BorrowedFd<'_>) {
    loop {
        match waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED) {
            Ok(_) => return,
            Err(Errno::EINTR) => {}
            Err(error) => return tracing::error!(dyno, %error, "cannot reap the first process of a dyno"),
        }
    }
}

impl From<ExitText> for Exit {
    fn from(text: ExitText) -> Self {
        match text {
            ExitText::Code(code) => Self::Code(code),
            ExitText::Signal(number) => Self::Signal(number),
        }
    }
}
