//! Writes the entries of an archive below one folder. It owns that nothing is ever written outside of it and
//! that the limits hold; it must not know the format of the archive.
//!
//! The folder is fresh and private, so all that is in it came through here. Every directory is remembered and
//! none ever becomes something else; an entry is written only where its parent is such a directory. A symlink
//! planted earlier is therefore never written through.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::geteuid;

use super::limits::Limits;
use super::links::{BadLink, Links};
use super::unpack::{Layout, UnpackError};

/// What the paths held in memory may come to: 500,000 directories and links of 128 bytes each. Real slugs
/// need some 10 MB; 500,000 hostile ones of 4,096 bytes would take 2 GB.
const MAX_PATH_BYTES: u64 = 64 << 20;

/// A directory that no entry describes: as `mkdir` with the usual umask would make it.
const IMPLIED_DIRECTORY: u32 = 0o755;

/// hsup itself must be able to fill a directory and to remove it.
const OWNER_RWX: u32 = 0o700;

const CHUNK_BYTES: usize = 64 * 1024;

/// The mode, age and owner of an entry.
#[derive(Clone, Copy)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) modified_unix_s: Option<u64>,
    /// Its user and group.
    pub(super) owner: (u32, u32),
}

impl Attributes {
    fn modified(self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.modified_unix_s?))
    }
}

/// A tree that is being written. Paths are relative to its root, of normal components only; the empty path is
/// the root.
pub(super) struct Tree<'a> {
    root: &'a Path,
    layout: Layout,
    /// Whether files get the owners that the archive names, which only root can give them.
    owners: bool,
    limits: Limits,
    files: u64,
    bytes: u64,
    path_bytes: u64,
    directories: HashMap<PathBuf, Option<SystemTime>>,
    links: Links,
    buffer: Vec<u8>,
}

impl<'a> Tree<'a> {
    /// The root must not exist; its parent must.
    pub(super) fn new(root: &'a Path, layout: Layout, limits: Limits) -> Self {
        let (directories, links) = Default::default();
        let buffer = vec![0; CHUNK_BYTES];
        let owners = layout == Layout::Root && geteuid().is_root();
        Self { root, layout, owners, limits, files: 0, bytes: 0, path_bytes: 0, directories, links, buffer }
    }

    /// # Errors
    /// When something else is in its place, a limit is passed, or it cannot be written.
    pub(super) fn directory(&mut self, path: &Path, attributes: Attributes) -> Result<(), UnpackError> {
        self.count()?;
        self.make_parents(path)?;
        let mode = match self.layout {
            Layout::Slug => attributes.mode & 0o1777 | OWNER_RWX,
            Layout::Root if self.owners => attributes.mode & 0o7777,
            Layout::Root => attributes.mode & 0o7777 | OWNER_RWX,
        };
        self.make_directory(path, mode, Some(attributes.owner))?;
        self.directories.insert(path.to_path_buf(), attributes.modified());
        Ok(())
    }

    /// # Errors
    /// When it has no place, a limit is passed, `content` is shorter than `bytes`, or it cannot be written.
    pub(super) fn file(
        &mut self,
        path: &Path,
        attributes: Attributes,
        bytes: u64,
        content: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        if bytes > self.limits.unpacked_bytes.saturating_sub(self.bytes) {
            return Err(UnpackError::TooManyBytes { limit_bytes: self.limits.unpacked_bytes });
        }
        self.make_room(path)?;
        let failed = |operation| write_error(path, operation);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            // never through what is there, whatever it is
            .create_new(true)
            .mode(0o600)
            .open(self.at(path))
            .map_err(failed("create"))?;
        self.fill(path, &mut file, bytes, content)?;
        let mode = match self.layout {
            // without setuid and setgid: the file belongs to hsup's user now, who is often root
            Layout::Slug => attributes.mode & 0o777,
            Layout::Root => attributes.mode & 0o7777,
        };
        if self.owners {
            let (user, group) = attributes.owner;
            // before the mode, of which it takes setuid and setgid away
            fchown(&file, Some(user), Some(group)).map_err(failed("give its owner to"))?;
        }
        file.set_permissions(Permissions::from_mode(mode)).map_err(failed("chmod"))?;
        match attributes.modified() {
            Some(modified) => file.set_modified(modified).map_err(failed("set the time of")),
            None => Ok(()),
        }
    }

    fn fill(
        &mut self,
        path: &Path,
        file: &mut File,
        bytes: u64,
        content: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        let mut written = 0;
        loop {
            let read = match content.read(&mut self.buffer) {
                Ok(0) if written == bytes => return Ok(()),
                Ok(0) => return Err(UnpackError::Content(ErrorKind::UnexpectedEof.into())),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(UnpackError::Content(error)),
            };
            // counted here and not by what the header says, for a header can lie
            written += read as u64;
            self.bytes += read as u64;
            if self.bytes > self.limits.unpacked_bytes {
                return Err(UnpackError::TooManyBytes { limit_bytes: self.limits.unpacked_bytes });
            }
            file.write_all(&self.buffer[..read]).map_err(write_error(path, "write"))?;
        }
    }

    /// # Errors
    /// When it has no place, a limit is passed, or it cannot be written. Where it leads, [`Tree::finish`] checks.
    pub(super) fn symlink(
        &mut self,
        path: &Path,
        target: &Path,
        attributes: Attributes,
    ) -> Result<(), UnpackError> {
        self.make_room(path)?;
        self.remember(path)?;
        self.remember(target)?;
        let at = self.at(path);
        symlink(target, &at).map_err(write_error(path, "create"))?;
        self.own(path, attributes.owner)?;
        self.links.insert(path.to_path_buf(), target.to_path_buf());
        let Some(modified) = attributes.modified().and(attributes.modified_unix_s) else { return Ok(()) };
        let modified = TimeSpec::from_duration(Duration::from_secs(modified));
        utimensat(AT_FDCWD, &at, &TimeSpec::UTIME_OMIT, &modified, UtimensatFlags::NoFollowSymlink)
            .map_err(|error| write_error(path, "set the time of")(error.into()))
    }

    /// Both paths are below the root.
    ///
    /// # Errors
    /// When it has no place, its target is not a file of the tree, a limit is passed, or it cannot be written.
    pub(super) fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), UnpackError> {
        let bad = |why| UnpackError::Link { entry: path.to_path_buf(), target: target.to_path_buf(), why };
        // the parent is asked for by name, so that no symlink on the way is followed
        let reachable = target.parent().is_some_and(|parent| self.directories.contains_key(parent));
        if !reachable || fs::symlink_metadata(self.at(target)).is_err() {
            return Err(bad("its target is not in the archive, or comes after it"));
        }
        if self.directories.contains_key(target) {
            return Err(bad("its target is a directory"));
        }
        if path == target {
            return Ok(());
        }
        self.make_room(path)?;
        fs::hard_link(self.at(target), self.at(path)).map_err(write_error(path, "link"))?;
        // a second name of a symlink leads elsewhere if it stands elsewhere
        if let Some(symlink_target) = self.links.get(target).map(Path::to_path_buf) {
            self.remember(path)?;
            self.remember(&symlink_target)?;
            self.links.insert(path.to_path_buf(), symlink_target);
        }
        Ok(())
    }

    /// What is left once all entries are written: where the symlinks of a slug lead (those of a root file system
    /// lead nowhere else once it is the root), and the times of the directories, which every entry in them
    /// changed. Says whether anything was written at all.
    ///
    /// # Errors
    /// When a link leads out of the tree, or a time cannot be set.
    pub(super) fn finish(self) -> Result<bool, UnpackError> {
        if self.layout == Layout::Slug {
            self.links.check().map_err(|BadLink { link, target, why }| UnpackError::Link {
                entry: link,
                target,
                why,
            })?;
        }
        for (path, modified) in &self.directories {
            if let Some(modified) = *modified {
                File::open(self.at(path))
                    .and_then(|directory| directory.set_modified(modified))
                    .map_err(write_error(path, "set the time of"))?;
            }
        }
        Ok(!self.directories.is_empty())
    }

    fn at(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.root.to_path_buf() } else { self.root.join(path) }
    }

    fn count(&mut self) -> Result<(), UnpackError> {
        self.files += 1;
        if self.files > self.limits.files {
            return Err(UnpackError::TooManyFiles { limit: self.limits.files });
        }
        Ok(())
    }

    fn remember(&mut self, path: &Path) -> Result<(), UnpackError> {
        self.path_bytes += path.as_os_str().len() as u64;
        if self.path_bytes > MAX_PATH_BYTES {
            return Err(UnpackError::TooMuchMetadata);
        }
        Ok(())
    }

    fn make_parents(&mut self, path: &Path) -> Result<(), UnpackError> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if self.directories.contains_key(parent) {
            return Ok(());
        }
        let missing: Vec<_> =
            parent.ancestors().take_while(|ancestor| !self.directories.contains_key(*ancestor)).collect();
        for directory in missing.into_iter().rev() {
            // counted, for one entry with a long name can imply 2,000 of them
            self.count()?;
            self.make_directory(directory, IMPLIED_DIRECTORY, None)?;
        }
        Ok(())
    }

    fn make_directory(
        &mut self,
        path: &Path,
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<(), UnpackError> {
        let at = self.at(path);
        if !self.directories.contains_key(path) {
            self.remember(path)?;
            DirBuilder::new().mode(OWNER_RWX).create(&at).map_err(|error| {
                if error.kind() == ErrorKind::AlreadyExists {
                    UnpackError::Blocked { entry: path.to_path_buf(), why: "a file or link has its place" }
                } else {
                    write_error(path, "create")(error)
                }
            })?;
            self.directories.insert(path.to_path_buf(), None);
        }
        if let Some(owner) = owner {
            self.own(path, owner)?;
        }
        // apart from the creation, for the umask would take bits away
        fs::set_permissions(&at, Permissions::from_mode(mode)).map_err(write_error(path, "chmod"))
    }

    fn own(&self, path: &Path, (user, group): (u32, u32)) -> Result<(), UnpackError> {
        if !self.owners {
            return Ok(());
        }
        lchown(self.at(path), Some(user), Some(group)).map_err(write_error(path, "give its owner to"))
    }

    /// Makes the parents and takes away an earlier file or link of the same name, as tar does.
    fn make_room(&mut self, path: &Path) -> Result<(), UnpackError> {
        self.count()?;
        if path.as_os_str().is_empty() || self.directories.contains_key(path) {
            let why = "a directory has its place";
            return Err(UnpackError::Blocked { entry: path.to_path_buf(), why });
        }
        self.make_parents(path)?;
        match fs::remove_file(self.at(path)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(write_error(path, "replace")(error)),
            Ok(()) | Err(_) => {
                self.links.remove(path);
                Ok(())
            }
        }
    }
}

fn write_error(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> UnpackError {
    let entry = path.to_path_buf();
    move |source| UnpackError::Write { operation, entry, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const PLAIN: Attributes = Attributes { mode: 0o644, modified_unix_s: Some(1_000_000_000), owner: (0, 0) };

    fn in_tree(limits: Limits, work: impl FnOnce(Tree<'_>, &Path)) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("app");
        work(Tree::new(&root, Layout::Slug, limits), &root);
    }

    fn put(tree: &mut Tree<'_>, path: &str, text: &str) -> Result<(), UnpackError> {
        tree.file(path.as_ref(), PLAIN, text.len() as u64, &mut text.as_bytes())
    }

    #[test]
    fn nothing_is_written_through_a_symlink() {
        in_tree(Limits::default(), |mut tree, root| {
            let outside = root.with_file_name("outside");
            fs::create_dir(&outside).unwrap();
            tree.symlink("out".as_ref(), &outside, PLAIN).unwrap();
            for entry in ["out/x", "out/y/z"] {
                let error = put(&mut tree, entry, "x").unwrap_err();
                assert!(matches!(error, UnpackError::Blocked { .. }), "{error}");
            }
            assert!(tree.directory("out".as_ref(), PLAIN).is_err());
            assert!(tree.directory("out/d".as_ref(), PLAIN).is_err());
            assert!(tree.symlink("out/l".as_ref(), "x".as_ref(), PLAIN).is_err());
            fs::write(outside.join("secret"), "").unwrap();
            assert!(tree.hard_link("h".as_ref(), "out/secret".as_ref()).is_err());
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        });
    }

    #[test]
    fn a_file_replaces_a_link_and_not_what_it_points_to() {
        in_tree(Limits::default(), |mut tree, root| {
            put(&mut tree, "victim", "old").unwrap();
            tree.symlink("a".as_ref(), "victim".as_ref(), PLAIN).unwrap();
            put(&mut tree, "a", "new").unwrap();
            tree.hard_link("b".as_ref(), "victim".as_ref()).unwrap();
            put(&mut tree, "b", "newer").unwrap();
            assert_eq!(fs::read(root.join("victim")).unwrap(), b"old");
            assert_eq!(fs::read(root.join("a")).unwrap(), b"new");
            assert!(put(&mut tree, "", "x").is_err());
        });
    }

    #[test]
    fn directories_keep_their_place_and_their_time() {
        in_tree(Limits::default(), |mut tree, root| {
            tree.directory("d".as_ref(), Attributes { mode: 0o6500, ..PLAIN }).unwrap();
            put(&mut tree, "d/x", "x").unwrap();
            assert!(put(&mut tree, "d", "x").is_err());
            assert!(tree.symlink("d".as_ref(), "x".as_ref(), PLAIN).is_err());
            assert!(tree.hard_link("e".as_ref(), "d".as_ref()).is_err());
            assert!(tree.finish().unwrap());
            let metadata = fs::metadata(root.join("d")).unwrap();
            assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o700, 1_000_000_000));
        });
    }

    #[test]
    fn a_second_name_of_a_symlink_is_checked_where_it_stands() {
        in_tree(Limits::default(), |mut tree, _| {
            tree.symlink("d/l".as_ref(), "../x".as_ref(), PLAIN).unwrap();
            tree.hard_link("m".as_ref(), "d/l".as_ref()).unwrap();
            assert!(matches!(tree.finish(), Err(UnpackError::Link { entry, .. }) if entry == Path::new("m")));
        });
    }

    #[test]
    fn what_is_written_counts_and_not_what_was_announced() {
        in_tree(Limits { unpacked_bytes: 10, ..Limits::default() }, |mut tree, _| {
            let lie = tree.file("x".as_ref(), PLAIN, 1, &mut "0123456789ab".as_bytes());
            assert!(matches!(lie, Err(UnpackError::TooManyBytes { .. })));
        });
        in_tree(Limits::default(), |mut tree, _| {
            let short = tree.file("x".as_ref(), PLAIN, 9, &mut "1".as_bytes());
            assert!(matches!(short, Err(UnpackError::Content(_))));
        });
    }

    #[test]
    fn implied_directories_count() {
        in_tree(Limits { files: 4, ..Limits::default() }, |mut tree, _| {
            assert!(matches!(put(&mut tree, "a/b/c/d", "x"), Err(UnpackError::TooManyFiles { limit: 4 })));
        });
    }
}
