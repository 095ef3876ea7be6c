//! The folder of stacks: which are there and in what state. It looks, and must not change anything.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::content::{self, Content, FileSystem};
use super::error::StackError;
use super::id::StackId;
use super::mountinfo::Mounts;

/// How the file of an image is called.
pub(super) const IMAGE_SUFFIX: &str = ".img";

/// What a stack is on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An unpacked root file system.
    Directory,
    /// An image, of which something is known only where it is one that can be mounted.
    Image(Option<FileSystem>),
}

/// A stack of this host, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub id: StackId,
    /// What it is.
    pub kind: Kind,
    /// What it takes of the disk.
    pub bytes: u64,
    /// Whether it is the newest of its name.
    pub newest: bool,
    /// Whether it is an image that is mounted now.
    pub mounted: bool,
    /// Where its root is, or will be once it is mounted.
    pub root: PathBuf,
}

/// In what state a stack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Directory,
    Image { mounted: bool },
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    dir: PathBuf,
}

impl Folder {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn root(&self, id: &StackId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    pub(super) fn image(&self, id: &StackId) -> PathBuf {
        self.dir.join(format!("{id}{IMAGE_SUFFIX}"))
    }

    /// All stacks, by name and version. An empty directory is none, nor is anything with another name.
    ///
    /// # Errors
    /// When the folder cannot be read; where there is none, there are no stacks.
    pub(super) fn states(&self) -> Result<BTreeMap<StackId, State>, StackError> {
        let failed = |source| StackError::Folder { operation: "read", path: self.dir.clone(), source };
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(failed(error)),
        };
        let names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
        let names = names.map_err(failed)?;
        // Only images are mounted, and to read what is mounted takes longer than all of the rest.
        let has_images = names.iter().any(|name| name.as_encoded_bytes().ends_with(IMAGE_SUFFIX.as_bytes()));
        let mounts = if has_images { Some(self.mounts().map_err(failed)?) } else { None };
        let mut states = BTreeMap::new();
        for name in names {
            let id = name.to_str().map(|name| name.strip_suffix(IMAGE_SUFFIX).unwrap_or(name));
            let Some(id) = id.and_then(|name| name.parse::<StackId>().ok()) else { continue };
            if let Some(state) = self.look(&id, mounts.as_ref()) {
                states.insert(id, state);
            }
        }
        Ok(states)
    }

    /// The state of one stack; none if it is not here.
    ///
    /// # Errors
    /// When the mounts of this host cannot be told.
    pub(super) fn state(&self, id: &StackId) -> Result<Option<State>, StackError> {
        let failed = |source| StackError::Folder {
            operation: "look at the mounts in",
            path: self.dir.clone(),
            source,
        };
        let mounts = if self.image(id).exists() { Some(self.mounts().map_err(failed)?) } else { None };
        Ok(self.look(id, mounts.as_ref()))
    }

    fn look(&self, id: &StackId, mounts: Option<&(PathBuf, Mounts)>) -> Option<State> {
        if mounts.is_some_and(|(dir, mounts)| mounts.on(&dir.join(id.to_string()))) {
            return Some(State::Image { mounted: true });
        }
        // a mount point whose image is not mounted is empty, and so is a directory that is just being made
        if fs::read_dir(self.root(id)).is_ok_and(|mut entries| entries.next().is_some()) {
            return Some(State::Directory);
        }
        self.image(id).is_file().then_some(State::Image { mounted: false })
    }

    /// The mounts, and the folder as they call it.
    fn mounts(&self) -> io::Result<(PathBuf, Mounts)> {
        let dir = fs::canonicalize(&self.dir).unwrap_or_else(|_| self.dir.clone());
        Ok((dir, Mounts::read()?))
    }

    /// All stacks, for people.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn list(&self) -> Result<Vec<Entry>, StackError> {
        let states = self.states()?;
        let newest: HashSet<StackId> = {
            let by_name: BTreeMap<_, _> = states.keys().map(|id| (&id.name, id)).collect();
            by_name.into_values().cloned().collect()
        };
        let entry = |(id, state): (StackId, State)| {
            let root = self.root(&id);
            let (kind, bytes) = match state {
                State::Directory => (Kind::Directory, disk_usage(&root, &mut HashSet::new())),
                State::Image { .. } => {
                    let image = self.image(&id);
                    let bytes = fs::metadata(&image).map_or(0, |metadata| metadata.blocks() * 512);
                    (Kind::Image(file_system(&image)), bytes)
                }
            };
            let mounted = state == State::Image { mounted: true };
            Entry { newest: newest.contains(&id), id, kind, bytes, mounted, root }
        };
        Ok(states.into_iter().map(entry).collect())
    }
}

/// The file system of an image.
pub(super) fn file_system(image: &Path) -> Option<FileSystem> {
    match content::probe(&mut File::open(image).ok()?) {
        Ok((Content::Image(file_system), false)) => Some(file_system),
        Ok(_) | Err(_) => None,
    }
}

/// What a tree takes of the disk. What cannot be read does not count, and a file with two names counts once.
fn disk_usage(dir: &Path, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let mut bytes = 0;
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += disk_usage(&entry.path(), seen);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_whole_is_a_stack() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::new(temp.path().join("stacks"));
        assert_eq!(folder.states().unwrap(), BTreeMap::new());
        let make = |path: &str| fs::create_dir_all(folder.dir().join(path)).unwrap();
        for dir in [
            "heroku-24-v9/bin",
            "heroku-24-v10/bin",
            "empty-1",
            ".stage-x/root/bin",
            "noversion/bin",
            "img-2",
        ] {
            make(dir);
        }
        fs::write(folder.dir().join("img-2.img"), "hsqs").unwrap();
        fs::write(folder.dir().join("file-1"), "x").unwrap();
        fs::write(folder.dir().join(".lock-x-1"), "").unwrap();
        let list = folder.list().unwrap();
        let told: Vec<_> = list
            .iter()
            .map(|entry| (entry.id.to_string(), entry.kind, entry.newest, entry.mounted))
            .collect();
        assert_eq!(
            told,
            [
                ("heroku-24-v9".to_owned(), Kind::Directory, false, false),
                ("heroku-24-v10".to_owned(), Kind::Directory, true, false),
                ("img-2".to_owned(), Kind::Image(Some(FileSystem::Squashfs)), true, false),
            ]
        );
    }

    #[test]
    fn files_with_two_names_count_once() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("a"), vec![b'x'; 100_000]).unwrap();
        let once = disk_usage(temp.path(), &mut HashSet::new());
        assert!(once >= 100_000);
        fs::hard_link(temp.path().join("a"), temp.path().join("b")).unwrap();
        assert_eq!(disk_usage(temp.path(), &mut HashSet::new()), once);
    }
}
