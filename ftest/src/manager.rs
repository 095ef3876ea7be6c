//! A service manager that listens as systemd does: on a datagram socket, and to one process.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt};

use crate::wait::PATIENCE;

/// A service manager.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    /// One that listens at a path.
    ///
    /// # Panics
    /// If it cannot.
    pub fn at(path: &Path) -> Self {
        Self::of(UnixDatagram::bind(path).expect("a socket can be bound"))
    }

    /// One that listens at an abstract socket.
    ///
    /// # Panics
    /// If it cannot.
    pub fn abstract_at(name: &str) -> Self {
        let address = SocketAddr::from_abstract_name(name).expect("that is a name");
        Self::of(UnixDatagram::bind_addr(&address).expect("a socket can be bound"))
    }

    fn of(socket: UnixDatagram) -> Self {
        setsockopt(&socket, PassCred, &true).expect("senders can be had named");
        Self { socket }
    }

    /// The next words, and the process that sent them; `None` if there are none for that long.
    ///
    /// # Panics
    /// If the socket cannot be read.
    pub fn next(&self, patience: Duration) -> Option<(String, u32)> {
        self.socket.set_read_timeout(Some(patience)).expect("a timeout can be set");
        let mut bytes = [0; 4096];
        let mut into = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!(UnixCredentials);
        let flags = MsgFlags::empty();
        let (length, sender) =
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut into, Some(&mut space), flags) {
                Err(Errno::EAGAIN) => return None,
                received => {
                    let message = received.expect("it can be read");
                    let sender = message.cmsgs().expect("they are whole").find_map(|control| {
                        let ControlMessageOwned::ScmCredentials(sender) = control else { return None };
                        Some(sender.pid().cast_unsigned())
                    });
                    (message.bytes, sender.expect("the kernel names the sender"))
                }
            };
        let words = bytes.get(..length).expect("it fits").to_vec();
        Some((String::from_utf8(words).expect("it is text"), sender))
    }

    /// Waits for words that begin like this, and gives them all; what comes before them is passed over.
    ///
    /// # Panics
    /// If they do not come, or if any come from another process than `pid`.
    pub fn wait(&self, pid: u32, begin: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            let Some((words, sender)) = self.next(left) else { break };
            assert_eq!(sender, pid, "systemd believes the main process only, and {words:?} is another's");
            if words.starts_with(begin) {
                return words;
            }
            others.push(words);
        }
        panic!("waited in vain for {begin:?}; these came: {others:#?}");
    }
}
