//! The files of a control dir: reading `new` without ever hanging.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};

use super::error::Unfit;
use crate::durable::{TEMP_PREFIX, without_temp_name};
use crate::sources::control_file::{ControlFileError, MAX_BYTES};

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

/// Gives what was put aside its name back. What has that name by then is newer, and stays in its place.
pub(super) fn put_back(aside: &Path, path: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, aside, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EEXIST) => fs::remove_file(aside),
        // some file systems, of networks above all, cannot rename so
        Err(Errno::EINVAL) => match fs::hard_link(aside, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => fs::remove_file(aside),
        },
        Err(error) => Err(error.into()),
    }
}

/// Removes a name if it is still the file of this stamp, which was read. Another one that has come meanwhile, be it at the
/// last moment, stays: it is put aside, looked at there where nobody replaces it, and put back.
pub(super) fn remove_read(path: &Path, aside: &Path, stamp: Stamp) -> io::Result<()> {
    match fs::rename(path, aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    if Stamp::of_name(aside) != Some(stamp) {
        return put_back(aside, path);
    }
    fs::remove_file(aside).inspect_err(|_| drop(put_back(aside, path)))
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

/// Tries whether files can be made in the dir.
pub(super) fn probe(dir: &Path) -> io::Result<()> {
    tempfile::Builder::new().prefix(TEMP_PREFIX).tempfile_in(dir).map(drop).map_err(without_temp_name)
}
