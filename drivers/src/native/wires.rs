//! What connects a run with hsup: the control socket, and the input, output and errors of its main process.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::pipe2;

use super::protocol::StdioKind;
use crate::{Output, StartError, Stdio};

/// Both ends of it all.
pub(super) struct Wires {
    /// hsup's end of the control socket.
    pub(super) control: OwnedFd,
    /// hsup's ends of the pipes.
    pub(super) output: Option<Output>,
    pub(super) stdio: StdioKind,
    /// What goes to init: the control socket, input, output, errors.
    pub(super) init: Vec<OwnedFd>,
}

/// Makes the control socket and what the main process has as input, output and errors.
pub(super) fn wires(stdio: &Stdio) -> Result<Wires, StartError> {
    let set_up = |what: &str| {
        let what = what.to_owned();
        move |source: io::Error| StartError::SetUp { what, source }
    };
    let (control, of_init) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|error| set_up("make the control socket")(error.into()))?;
    let own = |fd: io::Result<OwnedFd>| fd.map_err(set_up("hand on the input and output of hsup"));
    let (kind, fds, output) = match stdio {
        Stdio::Pipes => {
            let null = File::open("/dev/null").map_err(set_up("open /dev/null"))?;
            let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|error| set_up("make a pipe")(error.into()));
            let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
            (StdioKind::Pipes, [null.into(), out, err], Some(Output { stdout, stderr }))
        }
        Stdio::InputOnly => {
            let input = own(io::stdin().as_fd().try_clone_to_owned())?;
            let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|error| set_up("make a pipe")(error.into()));
            let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
            (StdioKind::InputOnly, [input, out, err], Some(Output { stdout, stderr }))
        }
        Stdio::Inherit => {
            let fds = [
                own(io::stdin().as_fd().try_clone_to_owned())?,
                own(io::stdout().as_fd().try_clone_to_owned())?,
                own(io::stderr().as_fd().try_clone_to_owned())?,
            ];
            (StdioKind::Inherited, fds, None)
        }
        Stdio::Terminal(path) => {
            let open = || {
                let mut options = fs::OpenOptions::new();
                options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
                options.open(path).map(OwnedFd::from).map_err(set_up("open the terminal"))
            };
            (StdioKind::Terminal, [open()?, open()?, open()?], None)
        }
    };
    let init = std::iter::once(of_init).chain(fds).collect();
    Ok(Wires { control, output, stdio: kind, init })
}
