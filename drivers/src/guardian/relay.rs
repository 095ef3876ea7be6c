//! Hands on what hsup proper tells the service manager: that knows the guardian as the process which it has started,
//! and believes no other (`NotifyAccess=main` of systemd.service(5)), so that no dyno can speak for hsup.
//!
//! What it hands on it does not read.

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use nix::poll::{PollFd, PollFlags};

/// More than hsup ever says at once.
const LONGEST_BYTES: usize = 4096;

/// The two ends of the relay; neither is waited for.
#[derive(Debug)]
pub struct Relay {
    /// Where hsup proper is heard.
    pub from: UnixDatagram,
    /// Where the service manager listens.
    pub to: UnixDatagram,
}

/// A relay at work.
#[derive(Debug)]
pub(super) struct Relaying {
    relay: Relay,
    /// What the manager has had no room for yet.
    held: Option<Vec<u8>>,
}

impl Relaying {
    pub(super) fn new(relay: Relay) -> Self {
        Self { relay, held: None }
    }

    /// What has to happen before there is anything to do.
    pub(super) fn waits_for(&self) -> PollFd<'_> {
        match self.held {
            None => PollFd::new(self.relay.from.as_fd(), PollFlags::POLLIN),
            Some(_) => PollFd::new(self.relay.to.as_fd(), PollFlags::POLLOUT),
        }
    }

    /// Hands on what there is, as far as there is room.
    pub(super) fn hand_on(&mut self) {
        loop {
            let words = match self.held.take() {
                Some(words) => words,
                None => {
                    let mut words = vec![0; LONGEST_BYTES];
                    let Ok(length) = self.relay.from.recv(&mut words) else { return };
                    words.truncate(length);
                    words
                }
            };
            match self.relay.to.send(&words) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.held = Some(words);
                    return;
                }
                // A manager that is gone, or starts anew, misses it.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollTimeout, poll};

    use super::*;

    /// Twenty seconds, in milliseconds.
    const SOON: u16 = 20_000;

    #[test]
    fn nothing_is_lost_while_the_manager_has_no_room() {
        const ALL: u32 = 2000;
        let (ours, from) = UnixDatagram::pair().unwrap();
        let (to, manager) = UnixDatagram::pair().unwrap();
        for end in [&ours, &from, &to, &manager] {
            end.set_nonblocking(true).unwrap();
        }
        let mut relay = Relaying::new(Relay { from, to });
        let (mut said, mut heard, mut held) = (0, 0, false);
        // the manager listens only when there is no more room on the way to it
        while heard < ALL {
            while said < ALL && ours.send(&u32::to_be_bytes(said)).is_ok() {
                said += 1;
                relay.hand_on();
            }
            held |= relay.held.is_some();
            let mut words = [0; 8];
            while let Ok(length) = manager.recv(&mut words) {
                assert_eq!(words[..length], u32::to_be_bytes(heard));
                heard += 1;
            }
            if relay.held.is_some() {
                assert_eq!(poll(&mut [relay.waits_for()], PollTimeout::from(SOON)), Ok(1));
            }
            relay.hand_on();
        }
        assert!(held, "the way to the manager was never full");
    }
}
