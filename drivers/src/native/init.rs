//! A dyno's init: the first process of its pid namespace. It makes the dyno's surroundings, starts the main process,
//! and stays to reap, to hand on signals and to tell how the main process ended. When hsup dies it kills everything
//! and ends; when it ends itself, however that comes, the kernel kills everything below it.
//!
//! It has one thread and was cloned from the zygote, which has one too, so that any code may run here.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, setsid};

use super::main_process::start_main;
use super::protocol::{Failure, StartRequest, StdioKind};
use super::root;
use super::seccomp::Filter;
use super::watch::{FAILED, stay, wait_to_go_on};

/// The descriptors that come with a request.
pub(super) struct Descriptors {
    /// The socket to hsup.
    pub(super) control: OwnedFd,
    /// Standard input, output and errors of the main process.
    pub(super) stdio: [OwnedFd; 3],
}

/// The whole life of an init; gives its exit status.
pub(super) fn run(
    request: &StartRequest,
    fds: Descriptors,
    userns: Option<&OwnedFd>,
    filter: &Filter,
) -> i32 {
    let Descriptors { control, stdio } = fds;
    let main = set_up(request, &control, stdio, userns, filter);
    let ended = stay(main, control.as_fd(), everybody);
    if ended.is_ok() { 0 } else { FAILED }
}

/// Makes the dyno's surroundings and starts its main process, which has been executed when this returns.
fn set_up(
    request: &StartRequest,
    control: &OwnedFd,
    stdio: [OwnedFd; 3],
    userns: Option<&OwnedFd>,
    filter: &Filter,
) -> Result<Pid, Failure> {
    prctl::set_name(c"hsup-init").map_err(Failure::step("name the process"))?;
    // Of what is made for the dyno it can read all that is its own.
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    // Of a session of its own, so that nothing typed at hsup's terminal reaches it.
    setsid().map_err(Failure::step("begin a session"))?;
    nix::unistd::sethostname(&request.hostname).map_err(Failure::step("set the host name"))?;
    // While hsup, on another processor, makes the network.
    root::build(request, userns, terminal(request.main.stdio, &stdio[0])?.as_deref())?;
    // After all that is done by paths of the host.
    root::enter(&request.root)?;
    wait_to_go_on(control.as_fd())?;
    start_main(&request.main, stdio, filter)
}

/// Where the host has the terminal that the dyno has as its input.
fn terminal(kind: StdioKind, input: &OwnedFd) -> Result<Option<PathBuf>, Failure> {
    let path = || fs::read_link(format!("/proc/self/fd/{}", input.as_raw_fd()));
    match kind {
        StdioKind::Terminal => path().map(Some).map_err(Failure::io("find the name of the terminal")),
        StdioKind::Pipes | StdioKind::InputOnly | StdioKind::Inherited => Ok(None),
    }
}

/// Signals every process of the dyno but init.
fn everybody(signal: Signal) -> nix::Result<()> {
    match kill(Pid::from_raw(-1), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}
