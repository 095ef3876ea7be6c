//! Trees that are in use. It owns the lock that says so: an flock on the directory of the tree, which all hsups of the host
//! see and which ends with its holders, however they die.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::archive::is_at;

/// While it lives the tree stays. It holds nothing where the file system has no locks, for there nothing is removed.
#[derive(Clone, Debug, Default)]
pub(super) struct InUse {
    _lock: Option<Arc<Flock<File>>>,
}

/// While it lives nobody uses the tree, and nobody can begin to.
pub(super) struct Unused {
    _lock: Flock<File>,
}

/// Says that a tree is in use; nothing if there is none. Waits for the length of a rename while one is removed.
///
/// # Errors
/// When its directory cannot be opened.
pub(super) fn hold(dir: &Path) -> io::Result<Option<InUse>> {
    loop {
        let Some(folder) = open(dir)? else { return Ok(None) };
        match Flock::lock(folder, FlockArg::LockShared) {
            Ok(lock) if is_at(&lock, dir)? => return Ok(Some(InUse { _lock: Some(Arc::new(lock)) })),
            // it was removed between the open and the lock, or a signal came
            Ok(_) | Err((_, Errno::EINTR)) => {}
            Err((_, error)) => {
                tracing::debug!("{} cannot be locked: {error}", dir.display());
                return Ok(Some(InUse::default()));
            }
        }
    }
}

/// Makes sure that nobody uses a tree; nothing if somebody does, if there is none, or where that cannot be told.
///
/// # Errors
/// When its directory cannot be opened.
pub(super) fn unless_in_use(dir: &Path) -> io::Result<Option<Unused>> {
    let Some(folder) = open(dir)? else { return Ok(None) };
    match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(is_at(&lock, dir)?.then_some(Unused { _lock: lock })),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => {
            tracing::debug!("{} stays: it cannot be locked: {error}", dir.display());
            Ok(None)
        }
    }
}

fn open(dir: &Path) -> io::Result<Option<File>> {
    match File::open(dir) {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
