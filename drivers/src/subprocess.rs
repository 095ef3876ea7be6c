//! A run that is a tree of processes of this host: spawned, signalled and waited for as a whole.
//!
//! The main process leads a session of its own. It is not reaped before every other process of the run is gone:
//! until then its pid, which is also the number of the session and of the process group, cannot become
//! somebody else's.

use std::collections::HashSet;
use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io;
use std::iter;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, geteuid, pipe2};
use tokio::io::unix::AsyncFd;

use crate::command::c_string;
use crate::guardian::{Guardian, MARK, Stray};
use crate::process;
use crate::sys::{self, Spawn, SpawnStdio};
use crate::{
    BoxFuture, DynoSpec, Exec, Exit, KillSignal, MainExit, Notify, Output, Run, SignalError, StartError,
    Stdio, notify,
};

/// Where the processes of runs are: what their driver starts each with.
pub trait Place: fmt::Debug + Send + Sync {
    /// What kills what is left of them when hsup dies.
    fn guardian(&self) -> &Guardian;

    /// The address at which their ports are to be reached.
    fn address(&self) -> IpAddr;

    /// What a run executes, which finds the name of the socket for its sd_notify in its environment.
    ///
    /// # Errors
    /// If there is no such program.
    fn program(&self, spec: &DynoSpec, notify: Option<&str>) -> Result<Program<'_>, StartError>;
}

/// What to execute: found and resolved, the environment complete but for hsup's mark.
pub struct Program<'a> {
    /// The program.
    pub path: PathBuf,
    /// Its arguments, the name of the program first.
    pub args: Vec<CString>,
    /// The dyno's environment.
    pub env: Vec<CString>,
    /// The working directory; `None` for hsup's own.
    pub dir: Option<&'a Path>,
}

/// A run of a dyno as processes of this host.
#[derive(Debug)]
pub struct Subprocess {
    dyno: String,
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
    mark: String,
    place: Arc<dyn Place>,
    address: IpAddr,
    output: Mutex<Option<Output>>,
    notify: Mutex<Option<Notify>>,
    ending: Mutex<Ending>,
}

/// How the run has been told to end.
#[derive(Debug, Default)]
enum Ending {
    #[default]
    Not,
    /// These process groups have been sent SIGTERM, once and each in one step: whoever is being forked has it, and what a
    /// process starts to end with is of its group and has not. Groups that turn up later are sent it, too.
    Told(HashSet<u32>),
    /// All of it is to be killed, whatever is yet to come included.
    Killed,
}

/// How long it is waited for a process that is being exec'd to be somebody: the kernel reads a page of a file or two
/// meanwhile. One that takes longer is none whose environment this user may read.
const LONGEST_EXEC: Duration = Duration::from_millis(20);
/// When it is looked again for what there was too little to look with, which nobody tells of when there is more.
const NEXT_LOOK: Duration = Duration::from_secs(1);

impl Subprocess {
    /// Starts a run.
    ///
    /// # Errors
    /// If the program cannot be executed or the system refuses.
    pub fn start(place: Arc<dyn Place>, spec: &DynoSpec) -> Result<Arc<dyn Run>, StartError> {
        Ok(Arc::new(Self::spawn(place, spec)?))
    }

    /// Spawns the main process of a run.
    fn spawn(place: Arc<dyn Place>, spec: &DynoSpec) -> Result<Self, StartError> {
        let system = |operation| move |source| StartError::System { operation, source };
        let notify = spec.notify.then(|| notify::of_host(&spec.name)).transpose()?;
        let mut program = place.program(spec, notify.as_ref().map(|(_, name)| name.as_str()))?;
        let mark = place.guardian().mark(&spec.name);
        program.env.push(c_string(format!("{MARK}={mark}"))?);
        if spec.listen.is_some() {
            program = with_socket(program)?;
        }
        let (pid, output) = spawn(spec, &program)?;
        let number = pid.as_raw().cast_unsigned();
        place.guardian().restore_limits(pid);
        let pidfd = sys::pidfd_open(number)
            .and_then(sys::watch)
            .inspect_err(|_| abandon(pid))
            .map_err(system("watch the new process (is the limit of open files reached?)"))?;
        Ok(Self {
            dyno: spec.name.clone(),
            pid: number,
            pidfd,
            mark,
            address: spec.listen.as_ref().and_then(bound_to).unwrap_or_else(|| place.address()),
            place,
            output: Mutex::new(output),
            // Anybody on this host can send to it: what counts is hsup's own user, whose the run is.
            notify: Mutex::new(notify.map(|(socket, _)| Notify { socket, sender: Some(geteuid().as_raw()) })),
            ending: Mutex::default(),
        })
    }

    /// The processes of the run that are alive.
    ///
    /// A daemon that leaves its parent while its parents are being looked at is in none of the lists, and the mark of
    /// one that is being exec'd cannot be read, so that there being nobody counts only if nobody has moved meanwhile.
    ///
    /// # Errors
    /// As [`process::look`].
    fn members(&self) -> io::Result<Vec<Member>> {
        let begun = Instant::now();
        let mut strays = self.strays()?;
        loop {
            let roots = strays.iter().filter(|stray| self.owns(stray)).map(|stray| stray.pid);
            let found = process::with_descendants(roots.chain([self.pid]))?;
            let nobody_else = found.len() == 1;
            let alive = found.into_iter().filter_map(|pid| Member::look(pid).transpose());
            let alive = alive.collect::<io::Result<Vec<Member>>>()?;
            let after = self.strays()?;
            let nobody_moved = strays.iter().map(|stray| stray.pid).eq(after.iter().map(|stray| stray.pid));
            let nobody_moves =
                !strays.iter().any(|stray| stray.may_get_mark) || begun.elapsed() > LONGEST_EXEC;
            if !alive.is_empty() || nobody_else && nobody_moved && nobody_moves {
                return Ok(alive);
            }
            strays = after;
        }
    }

    /// The same, as soon as there is enough to look with.
    async fn members_at_last(&self) -> Vec<Member> {
        loop {
            match self.members() {
                Ok(members) => return members,
                Err(error) => {
                    let dyno = &self.dyno;
                    tracing::warn!(%error, "cannot look for the processes of {dyno}; looking again in a second");
                    tokio::time::sleep(NEXT_LOOK).await;
                }
            }
        }
    }

    fn strays(&self) -> io::Result<Vec<Stray>> {
        let mut strays = self.place.guardian().strays()?;
        strays.sort_by_key(|stray| stray.pid);
        Ok(strays)
    }

    /// Whether a process that is not below the main process belongs to the run: it is of its session, or was
    /// started with its mark.
    fn owns(&self, stray: &Stray) -> bool {
        stray.session == self.pid || stray.mark.as_deref() == Some(self.mark.as_str())
    }

    /// Has members end as the run has been told to; all of them, whatever becomes of one. The main process and its group
    /// are told though they are not among them: for that nothing need be looked at.
    fn tell(&self, members: &[Member]) -> Result<(), SignalError> {
        let mut result = Ok(());
        let mut unsignalled = |pid, signal, source| {
            result = Err(SignalError { signal, pid, dyno: self.dyno.clone(), source });
        };
        match &mut *self.ending() {
            Ending::Not => {}
            Ending::Told(told) => {
                let there = members.iter().filter(|member| member.is_there().unwrap_or_default());
                let main = self.has_its_pid().then_some((self.pid, self.pid));
                for (pid, group) in main.into_iter().chain(there.map(|member| (member.pid, member.group))) {
                    // 0 and 1, which no dyno is of, stand for more than a group.
                    if group <= 1 || !told.insert(group) {
                        continue;
                    }
                    match killpg(Pid::from_raw(group.cast_signed()), Signal::SIGTERM) {
                        Ok(()) | Err(Errno::ESRCH) => {}
                        Err(error) => unsignalled(pid, KillSignal::Term, error.into()),
                    }
                }
            }
            Ending::Killed => {
                if self.has_its_pid() {
                    // Whom that does not reach is told of as a member.
                    let _together = killpg(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
                }
                let main = sys::pidfd_signal(self.pidfd.get_ref().as_fd(), KillSignal::Kill);
                let others = members.iter().filter(|member| member.pid != self.pid);
                let killed = others.map(|member| (member.pid, member.kill()));
                for (pid, killed) in iter::once((self.pid, unless_gone(main))).chain(killed) {
                    if let Err(source) = killed {
                        unsignalled(pid, KillSignal::Kill, source);
                    }
                }
            }
        }
        result
    }

    fn ending(&self) -> MutexGuard<'_, Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the main process, and its group, still have their pid to themselves: it has not been reaped.
    fn has_its_pid(&self) -> bool {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::PIDFd(self.pidfd.get_ref().as_fd()), look).is_ok()
    }

    /// Reads how the main process ended and, with `reap`, lets its pid go.
    fn main_status(&self, reap: bool) -> Exit {
        let keep = if reap { WaitPidFlag::empty() } else { WaitPidFlag::WNOWAIT };
        match waitid(Id::PIDFd(self.pidfd.get_ref().as_fd()), WaitPidFlag::WEXITED | keep) {
            Ok(WaitStatus::Exited(_, code)) => Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as i32),
            other => {
                tracing::error!(
                    dyno = self.dyno,
                    pid = self.pid,
                    ?other,
                    "cannot read how the process ended"
                );
                Exit::Code(u8::MAX)
            }
        }
    }
}

/// A process of a run.
struct Member {
    pid: u32,
    group: u32,
    start_time: u64,
}

impl Member {
    /// The process of this pid, if it is alive.
    ///
    /// # Errors
    /// As [`process::look`].
    fn look(pid: u32) -> io::Result<Option<Self>> {
        let stat = process::look(pid)?.filter(|stat| stat.is_alive(pid));
        Ok(stat.map(|stat| Self { pid, group: stat.group, start_time: stat.start_time }))
    }

    /// Whether it is, and not another one of its pid by now.
    fn is_there(&self) -> io::Result<bool> {
        Ok(process::look(self.pid)?.is_some_and(|stat| stat.start_time == self.start_time))
    }

    /// Its pidfd; none if it is gone.
    fn hold(&self) -> io::Result<Option<OwnedFd>> {
        match sys::pidfd_open(self.pid) {
            Ok(pidfd) => Ok(self.is_there()?.then_some(pidfd)),
            Err(error) => unless_gone(Err(error)).map(|()| None),
        }
    }

    fn kill(&self) -> io::Result<()> {
        match self.hold()? {
            Some(pidfd) => unless_gone(sys::pidfd_signal(pidfd.as_fd(), KillSignal::Kill)),
            None => Ok(()),
        }
    }

    /// Waits for it to end. It need not be our child.
    async fn ended(&self) {
        match self.hold().and_then(|held| held.map(sys::watch).transpose()) {
            Ok(Some(pidfd)) => {
                let _ended = pidfd.readable().await;
            }
            Ok(None) => {}
            Err(error) => {
                let pid = self.pid;
                tracing::warn!(pid, %error, "cannot watch a process; looking again in a second");
                tokio::time::sleep(NEXT_LOOK).await;
            }
        }
    }
}

/// That a process is gone is no error.
fn unless_gone(told: io::Result<()>) -> io::Result<()> {
    told.or_else(|error| if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) })
}

impl Run for Subprocess {
    fn pid(&self) -> Option<u32> {
        Some(self.pid)
    }

    fn address(&self) -> IpAddr {
        self.address
    }

    fn take_output(&self) -> Option<Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn take_notify(&self) -> Option<Notify> {
        self.notify.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// In a place that is the host's, a command is inside the run where it is beside it.
    fn exec<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Box<dyn Exec>, StartError>> {
        Box::pin(async { Ok(Box::new(Self::spawn(Arc::clone(&self.place), spec)?) as Box<dyn Exec>) })
    }

    fn signal(&self, signal: KillSignal) -> Result<(), SignalError> {
        // Who cannot be seen now is told later, while it is waited for all to be gone.
        let members = self.members().unwrap_or_default();
        *self.ending() = match signal {
            KillSignal::Term => Ending::Told(HashSet::new()),
            KillSignal::Kill => Ending::Killed,
        };
        self.tell(&members)
    }

    fn main_exit(&self) -> BoxFuture<'_, MainExit> {
        Box::pin(async {
            if let Err(error) = self.pidfd.readable().await {
                tracing::error!(dyno = self.dyno, pid = self.pid, %error, "cannot wait for the process");
            }
            let alone = self.members_at_last().await.is_empty();
            MainExit { exit: self.main_status(alone), alone }
        })
    }

    fn gone(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            loop {
                let members = self.members_at_last().await;
                let Some(first) = members.first() else { break };
                if let Err(error) = self.tell(&members) {
                    tracing::warn!(error = %error.source, "{error}");
                }
                first.ended().await;
            }
            self.main_status(true);
        })
    }
}

impl Exec for Subprocess {
    fn take_output(&mut self) -> Option<Output> {
        Run::take_output(self)
    }

    fn exit(&mut self) -> BoxFuture<'_, MainExit> {
        self.main_exit()
    }

    fn end(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Err(error) = self.signal(KillSignal::Kill) {
                tracing::warn!(cause = %error.source, "{error}");
            }
            if !self.main_exit().await.alone {
                self.gone().await;
            }
        })
    }
}

/// Kills and reaps a child that cannot be watched.
fn abandon(pid: Pid) {
    let _gone = killpg(pid, Signal::SIGKILL);
    let _reaped = nix::sys::wait::waitpid(pid, None);
}

/// The program for a listening socket as its descriptor 3. `LISTEN_PID` has to be the pid of the process that gets
/// it, which is not known before it is there: a shell that becomes the program knows its own.
fn with_socket(program: Program<'_>) -> Result<Program<'_>, StartError> {
    let Program { path, args, mut env, dir } = program;
    // what hsup itself was passed, and may have handed down, is not what this dyno is passed
    env.retain(|var| {
        !["LISTEN_FDS=", "LISTEN_PID="].iter().any(|name| var.to_bytes().starts_with(name.as_bytes()))
    });
    env.push(c_string("LISTEN_FDS=1")?);
    let mut words = vec![c_string("sh")?, c_string("-c")?];
    words.extend([c_string(r#"export LISTEN_PID=$$; exec "$@""#)?, c_string("sh")?]);
    words.push(c_string(path.as_os_str().as_encoded_bytes())?);
    words.extend(args.into_iter().skip(1));
    Ok(Program { path: "/bin/sh".into(), args: words, env, dir })
}

/// The one address of the host at which a socket listens; none where it listens at all of them.
fn bound_to(socket: &Arc<OwnedFd>) -> Option<IpAddr> {
    let socket = TcpListener::from(socket.try_clone().ok()?);
    socket.local_addr().ok().map(|bound| bound.ip()).filter(|address| !address.is_unspecified())
}

/// Connects input and output and spawns. What is opened for the child alone is closed when this returns.
fn spawn(spec: &DynoSpec, program: &Program<'_>) -> Result<(Pid, Option<Output>), StartError> {
    let system = |operation| move |source: io::Error| StartError::System { operation, source };
    let pipe = || {
        pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from).map_err(system(
            "make a pipe for the dyno (is the hard limit of open files, three a dyno, reached?)",
        ))
    };
    match &spec.stdio {
        Stdio::Pipes | Stdio::InputOnly => {
            let input = match spec.stdio {
                Stdio::Pipes => Some(File::open("/dev/null").map_err(system("open /dev/null"))?),
                Stdio::InputOnly | Stdio::Inherit | Stdio::Terminal(_) => None,
            };
            let own = io::stdin();
            let input = input.as_ref().map_or(own.as_fd(), AsFd::as_fd);
            let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
            let pid = exec(spec, program, SpawnStdio::Descriptors([input, out.as_fd(), err.as_fd()]))?;
            Ok((pid, Some(Output { stdout, stderr })))
        }
        Stdio::Inherit => {
            let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
            let ours: [BorrowedFd<'_>; 3] = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
            Ok((exec(spec, program, SpawnStdio::Descriptors(ours))?, None))
        }
        Stdio::Terminal(path) => {
            let path = c_string(path.as_os_str().as_encoded_bytes())?;
            Ok((exec(spec, program, SpawnStdio::Terminal(&path))?, None))
        }
    }
}

fn exec(spec: &DynoSpec, program: &Program<'_>, stdio: SpawnStdio<'_>) -> Result<Pid, StartError> {
    let path = c_string(program.path.as_os_str().as_encoded_bytes())?;
    let dir = program.dir.map(|dir| c_string(dir.as_os_str().as_encoded_bytes())).transpose()?;
    let Program { args, env, .. } = program;
    let passed = spec.listen.as_ref().map(|socket| socket.as_fd());
    let request = Spawn { program: &path, args, env, dir: dir.as_deref(), stdio, passed };
    sys::spawn(&request).map_err(|source| match source.raw_os_error() {
        Some(libc::EACCES | libc::ENOEXEC | libc::ETXTBSY | libc::EISDIR | libc::ENOENT) => {
            StartError::NotExecutable { path: program.path.clone(), source }
        }
        _ => StartError::System { operation: "start the process", source },
    })
}
