//! How hsup hears of the signals that are meant for it: from its guardian or, where it has none, from the kernel.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// The signals that are meant for hsup.
#[derive(Debug)]
pub struct Signals {
    heard: OwnedFd,
    from: Teller,
}

/// Who tells of them, and so what can be read.
#[derive(Clone, Copy, Debug)]
enum Teller {
    /// The guardian, a byte for each, over a pipe.
    Guardian,
    /// The kernel, by signalfd(2).
    Kernel,
}

impl Teller {
    /// How much is read for each.
    fn bytes(self) -> usize {
        match self {
            Self::Guardian => 1,
            Self::Kernel => size_of::<siginfo>(),
        }
    }

    /// What has been read.
    fn signal(self, told: &[u8]) -> Option<Signal> {
        let number = match self {
            Self::Guardian => i32::from(*told.first()?),
            // It begins with the number.
            Self::Kernel => i32::from_ne_bytes(*told.first_chunk()?),
        };
        Signal::try_from(number).ok()
    }
}

impl Signals {
    /// Those that the guardian writes into this pipe.
    pub(super) fn of_guardian(heard: OwnedFd) -> Self {
        Self { heard, from: Teller::Guardian }
    }

    /// These, which are blocked.
    pub(super) fn of_kernel(blocked: SigSet) -> io::Result<Self> {
        let heard = SignalFd::with_flags(&blocked, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { heard: heard.into(), from: Teller::Kernel })
    }

    /// Begins to listen; to be called within the runtime.
    ///
    /// # Errors
    /// If the runtime cannot watch what they are read from.
    pub fn listen(self) -> io::Result<Listener> {
        Ok(Listener { heard: sys::watch(self.heard)?, from: self.from })
    }
}

/// Listens for signals.
#[derive(Debug)]
pub struct Listener {
    heard: AsyncFd<OwnedFd>,
    from: Teller,
}

impl Listener {
    /// The next signal; `None` when the guardian has died. Cancel safe.
    ///
    /// # Errors
    /// If nothing can be read.
    pub async fn next(&mut self) -> io::Result<Option<Signal>> {
        loop {
            let mut ready = self.heard.readable().await?;
            let mut told = vec![0; self.from.bytes()];
            match nix::unistd::read(self.heard.get_ref(), &mut told) {
                Ok(0) => return Ok(None),
                Ok(_) => {
                    if let Some(signal) = self.from.signal(&told) {
                        return Ok(Some(signal));
                    }
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[tokio::test]
    async fn what_the_kernel_tells_of_is_heard() {
        let blocked: SigSet = [Signal::SIGHUP, Signal::SIGUSR2].into_iter().collect();
        blocked.thread_block().unwrap();
        let mut listener = Signals::of_kernel(blocked).unwrap().listen().unwrap();
        for signal in [Signal::SIGUSR2, Signal::SIGHUP] {
            raise(signal).unwrap();
            assert_eq!(listener.next().await.unwrap(), Some(signal));
        }
    }

    #[tokio::test]
    async fn what_the_guardian_tells_of_is_heard_until_its_end() {
        let (heard, told) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        nix::unistd::write(&told, &[Signal::SIGTERM as u8, Signal::SIGHUP as u8]).unwrap();
        drop(told);
        let mut listener = Signals::of_guardian(heard).listen().unwrap();
        for signal in [Some(Signal::SIGTERM), Some(Signal::SIGHUP), None] {
            assert_eq!(listener.next().await.unwrap(), signal);
        }
    }
}
