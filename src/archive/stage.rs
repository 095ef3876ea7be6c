//! A folder whose entries appear at once and whole. It owns how something gets there in one step and how what dead
//! runs left behind goes away; it must not know what is made.
//!
//! A thing is made in a stage, a temp folder that its maker holds an flock on. The lock ends with its
//! process, however that dies, so a stage whose lock is free belongs to nobody and is removed. Several hsups
//! may share the folder: none waits for another, and of two that make the same thing the first to rename wins.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::syncfs;
use tempfile::TempDir;

/// How the names of stages begin.
pub(crate) const STAGE_PREFIX: &str = ".stage-";

/// Why a folder of slugs or stacks cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path:?}")]
pub struct StageError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl StageError {
    pub(crate) fn of<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_path_buf();
        move |source| Self { operation, path, source: source.into() }
    }

    /// Whether something was there already, in the place of what was to be put there.
    pub(crate) fn is_of_what_was_there(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
    }
}

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    mode: u32,
}

impl Staging {
    /// A folder that is made with this mode when first needed.
    pub(crate) fn new(dir: PathBuf, mode: u32) -> Self {
        Self { dir, mode }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the folder where there is none yet, and removes the stages of dead runs.
    ///
    /// # Errors
    /// When the folder cannot be made. A stage that cannot be removed is logged, for it harms nothing else.
    pub(crate) fn open(&self) -> Result<(), StageError> {
        if let Some(parent) = self.dir.parent() {
            fs::create_dir_all(parent).map_err(StageError::of("make", parent))?;
        }
        match DirBuilder::new().mode(self.mode).create(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(StageError::of("make", &self.dir)(error))
            }
            Ok(()) | Err(_) => self.sweep(),
        }
    }

    fn sweep(&self) -> Result<(), StageError> {
        for entry in fs::read_dir(&self.dir).map_err(StageError::of("read", &self.dir))? {
            let entry = entry.map_err(StageError::of("read", &self.dir))?;
            if entry.file_name().as_encoded_bytes().starts_with(STAGE_PREFIX.as_bytes()) {
                let path = entry.path();
                if let Err(error) = remove_if_dead(&path) {
                    tracing::warn!(?path, %error, "cannot remove what a dead run of hsup left behind");
                }
            }
        }
        Ok(())
    }

    /// A fresh stage.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub(crate) fn stage(&self) -> Result<Stage, StageError> {
        loop {
            let temp = tempfile::Builder::new()
                .prefix(STAGE_PREFIX)
                .tempdir_in(&self.dir)
                .map_err(StageError::of("make a temp folder in", &self.dir))?;
            let path = temp.path();
            let folder = match File::open(path) {
                Ok(folder) => folder,
                // another hsup took it for a dead one's before it could be locked
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StageError::of("open", path)(error)),
            };
            let lock = Flock::lock(folder, FlockArg::LockExclusive)
                .map_err(|(_, error)| StageError::of("lock", path)(error))?;
            // the same, between the open and the lock
            if is_at(&lock, path).map_err(StageError::of("stat", path))? {
                return Ok(Stage { temp, lock });
            }
        }
    }

    /// Puts the stage, or something in it, into the folder: all of it, on disk, or nothing.
    ///
    /// # Errors
    /// When it cannot be synced or renamed; the stage is gone then.
    pub(crate) fn put(&self, stage: Stage, from: &Path, name: &str) -> Result<PathBuf, StageError> {
        let to = self.dir.join(name);
        // one syncfs costs less than an fsync of each of 100,000 small files
        syncfs(&*stage.lock).map_err(StageError::of("sync", from))?;
        fs::rename(from, &to).map_err(StageError::of("rename a temp folder to", &to))?;
        self.sync()?;
        Ok(to)
    }

    /// Puts what has been renamed in the folder on disk.
    ///
    /// # Errors
    /// When it cannot be synced.
    pub(crate) fn sync(&self) -> Result<(), StageError> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(StageError::of("sync", &self.dir))
    }
}

/// Whether an open file is the one that has this name now.
pub(crate) fn is_at(folder: &File, path: &Path) -> io::Result<bool> {
    let held = folder.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn remove_if_dead(path: &Path) -> io::Result<()> {
    let folder = match File::open(path) {
        Ok(folder) => folder,
        // its maker was done with it in the meantime
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        // it may have been renamed meanwhile: then this name is gone, and the tree is not touched
        Ok(_lock) => match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(()),
        Err((_, error)) => Err(error.into()),
    }
}

/// A locked temp folder. Dropped unpublished it is removed, and only then unlocked: the order of the fields.
pub(crate) struct Stage {
    temp: TempDir,
    lock: Flock<File>,
}

impl Stage {
    /// Removes it with all that is in it.
    ///
    /// # Errors
    /// When something in it cannot be removed; the next one to open the folder tries again.
    pub(crate) fn discard(self) -> io::Result<()> {
        self.temp.close()
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }
}
