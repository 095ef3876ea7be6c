//! sd_notify(3): tells the service manager how hsup is. The words leave from the guardian, which is the process
//! that the manager has started and listens to; see [`hsup_drivers::guardian::Relay`].

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use hsup_drivers::guardian::Relay;
use nix::time::{ClockId, clock_gettime};

/// What hsup tells its service manager through. Words are never waited for: what a manager that does not listen
/// leaves lying is dropped.
#[derive(Debug)]
pub struct Notifier(UnixDatagram);

impl Notifier {
    /// A way to the manager that listens at this address, and the part of it that belongs to the guardian.
    ///
    /// # Errors
    /// If nobody listens there, or there are no sockets left.
    pub fn open(address: &OsStr) -> io::Result<(Self, Relay)> {
        let to = UnixDatagram::unbound()?;
        match address.as_bytes() {
            [b'@', name @ ..] => to.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            [b'/', ..] => to.connect(address)?,
            _ => return Err(io::Error::other("neither a path nor the name of an abstract socket")),
        }
        to.set_nonblocking(true)?;
        let (ours, from) = UnixDatagram::pair()?;
        ours.set_nonblocking(true)?;
        from.set_nonblocking(true)?;
        Ok((Self(ours), Relay { from, to }))
    }

    /// hsup serves: whoever waits for it may go on.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The source is being looked at again; [`Notifier::ready`] is to follow.
    pub fn reloading(&self) {
        match clock_gettime(ClockId::CLOCK_MONOTONIC) {
            Ok(now) => {
                let usec = Duration::from(now).as_micros();
                self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
            }
            Err(error) => tracing::warn!(%error, "cannot tell the service manager of the reload"),
        }
    }

    /// hsup is about to end, which may take this long.
    pub fn stopping(&self, patience: Duration) {
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", patience.as_micros()));
    }

    /// What hsup is at, in one line.
    pub fn status(&self, line: &str) {
        self.tell(&format!("STATUS={line}"));
    }

    /// hsup is not hung.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, words: &str) {
        if let Err(error) = self.0.send(words.as_bytes()) {
            tracing::debug!(%error, "cannot tell the service manager {words:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_listens_that_is_said() {
        for address in ["/no/such/socket", "@no such abstract socket of hsup", "vsock:2:9999", ""] {
            assert!(Notifier::open(OsStr::new(address)).is_err(), "{address}");
        }
    }
}
