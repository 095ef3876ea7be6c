//! The main process of a dyno, or of a command inside one: from the clone to the exec. What becomes of it afterwards is
//! its starter's business.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fchown, setsid};

use super::command::{Program, find};
use super::inherited;
use super::privileges;
use super::protocol::{Failure, ProcessRequest, StdioKind};
use super::seccomp::Filter;
use crate::sys;

/// Starts a main process, which has been executed when this returns.
pub(super) fn start_main(
    request: &ProcessRequest,
    stdio: [OwnedFd; 3],
    filter: &Filter,
) -> Result<Pid, Failure> {
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
    request: &ProcessRequest,
    stdio: &[OwnedFd; 3],
    env: &[CString],
    filter: &Filter,
) -> Result<Infallible, Failure> {
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
    let program = crate::command::c_string(path.as_os_str().as_bytes())?;
    let Err(errno) = nix::unistd::execve(&program, &args, env);
    Err(Failure::NotExecutable { path, errno: errno as i32 })
}
