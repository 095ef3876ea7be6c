//! The attendant of a command inside a dyno that runs: a process in the dyno's namespaces, beside its init. It starts the
//! command as init starts the main process, and stays until all that the command has started has ended, or hsup wants
//! nothing more of it: what is left is killed then. However far a process of the command strays it stays below the
//! attendant, so that the dyno's init never has to do with it.
//!
//! It has one thread and was cloned from the zygote, which has one too, so that any code may run here. It is no child of
//! init's: when init ends the kernel kills it with the rest of the dyno.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::setsid;

use super::init::Descriptors;
use super::main_process::start_main;
use super::protocol::{Failure, ProcessRequest};
use super::seccomp::Filter;
use super::watch::{FAILED, stay, wait_to_go_on};
use crate::below;

/// The namespaces of a dyno but that of pids, in which the attendant has been cloned.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// The whole life of an attendant, in the dyno of this init; gives its exit status.
pub(super) fn run(request: &ProcessRequest, fds: Descriptors, init: OwnedFd, filter: &Filter) -> i32 {
    let Descriptors { control, stdio } = fds;
    let main = enter(init).and_then(|()| wait_to_go_on(control.as_fd()));
    let main = main.and_then(|()| start_main(request, stdio, filter));
    // hsup ends a command by the end of the socket, and orders nothing.
    let ended = stay(main, control.as_fd(), |_| Ok(()));
    let killed = below::end_all();
    if ended.is_ok() && killed.is_ok() { 0 } else { FAILED }
}

/// Enters the dyno, as a process below which all that it starts stays.
fn enter(init: OwnedFd) -> Result<(), Failure> {
    prctl::set_name(c"hsup-attendant").map_err(Failure::step("name the process"))?;
    setns(init, NAMESPACES).map_err(Failure::step("enter the dyno (which takes Linux 5.8)"))?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    setsid().map_err(Failure::step("begin a session"))?;
    // What is sent to all of the dyno is for the command.
    SigSet::all().thread_block().map_err(Failure::step("block signals"))?;
    prctl::set_child_subreaper(true).map_err(Failure::step("keep the command's processes"))
}
