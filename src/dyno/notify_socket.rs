//! The socket on which a run says by sd_notify that it is ready, or still well. The protocol is systemd's, see
//! sd_notify(3): datagrams of lines such as `READY=1`. The socket is made by the driver.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram as Unbound;

use hsup_drivers::{Notify, sys};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::signs::Signs;

/// More than any message: what is longer is cut, and its lines are not those that are looked for.
const MESSAGE_BYTES: usize = 4096;

/// The socket of a run.
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    /// The user whose words count; none where nobody but the run reaches it.
    sender: Option<u32>,
}

impl NotifySocket {
    /// Begins to listen at the socket of a run.
    pub(super) fn new(Notify { socket, sender }: Notify) -> io::Result<Self> {
        let socket = Unbound::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket)?, sender })
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

    /// Takes one message, and its lines one by one. That of others than the run's user counts for nothing. The buffer
    /// lives on the stack while there is a message, so that a quiet dyno has none.
    fn receive(&self, line: impl FnMut(&[u8])) -> io::Result<()> {
        let mut message = [0; MESSAGE_BYTES];
        let (length, sender) = sys::receive_with_sender(self.socket.as_fd(), &mut message)?;
        if self.sender.is_none_or(|user| sender == Some(user)) {
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
    use std::io::{IoSlice, Read};
    use std::os::fd::AsRawFd;

    use nix::sys::socket::sockopt::PassCred;
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt};
    use nix::unistd::geteuid;

    use super::*;

    /// A socket that heeds this user, and one that sends to it.
    fn pair(sender: Option<u32>) -> (NotifySocket, Unbound) {
        let (ours, theirs) = Unbound::pair().unwrap();
        setsockopt(&ours, PassCred, &true).unwrap();
        (NotifySocket::new(Notify { socket: ours.into(), sender }).unwrap(), theirs)
    }

    /// Whether one message, which is there, makes the run ready.
    async fn is_ready_by_it(socket: &NotifySocket) -> bool {
        let signs = Signs::new();
        socket.receive(|line| note(line, &signs)).unwrap();
        tokio::select! {
            biased;
            () = signs.ready() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn what_a_dyno_says_is_heard() {
        let (socket, dyno) = pair(Some(geteuid().as_raw()));
        dyno.send(b"STATUS=booting\nREADY=0").unwrap();
        assert!(!is_ready_by_it(&socket).await);
        dyno.send(b"STATUS=up\nREADY=1\n").unwrap();
        let signs = Signs::new();
        tokio::select! {
            () = signs.ready() => {}
            () = socket.hear(&signs) => unreachable!("it hears for ever"),
        }
    }

    #[tokio::test]
    async fn a_descriptor_that_comes_along_stops_nothing() {
        let (socket, dyno) = pair(Some(geteuid().as_raw()));
        let (mut read, written) = std::io::pipe().unwrap();
        let rights = [written.as_raw_fd(); 3];
        // as systemd-notify sends one, and waits until it is let go of
        for message in ["BARRIER=1", "READY=1"] {
            let along = [ControlMessage::ScmRights(&rights)];
            let message = [IoSlice::new(message.as_bytes())];
            sendmsg::<()>(dyno.as_raw_fd(), &message, &along, MsgFlags::empty(), None).unwrap();
        }
        drop(written);
        assert!(!is_ready_by_it(&socket).await);
        assert!(is_ready_by_it(&socket).await);
        assert_eq!(read.read(&mut [0]).unwrap(), 0);
    }

    #[tokio::test]
    async fn what_others_say_is_not_heeded() {
        let (socket, other) = pair(Some(geteuid().as_raw() + 1));
        other.send(b"READY=1").unwrap();
        assert!(!is_ready_by_it(&socket).await);
        let (socket, whoever) = pair(None);
        whoever.send(b"READY=1").unwrap();
        assert!(is_ready_by_it(&socket).await);
    }
}
