//! Where the books of the native driver are, below the state dir and beside it, and the locks by which several hsups write
//! them at once. What is in them is not decided here.
//!
//! Nothing is synced to disk: every file here is about resources of this boot of the host. What a crash of the
//! host loses or cuts short names nothing that is still there, but for directories, and those are found by name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The books are root's: who could write them could have any directory below the state dir removed.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A lock that is held until it is dropped, or its process ends.
pub(super) type Lock = Flock<File>;

/// What all hsups of a host have in common, whatever their state dirs; it is empty after a boot.
pub(super) const SHARED: &str = "/run/hsup";

/// Makes the place of what all hsups have in common. Control sockets are there too, which are not root's alone.
pub(super) fn make_shared(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(dir)
}

/// The records of runs.
pub(super) fn runs_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("native/runs")
}

/// Where files go that should be records and cannot be read.
pub(super) fn unreadable_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("native/unreadable")
}

/// Makes a directory of the books, and what is above it.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)
}

/// The state dir by its one real name, however it was named: what is written down of it holds for whoever names it
/// otherwise. It is left as given where there is none.
pub(super) fn real_name(state_dir: &Path) -> PathBuf {
    fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned())
}

/// Waits for the lock of a file, which is made if need be. It is to be held for the length of a few system calls.
pub(super) fn lock(path: &Path) -> io::Result<Lock> {
    locked(path, FlockArg::LockExclusive)
}

/// As [`lock`], but any number may hold it like this at once.
pub(super) fn lock_shared(path: &Path) -> io::Result<Lock> {
    locked(path, FlockArg::LockShared)
}

fn locked(path: &Path, how: FlockArg) -> io::Result<Lock> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    loop {
        match Flock::lock(file, how) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, error)) => return Err(error.into()),
        }
    }
}

/// Locks an existing file if nobody else has, and if it is still the one of that name: `None` if not.
pub(super) fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, error)) => return Err(error.into()),
    };
    let inode = lock.metadata()?.ino();
    let same = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.ino() == inode);
    Ok(same.then_some(lock))
}

/// Makes a file that is not there yet. What reads it has to know whether it is whole.
///
/// There is no temp file that is renamed: on ext4 a file that replaces another is written to disk at once, which
/// takes milliseconds on a busy disk, and again when it is removed.
pub(super) fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.write_all(bytes).inspect_err(|_| drop(fs::remove_file(path)))
}

/// Adds to the end of a file, or leaves it as it was.
pub(super) fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    let length = file.metadata()?.len();
    file.write_all(bytes).inspect_err(|_| drop(file.set_len(length)))
}

/// Removes a file, if there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
