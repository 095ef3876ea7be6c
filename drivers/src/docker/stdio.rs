//! Where what a dyno prints goes, and where what it reads comes from: pipes that hsup reads, or hsup's own input and
//! output, or a terminal. Which bytes they are is not looked at.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::fcntl::OFlag;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::pipe2;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::pipe::Sender;
use tokio::sync::mpsc;

use super::frames::Frame;
use crate::{Output, Stdio, sys};

/// How many pieces of input wait to be sent.
const WAITING_PIECES: usize = 4;
/// How large a piece of input is.
const PIECE_BYTES: usize = 16 * 1024;

/// One of the two streams that a dyno prints to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Printed {
    Stdout,
    Stderr,
}

/// Where what a dyno prints goes.
pub(super) enum Sinks {
    /// Pipes, whose other ends are hsup's; one that is closed is none any more.
    Pipes { stdout: Option<Sender>, stderr: Option<Sender> },
    /// Files of this process, which may make who writes wait.
    Files { stdout: Arc<File>, stderr: Arc<File> },
}

/// Both ends of a dyno's input and output on this host.
pub(super) struct Connections {
    pub(super) sinks: Sinks,
    /// The read ends of the pipes.
    pub(super) output: Option<Output>,
    /// What is to be sent to the dyno.
    pub(super) input: Option<mpsc::Receiver<Frame>>,
    /// The rows and columns of its terminal.
    pub(super) window: Option<[u16; 2]>,
}

/// Makes them.
///
/// # Errors
/// If the system refuses.
pub(super) fn connect(stdio: &Stdio) -> io::Result<Connections> {
    match stdio {
        Stdio::Pipes | Stdio::InputOnly => {
            let (stdout, out) = pipe2(OFlag::O_CLOEXEC)?;
            let (stderr, err) = pipe2(OFlag::O_CLOEXEC)?;
            let sinks = Sinks::Pipes {
                stdout: Some(Sender::from_owned_fd(out)?),
                stderr: Some(Sender::from_owned_fd(err)?),
            };
            let input = match stdio {
                Stdio::InputOnly => Some(read(own(io::stdin().as_fd())?)?),
                Stdio::Pipes | Stdio::Inherit | Stdio::Terminal(_) => None,
            };
            Ok(Connections { sinks, output: Some(Output { stdout, stderr }), input, window: None })
        }
        Stdio::Inherit => {
            let sinks = Sinks::Files {
                stdout: Arc::new(own(io::stdout().as_fd())?),
                stderr: Arc::new(own(io::stderr().as_fd())?),
            };
            let input = Some(read(own(io::stdin().as_fd())?)?);
            Ok(Connections { sinks, output: None, input, window: None })
        }
        Stdio::Terminal(path) => terminal(path),
    }
}

/// A descriptor of this process once more, as a file.
fn own(fd: BorrowedFd<'_>) -> io::Result<File> {
    fd.try_clone_to_owned().map(File::from)
}

/// The dyno has a terminal of its own in its container, which echoes, edits lines and makes signals of keys. hsup's
/// end of it therefore only carries bytes.
fn terminal(path: &Path) -> io::Result<Connections> {
    let flags = OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?;
    let typed = flags | OFlag::O_NONBLOCK;
    let typed = OpenOptions::new().read(true).custom_flags(typed.bits()).open(path)?;
    let size = sys::window_size(file.as_fd())?;
    let mut settings = tcgetattr(&file)?;
    cfmakeraw(&mut settings);
    tcsetattr(&file, SetArg::TCSANOW, &settings)?;
    let input = Some(read_typed(sys::watch(typed.into())?));
    let shown = Arc::new(file);
    let sinks = Sinks::Files { stdout: Arc::clone(&shown), stderr: shown };
    Ok(Connections { sinks, output: None, input, window: Some([size.ws_row, size.ws_col]) })
}

/// Reads what is typed until nobody wants it any more: who shows what the dyno prints waits until this end of the
/// terminal is closed.
fn read_typed(from: AsyncFd<OwnedFd>) -> mpsc::Receiver<Frame> {
    let (pieces, taken) = mpsc::channel(WAITING_PIECES);
    tokio::spawn(async move {
        let mut bytes = [0; PIECE_BYTES];
        loop {
            let reading = from.async_io(Interest::READABLE, |from| Ok(nix::unistd::read(from, &mut bytes)?));
            let read = tokio::select! {
                read = reading => read,
                () = pieces.closed() => return,
            };
            let Ok(length @ 1..) = read else { return };
            let piece = bytes.get(..length).unwrap_or_default().to_vec();
            if pieces.send(Frame::Input(piece)).await.is_err() {
                return;
            }
        }
    });
    taken
}

/// Reads in a thread of its own, since a file cannot be waited for. Nothing interrupts the read: the thread ends with
/// the process, which for a one-off dyno is not long after.
fn read(mut from: File) -> io::Result<mpsc::Receiver<Frame>> {
    let (pieces, taken) = mpsc::channel(WAITING_PIECES);
    thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut bytes = [0; PIECE_BYTES];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            let piece = bytes.get(..length).unwrap_or_default().to_vec();
            if pieces.blocking_send(Frame::Input(piece)).is_err() {
                return;
            }
        }
        let _nobody_listens = pieces.blocking_send(Frame::EndOfInput);
    })?;
    Ok(taken)
}

impl Sinks {
    /// Hands on a piece of what the dyno has printed. What nobody wants to have any more is dropped.
    ///
    /// # Errors
    /// If nobody reads it.
    pub(super) async fn write(&mut self, printed: Printed, piece: bytes::Bytes) -> io::Result<()> {
        match (self, printed) {
            (Self::Pipes { stdout: sink, .. }, Printed::Stdout)
            | (Self::Pipes { stderr: sink, .. }, Printed::Stderr) => {
                if let Some(pipe) = sink {
                    let written = pipe.write_all(&piece).await;
                    if written.is_err() {
                        *sink = None;
                    }
                    return written;
                }
                Ok(())
            }
            (Self::Files { stdout: sink, .. }, Printed::Stdout)
            | (Self::Files { stderr: sink, .. }, Printed::Stderr) => {
                let sink = Arc::clone(sink);
                tokio::task::spawn_blocking(move || (&*sink).write_all(&piece)).await?
            }
        }
    }
}
