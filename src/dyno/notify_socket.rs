//! The socket on which a dyno says by sd_notify that it is ready, or still well: `NOTIFY_SOCKET`. The protocol is
//! systemd's, see sd_notify(3): datagrams of lines such as `READY=1`.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as Unbound};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred,
};
use nix::unistd::geteuid;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::signs::Signs;

/// More than any message: what is longer is cut, and its lines are not those that are looked for.
const MESSAGE_BYTES: usize = 4096;

/// How many messages may wait: `net.unix.max_dgram_qlen` is 10 to 512 everywhere.
const QUEUE: usize = 1024;

/// The socket of one dyno, for all its runs. It has no file, so that nothing of it stays.
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    name: String,
}

impl NotifySocket {
    /// A socket for this dyno. Its name cannot be guessed, but anybody on the host can look it up.
    pub(super) fn bind(dyno: &str) -> io::Result<Self> {
        let (one, two) = (RandomState::new().hash_one(dyno), RandomState::new().hash_one(dyno));
        let name = format!("hsup/{dyno}/{one:016x}{two:016x}");
        let socket = Unbound::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        setsockopt(&socket, PassCred, &true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket)?, name })
    }

    /// What the dyno finds in `NOTIFY_SOCKET`.
    pub(super) fn variable(&self) -> String {
        format!("@{}", self.name)
    }

    /// Hears what the dyno says, for ever. Cancel safe.
    pub(super) async fn hear(&self, signs: &Signs) {
        loop {
            let heard =
                self.socket.async_io(Interest::READABLE, || self.receive(|line| note(line, signs))).await;
            if let Err(error) = heard {
                tracing::error!(%error, "cannot hear the sd_notify of a dyno");
                return std::future::pending().await;
            }
        }
    }

    /// Forgets what has been said and not been heard: it is of a run that is gone.
    pub(super) fn forget(&self) {
        // more than any host lets wait in a socket; who goes on sending is somebody else
        let _empty = (0..QUEUE).find(|_| self.receive(|_| {}).is_err());
    }

    /// Takes one message, and its lines one by one. Anybody on this host who knows the name can send one: that of
    /// others than hsup's own user, whose dynos they are, counts for nothing. The buffer lives on the stack while there
    /// is a message, so that a quiet dyno has none.
    fn receive(&self, line: impl FnMut(&[u8])) -> io::Result<()> {
        let mut message = [0; MESSAGE_BYTES];
        let mut parts = [IoSliceMut::new(&mut message)];
        let mut about = nix::cmsg_space!(UnixCredentials);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut about), flags)?;
        let sender = received.cmsgs()?.find_map(|part| {
            let ControlMessageOwned::ScmCredentials(sender) = part else { return None };
            Some(sender.uid())
        });
        let length = received.bytes;
        if sender == Some(geteuid().as_raw()) {
            message.get(..length).unwrap_or_default().split(|byte| *byte == b'\n').for_each(line);
        }
        Ok(())
    }
}

fn note(line: &[u8], signs: &Signs) {
    match line {
        b"READY=1" => signs.note_ready(),
        b"WATCHDOG=1" => signs.note_alive(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_dyno_says_is_heard() {
        let socket = NotifySocket::bind("web.1").unwrap();
        let signs = Signs::new();
        let said = Unbound::unbound().unwrap();
        let name = socket.variable();
        let to = SocketAddr::from_abstract_name(name.strip_prefix('@').unwrap()).unwrap();
        said.send_to_addr(b"READY=1", &to).unwrap();
        // of a run that is gone
        socket.forget();
        said.send_to_addr(b"STATUS=booting\nREADY=0", &to).unwrap();
        tokio::select! {
            biased;
            () = signs.ready() => unreachable!("nothing has said so"),
            () = socket.hear(&signs) => unreachable!("it hears for ever"),
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
        }
        said.send_to_addr(b"STATUS=up\nREADY=1\n", &to).unwrap();
        tokio::select! {
            () = signs.ready() => {}
            () = socket.hear(&signs) => unreachable!("it hears for ever"),
        }
    }
}
