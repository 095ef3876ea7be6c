//! How a socket that has spoken to nf_tables is closed without anybody having to wait.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

/// Has the kernel close a socket some time after the end of this process.
///
/// What is removed from nf_tables is gone at once, but its memory is freed only when no processor can be reading it any
/// more, and to close a socket that has spoken to nf_tables waits for that: some 10 milliseconds, in which nobody else can
/// speak to it nor make a link. So the socket goes into a message that nobody can receive once this process has ended,
/// since the one that could is in it too. The kernel looks for such messages whenever a socket is closed, and drops them a
/// little later (before 6.10 at once, so that this waits as well).
pub(super) fn close_after_exit(socket: OwnedFd) {
    // Whatever fails here, it is closed now.
    let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
    let Ok((receiver, sender)) = pair else { return };
    let both = [socket.as_raw_fd(), receiver.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&both)];
    let sent =
        sendmsg::<()>(sender.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::MSG_NOSIGNAL, None);
    if sent.is_ok() {
        // By the end of this process.
        let _left_open = (receiver.into_raw_fd(), sender.into_raw_fd());
    }
}
