//! A copy of the files of an app for one dyno, owned by it: what is left where the kernel cannot show shared files
//! as its own.

use std::fs;
use std::io;
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::Path;

/// Copies a folder, modes and links included.
pub(super) fn copy_owned(from: &Path, to: &Path, uid: u32) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            copy_owned(&source, &target, uid)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            lchown(&target, Some(uid), Some(uid))?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
            chown(&target, Some(uid), Some(uid))?;
        }
    }
    // last, since a folder may be one that its owner cannot write to
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    chown(to, Some(uid), Some(uid))
}
