//! One hsup at a time changes a stack. The lock is an flock on a file of its own, so it ends with its holder, and
//! the file goes with the lock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::StackError;
use super::id::StackId;
use crate::archive::is_at;
use crate::blocking::blocking;

/// How often a lock that another one holds is tried: an flock cannot be waited for without a thread that nothing
/// can interrupt. What is waited for, a download, takes far longer.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// The lock of a stack.
pub(super) struct StackLock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Drop for StackLock {
    fn drop(&mut self) {
        // While it is held: whoever has opened the file and waits then sees that it is not the file any more.
        let _next_one_makes_it = fs::remove_file(&self.path);
    }
}

impl StackLock {
    /// Waits for the lock. Dropping the future gives up.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) async fn take(dir: &Path, id: &StackId) -> Result<Self, StackError> {
        let mut told = false;
        loop {
            let (dir, of) = (dir.to_owned(), id.clone());
            match blocking(move |_| Self::try_take(&dir, &of)).await? {
                Some(lock) => return Ok(lock),
                None if !told => {
                    tracing::info!("waiting for another hsup that is at work on stack {id}");
                    told = true;
                }
                None => {}
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    }

    /// Takes the lock if nobody has it. Blocks for the length of some file operations.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn try_take(dir: &Path, id: &StackId) -> Result<Option<Self>, StackError> {
        let path = dir.join(format!(".lock-{id}"));
        try_lock(&path).map_err(|source| StackError::Folder { operation: "lock", path, source })
    }
}

fn try_lock(path: &Path) -> io::Result<Option<StackLock>> {
    loop {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) if is_at(&file, path)? => {
                return Ok(Some(StackLock { path: path.to_path_buf(), _file: file }));
            }
            // its holder was done with it between the open and the lock
            Ok(_) => {}
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, error)) => return Err(error.into()),
        }
    }
}
