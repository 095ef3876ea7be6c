//! The folder of unpacked slugs: `<dir>/<digest>/app`. It owns how a tree gets there in one step and how what
//! dead runs left behind goes away; it must not know how a tree is made.
//!
//! A tree is built in a stage, a temp folder that its maker holds an flock on. The lock ends with its
//! process, however that dies, so a stage whose lock is free belongs to nobody and is removed. Several hsups
//! may share the folder: none waits for another, and of two that make the same tree the first to rename wins.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::syncfs;
use tempfile::TempDir;

use super::slugs::Slug;
use crate::model::Sha256Digest;

const STAGE_PREFIX: &str = ".stage-";

/// Why the folder of slugs cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path:?} in the folder of slugs")]
pub struct CacheError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl CacheError {
    fn of<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_path_buf();
        move |source| Self { operation, path, source: source.into() }
    }
}

/// The folder.
#[derive(Clone)]
pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the folder where there is none yet, and removes the stages of dead runs.
    ///
    /// # Errors
    /// When the folder cannot be made. A stage that cannot be removed is logged, for it harms no other tree.
    pub(super) fn open(&self) -> Result<(), CacheError> {
        if let Some(parent) = self.dir.parent() {
            fs::create_dir_all(parent).map_err(CacheError::of("make", parent))?;
        }
        // a slug holds an app's code and at times its secrets: other users of the host have no business here
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(CacheError::of("make", &self.dir)(error))
            }
            Ok(()) | Err(_) => self.sweep(),
        }
    }

    fn sweep(&self) -> Result<(), CacheError> {
        for entry in fs::read_dir(&self.dir).map_err(CacheError::of("read", &self.dir))? {
            let entry = entry.map_err(CacheError::of("read", &self.dir))?;
            if entry.file_name().as_encoded_bytes().starts_with(STAGE_PREFIX.as_bytes()) {
                let path = entry.path();
                if let Err(error) = remove_if_dead(&path) {
                    tracing::warn!(?path, %error, "cannot remove what a dead run of hsup left behind");
                }
            }
        }
        Ok(())
    }

    /// The tree with this digest, if it is there. Only whole trees are.
    pub(super) fn find(&self, digest: Sha256Digest) -> Option<Slug> {
        let app_dir = self.dir.join(digest.to_string()).join("app");
        app_dir.is_dir().then_some(Slug { digest, app_dir })
    }

    /// A fresh stage.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub(super) fn stage(&self) -> Result<Stage, CacheError> {
        loop {
            let temp = tempfile::Builder::new()
                .prefix(STAGE_PREFIX)
                .tempdir_in(&self.dir)
                .map_err(CacheError::of("make a temp folder in", &self.dir))?;
            let path = temp.path();
            let folder = match File::open(path) {
                Ok(folder) => folder,
                // another hsup took it for a dead one's before it could be locked
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(CacheError::of("open", path)(error)),
            };
            let lock = Flock::lock(folder, FlockArg::LockExclusive)
                .map_err(|(_, error)| CacheError::of("lock", path)(error))?;
            // the same, between the open and the lock
            if is_at(&lock, path).map_err(CacheError::of("stat", path))? {
                return Ok(Stage { temp, lock });
            }
        }
    }

    /// Makes the stage the tree with this digest: all of it, on disk, or nothing.
    ///
    /// # Errors
    /// When it cannot be synced or renamed; the stage is gone then.
    pub(super) fn publish(&self, stage: Stage, digest: Sha256Digest) -> Result<Slug, CacheError> {
        let (from, to) = (stage.path().to_path_buf(), self.dir.join(digest.to_string()));
        fs::set_permissions(&from, Permissions::from_mode(0o755)).map_err(CacheError::of("chmod", &from))?;
        // one syncfs costs less than an fsync of each of 100,000 small files
        syncfs(&*stage.lock).map_err(CacheError::of("sync", &from))?;
        if let Err(error) = fs::rename(&from, &to) {
            // another hsup was quicker with the same tree: the stage goes, its tree is as good
            return self.find(digest).ok_or_else(|| CacheError::of("rename a temp folder to", &to)(error));
        }
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(CacheError::of("sync", &self.dir))?;
        self.find(digest).ok_or_else(|| CacheError::of("find", &to)(io::Error::from(io::ErrorKind::NotFound)))
    }
}

fn is_at(folder: &File, path: &Path) -> io::Result<bool> {
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
pub(super) struct Stage {
    temp: TempDir,
    lock: Flock<File>,
}

impl Stage {
    pub(super) fn path(&self) -> &Path {
        self.temp.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Sha256Digest = Sha256Digest([7; 32]);

    fn cache() -> (TempDir, Cache) {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::new(temp.path().join("state/slugs"));
        cache.open().unwrap();
        (temp, cache)
    }

    fn names(cache: &Cache) -> Vec<String> {
        let entries = fs::read_dir(cache.dir()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn staged(cache: &Cache, file: &str) -> Stage {
        let stage = cache.stage().unwrap();
        fs::create_dir(stage.path().join("app")).unwrap();
        fs::write(stage.path().join("app").join(file), "").unwrap();
        stage
    }

    #[test]
    fn the_folder_is_for_its_owner_only() {
        let (_temp, cache) = cache();
        assert_eq!(fs::metadata(cache.dir()).unwrap().mode() & 0o7777, 0o700);
        cache.open().unwrap();
    }

    #[test]
    fn a_stage_becomes_a_tree_in_one_step() {
        let (_temp, cache) = cache();
        let stage = staged(&cache, "x");
        assert_eq!(cache.find(DIGEST), None);
        let slug = cache.publish(stage, DIGEST).unwrap();
        assert!(slug.app_dir.join("x").exists());
        assert_eq!(cache.find(DIGEST), Some(slug));
        assert_eq!(names(&cache), [DIGEST.to_string()]);
    }

    #[test]
    fn the_quicker_of_two_makers_wins() {
        let (_temp, cache) = cache();
        let (slow, quick) = (staged(&cache, "slow"), staged(&cache, "quick"));
        let first = cache.publish(quick, DIGEST).unwrap();
        let second = cache.publish(slow, DIGEST).unwrap();
        assert_eq!(first, second);
        assert!(second.app_dir.join("quick").exists());
        assert_eq!(names(&cache), [DIGEST.to_string()]);
    }

    #[test]
    fn a_dropped_stage_leaves_nothing() {
        let (_temp, cache) = cache();
        drop(staged(&cache, "x"));
        assert_eq!(names(&cache), [""; 0]);
    }

    #[test]
    fn dead_stages_go_and_live_ones_stay() {
        let (_temp, cache) = cache();
        let live = staged(&cache, "x");
        let dead = cache.dir().join(format!("{STAGE_PREFIX}dead"));
        fs::create_dir_all(dead.join("app/deep")).unwrap();
        cache.open().unwrap();
        assert!(!dead.exists());
        assert!(live.path().join("app/x").exists());
    }

    #[test]
    fn many_hsups_do_not_take_each_others_stages() {
        let (_temp, cache) = cache();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..25 {
                        cache.open().unwrap();
                        let digest = Sha256Digest([if round % 2 == 0 { round } else { 100 + thread }; 32]);
                        let stage = staged(cache, "x");
                        cache.open().unwrap();
                        let slug = cache.publish(stage, digest).unwrap();
                        assert!(slug.app_dir.join("x").exists());
                    }
                });
            }
        });
        assert!(names(&cache).iter().all(|name| !name.starts_with('.')));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Cache::new(file.join("slugs")).open().unwrap_err();
        assert!(error.to_string().contains("/file\""), "{error}");
    }
}
