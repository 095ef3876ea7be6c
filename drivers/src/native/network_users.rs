//! Who uses the network that all dynos of a host share: a lock that each hsup with native dynos holds shared, whatever its
//! state dir, for as long as it lives. Whoever gets it alone is the only one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::files;

/// The lock, held with others or alone.
pub(super) struct Users {
    path: PathBuf,
    lock: Flock<File>,
}

impl Users {
    /// Joins those who use the network of this namespace; waits while somebody takes it down.
    pub(super) fn join() -> io::Result<Self> {
        Self::lock(FlockArg::LockShared)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// The lock for whoever is alone; none if somebody uses the network.
    pub(super) fn alone() -> io::Result<Option<Self>> {
        Self::lock(FlockArg::LockExclusiveNonblock)
    }

    fn lock(how: FlockArg) -> io::Result<Option<Self>> {
        let namespace = fs::metadata("/proc/self/ns/net")?.ino();
        // One for each network namespace that is a host's.
        let dir = Path::new(files::SHARED);
        let path = dir.join(format!("network-{namespace}.lock"));
        files::make_shared(dir)?;
        loop {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
            let lock = match Flock::lock(file, how) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, Errno::EINTR)) => continue,
                Err((_, errno)) => return Err(errno.into()),
            };
            // The last one may have removed it meanwhile: then it is nobody's.
            if fs::metadata(&path)
                .is_ok_and(|there| lock.metadata().is_ok_and(|own| own.ino() == there.ino()))
            {
                return Ok(Some(Self { path, lock }));
            }
        }
    }

    /// Leaves; whoever is the last has it alone, to take the network down and then to drop it.
    pub(super) fn leave(self) -> Option<Alone> {
        let Self { path, lock } = self;
        lock.relock(FlockArg::LockExclusiveNonblock).ok()?;
        Some(Alone { path, _lock: lock })
    }
}

/// The lock of whoever is alone. When it is dropped its file goes, too.
pub(super) struct Alone {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the lock of the network");
        }
    }
}
