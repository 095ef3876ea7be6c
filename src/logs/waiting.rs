//! An output of this process, written to as if it blocked. Whoever has started hsup may have made it non-blocking: it is
//! shared, so that hsup cannot know, nor change that for itself alone.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

/// Writes without a buffer, and waits where there is no room.
#[derive(Debug)]
pub(super) struct Waiting<T>(pub(super) T);

impl<T: AsFd> Write for Waiting<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match unistd::write(&self.0, bytes) {
                Err(Errno::EAGAIN) => {
                    let mut room = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
                    match poll(&mut room, PollTimeout::NONE) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::thread;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;

    #[test]
    fn a_pipe_that_does_not_block_is_waited_for() {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        // more than it holds
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
        let written = bytes.clone();
        let writer = thread::spawn(move || Waiting(write).write_all(&written));
        let (mut all, mut read) = (Vec::new(), File::from(read));
        while all.len() < bytes.len() {
            let mut ready = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::NONE).unwrap();
            match read.read_to_end(&mut all) {
                Ok(_) => break,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        writer.join().unwrap().unwrap();
        assert!(all == bytes);
    }
}
