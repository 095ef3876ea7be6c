//! The guardian: the parent process of hsup proper, and the last word on what hsup leaves behind.
//!
//! It has one thread, sleeps in one read, and does three things: it passes signals on to hsup, it reaps the
//! processes that daemonised away from their dyno (it is their subreaper), and when hsup is gone, however it
//! went, it kills every process below it and ends with hsup's exit status. As PID 1 of a container it is the
//! init that such a container needs.
//!
//! It must not decide anything about dynos, and must not start a thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, getpid, getppid};

use crate::{process as proc, sys};

/// The environment variable that marks the processes of a run: `HSUP_RUN=<instance>/<dyno>.<run>`.
pub const MARK: &str = "HSUP_RUN";

/// What the guardian passes on. Signals of the terminal reach hsup by themselves.
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
    pidfd: Option<OwnedFd>,
    dead: AtomicBool,
    instance: String,
    runs: AtomicU64,
    /// The soft limit of open files with which hsup was started, and which dynos get.
    open_files: u64,
}

impl Guardian {
    /// Divides the process into guardian and hsup. The guardian never returns from this call.
    ///
    /// To be called before any thread is started.
    ///
    /// # Errors
    /// If the process has several threads already, or the kernel refuses.
    pub fn enter() -> io::Result<Self> {
        let before = SigSet::thread_get_mask()?;
        let mut watched: SigSet = FORWARDED.into_iter().collect();
        watched.add(Signal::SIGCHLD);
        // Blocked before the fork, so that a signal that comes in between waits instead of killing.
        watched.thread_block()?;
        match sys::fork_alone()? {
            ForkResult::Parent { child } => guard(child, &watched),
            ForkResult::Child => {
                before.thread_set_mask()?;
                Self::of_parent()
            }
        }
    }

    /// A process of its own, without a guardian: daemons that leave their dyno are looked for everywhere.
    pub fn none() -> Self {
        Self {
            pid: None,
            pidfd: None,
            dead: AtomicBool::new(true),
            instance: instance(process::id()),
            runs: AtomicU64::new(0),
            open_files: u64::MAX,
        }
    }

    fn of_parent() -> io::Result<Self> {
        let parent = getppid();
        let pid = u32::try_from(parent.as_raw()).map_err(io::Error::other)?;
        let pidfd = sys::pidfd_open(pid)?;
        if getppid() != parent {
            return Err(io::Error::other("the guardian has died"));
        }
        sys::seal_inherited_descriptors();
        let open_files = raise_open_files()?;
        Ok(Self {
            pid: Some(pid),
            pidfd: Some(pidfd),
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

    /// Waits for the guardian to die, which it never does by itself. From then on daemons are adopted by hsup.
    ///
    /// # Errors
    /// If the guardian cannot be watched.
    pub async fn died(&self) -> io::Result<()> {
        let Some(pidfd) = &self.pidfd else { return std::future::pending().await };
        let pidfd = sys::watch(pidfd.try_clone()?)?;
        let _ready = pidfd.readable().await?;
        self.dead.store(true, Ordering::Release);
        prctl::set_child_subreaper(true)?;
        Ok(())
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

fn guard(hsup: Pid, watched: &SigSet) -> ! {
    let status = match watch(hsup, watched) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("hsup: the guardian failed: {error}");
            let _gone = kill(hsup, Signal::SIGKILL);
            70
        }
    };
    process::exit(status);
}

/// The guardian's life.
fn watch(hsup: Pid, watched: &SigSet) -> io::Result<i32> {
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
            // Ctrl-C and a hang-up of the terminal go to the whole foreground group, hsup included.
            Ok(_) if info.ssi_code == libc::SI_KERNEL => {}
            Ok(signal) => {
                let _gone = kill(hsup, signal);
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
