//! The files of a control dir: reading `new` without ever hanging, and replacing files whole or not at all.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use nix::fcntl::OFlag;

use super::error::{Fault, Unfit};
use crate::sources::control_file::{ControlFileError, MAX_BYTES};

/// What every temp file begins with, so that those of a crashed run are found.
const TEMP_PREFIX: &str = "tmp_";

/// Which file of that name it was, and in which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        }
    }

    /// The stamp of the name itself: a symlink is not followed.
    pub(super) fn of_name(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|found| Self::of(&found))
    }
}

/// A file that was read, or why none can be.
pub(super) enum Found {
    /// No such name.
    Nothing,
    /// The bytes, and when they were last written.
    Bytes { bytes: Vec<u8>, modified: SystemTime },
    /// Something that can never be a release.
    Unfit(Unfit),
}

/// Reads a regular file, or what a symlink to one leads to.
pub(super) fn read(path: &Path) -> io::Result<Found> {
    let name = match fs::symlink_metadata(path) {
        Ok(name) => name,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let target = match fs::metadata(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound && name.is_symlink() => {
            // a name that vanished since it was listed is no symlink to nowhere
            return Ok(if fs::symlink_metadata(path).is_ok() {
                Found::Unfit(Unfit::Kind("a symlink to nowhere"))
            } else {
                Found::Nothing
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    if let Some(kind) = odd_kind(&target) {
        return Ok(Found::Unfit(Unfit::Kind(kind)));
    }
    // not blocking: between the look and the open it may have become a FIFO
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let opened = file.metadata()?;
    if let Some(kind) = odd_kind(&opened) {
        return Ok(Found::Unfit(Unfit::Kind(kind)));
    }
    read_bounded(file, &opened)
}

fn read_bounded(file: File, opened: &Metadata) -> io::Result<Found> {
    let too_large = || Found::Unfit(ControlFileError::TooLarge { limit: MAX_BYTES }.into());
    let limit = MAX_BYTES as u64;
    if opened.len() > limit {
        return Ok(too_large());
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        return Ok(too_large());
    }
    Ok(Found::Bytes { bytes, modified: opened.modified()? })
}

fn odd_kind(file: &Metadata) -> Option<&'static str> {
    let kind = file.file_type();
    [
        (kind.is_dir(), "a directory"),
        (kind.is_fifo(), "a FIFO"),
        (kind.is_socket(), "a socket"),
        (kind.is_char_device() || kind.is_block_device(), "a device"),
        (!kind.is_file(), "something else"),
    ]
    .into_iter()
    .find_map(|(is, name)| is.then_some(name))
}

/// Puts bytes under a name of the dir: a temp file, fsync, rename, fsync of the dir. If any of it fails the
/// name keeps what it had and no temp file stays.
pub(super) fn replace(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), Fault> {
    let path = dir.join(name);
    let fault = |operation, path: &Path| {
        let path = path.to_owned();
        move |error| Fault::Persist { operation, path, source: without_temp_name(error) }
    };
    let mut temp = tempfile::Builder::new()
        .prefix(TEMP_PREFIX)
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(dir)
        .map_err(fault("create a temp file in", dir))?;
    let file = temp.as_file_mut();
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fault("write", &path))?;
    temp.persist(&path).map_err(|error| fault("replace", &path)(error.error))?;
    sync_dir(dir).map_err(fault("sync", dir))
}

/// Takes the random name out of an error, so that the same fault reads the same each time.
fn without_temp_name(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() { error } else { error.kind().into() }
}

/// Makes the names of the dir last.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Renames, where need be over what is there: a file or an empty directory gives way, nothing else.
pub(super) fn rename_over(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).or_else(|first| {
        if fs::remove_file(to).is_err() && fs::remove_dir(to).is_err() {
            return Err(first);
        }
        fs::rename(from, to)
    })
}

/// Removes the temp files that a crashed run left behind; what cannot be removed stays.
pub(super) fn remove_leftovers(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let is_temp = entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX);
        if is_temp && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Tries whether files can be made in the dir.
pub(super) fn probe(dir: &Path) -> io::Result<()> {
    tempfile::Builder::new().prefix(TEMP_PREFIX).tempfile_in(dir).map(drop).map_err(without_temp_name)
}
