//! The folder of unpacked slugs: `<dir>/<digest>/app`. It owns their names; it must not know how a tree is made.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::hold::{Unused, hold};
use super::slugs::Slug;
use crate::archive::{Stage, StageError, Staging};
use crate::model::Sha256Digest;

/// A slug holds an app's code and at times its secrets: other users of the host have no business here.
const FOLDER_MODE: u32 = 0o700;

/// The folder.
#[derive(Clone)]
pub(super) struct Cache {
    staging: Staging,
}

impl Cache {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { staging: Staging::new(dir, FOLDER_MODE) }
    }

    pub(super) fn dir(&self) -> &Path {
        self.staging.dir()
    }

    /// Makes the folder where there is none yet, and removes the stages of dead runs.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub(super) fn open(&self) -> Result<(), StageError> {
        self.staging.open()
    }

    /// Where the tree with this digest is, if it is there.
    pub(super) fn path(&self, digest: Sha256Digest) -> PathBuf {
        self.dir().join(digest.to_string())
    }

    /// The tree with this digest, if it is there, and in use from now on. Only whole trees are there.
    ///
    /// # Errors
    /// When that cannot be told.
    pub(super) fn find(&self, digest: Sha256Digest) -> Result<Option<Slug>, StageError> {
        let path = self.path(digest);
        let in_use = hold(&path).map_err(StageError::of("hold", &path))?;
        let app_dir = path.join("app");
        Ok(in_use.filter(|_| app_dir.is_dir()).map(|in_use| Slug { digest, app_dir, _in_use: in_use }))
    }

    /// Takes a tree out of the folder, at once and for good, and deletes it. Whoever waits for the lock then finds that
    /// there is none.
    ///
    /// # Errors
    /// When it cannot be taken out, and is there still; or cannot be deleted, which the next one to open the folder tries
    /// again.
    pub(super) fn remove(&self, path: &Path, unused: Unused) -> Result<(), StageError> {
        let stage = self.staging.stage()?;
        fs::rename(path, stage.path().join("removed")).map_err(StageError::of("rename", path))?;
        drop(unused);
        // half of a tree must not be what a host that goes down finds at its name
        self.staging.sync()?;
        stage.discard().map_err(StageError::of("remove", path))
    }

    /// A fresh stage.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub(super) fn stage(&self) -> Result<Stage, StageError> {
        self.staging.stage()
    }

    /// Makes the stage the tree with this digest: all of it, on disk, or nothing. Another hsup may have found it unneeded and
    /// taken it away before it could be said to be in use: then there is none.
    ///
    /// # Errors
    /// When it cannot be synced or renamed; the stage is gone then.
    pub(super) fn publish(&self, stage: Stage, digest: Sha256Digest) -> Result<Option<Slug>, StageError> {
        let from = stage.path().to_path_buf();
        fs::set_permissions(&from, Permissions::from_mode(0o755)).map_err(StageError::of("chmod", &from))?;
        let put = self.staging.put(stage, &from, &digest.to_string());
        // where another hsup was quicker with the same tree the stage is gone, and its tree is as good, while it is there
        match (self.find(digest)?, put) {
            (None, Err(error)) if !error.is_of_what_was_there() => Err(error),
            (slug, Ok(_) | Err(_)) => Ok(slug),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use tempfile::TempDir;

    use super::*;
    use crate::archive::STAGE_PREFIX;

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
        assert_eq!(cache.find(DIGEST).unwrap(), None);
        let slug = cache.publish(stage, DIGEST).unwrap().unwrap();
        assert!(slug.app_dir.join("x").exists());
        assert_eq!(cache.find(DIGEST).unwrap(), Some(slug));
        assert_eq!(names(&cache), [DIGEST.to_string()]);
    }

    #[test]
    fn the_quicker_of_two_makers_wins() {
        let (_temp, cache) = cache();
        let (slow, quick) = (staged(&cache, "slow"), staged(&cache, "quick"));
        let first = cache.publish(quick, DIGEST).unwrap().unwrap();
        let second = cache.publish(slow, DIGEST).unwrap().unwrap();
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
                        let slug = cache.publish(stage, digest).unwrap().unwrap();
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
