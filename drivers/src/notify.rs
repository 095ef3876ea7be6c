//! The sockets on which runs speak by sd_notify(3): how they are made, and what they are called. What is said on them is
//! not heard here.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::PassCred;

use crate::{StartError, netns};

/// Where a dyno finds the name of the socket.
pub(crate) const VARIABLE: &str = "NOTIFY_SOCKET";

/// What a dyno finds there that has a network of its own: nobody else reaches the socket.
pub(crate) const INSIDE: &str = "@hsup/notify";

/// A socket of this name in this network. It has no file, so that nothing of it stays.
fn bind(name: &str) -> io::Result<OwnedFd> {
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    setsockopt(&socket, PassCred, &true)?;
    Ok(socket.into())
}

/// A socket in the host's network, and what the dyno finds in [`VARIABLE`]. Its name cannot be guessed, but anybody on
/// the host can look it up.
///
/// # Errors
/// If the system refuses.
pub(crate) fn of_host(dyno: &str) -> Result<(OwnedFd, String), StartError> {
    let (one, two) = (RandomState::new().hash_one(dyno), RandomState::new().hash_one(dyno));
    let name = format!("hsup/{dyno}/{one:016x}{two:016x}");
    let socket = bind(&name).map_err(|source| StartError::System {
        operation: "make the socket for the dyno's sd_notify",
        source,
    })?;
    Ok((socket, format!("@{name}")))
}

/// A socket in a network that is a dyno's own, called [`INSIDE`] there.
///
/// # Errors
/// If the system refuses, or this process may not enter the network.
pub(crate) fn inside(network: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    netns::within(network, || bind(INSIDE.trim_start_matches('@')))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::thread;

    use nix::sched::{CloneFlags, unshare};
    use nix::sys::socket::getsockopt;

    use super::*;

    /// Whether what is sent to a socket of this name, in the network of this thread, arrives.
    fn is_heard(socket: &OwnedFd, name: &str) -> bool {
        let to = SocketAddr::from_abstract_name(name.strip_prefix('@').unwrap()).unwrap();
        let sent = UnixDatagram::unbound().unwrap().send_to_addr(b"READY=1", &to);
        let mut place = [0; 16];
        let heard = UnixDatagram::from(socket.try_clone().unwrap());
        heard.set_nonblocking(true).unwrap();
        sent.is_ok() && heard.recv(&mut place).is_ok_and(|length| &place[..length] == b"READY=1")
    }

    #[test]
    fn each_run_on_the_host_has_a_socket_of_its_own() {
        let [(one, of_one), (two, of_two)] = [of_host("web.1").unwrap(), of_host("web.1").unwrap()];
        assert!(getsockopt(&one, PassCred).unwrap());
        assert!(is_heard(&one, &of_one) && is_heard(&two, &of_two));
        assert!(!is_heard(&one, &of_two));
    }

    #[test]
    fn a_socket_inside_is_reached_from_there_only() {
        let inside = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let network = File::open("/proc/thread-self/ns/net").unwrap();
            let socket = super::inside(network.as_fd()).unwrap();
            // once in each network
            assert!(super::inside(network.as_fd()).is_err());
            assert!(is_heard(&socket, INSIDE));
            socket
        });
        let socket = inside.join().unwrap();
        assert!(!is_heard(&socket, INSIDE));
    }
}
