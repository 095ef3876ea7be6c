//! A run of a dyno of the native driver: hsup's end of its init.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::cgroup::{Cgroup, OomWatch};
use super::driver::beside;
use super::holdings::{Holdings, Waiting};
use super::protocol::{ExitText, Order, Report, hear, say};
use crate::{BoxFuture, DynoSpec, Exit, KillSignal, MainExit, Output, Run, SignalError, StartError, sys};

/// A run of a dyno.
pub(super) struct NativeRun {
    dyno: String,
    address: Ipv4Addr,
    init: u32,
    main: Option<u32>,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    control: AsyncFd<OwnedFd>,
    output: Mutex<Option<Output>>,
    ended: Mutex<Option<MainExit>>,
    undo: tokio::sync::Mutex<Undoing>,
    waiting: Arc<Waiting>,
    cgroup: Option<Arc<Cgroup>>,
    /// Wakes when the dyno has used up its memory, where that has a limit.
    memory: Option<Memory>,
    out_of_memory: AtomicBool,
    one_off: bool,
}

/// How far what was made for a run has been undone. It may take a while, and is done where that disturbs nobody.
enum Undoing {
    NotYet(Box<Holdings>),
    /// Tells whether the kernel has killed a process of the dyno for want of memory.
    Going(BoxFuture<'static, bool>),
    Done,
}

struct Memory {
    watch: OomWatch,
    wakes: AsyncFd<OwnedFd>,
    told: Mutex<Option<Instant>>,
}

/// How often it is told that a dyno has used up its memory: as often as Heroku does, which for one that lives at its
/// limit is often enough.
const TELL_EVERY: Duration = Duration::from_secs(20);

impl fmt::Debug for NativeRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeRun")
            .field("dyno", &self.dyno)
            .field("init", &self.init)
            .finish_non_exhaustive()
    }
}

/// An init whose main process has been executed.
pub(super) struct Started {
    pub(super) dyno: String,
    pub(super) address: Ipv4Addr,
    pub(super) init: u32,
    pub(super) main: Option<u32>,
    pub(super) pidfd: OwnedFd,
    pub(super) control: OwnedFd,
    pub(super) output: Option<Output>,
    pub(super) holdings: Holdings,
    /// To whom they are given back.
    pub(super) waiting: Arc<Waiting>,
}

impl NativeRun {
    /// Begins to watch an init. Where it is that of a one-off dyno there is nothing to do beside it.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub(super) fn new(started: Started, one_off: bool) -> io::Result<Arc<Self>> {
        let Started { dyno, address, init, main, pidfd, control, output, holdings, waiting } = started;
        let cgroup = holdings.cgroup.clone();
        let memory = cgroup.as_ref().and_then(|cgroup| watch_memory(cgroup, &dyno));
        let watch = || {
            fcntl(&control, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            Ok((Arc::new(sys::watch(pidfd)?), sys::watch(control)?))
        };
        let (pidfd, control) = match watch() {
            Ok(watched) => watched,
            Err(error) => {
                // The control socket is closed by now, which ends init.
                let _reaped = waitpid(Pid::from_raw(init.cast_signed()), None);
                waiting.give_back(holdings);
                return Err(error);
            }
        };
        Ok(Arc::new(Self {
            dyno,
            address,
            init,
            main,
            pidfd,
            control,
            output: Mutex::new(output),
            ended: Mutex::default(),
            undo: tokio::sync::Mutex::new(Undoing::NotYet(Box::new(holdings))),
            waiting,
            cgroup,
            memory,
            out_of_memory: AtomicBool::new(false),
            one_off,
        }))
    }

    fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for init's word on the main process.
    async fn reported(&self) -> MainExit {
        loop {
            if let Some(ended) = *Self::locked(&self.ended) {
                return ended;
            }
            let report = match self.control.readable().await {
                Ok(mut ready) => match hear::<Report>(self.control.get_ref().as_fd()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready();
                        continue;
                    }
                    heard => heard,
                },
                Err(error) => Err(error),
            };
            let ended = match report {
                Ok(Some(Report::Exited { exit, alone })) => MainExit { exit: exit.into(), alone },
                Ok(Some(Report::Started { .. } | Report::Failed(_))) => continue,
                // Init has been killed, and with it everything below it.
                Ok(None) => MainExit { exit: Exit::Signal(libc::SIGKILL), alone: true },
                Err(error) => {
                    tracing::error!(dyno = self.dyno, %error, "cannot hear the init of a dyno");
                    MainExit { exit: Exit::Signal(libc::SIGKILL), alone: false }
                }
            };
            *Self::locked(&self.ended) = Some(ended);
        }
    }

    /// Waits for init to be gone, with every process below it, and undoes what was made for the run. Cancel safe.
    async fn over(&self) {
        if let Err(error) = self.pidfd.readable().await {
            tracing::error!(dyno = self.dyno, %error, "cannot wait for the init of a dyno");
        }
        self.undone().await;
    }

    /// Undoes what was made for a run whose init is gone, or has no process below it and ends: what need not wait for
    /// that is undone while the kernel takes init down. Cancel safe: who calls it again waits for what was begun.
    async fn undone(&self) {
        let mut undo = self.undo.lock().await;
        *undo = match std::mem::replace(&mut *undo, Undoing::Done) {
            Undoing::NotYet(mut holdings) => {
                let (dyno, pidfd) = (self.dyno.clone(), Arc::clone(&self.pidfd));
                let waiting = Arc::clone(&self.waiting);
                Undoing::Going(Box::pin(beside(self.one_off, move || {
                    holdings.remove_files();
                    reap(&dyno, pidfd.get_ref().as_fd());
                    // While the cgroup is there to tell.
                    let killed = holdings.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0);
                    waiting.give_back(*holdings);
                    killed
                })))
            }
            begun @ (Undoing::Going(_) | Undoing::Done) => begun,
        };
        if let Undoing::Going(work) = &mut *undo {
            self.out_of_memory.store(work.await, Ordering::Relaxed);
            *undo = Undoing::Done;
        }
    }
}

/// Waits for init, and reaps it.
fn reap(dyno: &str, pidfd: BorrowedFd<'_>) {
    loop {
        match waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED) {
            Ok(_) => return,
            Err(Errno::EINTR) => {}
            Err(error) => return tracing::error!(dyno, %error, "cannot reap the init of a dyno"),
        }
    }
}

/// Begins to watch the memory of a dyno, where that has a limit.
fn watch_memory(cgroup: &Cgroup, dyno: &str) -> Option<Memory> {
    let watched = cgroup.oom_watch().map_err(|error| crate::explain(&error)).and_then(|watch| {
        let Some(watch) = watch else { return Ok(None) };
        let wakes = watch.as_fd().try_clone_to_owned().and_then(sys::watch);
        wakes
            .map(|wakes| Some(Memory { watch, wakes, told: Mutex::default() }))
            .map_err(|error| error.to_string())
    });
    watched.unwrap_or_else(|error| {
        tracing::warn!("cannot watch the memory of {dyno}: {error}");
        None
    })
}

impl From<ExitText> for Exit {
    fn from(text: ExitText) -> Self {
        match text {
            ExitText::Code(code) => Self::Code(code),
            ExitText::Signal(number) => Self::Signal(number),
        }
    }
}

impl Run for NativeRun {
    fn pid(&self) -> Option<u32> {
        self.main
    }

    fn address(&self) -> IpAddr {
        self.address.into()
    }

    fn take_output(&self) -> Option<Output> {
        Self::locked(&self.output).take()
    }

    /// Checks that would need it are refused where they are read.
    fn exec<'a>(&'a self, _: &'a DynoSpec) -> BoxFuture<'a, Result<Arc<dyn Run>, StartError>> {
        let source = std::io::ErrorKind::Unsupported.into();
        Box::pin(async { Err(StartError::System { operation: "start a command inside the dyno", source }) })
    }

    fn signal(&self, signal: KillSignal) -> Result<(), SignalError> {
        let sent = match signal {
            KillSignal::Term => say(self.control.get_ref().as_fd(), &Order::Terminate),
            KillSignal::Kill => sys::pidfd_signal(self.pidfd.get_ref().as_fd(), signal),
        };
        match sent {
            Ok(()) => Ok(()),
            // it is over
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EPIPE | libc::ECONNRESET)) =>
            {
                Ok(())
            }
            Err(source) => Err(SignalError { signal, pid: self.init, dyno: self.dyno.clone(), source }),
        }
    }

    fn main_exit(&self) -> BoxFuture<'_, MainExit> {
        Box::pin(async {
            let ended = self.reported().await;
            if ended.alone {
                self.undone().await;
            }
            ended
        })
    }

    fn memory_full(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let Some(Memory { watch, wakes, told }) = &self.memory else {
                return std::future::pending().await;
            };
            let last = *Self::locked(told);
            if let Some(last) = last {
                sleep_until(last + TELL_EVERY).await;
            }
            let woken = async {
                wakes.readable().await?.clear_ready();
                watch.clear()
            };
            if let Err(error) = woken.await {
                tracing::debug!(dyno = self.dyno, %error, "the memory of a dyno is not watched any more");
                std::future::pending().await
            }
            // The removal of the cgroup wakes as well.
            if self.cgroup.as_ref().and_then(|cgroup| cgroup.memory_events()).is_none() {
                std::future::pending().await
            }
            *Self::locked(told) = Some(Instant::now());
        })
    }

    fn out_of_memory(&self) -> bool {
        self.out_of_memory.load(Ordering::Relaxed)
    }

    fn gone(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.over())
    }
}
