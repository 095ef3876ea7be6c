//! What hsup proper, the zygote and a dyno's init say to one another, and how it is sent.
//!
//! hsup proper sends the zygote a [`Request`] with descriptors; the zygote answers with the pid and the pidfd of the new
//! init, of which it tells the network namespace first, or of the attendant of a command inside a dyno, or with why there
//! is none. Between hsup proper and each of these
//! there is a socket of their own: hsup says [`Order`]s, they say [`Report`]s, and the end of the socket means the end of
//! whoever held it.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{StartError, sys};

/// The most descriptors that go with one message.
const MAX_DESCRIPTORS: usize = 6;

/// Config vars have at most some megabytes; what is larger is no message of ours.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// What hsup asks of the zygote. The first descriptors that go with it are the socket to hsup, and the input, the output
/// and the errors of the main process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// An init. Where it is to be born into a cgroup, that is the next descriptor.
    Init(Box<StartRequest>),
    /// The attendant of a command inside a dyno, of whose init the pidfd is the next descriptor; then there may be a
    /// cgroup, too.
    Attendant(ProcessRequest),
}

#[cfg(test)]
impl Request {
    /// That of an attendant whose command is `true`.
    pub(super) fn of_attendant() -> Self {
        Self::Attendant(ProcessRequest {
            uid: 3000,
            line: "true".to_owned(),
            env: Vec::new(),
            stdio: StdioKind::Pipes,
            max_processes: 1,
            open_files: 1,
            into_cgroup: false,
        })
    }
}

/// A process of a dyno, to be executed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ProcessRequest {
    /// The user and the group of the dyno.
    pub(super) uid: u32,
    /// The command line.
    pub(super) line: String,
    /// The whole environment, `NAME=value` each.
    pub(super) env: Vec<String>,
    /// What standard input, output and errors are.
    pub(super) stdio: StdioKind,
    /// The most processes of the dyno's user.
    pub(super) max_processes: u64,
    /// The soft limit of open files.
    pub(super) open_files: u64,
    /// Whether there is a unified cgroup to be born in.
    pub(super) into_cgroup: bool,
}

/// All that init needs to know of its dyno.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StartRequest {
    /// The name of the host, as the dyno sees it.
    pub(super) hostname: String,
    /// The main process.
    pub(super) main: ProcessRequest,
    /// The root of the stack image.
    pub(super) root: PathBuf,
    /// Where on the host init puts what nobody else sees.
    pub(super) scratch: Scratch,
    /// What is at `/app`.
    pub(super) app: AppDir,
    /// Paths of the host that the dyno sees.
    pub(super) binds: Vec<BindMount>,
    /// Files of `/etc` that are not the stack image's: name and content.
    pub(super) etc: Vec<(String, String)>,
    /// The size of `/tmp`, of `/var/tmp` and of `/dev/shm`, in bytes each.
    pub(super) tmp_bytes: u64,
}

/// Empty directories of the host. In its own mount namespace each init mounts the lower layers of `/etc` and `/app`
/// on them, which go with the root of the host: to take one down by itself has the kernel wait for all processors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Scratch {
    pub(super) etc: PathBuf,
    pub(super) app: PathBuf,
}

impl Scratch {
    /// Those of a state dir.
    pub(super) fn of(state_dir: &Path) -> Self {
        let dir = state_dir.join("native/scratch");
        Self { etc: dir.join("etc"), app: dir.join("app") }
    }
}

/// What is at `/app`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum AppDir {
    /// Nothing: a folder in memory.
    Empty,
    /// The files of a release, shared by its dynos, with what this dyno writes in a layer of its own.
    Layers {
        /// The files.
        lower: PathBuf,
        /// The user and the group whose they are on disk: in the dyno they are its own.
        owner: (u32, u32),
        /// What the dyno writes.
        upper: PathBuf,
        /// What the kernel needs for it.
        work: PathBuf,
    },
    /// A folder of the dyno's own.
    Own(PathBuf),
}

/// A path of the host that the dyno sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// The path on the host.
    pub host: PathBuf,
    /// The path in the dyno.
    pub inside: PathBuf,
    /// Whether the dyno may only read it.
    pub read_only: bool,
}

/// What standard input, output and errors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum StdioKind {
    /// Pipes, made for the dyno.
    Pipes,
    /// hsup's own input; the output and the errors are pipes, made for the dyno.
    InputOnly,
    /// hsup's own.
    Inherited,
    /// A terminal, made for the dyno.
    Terminal,
}

/// What init cannot do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// A step of the set-up.
    Step { what: String, errno: i32 },
    /// The shared files of `/app` cannot be shown to the dyno as its own, which a copy of them can.
    NotShared { what: String, errno: i32 },
    /// The program is not there.
    NotFound { program: String, place: String },
    /// The program is there and cannot be executed.
    NotExecutable { path: PathBuf, errno: i32 },
}

impl Failure {
    /// A step that failed.
    pub(crate) fn step(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Step { what: what.into(), errno: errno as i32 }
    }

    /// The same with texts that fit into one message: a search path may be as long as its owner likes.
    pub(super) fn cut(self) -> Self {
        const LONGEST_BYTES: usize = 16 * 1024;
        let cut = |text: String| {
            let end = (0..=LONGEST_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
            match end {
                Some(end) if end < text.len() => format!("{}...", &text[..end]),
                Some(_) | None => text,
            }
        };
        match self {
            Self::Step { what, errno } => Self::Step { what: cut(what), errno },
            Self::NotShared { what, errno } => Self::NotShared { what: cut(what), errno },
            Self::NotFound { program, place } => Self::NotFound { program: cut(program), place: cut(place) },
            Self::NotExecutable { path, errno } => {
                Self::NotExecutable { path: cut(path.to_string_lossy().into_owned()).into(), errno }
            }
        }
    }

    /// A step that shows shared files and failed: whether the kernel, or their file system, cannot do that at all,
    /// its error tells.
    pub(super) fn sharing(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |error| match error.raw_os_error() {
            Some(errno @ (libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP | libc::ENOSPC)) => {
                Self::NotShared { what: what.into(), errno }
            }
            Some(_) | None => Self::io(what)(error),
        }
    }

    /// A step that failed, by an error of the standard library.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Step { what: what.into(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Step { what, errno } | Failure::NotShared { what, errno } => {
                Self::SetUp { what, source: io::Error::from_raw_os_error(errno) }
            }
            Failure::NotFound { program, place } => Self::NotFound { program, place },
            Failure::NotExecutable { path, errno } => {
                Self::NotExecutable { path, source: io::Error::from_raw_os_error(errno) }
            }
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let errno = |source: io::Error| source.raw_os_error().unwrap_or(libc::EIO);
        match error {
            StartError::NotFound { program, place } => Self::NotFound { program, place },
            StartError::NotExecutable { path, source } => Self::NotExecutable { path, errno: errno(source) },
            StartError::System { operation, source } => {
                Self::Step { what: operation.to_owned(), errno: errno(source) }
            }
            StartError::SetUp { what, source } => Self::Step { what, errno: errno(source) },
        }
    }
}

/// What hsup tells init, or an attendant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// All of the host's side is there: limits and, for init, the network.
    GoOn,
    /// Send SIGTERM to every process.
    Terminate,
}

/// What init, or an attendant, tells hsup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The main process has been executed: its pid, as the dyno sees it.
    Started { main: u32 },
    /// There will be none.
    Failed(Failure),
    /// The main process has ended, by a code or by a signal. If it was not `alone`, others go on.
    Exited { exit: ExitText, alone: bool },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ExitText {
    Code(u8),
    Signal(i32),
}

/// What the zygote answers. With the pid of a process that it has cloned comes the pidfd. Before that, to the request of an
/// init, it answers nothing, with the network namespace that init is about to be born in and a socket to the links there,
/// or why init will not be.
pub(super) type Answer<T> = Result<T, Failure>;

/// Sends a message of any size, with descriptors.
pub(super) fn send<T: Serialize>(
    stream: &mut UnixStream,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_ne_bytes();
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let sent =
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&length)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent != length.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    stream.write_all(&body)
}

/// What has been received whole: after it the next message can be.
pub(super) struct Received<T> {
    /// The message, if it is one.
    pub(super) message: Result<T, serde_json::Error>,
    /// The descriptors that came along.
    pub(super) fds: Vec<OwnedFd>,
    /// Whether these are all of them: not if this process may have no more.
    pub(super) all: bool,
}

/// Receives a message and its descriptors; none at the end of the stream.
pub(super) fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<Option<Received<T>>> {
    let mut length = [0; 4];
    let header = sys::receive_descriptors(stream.as_fd(), &mut length, MAX_DESCRIPTORS)?;
    let sys::Descriptors { bytes, fds, all } = header;
    if bytes == 0 {
        return Ok(None);
    }
    let length = usize::try_from(u32::from_ne_bytes(length)).map_err(io::Error::other)?;
    if bytes != 4 || length > MAX_MESSAGE_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(Received { message: serde_json::from_slice(&body), fds, all }))
}

/// Sends a small message over a socket that keeps their bounds.
pub(super) fn say<T: Serialize>(socket: BorrowedFd<'_>, message: &T) -> io::Result<()> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    nix::sys::socket::send(socket.as_raw_fd(), &body, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// The next small message; none at the end of the socket. Where the socket does not block, `WouldBlock` means that
/// there is none yet.
pub(super) fn hear<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<T>> {
    // A look at it first: the length of a message is known to its socket only.
    let length = heard(socket, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)?;
    if length == 0 {
        return Ok(None);
    }
    let mut body = vec![0; length];
    heard(socket, &mut body, MsgFlags::empty())?;
    Ok(Some(serde_json::from_slice(&body).map_err(io::Error::other)?))
}

/// Reads from a socket; zero bytes at its end.
fn heard(socket: BorrowedFd<'_>, body: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
    loop {
        match nix::sys::socket::recv(socket.as_raw_fd(), body, flags) {
            Ok(length) => return Ok(length),
            // Who is at the other end has gone without having read all: it is told once, before what that has said last.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    #[test]
    fn a_message_of_any_size_arrives_with_its_descriptors() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let large = "x".repeat(1 << 20);
        let sender = std::thread::spawn({
            let large = large.clone();
            move || {
                let null = std::fs::File::open("/dev/null").unwrap();
                send(&mut ours, &large, &[null.as_fd(), null.as_fd()]).unwrap();
            }
        });
        let Received { message, fds, all } = receive::<String>(&mut theirs).unwrap().unwrap();
        sender.join().unwrap();
        assert_eq!((message.unwrap() == large, fds.len(), all), (true, 2, true));
        assert!(receive::<String>(&mut theirs).unwrap().is_none());
    }

    #[test]
    fn a_report_is_heard_whatever_its_length() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty()).unwrap();
        let what = "x".repeat(100_000);
        let report = Report::Failed(Failure::Step { what, errno: 1 });
        for report in [&report, &Report::Started { main: 2 }] {
            say(ours.as_fd(), report).unwrap();
            assert_eq!(hear::<Report>(theirs.as_fd()).unwrap().as_ref(), Some(report));
        }
        // Its last words are heard though it has not read all that it was told.
        say(theirs.as_fd(), &Order::GoOn).unwrap();
        say(ours.as_fd(), &report).unwrap();
        drop(ours);
        assert_eq!(hear::<Report>(theirs.as_fd()).unwrap(), Some(report));
        assert_eq!(hear::<Report>(theirs.as_fd()).unwrap(), None);
    }
}
