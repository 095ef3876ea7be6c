//! A copy of the files of an app for one dyno, owned by it: what is left where the kernel cannot show shared files
//! as its own.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::path::Path;

/// Whether all in a folder have the owner and the group of the folder itself. What cannot be read counts for nothing.
pub(super) fn has_one_owner(dir: &Path) -> bool {
    let Ok(owner) = fs::metadata(dir).map(|dir| (dir.uid(), dir.gid())) else { return true };
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if (found.uid(), found.gid()) != owner {
                return false;
            }
            if found.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    true
}

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
