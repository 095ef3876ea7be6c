//! What is done in a network namespace that is not this process's.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Does something in a network that is not this process's.
///
/// # Errors
/// If the system refuses, or this process may not enter the network.
pub(crate) fn within<T: Send>(
    network: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let work = || {
        setns(network, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    // In a thread of its own, which ends there: a socket stays in the network that it was made in.
    thread::scope(|scope| {
        let done = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?.join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
