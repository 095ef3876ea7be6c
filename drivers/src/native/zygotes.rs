//! hsup's end of the zygote: how it is begun, asked for an init, and replaced when it has been killed. Dynos that run
//! need none, so that its death harms none of them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stdin};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};

use super::first_process::Unstarted;
use super::network::Links;
use super::protocol::{Answer, Received, Request, receive, send};
use super::zygote::serve;
use crate::sys::{self, Spawn, SpawnStdio};
use crate::{KillSignal, StartError, guardian, process};

/// What hsup calls itself when it executes itself to be a zygote.
const NAME: &std::ffi::CStr = c"hsup-zygote";

/// How often at most a zygote is replaced that nobody asks for anything: one that cannot live is not to keep hsup busy.
const REPLACE_EVERY: Duration = Duration::from_secs(1);

/// The zygote, as hsup proper has it.
#[derive(Debug)]
pub struct Zygote {
    line: Mutex<Line>,
}

/// The line to the zygotes, one after the other.
#[derive(Debug)]
struct Line {
    now: Now,
    /// Whether the zygote of now has been told to end.
    dismissed: bool,
    /// The processes that have been told of, many of which have ended since.
    told: HashSet<u32>,
}

/// The zygote of now.
#[derive(Debug)]
struct Now {
    pid: Pid,
    socket: UnixStream,
    pidfd: OwnedFd,
}

/// The network namespace that an init is being cloned into.
#[derive(Debug)]
pub(super) struct DynoNetns {
    pub(super) namespace: OwnedFd,
    /// The way to its links.
    pub(super) links: Links,
}

/// How long a zygote that is to end may take: it does one small thing at a time.
const ENDING: Duration = Duration::from_secs(1);

/// How many of them are remembered before it is looked which of them are there.
const MANY: usize = 4096;

impl Zygote {
    /// Forks the zygote. To be called before any thread is started.
    ///
    /// # Errors
    /// If the process has several threads already, or the kernel refuses.
    pub fn fork() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        match sys::fork_alone()? {
            ForkResult::Parent { child } => {
                begin_elsewhere(child);
                let now = Now::of(child, ours)?;
                Ok(Self { line: Mutex::new(Line { now, dismissed: false, told: HashSet::new() }) })
            }
            ForkResult::Child => {
                drop(ours);
                let served = prctl::set_name(NAME).map_err(io::Error::from).and_then(|()| serve(theirs));
                // without a word: when hsup is there it hears that the socket has ended
                std::process::exit(i32::from(served.is_err()))
            }
        }
    }

    /// Has an init cloned, and does meanwhile what takes no more of it than its network namespace. Its pid, its pidfd, and
    /// what came of that.
    pub(super) fn clone_init<T>(
        &self,
        request: &Request,
        fds: &[OwnedFd],
        meanwhile: impl FnOnce(DynoNetns) -> Result<T, StartError>,
    ) -> Result<(u32, OwnedFd, Result<T, StartError>), Unstarted> {
        let mut line = self.line();
        line.ask(request, fds)?;
        let ((), fds) = line.answer()?;
        let netns = <[OwnedFd; 2]>::try_from(fds).map_err(no_more_descriptors);
        let netns = netns.map(|[namespace, links]| DynoNetns { namespace, links: Links::by(links) });
        let done = netns.and_then(meanwhile);
        let (pid, pidfd) = line.cloned()?;
        Ok((pid, pidfd, done))
    }

    /// Has an attendant cloned; its pid, and its pidfd.
    pub(super) fn clone_attendant(
        &self,
        request: &Request,
        fds: &[OwnedFd],
    ) -> Result<(u32, OwnedFd), Unstarted> {
        let mut line = self.line();
        line.ask(request, fds)?;
        line.cloned()
    }

    /// Has the zygote end: nobody will ask it for anything. Whoever does has it replaced.
    pub(super) fn dismiss(&self) {
        let mut line = self.line();
        // On this processor: the process that it has cloned last, on another one, has more to do than this one.
        let _where_it_is = here().and_then(|here| sched_setaffinity(line.now.pid, &here));
        let _ended_already = line.now.socket.shutdown(Shutdown::Both);
        line.dismissed = true;
    }

    /// Replaces the zygote whenever it has ended.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut well = true;
        loop {
            let since = Instant::now();
            let living = match self.line.try_lock() {
                Ok(line) => line.living(),
                Err(_) => None,
            };
            let living = match living {
                Some(pidfd) => pidfd,
                None => {
                    let zygote = Arc::clone(&self);
                    let living = tokio::task::spawn_blocking(move || zygote.replaced()).await;
                    living.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
                }
            };
            match living.and_then(sys::watch) {
                Ok(pidfd) => {
                    well = true;
                    let _ended = pidfd.readable().await;
                }
                // A start finds out for itself.
                Err(error) => {
                    if std::mem::take(&mut well) {
                        tracing::error!(%error, "cannot watch the zygote, from which dynos are cloned; trying again");
                    }
                }
            }
            sleep_until(since + REPLACE_EVERY).await;
        }
    }

    /// The pidfd of the zygote, which is replaced if it has ended.
    fn replaced(&self) -> io::Result<OwnedFd> {
        let mut line = self.line();
        match line.living() {
            Some(pidfd) => pidfd,
            None => {
                line.replace()?;
                line.now.pidfd.try_clone()
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(|poisoned| {
            self.line.clear_poison();
            let line = poisoned.into_inner();
            // Who panicked may not have heard all that the zygote has answered to it: the next one is to ask another.
            let _ended_already = line.now.socket.shutdown(Shutdown::Both);
            line
        })
    }
}

/// The processor that this process is on.
fn here() -> nix::Result<CpuSet> {
    let mut here = CpuSet::new();
    here.set(sched_getcpu()?)?;
    Ok(here)
}

/// Has a new process run on another processor, if there is one: both have enough to do for neither to wait until the
/// kernel moves one of them. Where it may be afterwards it may be now; a dyno's main process may be anywhere.
fn begin_elsewhere(child: Pid) {
    let Ok(all) = sched_getaffinity(child) else { return };
    let mut others = all;
    let _moved = sched_getcpu()
        .and_then(|here| others.unset(here))
        .and_then(|()| sched_setaffinity(child, &others))
        .and_then(|()| sched_setaffinity(child, &all));
}

impl Drop for Zygote {
    /// Whoever inherits the children of hsup may not wait for them.
    fn drop(&mut self) {
        let Line { now, .. } = self.line.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ended_already = now.socket.shutdown(Shutdown::Both);
        if !process::ends_within(now.pidfd.as_fd(), ENDING) {
            let _gone = sys::pidfd_signal(now.pidfd.as_fd(), KillSignal::Kill);
        }
        let _reaped = waitid(Id::PIDFd(now.pidfd.as_fd()), WaitPidFlag::WEXITED);
    }
}

fn no_more_descriptors(_fewer: Vec<OwnedFd>) -> StartError {
    let operation = "take over the new dyno (is the hard limit of open files, four a dyno, reached?)";
    StartError::System { operation, source: Errno::EMFILE.into() }
}

impl Line {
    /// Asks the zygote for a process.
    fn ask(&mut self, request: &Request, fds: &[OwnedFd]) -> Result<(), StartError> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let sent = send(&mut self.now.socket, request, &fds).or_else(|_| {
            // A request that it has not had whole, it has not acted on: the next one may have it.
            self.replace()?;
            send(&mut self.now.socket, request, &fds)
        });
        let operation = "ask the zygote, from which dynos are cloned, for a new one";
        sent.map_err(|source| StartError::System { operation, source })
    }

    /// Its next answer, and the descriptors that came along.
    fn answer<T: DeserializeOwned>(&mut self) -> Result<(T, Vec<OwnedFd>), Unstarted> {
        let system = |operation| move |source| StartError::System { operation, source };
        let unanswered = match receive::<Answer<T>>(&mut self.now.socket) {
            Ok(Some(Received { message: Ok(answer), fds, all: _ })) => {
                return answer.map(|answer| (answer, fds)).map_err(Unstarted::Inside);
            }
            Ok(Some(Received { message: Err(error), .. })) => error.into(),
            Ok(None) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => error,
        };
        // What it would say next cannot be told from what it has not said.
        self.replace().map_err(system("replace the zygote, from which dynos are cloned"))?;
        let operation = "hear the zygote, from which dynos are cloned (it was killed, and has been replaced)";
        Err(system(operation)(unanswered).into())
    }

    /// Its answer that it has cloned a process: the pid, and the pidfd.
    fn cloned(&mut self) -> Result<(u32, OwnedFd), Unstarted> {
        let (pid, fds) = self.answer()?;
        let [pidfd] = <[OwnedFd; 1]>::try_from(fds).map_err(|fewer| {
            end(pid);
            no_more_descriptors(fewer)
        })?;
        begin_elsewhere(Pid::from_raw(pid.cast_signed()));
        self.remember(pid);
        Ok((pid, pidfd))
    }

    /// The pidfd of the zygote, unless it has ended.
    fn living(&self) -> Option<io::Result<OwnedFd>> {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let state = waitid(Id::PIDFd(self.now.pidfd.as_fd()), look);
        (state == Ok(WaitStatus::StillAlive)).then(|| self.now.pidfd.try_clone())
    }

    fn remember(&mut self, pid: u32) {
        if self.told.len() >= MANY {
            let there = process::children(std::process::id());
            self.told.retain(|pid| there.contains(pid));
        }
        self.told.insert(pid);
    }

    /// Puts another zygote in the place of this one, which is killed if it lives.
    fn replace(&mut self) -> io::Result<()> {
        let _gone = sys::pidfd_signal(self.now.pidfd.as_fd(), KillSignal::Kill);
        // Where the last attempt has failed, it has been reaped before.
        let ended = waitid(Id::PIDFd(self.now.pidfd.as_fd()), WaitPidFlag::WEXITED);
        self.end_untold();
        self.now = Now::spawn()?;
        let how = match ended {
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
            Ok(_) | Err(_) => "has ended".to_owned(),
        };
        if !std::mem::take(&mut self.dismissed) {
            tracing::warn!("the zygote, from which dynos are cloned, {how}; another one has taken its place");
        }
        Ok(())
    }

    /// Ends the process that the zygote has cloned and did not live to tell of. Nobody else would reap it, and nobody
    /// clones another one now.
    fn end_untold(&self) {
        // By the zygote's name, until it has its own; what hsup proper forks has that of hsup proper.
        let is_cloned = |pid: &u32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            matches!(name.trim_end(), "hsup-zygote" | "hsup-init" | "hsup-attendant")
        };
        let children = process::children(std::process::id()).into_iter();
        children.filter(|pid| !self.told.contains(pid)).filter(is_cloned).for_each(end);
    }
}

/// Kills and reaps a child. Until it is reaped its pid cannot become another's.
fn end(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed());
    let _gone = kill(pid, Signal::SIGKILL);
    while waitpid(pid, None) == Err(Errno::EINTR) {}
}

impl Now {
    fn of(child: Pid, socket: UnixStream) -> io::Result<Self> {
        Ok(Self { pid: child, socket, pidfd: sys::pidfd_open(child.as_raw().cast_unsigned())? })
    }

    /// Starts a zygote of a process that may have threads: hsup is executed anew, by another name.
    fn spawn() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let (null, errors) = (fs::File::open("/dev/null")?, io::stderr());
        let child = sys::spawn(&Spawn {
            program: c"/proc/self/exe",
            args: &[NAME.to_owned()],
            env: &[],
            dir: None,
            stdio: SpawnStdio::Descriptors([theirs.as_fd(), null.as_fd(), errors.as_fd()]),
            passed: None,
        })?;
        Self::of(child, ours).inspect_err(|_| end(child.as_raw().cast_unsigned()))
    }
}

/// If hsup has executed this process to be a zygote, lives that life, and gives the exit code of the process.
///
/// To be called before any thread is started, and before anything else is done.
pub fn live_as_zygote() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    (name.as_encoded_bytes() == NAME.to_bytes()).then(|| ExitCode::from(u8::from(zygote().is_err())))
}

fn zygote() -> io::Result<()> {
    // As what was forked from hsup would be.
    prctl::set_dumpable(false)?;
    prctl::set_name(NAME)?;
    guardian::block_forwarded()?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    // Whoever else held the socket would keep hsup from hearing the end of this process.
    dup2_stdin(fs::File::open("/dev/null")?)?;
    serve(socket.into())
}

#[cfg(test)]
mod tests {
    use super::super::protocol::Failure;
    use super::*;

    /// A zygote that has ended, and the other end of its line.
    fn ended() -> (Zygote, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = std::process::Command::new("true").spawn().unwrap().id();
        let now = Now::of(Pid::from_raw(child.cast_signed()), ours).unwrap();
        (Zygote { line: Mutex::new(Line { now, dismissed: false, told: HashSet::new() }) }, theirs)
    }

    #[test]
    fn what_the_zygote_fails_at_is_told_as_it_is() {
        let (zygote, mut theirs) = ended();
        let not_shared = Failure::NotShared { what: "share".to_owned(), errno: libc::ENOSPC };
        send(&mut theirs, &Answer::<()>::Err(not_shared.clone()), &[]).unwrap();
        let cloned =
            zygote.clone_init::<()>(&Request::of_attendant(), &[], |_| panic!("there is no network"));
        assert!(matches!(cloned, Err(Unstarted::Inside(failure)) if failure == not_shared));
    }

    #[test]
    fn what_was_answered_to_one_that_panicked_is_heard_by_nobody() {
        let (zygote, mut theirs) = ended();
        let null = fs::File::open("/dev/null").unwrap();
        send(&mut theirs, &Answer::Ok(()), &[null.as_fd(), null.as_fd()]).unwrap();
        send(&mut theirs, &Answer::Ok(1_u32), &[null.as_fd()]).unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _none = zygote.clone_init::<()>(&Request::of_attendant(), &[], |_| panic!("on purpose"));
        }));
        assert!(panicked.is_err());
        assert!(send(&mut zygote.line().now.socket, &Request::of_attendant(), &[]).is_err());
    }
}
