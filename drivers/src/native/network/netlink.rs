//! Netlink: how messages are encoded, sent and answered. What they say to the routing and packet filter parts of
//! the kernel is said elsewhere.
//!
//! One encoder serves both, since no maintained crate of a permissive licence speaks the filter's language in full
//! and what is said to the routing part is a handful of messages.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use crate::sys;

/// The header of each message: length, kind, flags, sequence number, port.
const HEADER: usize = 16;

/// The header of each attribute: length and kind.
const ATTRIBUTE_HEADER: usize = 4;

/// Messages and attributes begin at multiples of this.
const ALIGNMENT: usize = 4;

/// What the kernel puts into one datagram of a dump at most; acknowledgements are much shorter.
const DATAGRAM_MAX: usize = 32 * 1024;

/// Answers of any kind: an error, or that none was made.
const ERROR: u16 = libc::NLMSG_ERROR as u16;
/// The last message of a dump.
const DONE: u16 = libc::NLMSG_DONE as u16;

pub(super) const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(super) const CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(super) const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
pub(super) const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
pub(super) const APPEND: u16 = libc::NLM_F_APPEND as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const ACKNOWLEDGE: u16 = libc::NLM_F_ACK as u16;

/// An answer that does not repeat the request (which stands between the error and its attributes otherwise).
const CAPPED: u16 = 0x100;
/// An answer with attributes after it.
const WITH_ATTRIBUTES: u16 = 0x200;
/// The attribute of an answer that says in words what was wrong.
const ANSWER_TEXT: u16 = 1;

/// The network of a dyno cannot be made, or be removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused a step.
    #[error("failed to {step}{}", Said(said))]
    Refused {
        /// The step.
        step: Cow<'static, str>,
        /// What the kernel said of it beyond the error, which may be nothing.
        said: String,
        /// Its error.
        source: io::Error,
    },
    /// The kernel did not answer.
    #[error("failed to {step}: the kernel gave no answer")]
    NoAnswer {
        /// The step.
        step: Cow<'static, str>,
    },
    /// There is no netlink.
    #[error("failed to {operation} a netlink socket")]
    Socket {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no such interface.
    #[error("there is no interface {name} {place}")]
    NoInterface {
        /// Its name.
        name: String,
        /// Where it was looked for, and what to do.
        place: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The other end of a link is down.
    #[error("the other end of the link {name} is down")]
    Down {
        /// The name of the host's end.
        name: String,
    },
    /// A setting of the kernel cannot be read or written.
    #[error("failed to {operation} {}", path.display())]
    Setting {
        /// What was being done.
        operation: &'static str,
        /// Its file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An interface has a name of hsup's, and hsup did not make it.
    #[error("the interface {name} is not one that hsup made: rename it, or take another block of subnets")]
    Foreign {
        /// Its name.
        name: String,
    },
    /// A link is that of a dyno which lives.
    #[error(
        "the link {name} is that of a dyno of another hsup, whose claims this one does not see: give one of them \
         another block of subnets (LIBCONTAINER_DYNO_SUBNET)"
    )]
    Taken {
        /// The name of the host's end.
        name: String,
    },
}

impl NetworkError {
    /// Whether the kernel refused with this error.
    pub(super) fn is(&self, errno: Errno) -> bool {
        match self {
            Self::Refused { source, .. } | Self::NoInterface { source, .. } => {
                source.raw_os_error() == Some(errno as i32)
            }
            Self::NoAnswer { .. }
            | Self::Socket { .. }
            | Self::Down { .. }
            | Self::Setting { .. }
            | Self::Foreign { .. }
            | Self::Taken { .. } => false,
        }
    }
}

/// What the kernel said, in parentheses.
struct Said<'a>(&'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

/// A message that is being written. Integers are given in the byte order that their attribute has.
#[derive(Clone, Debug, Hash)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// One of this kind, with the header of its family.
    pub(super) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        bytes.extend([0; 8]);
        Self(bytes).header(header)
    }

    /// An attribute with these bytes.
    pub(super) fn with(self, kind: u16, value: &[u8]) -> Self {
        self.attribute(kind, |message| message.header(value))
    }

    /// An attribute with this text and a NUL.
    pub(super) fn text(self, kind: u16, text: &str) -> Self {
        self.attribute(kind, |mut message| {
            message.0.extend(text.as_bytes());
            message.header(&[0])
        })
    }

    /// An attribute of attributes.
    pub(super) fn nested(self, kind: u16, attributes: impl FnOnce(Self) -> Self) -> Self {
        self.attribute(kind | libc::NLA_F_NESTED as u16, attributes)
    }

    /// Plain bytes, as attributes of some kinds have in front of theirs.
    pub(super) fn header(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// The length that an attribute tells does not count the bytes that align what comes next.
    fn attribute(mut self, kind: u16, value: impl FnOnce(Self) -> Self) -> Self {
        self = self.aligned();
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        self = value(self);
        let length = u16::try_from(self.0.len() - start).expect("attributes here are a few hundred bytes");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.aligned()
    }

    fn aligned(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }

    /// The bytes to send.
    fn finish(self, sequence: u32, flags: u16) -> Vec<u8> {
        let mut bytes = self.aligned().0;
        let length = u32::try_from(bytes.len()).expect("messages here are a few hundred bytes");
        let flags = u16_at(&bytes, 6) | flags;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }
}

/// A message to send, with what it does, for errors: `create the link hsac10001c`.
#[derive(Debug)]
pub(super) struct Step {
    name: Cow<'static, str>,
    message: Message,
    /// The error that is none: what was to be done is done, or cannot matter.
    tolerated: Option<Errno>,
    /// Whether the kernel answers to it if it is asked to.
    answered: bool,
}

impl Step {
    pub(super) fn new(name: impl Into<Cow<'static, str>>, message: Message) -> Self {
        Self { name: name.into(), message, tolerated: None, answered: true }
    }

    /// An error that the step may end with.
    pub(super) fn tolerating(self, errno: Errno) -> Self {
        Self { tolerated: Some(errno), ..self }
    }

    /// A step that is answered only if it fails.
    pub(super) fn unanswered(self) -> Self {
        Self { answered: false, ..self }
    }
}

/// A netlink socket.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// A socket in the caller's network namespace.
    pub(super) fn open(protocol: SockProtocol) -> Result<Self, NetworkError> {
        let failed = |operation| move |errno: Errno| NetworkError::Socket { operation, source: errno.into() };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .map_err(failed("open"))?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            sys::set_netlink_option(fd.as_fd(), option)
                .map_err(|source| NetworkError::Socket { operation: "set up", source })?;
        }
        Ok(Self(fd))
    }

    /// One that was opened so, by another process.
    pub(super) fn of(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// A socket that hears what the kernel tells all who listen to this group.
    pub(super) fn listen(protocol: SockProtocol, group: i32) -> Result<Self, NetworkError> {
        let socket = Self::open(protocol)?;
        bind(socket.0.as_raw_fd(), &NetlinkAddr::new(0, 1 << (group - 1)))
            .map_err(|errno| NetworkError::Socket { operation: "listen on", source: errno.into() })?;
        Ok(socket)
    }

    /// The bodies of all messages that are there to be read; none if some of them were lost.
    pub(super) fn heard(&self) -> Result<Option<Vec<Vec<u8>>>, NetworkError> {
        let mut heard = Some(Vec::new());
        loop {
            match self.receive() {
                Ok(Some(datagram)) => {
                    if let Some(heard) = &mut heard {
                        heard.extend(messages(&datagram).map(|message| message.body.to_vec()));
                    }
                }
                Ok(None) => return Ok(heard),
                // There were more than the kernel keeps. It says so once.
                Err(NetworkError::Socket { source, .. }) if source.raw_os_error() == Some(libc::ENOBUFS) => {
                    heard = None;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends steps, all at once, and waits for the end of the last.
    ///
    /// A step is done before the next is begun, and the kernel goes on after one that fails. The error is that of
    /// the first step that failed.
    pub(super) fn perform(&self, steps: Vec<Step>) -> Result<(), NetworkError> {
        let Some(last) = steps.iter().rposition(|step| step.answered) else { return Ok(()) };
        let mut outcome = Outcome { names: Vec::new(), last, failed: None, done: false };
        let mut bytes = Vec::new();
        for (sequence, step) in (0..).zip(steps) {
            let flags = if usize::try_from(sequence) == Ok(last) { ACKNOWLEDGE } else { 0 };
            bytes.extend(step.message.finish(sequence, flags));
            outcome.names.push((step.name, step.tolerated));
        }
        self.send(&bytes)?;
        // The kernel has done everything by now and all its answers are there to be read; a failure of the whole is
        // told as one of the first step, and no other answer comes then.
        while !outcome.done {
            match self.receive()? {
                Some(datagram) => messages(&datagram).for_each(|answer| outcome.take(&answer)),
                None => break,
            }
        }
        outcome.end()
    }

    /// The message that answers a question, without its header.
    pub(super) fn get(
        &self,
        name: impl Into<Cow<'static, str>>,
        question: Message,
    ) -> Result<Vec<u8>, NetworkError> {
        self.send(&question.finish(0, 0))?;
        let datagram = self.receive()?.unwrap_or_default();
        match messages(&datagram).next() {
            Some(answer) if answer.kind == ERROR => Err(answer.error(name.into())),
            Some(answer) => Ok(answer.body.to_vec()),
            None => Err(NetworkError::NoAnswer { step: name.into() }),
        }
    }

    /// All messages that answer a question, each without its header.
    pub(super) fn dump(&self, name: &'static str, question: Message) -> Result<Vec<Vec<u8>>, NetworkError> {
        self.send(&question.finish(0, DUMP))?;
        let mut found = Vec::new();
        while let Some(datagram) = self.receive()? {
            for answer in messages(&datagram) {
                match answer.kind {
                    DONE => return Ok(found),
                    ERROR => return Err(answer.error(name.into())),
                    _ => found.push(answer.body.to_vec()),
                }
            }
        }
        Err(NetworkError::NoAnswer { step: name.into() })
    }

    /// The index of an interface, in the socket's network namespace.
    pub(super) fn index(&self, name: &str) -> io::Result<u32> {
        sys::interface_index(self.0.as_fd(), name)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetworkError> {
        match send(self.0.as_raw_fd(), bytes, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(errno) => Err(NetworkError::Socket { operation: "write to", source: errno.into() }),
        }
    }

    /// The next datagram, if there is one.
    fn receive(&self) -> Result<Option<Vec<u8>>, NetworkError> {
        let mut buffer = vec![0; DATAGRAM_MAX];
        match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(NetworkError::Socket { operation: "read from", source: errno.into() }),
        }
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.0
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How the steps of a request went.
struct Outcome {
    names: Vec<(Cow<'static, str>, Option<Errno>)>,
    last: usize,
    failed: Option<NetworkError>,
    done: bool,
}

impl Outcome {
    fn take(&mut self, answer: &Answer<'_>) {
        let Some(index) = usize::try_from(answer.sequence).ok().filter(|_| answer.kind == ERROR) else {
            return;
        };
        let Some((name, tolerated)) = self.names.get(index) else { return };
        let errno = answer.errno();
        if errno != 0 && *tolerated != Some(Errno::from_raw(errno)) && self.failed.is_none() {
            self.failed = Some(answer.error(name.clone()));
        }
        self.done |= index == self.last;
    }

    fn end(mut self) -> Result<(), NetworkError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.done => Ok(()),
            None => Err(NetworkError::NoAnswer { step: self.names.swap_remove(self.last).0 }),
        }
    }
}

/// A message from the kernel.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Answer<'_> {
    /// The error that it tells; 0 for none.
    fn errno(&self) -> i32 {
        self.body.first_chunk().map_or(libc::EBADMSG, |code| -i32::from_ne_bytes(*code))
    }

    fn error(&self, step: Cow<'static, str>) -> NetworkError {
        let repeated = if self.flags & CAPPED == 0 {
            self.body.get(4..8).map_or(HEADER, |_| u32_at(self.body, 4) as usize)
        } else {
            HEADER
        };
        let attributes = self.body.get(4 + repeated.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        let told = self.flags & WITH_ATTRIBUTES != 0;
        let text = told.then(|| attribute(attributes, ANSWER_TEXT)).flatten().map(text_of);
        NetworkError::Refused {
            step,
            said: text.unwrap_or_default(),
            source: io::Error::from_raw_os_error(self.errno()),
        }
    }
}

/// The messages of a datagram.
fn messages(datagram: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32_at(rest.get(..HEADER)?, 0) as usize;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        let (kind, flags) = (u16_at(message, 4), u16_at(message, 6));
        Some(Answer { kind, flags, sequence: u32_at(message, 8), body: &message[HEADER..] })
    })
}

/// The value of the first attribute of a kind among these.
pub(super) fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes.get(..ATTRIBUTE_HEADER)?, 0));
        let value = attributes.get(ATTRIBUTE_HEADER..length)?;
        if u16_at(attributes, 2) & libc::NLA_TYPE_MASK as u16 == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(ALIGNMENT)..)?;
    }
}

/// The text of an attribute, without its NUL.
pub(super) fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
