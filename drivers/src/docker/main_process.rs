//! The main process of a dyno: from the entry's fork to the exec. What becomes of it afterwards is the entry's business.

use std::convert::Infallible;
use std::env;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::OFlag;
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

use super::frames::{FAILED, STARTED, Start};
use crate::command::c_string;
use crate::native::command::{Program, find};
use crate::native::protocol::Failure;
use crate::simple::DEFAULT_PATH;
use crate::{StartError, sys};

/// Where the app is.
pub(super) const APP_DIR: &str = "/app";

/// A main process, and what it is connected to.
pub(super) struct Connected {
    pub(super) main: Pid,
    /// What its input is written to, where it has any.
    pub(super) sink: Option<OwnedFd>,
    /// The other end of its terminal, where it has one.
    pub(super) terminal: Option<OwnedFd>,
}

/// Its own end of what it is connected to.
enum Stdio {
    Input(OwnedFd),
    Terminal(OwnedFd),
}

/// Forks the main process, which says by itself over standard output what becomes of it.
///
/// # Errors
/// If the system refuses.
pub(super) fn start_main(start: &Start) -> io::Result<Connected> {
    let (stdio, sink, terminal) = match start.terminal {
        Some([rows, columns]) => {
            let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            let OpenptyResult { master, slave } = openpty(&size, None)?;
            // openpty(3) cannot make them close-on-exec.
            sys::seal_inherited_descriptors()?;
            (Stdio::Terminal(slave), Some(master.try_clone()?), Some(master))
        }
        None if start.input => {
            let (ours, sink) = pipe2(OFlag::O_CLOEXEC)?;
            (Stdio::Input(ours), Some(sink), None)
        }
        None => (Stdio::Input(File::open("/dev/null")?.into()), None, None),
    };
    match sys::fork_alone()? {
        ForkResult::Parent { child: main } => Ok(Connected { main, sink, terminal }),
        ForkResult::Child => {
            let Err(failure) = become_main(start, &stdio);
            std::process::exit(tell(failure).into())
        }
    }
}

/// Says why there is no main process; gives the exit status that stands for it.
fn tell(failure: Failure) -> u8 {
    let mut message = vec![FAILED];
    message.extend(serde_json::to_vec(&failure).unwrap_or_default());
    let mut stdout = io::stdout();
    let _nobody_hears = stdout.write_all(&message).and_then(|()| stdout.flush());
    StartError::from(failure).status()
}

fn become_main(start: &Start, stdio: &Stdio) -> Result<Infallible, Failure> {
    setsid().map_err(Failure::step("begin a session"))?;
    sys::reset_signals();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(Failure::step("unblock signals"))?;
    chdir(APP_DIR).map_err(Failure::step("change to /app"))?;
    let env = environment(start);
    let Program { path, args } = find(&start.line, &env)?;
    let env = env.iter().map(|var| c_string(var.as_str())).collect::<Result<Vec<CString>, _>>()?;
    let program = c_string(path.as_os_str().as_bytes())?;
    let told = io::stdout().as_fd().try_clone_to_owned().map_err(Failure::io("keep the output open"))?;
    let connect = || {
        match stdio {
            Stdio::Input(input) => dup2_stdin(input)?,
            Stdio::Terminal(terminal) => {
                sys::take_terminal(terminal.as_fd())?;
                dup2_stdin(terminal)?;
                dup2_stdout(terminal)?;
                dup2_stderr(terminal)?;
            }
        }
        Ok(())
    };
    connect().map_err(Failure::io("connect the input and the output"))?;
    File::from(told).write_all(&[STARTED]).map_err(Failure::io("tell hsup of the start"))?;
    let Err(errno) = nix::unistd::execve(&program, &args, &env);
    // As a shell says it: to hsup the dyno has been started.
    let _nobody_listens = writeln!(io::stderr(), "cannot execute {}: {}", path.display(), errno.desc());
    std::process::exit(126)
}

/// The environment: the image's, the driver's defaults, and what hsup says.
fn environment(start: &Start) -> Vec<String> {
    let said = |name: &str| start.env.iter().any(|(other, _)| other == name);
    let image = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let own = ["HOME", "PWD"];
    let mut vars: Vec<(String, String)> = image.filter(|(name, _)| !own.contains(&name.as_str())).collect();
    vars.extend(own.map(|name| (name.to_owned(), APP_DIR.to_owned())));
    if !vars.iter().any(|(name, _)| name == "PATH") {
        vars.push(("PATH".to_owned(), DEFAULT_PATH.to_owned()));
    }
    vars.retain(|(name, _)| !said(name));
    vars.iter().chain(&start.env).map(|(name, value)| format!("{name}={value}")).collect()
}
