//! A dyno's init: the first process of its pid namespace. It makes the dyno's surroundings, starts the main process,
//! and stays to reap, to hand on signals and to tell how the main process ended. When hsup dies it kills everything
//! and ends; when it ends itself, however that comes, the kernel kills everything below it.
//!
//! It has one thread and was cloned from the zygote, which has one too, so that any code may run here.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fchown, setsid};

use super::command::{Program, find};
use super::inherited;
use super::network::{ExtraInterface, Links, Routes, configure_inside};
use super::privileges;
use super::protocol::{ExitText, Failure, InsideNetwork, Order, Report, StartRequest, StdioKind, hear, say};
use super::root;
use super::seccomp::Filter;
use crate::sys;

/// What init exits with when there is nobody to tell what it failed at.
const FAILED: i32 = 70;

/// The descriptors that come with a request.
pub(super) struct Descriptors {
    /// The socket to hsup.
    pub(super) control: OwnedFd,
    /// Standard input, output and errors of the main process.
    pub(super) stdio: [OwnedFd; 3],
}

/// The whole life of an init.
pub(super) fn run(
    request: &StartRequest,
    fds: Descriptors,
    links: Links,
    userns: Option<&OwnedFd>,
    filter: &Filter,
) -> ! {
    let Descriptors { control, stdio } = fds;
    let main = match set_up(request, &control, stdio, links, userns, filter) {
        Ok(main) => main,
        Err(failure) => {
            let said = say(control.as_fd(), &Report::Failed(failure.cut()));
            std::process::exit(if said.is_ok() { 0 } else { FAILED });
        }
    };
    let started = Report::Started { main: main.as_raw().cast_unsigned() };
    let ended = keep_to_kill().and_then(|()| say(control.as_fd(), &started)).and_then(|()| {
        // What comes is sleep, beside each dyno.
        sys::release_free_memory();
        watch(main, control.as_fd())
    });
    std::process::exit(if ended.is_ok() { 0 } else { FAILED });
}

/// Makes the dyno's surroundings and starts its main process, which has been executed when this returns.
fn set_up(
    request: &StartRequest,
    control: &OwnedFd,
    stdio: [OwnedFd; 3],
    links: Links,
    userns: Option<&OwnedFd>,
    filter: &Filter,
) -> Result<Pid, Failure> {
    prctl::set_name(c"hsup-init").map_err(Failure::step("name the process"))?;
    // Of what is made for the dyno it can read all that is its own.
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    // Of a session of its own, so that nothing typed at hsup's terminal reaches it.
    setsid().map_err(Failure::step("begin a session"))?;
    nix::unistd::sethostname(&request.hostname).map_err(Failure::step("set the host name"))?;
    // While hsup, on another processor, makes the host's end of the network.
    root::build(request, userns, terminal(request.stdio, &stdio[0])?.as_deref())?;
    expect(control, Order::GoOn)?;
    network(&request.network, links)?;
    // After all that is done by paths of the host.
    root::enter(&request.root)?;
    start_main(request, stdio, filter)
}

/// Where the host has the terminal that the dyno has as its input.
fn terminal(kind: StdioKind, input: &OwnedFd) -> Result<Option<PathBuf>, Failure> {
    let path = || fs::read_link(format!("/proc/self/fd/{}", input.as_raw_fd()));
    match kind {
        StdioKind::Terminal => path().map(Some).map_err(Failure::io("find the name of the terminal")),
        StdioKind::Pipes | StdioKind::InputOnly | StdioKind::Inherited => Ok(None),
    }
}

/// Over netlink alone: `/proc/sys` is read-only by now.
/// `links` are the host's: what is said to them last makes both ends ready for the first packet.
fn network(inside: &InsideNetwork, links: Links) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::Step {
        what: format!("set up the network inside: {}", crate::explain(error)),
        errno: libc::EIO,
    };
    let routes = inside.routes.parse::<Routes>().map_err(|error| failed(&error))?;
    let extra = inside.extra.as_deref().map(str::parse::<ExtraInterface>).transpose();
    let extra = extra.map_err(|error| failed(&error))?;
    configure_inside(&inside.subnet, &routes, extra.as_ref()).map_err(|error| failed(&error))?;
    links.settle(&inside.host_link).map_err(|error| failed(&error))
}

fn expect(control: &OwnedFd, order: Order) -> Result<(), Failure> {
    match hear::<Order>(control.as_fd()).map_err(Failure::io("hear of the network"))? {
        Some(heard) if heard == order => Ok(()),
        Some(_) | None => Err(Failure::step("wait for the network")(Errno::ECANCELED)),
    }
}

fn start_main(request: &StartRequest, stdio: [OwnedFd; 3], filter: &Filter) -> Result<Pid, Failure> {
    let env = request.env.iter().map(|var| crate::command::c_string(var.as_str()));
    let env = env.collect::<Result<Vec<_>, _>>()?;
    let started = sys::start_sharing(|| become_main(request, &stdio, &env, filter));
    let (main, ended) = started.map_err(Failure::io("start the main process"))?;
    // Of the memory that both had, the change of the user has made what the host has for such programs.
    prctl::set_dumpable(false).map_err(Failure::step("keep memory out of cores"))?;
    match ended {
        None => Ok(main),
        Some(Err(failure)) => Err(failure),
        Some(Ok(never)) => match never {},
    }
}

/// Becomes the main process.
fn become_main(
    request: &StartRequest,
    stdio: &[OwnedFd; 3],
    env: &[CString],
    filter: &Filter,
) -> Result<std::convert::Infallible, Failure> {
    setsid().map_err(Failure::step("begin a session"))?;
    let uid = request.uid;
    // A dyno opens /dev/stdout as its own user. What is hsup's stays hsup's, and the host's /dev/null the host's.
    let own: &[OwnedFd] = match request.stdio {
        StdioKind::Pipes | StdioKind::InputOnly => &stdio[1..],
        StdioKind::Terminal => stdio,
        StdioKind::Inherited => &[],
    };
    for fd in own {
        fchown(fd, Some(uid.into()), Some(uid.into())).map_err(Failure::step("own the output"))?;
    }
    if request.stdio == StdioKind::Terminal {
        sys::take_terminal(stdio[0].as_fd()).map_err(Failure::io("take the terminal"))?;
    }
    let [input, output, errors] = stdio;
    // Above 2 first: one of them may be in the place of another.
    let keep = |fd: &OwnedFd| fd.try_clone().map_err(Failure::io("keep the output open"));
    let (input, output, errors) = (keep(input)?, keep(output)?, keep(errors)?);
    dup2_stdin(&input).map_err(Failure::step("connect the input"))?;
    dup2_stdout(&output).map_err(Failure::step("connect the output"))?;
    dup2_stderr(&errors).map_err(Failure::step("connect the errors"))?;
    sys::seal_inherited_descriptors().map_err(Failure::io("close what is not the dyno's"))?;
    inherited::forget()?;
    sys::reset_signals();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(Failure::step("unblock signals"))?;
    chdir("/app").map_err(Failure::step("change to /app"))?;
    privileges::drop_all(uid, request.max_processes, request.open_files, filter)?;
    // As the dyno's user: what that may not execute is not found to be executable.
    let Program { path, args } = find(&request.line, &request.env)?;
    let program = crate::command::c_string(path.as_os_str().as_encoded_bytes())?;
    let Err(errno) = nix::unistd::execve(&program, &args, env);
    Err(Failure::NotExecutable { path, errno: errno as i32 })
}

/// Reaps, hands on signals and tells of the main process, until no process is left or hsup is gone.
fn watch(main: Pid, control: BorrowedFd<'_>) -> io::Result<()> {
    let children: SigSet = Signal::SIGCHLD.into();
    children.thread_block()?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut main = Some(main);
    loop {
        // First a look: what ended before signals were watched is told by no signal.
        if reap(&mut main, control)? == Left::Nobody {
            return Ok(());
        }
        let mut ready =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(control, PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [_, ordered] = ready;
        while signals.read_signal()?.is_some() {}
        if ordered.any().unwrap_or(true) {
            match hear::<Order>(control)? {
                Some(Order::Terminate) => everybody(Signal::SIGTERM)?,
                Some(Order::GoOn) => {}
                // hsup is gone: its dynos go with it. The kernel kills them when init ends.
                None => return Ok(()),
            }
        }
    }
}

/// Gives up what init has needed to set up the dyno, all but the right to signal its processes.
fn keep_to_kill() -> io::Result<()> {
    let kept = [Capability::CAP_KILL].into_iter().collect();
    [CapSet::Effective, CapSet::Permitted]
        .into_iter()
        .try_for_each(|set| caps::set(None, set, &kept))
        .map_err(io::Error::other)
}

/// Whether any process is left but init.
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

/// Signals every process of the dyno but init.
fn everybody(signal: Signal) -> nix::Result<()> {
    match kill(Pid::from_raw(-1), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}
