//! Files that are there whole or not at all, also after a crash. It owns the order of the steps; what is in a file
//! is its users' business.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What every temp file begins with, so that those of a crashed run are found, and nobody else's is taken for one.
pub(crate) const TEMP_PREFIX: &str = ".hsup-tmp-";

/// What the temp files of one name begin with.
fn temp_prefix(name: &str) -> String {
    format!("{TEMP_PREFIX}{name}-")
}

/// A file cannot be put in place; what was there before is there still.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub(crate) struct ReplaceError {
    pub(crate) operation: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

/// Puts bytes under a name of a directory: a temp file, fsync, rename, fsync of the directory.
///
/// # Errors
/// If any of it fails: then no temp file stays.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), ReplaceError> {
    let path = dir.join(name);
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |error| ReplaceError { operation, path, source: without_temp_name(error) }
    };
    let mut temp = tempfile::Builder::new()
        .prefix(&temp_prefix(name))
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(dir)
        .map_err(failed("create a temp file in", dir))?;
    let file = temp.as_file_mut();
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", &path))?;
    temp.persist(&path).map_err(|error| failed("replace", &path)(error.error))?;
    sync_dir(dir).map_err(failed("sync", dir))
}

/// Makes the names of a directory last.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Takes the random name out of an error, so that the same fault reads the same each time.
pub(crate) fn without_temp_name(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() { error } else { error.kind().into() }
}

/// Removes the temp files that a crashed run left behind in a directory of its own; what cannot be removed stays.
pub(crate) fn remove_leftovers(dir: &Path) {
    remove_files(dir, TEMP_PREFIX);
}

/// The same for one name in a directory where others may be writing.
pub(crate) fn remove_leftovers_of(dir: &Path, name: &str) {
    remove_files(dir, &temp_prefix(name));
}

fn remove_files(dir: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let is_temp = entry.file_name().to_string_lossy().starts_with(prefix);
        if is_temp && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leftovers_of_hsup_are_removed_and_only_those_that_are_meant() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["tmp_next.json", ".hsup-tmp-shop.json-aB3x9Z", ".hsup-tmp-blog.json-aB3x9Z"];
        for name in names {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let left = || names.map(|name| dir.path().join(name).exists());
        remove_leftovers_of(dir.path(), "shop.json");
        assert_eq!(left(), [true, false, true]);
        remove_leftovers(dir.path());
        assert_eq!(left(), [true, false, false]);
    }
}
