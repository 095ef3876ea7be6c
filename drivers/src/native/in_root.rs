//! Paths below a root that is not ours, as whoever has that root sees them: links on the way lead to places below it and
//! never out of it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};

/// A path below a root, as whoever has that root sees it.
pub(super) fn within(root: &File, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, if path.as_os_str().is_empty() { Path::new(".") } else { path }, how)
}

/// Makes what is missing of a path below a root.
pub(super) fn make_place(root: &File, path: &Path, as_dir: bool) -> nix::Result<OwnedFd> {
    let name = path.file_name().ok_or(Errno::EINVAL)?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let parent = match within(root, parent) {
        Err(Errno::ENOENT) => make_place(root, parent, true),
        found => found,
    }?;
    if as_dir {
        mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
    } else {
        mknodat(&parent, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0)?;
    }
    within(root, path)
}

/// Where the host's `/proc`, which is still there, has what is open.
pub(super) fn by_number(open: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", open.as_raw_fd()).into()
}

/// Where the host has what is at a path below a root: a path without links.
pub(super) fn place(root: &Path, path: &Path) -> io::Result<PathBuf> {
    fs::read_link(by_number(&within(&File::open(root)?, path)?))
}

/// The text of a file below a root.
pub(super) fn read(root: &Path, path: &Path) -> io::Result<String> {
    let found = within(&File::open(root)?, path)?;
    if !nix::sys::stat::fstat(&found).is_ok_and(|found| found.st_mode & libc::S_IFMT == libc::S_IFREG) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fs::read_to_string(by_number(&found))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_to_places_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/real"), "of the image").unwrap();
        for (target, link) in [("/etc/real", "absolute"), ("../../../etc/real", "up"), ("/etc", "dir")] {
            symlink(target, root.join(link)).unwrap();
        }
        for path in ["etc/real", "absolute", "up", "dir/real"] {
            assert_eq!(read(&root, path.as_ref()).unwrap(), "of the image", "{path}");
            assert_eq!(place(&root, path.as_ref()).unwrap(), root.join("etc/real"), "{path}");
        }
        assert!(read(&root, "dir".as_ref()).is_err());
        assert!(read(&root, "etc/passwd".as_ref()).is_err());
        let made = make_place(&File::open(&root).unwrap(), "dir/new/folder".as_ref(), true).unwrap();
        assert_eq!(fs::read_link(by_number(&made)).unwrap(), root.join("etc/new/folder"));
    }
}
