//! The guardian: the parent process of hsup proper, and the last word on what hsup leaves behind.
//!
//! It has one thread, sleeps in one read, and does three things: it receives the signals that are meant for hsup
//! and tells it of them, it reaps the processes that daemonised away from their dyno (it is their subreaper), and
//! when hsup is gone, however it went, it kills every process below it and ends with hsup's exit status. As PID 1
//! of a container it is the init that such a container needs.
//!
//! hsup proper has these signals blocked and hears of them through a pipe. So a signal counts once, whether it
//! was sent to the guardian, to the process group or by the terminal; one that comes while hsup is still starting
//! is not lost; and the end of the pipe is the end of the guardian.
//!
//! It must not decide anything about dynos, and must not start a thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, getpid, getppid, pipe2};
use tokio::io::unix::AsyncFd;

use crate::{process as proc, sys};

/// The environment variable that marks the processes of a run: `HSUP_RUN=<instance>/<dyno>.<run>`.
pub const MARK: &str = "HSUP_RUN";

/// What the guardian tells hsup of.
const FORWARDED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// How long killed processes may take to go away before the guardian ends without them: only a process that
/// the kernel itself cannot end takes longer.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// hsup's view of its guardian, and of itself as an owner of processes.
#[derive(Debug)]
pub struct Guardian {
    /// `None` where there is no guardian, as in unit tests.
    pid: Option<u32>,
    dead: AtomicBool,
    instance: String,
    runs: AtomicU64,
    /// The soft limit of open files with which hsup was started, and which dynos get.
    open_files: u64,
}

impl Guardian {
    /// Divides the process into guardian and hsup, which also gets the guardian's word on signals. The guardian
    /// never returns from this call.
    ///
    /// To be called before any thread is started.
    ///
    /// # Errors
    /// If the process has several threads already, or the kernel refuses.
    pub fn enter() -> io::Result<(Self, Signals)> {
        let mut watched: SigSet = FORWARDED.into_iter().collect();
        watched.add(Signal::SIGCHLD);
        // Blocked before the fork, so that a signal that comes in between waits instead of killing.
        watched.thread_block()?;
        let (heard, told) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        match sys::fork_alone()? {
            ForkResult::Parent { child } => {
                drop(heard);
                guard(child, &watched, &told)
            }
            ForkResult::Child => {
                drop(told);
                SigSet::from(Signal::SIGCHLD).thread_unblock()?;
                Ok((Self::of_parent()?, Signals { heard }))
            }
        }
    }

    /// A process of its own, without a guardian: daemons that leave their dyno are looked for everywhere.
    pub fn none() -> Self {
        Self {
            pid: None,
            dead: AtomicBool::new(true),
            instance: instance(process::id()),
            runs: AtomicU64::new(0),
            open_files: u64::MAX,
        }
    }

    fn of_parent() -> io::Result<Self> {
        let parent = getppid();
        let pid = u32::try_from(parent.as_raw()).map_err(io::Error::other)?;
        sys::seal_inherited_descriptors();
        let open_files = raise_open_files()?;
        Ok(Self {
            pid: Some(pid),
            dead: AtomicBool::new(false),
            instance: instance(pid),
            runs: AtomicU64::new(0),
            open_files,
        })
    }

    /// The name of this hsup among all that ever run on this host: boot, guardian and its start time.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The guardian has died: from now on daemons are looked for everywhere, and adopted by hsup.
    ///
    /// # Errors
    /// If hsup cannot become their subreaper.
    pub fn lost(&self) -> io::Result<()> {
        self.dead.store(true, Ordering::Release);
        Ok(prctl::set_child_subreaper(true)?)
    }

    /// The mark of a new run of a dyno.
    pub(crate) fn mark(&self, dyno: &str) -> String {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        format!("{MARK}={}/{dyno}.{run}", self.instance)
    }

    /// The processes that may have daemonised away from a dyno: the children of the guardian or, without it,
    /// every process there is.
    pub(crate) fn strays(&self) -> Vec<u32> {
        match self.pid {
            Some(guardian) if !self.dead.load(Ordering::Acquire) => {
                let me = process::id();
                proc::children(guardian).into_iter().filter(|pid| *pid != me).collect()
            }
            Some(_) | None => proc::all().unwrap_or_default(),
        }
    }

    /// Gives a dyno the limit of open files with which hsup was started.
    pub(crate) fn restore_limits(&self, pid: Pid) {
        if let (Some(_), Err(error)) = (self.pid, sys::limit_open_files(pid, self.open_files)) {
            tracing::debug!(%pid, %error, "cannot restore the limit of open files");
        }
    }
}

/// The signals that the guardian has received for hsup.
#[derive(Debug)]
pub struct Signals {
    heard: OwnedFd,
}

impl Signals {
    /// Begins to listen; to be called within the runtime.
    ///
    /// # Errors
    /// If the runtime cannot watch the pipe.
    pub fn listen(self) -> io::Result<Listener> {
        Ok(Listener { pipe: sys::watch(self.heard)? })
    }
}

/// Listens to the guardian.
#[derive(Debug)]
pub struct Listener {
    pipe: AsyncFd<OwnedFd>,
}

impl Listener {
    /// The next signal; `None` when the guardian has died. Cancel safe.
    ///
    /// # Errors
    /// If the pipe cannot be read.
    pub async fn next(&mut self) -> io::Result<Option<Signal>> {
        loop {
            let mut ready = self.pipe.readable().await?;
            let mut number = [0];
            match nix::unistd::read(self.pipe.get_ref(), &mut number) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Signal::try_from(i32::from(number[0])).ok()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// `<boot id>-<pid>-<start time>`.
fn instance(pid: u32) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot: String = boot.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    format!("{boot}-{pid}-{}", proc::stat(pid).map_or(0, |stat| stat.start_time))
}

/// Each dyno takes three descriptors, and the usual soft limit of 1024 stems from select(2), which hsup does
/// not use. Returns the limit as it was.
fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(soft)
}

fn guard(hsup: Pid, watched: &SigSet, told: &OwnedFd) -> ! {
    let terminal = tcgetattr(io::stdin()).ok();
    let status = match watch(hsup, watched, told) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("hsup: the guardian failed: {error}");
            let _gone = kill(hsup, Signal::SIGKILL);
            70
        }
    };
    // An hsup that was killed could not put its terminal back as it was.
    if let Some(settings) = terminal.filter(|_| status > 128) {
        let _terminal_is_gone = tcsetattr(io::stdin(), SetArg::TCSANOW, &settings);
    }
    process::exit(status);
}

/// The guardian's life.
fn watch(hsup: Pid, watched: &SigSet, told: &OwnedFd) -> io::Result<i32> {
    prctl::set_child_subreaper(true)?;
    prctl::set_name(c"hsup-guardian")?;
    let signals = SignalFd::with_flags(watched, SfdFlags::SFD_CLOEXEC)?;
    loop {
        let Some(info) = signals.read_signal()? else { continue };
        match Signal::try_from(info.ssi_signo.cast_signed()) {
            Ok(Signal::SIGCHLD) => {
                if let Some(status) = reap(hsup)? {
                    clean_up(&signals)?;
                    return Ok(status);
                }
            }
            // A pipe that is full holds more signals than anybody can have meant.
            Ok(signal) => {
                let _full_or_gone = nix::unistd::write(told, &[signal as u8]);
            }
            Err(_) => {}
        }
    }
}

/// Reaps what has ended; the exit status once hsup has. Every child of the guardian but hsup is a daemon that
/// nobody else waits for, so that any child may be reaped here.
fn reap(hsup: Pid) -> io::Result<Option<i32>> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == hsup => ended = Some(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == hsup => {
                eprintln!("hsup: killed by {signal}; killing its dynos");
                ended = Some(128 + signal as i32);
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(ended),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills every process below the guardian: with hsup gone all of them are its children or become so when their
/// own parent is killed, so that killing children until there are none kills all.
fn clean_up(signals: &SignalFd) -> io::Result<()> {
    let deadline = Instant::now() + CLEAN_UP;
    loop {
        let children = proc::children(getpid().as_raw().cast_unsigned());
        if children.is_empty() {
            return Ok(());
        }
        for child in children {
            let _gone = kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            eprintln!("hsup: some processes of its dynos cannot be killed; look for them below pid 1");
            return Ok(());
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => {
                let _any_signal = signals.read_signal()?;
            }
            Err(error) => return Err(error.into()),
        }
        reap(getpid())?;
    }
}
