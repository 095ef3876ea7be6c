//! The guardian: the parent process of hsup proper, and the last word on what hsup leaves behind.
//!
//! It has one thread, sleeps in one poll, and does four things: it receives the signals that are meant for hsup
//! and tells it of them, it reaps the processes that daemonised away from their dyno (it is their subreaper), it
//! hands on what hsup tells the service manager, and when hsup is gone, however it went, it kills every process below
//! it and ends with hsup's exit status. As PID 1 of a container it is the init that such a container needs.
//!
//! SIGABRT is what systemd sends to an hsup that is hung. It ends hsup at once, which else could not hear of it.
//!
//! hsup proper has these signals blocked and hears of them through a pipe. So a signal counts once, whether it
//! was sent to the guardian, to the process group or by the terminal; one that comes while hsup is still starting
//! is not lost; and the end of the pipe is the end of the guardian. A signal to hsup proper alone is not heard: it cannot
//! be told from one that somebody sends to each of hsup's processes in turn.
//!
//! It must not decide anything about dynos, and must not start a thread.
//!
//! Where nothing is left behind that it could kill, hsup does without it, and has its signals from the kernel.

mod relay;
mod signals;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, getpgrp, getpid, getppid, pipe2, tcgetpgrp};

use crate::owner::Owner;
use crate::{Exit, process as proc, sys};
pub use relay::Relay;
use relay::Relaying;
pub use signals::{Listener, Signals};

/// The environment variable that marks the processes of a run: `HSUP_RUN=<instance>/<dyno>.<run>`.
pub const MARK: &str = "HSUP_RUN";

/// What the guardian tells hsup of.
const FORWARDED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// What the guardian hears besides, and hsup proper is not to have blocked.
const OWN: [Signal; 2] = [Signal::SIGCHLD, Signal::SIGABRT];

/// What hsup proper is called. The guardian keeps the name `hsup`, by which people signal it.
const NAME: &std::ffi::CStr = c"hsup-proper";

/// How long killed processes may take to go away before the guardian ends without them: only a process that
/// the kernel itself cannot end takes longer.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// hsup's view of its guardian, and of itself as an owner of processes.
#[derive(Debug)]
pub struct Guardian {
    /// `None` where there is no guardian.
    pid: Option<u32>,
    dead: AtomicBool,
    instance: String,
    runs: AtomicU64,
    /// The strays that have been seen, by pid.
    known: Mutex<HashMap<u32, Stray>>,
    /// The soft limit of open files with which hsup was started, and which dynos get.
    open_files: u64,
    /// Whether hsup has been given a score by which the kernel spares it when memory runs out.
    spared: bool,
}

impl Guardian {
    /// Divides the process into guardian and hsup, which also gets the guardian's word on signals. The guardian
    /// never returns from this call. With its last words it says on stderr what has gone wrong, each line after
    /// `error_prefix`.
    ///
    /// To be called before any thread is started.
    ///
    /// # Errors
    /// If the process has several threads already, or the kernel refuses.
    pub fn enter(relay: Option<Relay>, error_prefix: &str) -> io::Result<(Self, Signals)> {
        // Whoever starts hsup may have it ignored, and then nobody's end could be waited for.
        sys::default_sigchld();
        let mut watched: SigSet = FORWARDED.into_iter().collect();
        watched.extend(OWN);
        // Blocked before the fork, so that a signal that comes in between waits instead of killing.
        watched.thread_block()?;
        let (heard, told) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let others = proc::children(process::id());
        match sys::fork_alone()? {
            ForkResult::Parent { child } => {
                drop(heard);
                let charge = Charge { hsup: child, watched, told, others, relay: relay.map(Relaying::new) };
                guard(charge, error_prefix)
            }
            ForkResult::Child => {
                drop((told, relay));
                prctl::set_name(NAME)?;
                OWN.into_iter().collect::<SigSet>().thread_unblock()?;
                let guardian = u32::try_from(getppid().as_raw()).map_err(io::Error::other)?;
                Ok((Self::begin(Some(guardian))?, Signals::of_guardian(heard)))
            }
        }
    }

    /// Has hsup do without a guardian, where its dynos end with it by themselves.
    ///
    /// To be called before any thread is started.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn do_without() -> io::Result<(Self, Signals)> {
        sys::default_sigchld();
        OWN.into_iter().collect::<SigSet>().thread_unblock()?;
        let signals = Signals::of_kernel(block_forwarded()?)?;
        Ok((Self::begin(None)?, signals))
    }

    /// A process of its own, without a guardian: daemons that leave their dyno are looked for everywhere.
    pub fn none() -> Self {
        Self {
            pid: None,
            dead: AtomicBool::new(true),
            instance: Owner::me().to_string(),
            runs: AtomicU64::new(0),
            known: Mutex::default(),
            open_files: u64::MAX,
            spared: false,
        }
    }

    /// What this process, which is to be hsup proper, has of its guardian, if it has one.
    fn begin(guardian: Option<u32>) -> io::Result<Self> {
        sys::seal_inherited_descriptors()?;
        Ok(Self {
            pid: guardian,
            dead: AtomicBool::new(guardian.is_none()),
            instance: guardian.map_or_else(Owner::me, Owner::of).to_string(),
            runs: AtomicU64::new(0),
            known: Mutex::default(),
            open_files: raise_open_files()?,
            spared: oom_score().is_ok_and(|score| score < 0),
        })
    }

    /// The name of this hsup among all that ever run on this host.
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

    /// The mark of a new run of a dyno: the value of [`MARK`].
    pub(crate) fn mark(&self, dyno: &str) -> String {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        format!("{}/{dyno}.{run}", self.instance)
    }

    /// The processes that may have daemonised away from a dyno: the children of the guardian or, without it,
    /// every process there is. Each one's mark is read when it is first seen, and once: a program may overwrite
    /// its environment later.
    ///
    /// # Errors
    /// As [`proc::look`].
    pub(crate) fn strays(&self) -> io::Result<Vec<Stray>> {
        let me = process::id();
        let pids = match self.pid {
            Some(guardian) if !self.dead.load(Ordering::Acquire) => proc::look_for_children(guardian)?,
            Some(_) | None => proc::seen(proc::all())?.unwrap_or_default(),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = HashMap::new();
        for pid in pids.into_iter().filter(|pid| *pid != me) {
            let Some(stat) = proc::look(pid)?.filter(|stat| stat.is_alive(pid)) else { continue };
            let same = known.get(&pid).filter(|stray| stray.start_time == stat.start_time);
            // A mark that is not there yet may be there later: a process that is being exec'd shows none.
            let mark = match same.and_then(|stray| stray.mark.clone()) {
                None => proc::look_for_variable(pid, MARK)?,
                mark => mark,
            };
            let may_get_mark = mark.is_none() && stat.is_being_executed(pid);
            let (session, start_time) = (stat.session, stat.start_time);
            found.insert(pid, Stray { pid, session, start_time, mark, may_get_mark });
        }
        *known = found;
        Ok(known.values().cloned().collect())
    }

    /// The soft limit of open files with which hsup was started.
    pub(crate) fn open_files(&self) -> u64 {
        self.open_files
    }

    /// Gives a dyno the limit of open files with which hsup was started, and has the kernel not spare it where it
    /// spares hsup: a dyno that has taken all memory would be the last to be killed.
    pub(crate) fn restore_limits(&self, pid: Pid) {
        if self.spared
            && let Err(error) = fs::write(format!("/proc/{pid}/oom_score_adj"), "0")
        {
            tracing::debug!(%pid, %error, "cannot reset the score of the out-of-memory killer");
        }
        if let (Some(_), Err(error)) = (self.pid, sys::limit_open_files(pid, self.open_files)) {
            tracing::debug!(%pid, %error, "cannot restore the limit of open files");
        }
    }
}

/// A process that may have left its dyno.
#[derive(Clone, Debug)]
pub(crate) struct Stray {
    pub(crate) pid: u32,
    pub(crate) session: u32,
    start_time: u64,
    /// The value of [`MARK`] that it was started with.
    pub(crate) mark: Option<String>,
    /// Whether it is too early to tell: it is being exec'd.
    pub(crate) may_get_mark: bool,
}

/// Where a process has its score of the out-of-memory killer.
pub(crate) const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// The score of this process: of -1000 to 1000, the least spares it most.
pub(crate) fn oom_score() -> io::Result<i32> {
    fs::read_to_string(OOM_SCORE)?.trim().parse().map_err(io::Error::other)
}

/// Blocks the signals that the guardian tells hsup of, for a process that is to hear of them otherwise or that, as one of
/// hsup's that was executed anew, is not meant.
pub(crate) fn block_forwarded() -> io::Result<SigSet> {
    let forwarded: SigSet = FORWARDED.into_iter().collect();
    forwarded.thread_block()?;
    Ok(forwarded)
}

/// Each dyno takes three descriptors, and the usual soft limit of 1024 stems from select(2), which hsup does
/// not use. Returns the limit as it was.
fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(soft)
}

/// How long all has to be quiet for the guardian to make itself small, in milliseconds. What the guardian lets go of it
/// needs again at its end, for which whoever waits for a one-off dyno waits as well.
const SETTLED_MS: u16 = 1000;

/// What the guardian watches over.
struct Charge {
    hsup: Pid,
    watched: SigSet,
    /// Where hsup is told of signals.
    told: OwnedFd,
    /// Children that the guardian had before it was one.
    others: Vec<u32>,
    relay: Option<Relaying>,
}

fn guard(mut charge: Charge, error_prefix: &str) -> ! {
    let terminal = tcgetattr(io::stdin()).ok();
    let ended = watch(&mut charge);
    let mut words = Vec::new();
    if ended.is_err() {
        let _gone = kill(charge.hsup, Signal::SIGKILL);
    }
    if clean_up(&charge.others).is_err() {
        words
            .push("hsup: some processes of its dynos cannot be killed; look for them below pid 1".to_owned());
    }
    let status = match ended {
        Ok(Exit::Code(code)) => i32::from(code),
        Ok(exit @ Exit::Signal(_)) => {
            words.insert(0, format!("hsup: {exit}; its dynos have been killed"));
            i32::from(exit.status())
        }
        Err(error) => {
            words.insert(0, format!("hsup: the guardian failed: {error}; everything has been killed"));
            70
        }
    };
    // An hsup that was killed could not put its terminal back as it was.
    if let Some(settings) = terminal.filter(|_| status > 128) {
        restore(&settings);
    }
    // Last, since to speak may take for ever, and fail.
    for word in words {
        let _nobody_listens = writeln!(io::stderr(), "{error_prefix}{word}");
    }
    process::exit(status);
}

/// Puts the terminal back as it was, where hsup is in the foreground there: else it has not changed it, and the kernel
/// would stop the guardian for good, for whose end somebody waits.
fn restore(terminal: &Termios) {
    // It may be put into the background at any moment.
    let _as_it_was = SigSet::from(Signal::SIGTTOU).thread_block();
    if tcgetpgrp(io::stdin()) == Ok(getpgrp()) {
        let _terminal_is_gone = tcsetattr(io::stdin(), SetArg::TCSANOW, terminal);
    }
}

/// The guardian's life.
fn watch(charge: &mut Charge) -> io::Result<Exit> {
    prctl::set_child_subreaper(true)?;
    let signals = SignalFd::with_flags(&charge.watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut patience = PollTimeout::from(SETTLED_MS);
    loop {
        if !charge.wait(&signals, patience)? {
            // What comes is one sleep, for as long as hsup runs.
            sys::release_free_memory();
            sys::forget_code();
            patience = PollTimeout::NONE;
            continue;
        }
        // Before hsup's end is heard of, since it may have had last words.
        if let Some(relay) = &mut charge.relay {
            relay.hand_on();
        }
        let Some(info) = signals.read_signal()? else { continue };
        match Signal::try_from(info.ssi_signo.cast_signed()) {
            Ok(Signal::SIGCHLD) => {
                if let Some(exit) = reap(charge.hsup)? {
                    return Ok(exit);
                }
            }
            Ok(Signal::SIGABRT) => {
                // A process that has been stopped ends only when it goes on.
                for signal in [Signal::SIGABRT, Signal::SIGCONT] {
                    let _gone = kill(charge.hsup, signal);
                }
            }
            // A pipe that is full holds more signals than anybody can have meant.
            Ok(signal) => {
                let _full_or_gone = nix::unistd::write(&charge.told, &[signal as u8]);
            }
            Err(_) => {}
        }
    }
}

impl Charge {
    /// Sleeps until there is a signal, or something to hand on; tells whether there is, before patience ends.
    fn wait(&self, signals: &SignalFd, patience: PollTimeout) -> io::Result<bool> {
        let signals = PollFd::new(signals.as_fd(), PollFlags::POLLIN);
        let polled = match &self.relay {
            Some(relay) => poll(&mut [signals, relay.waits_for()], patience),
            None => poll(&mut [signals], patience),
        };
        match polled {
            Ok(count) => Ok(count > 0),
            Err(Errno::EINTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reaps what has ended; how hsup ended, once it has. Every other child of the guardian is a daemon that nobody
/// else waits for, so that any child may be reaped here.
fn reap(hsup: Pid) -> io::Result<Option<Exit>> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == hsup => {
                ended = Some(Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == hsup => {
                ended = Some(Exit::Signal(signal as i32))
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(ended),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills every process below the guardian: with hsup gone all of them are its children or become so when their
/// own parent is killed, so that killing children until there are none kills all. Left alone are `others`,
/// children that the guardian had before it was one: the shell that became hsup had started them.
fn clean_up(others: &[u32]) -> io::Result<()> {
    let deadline = Instant::now() + CLEAN_UP;
    loop {
        reap(getpid())?;
        // By far the most often: to ask for the list takes longer.
        if waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD) {
            return Ok(());
        }
        let mut children = proc::children(getpid().as_raw().cast_unsigned());
        children.retain(|child| !others.contains(child));
        let Some(&first) = children.first() else { return Ok(()) };
        // Looked at before it is killed: a child that has not been reaped cannot have become another process.
        let pidfd = sys::pidfd_open(first)?;
        for child in children {
            let _gone = kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
