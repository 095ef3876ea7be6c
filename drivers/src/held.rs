//! The things of a folder to which others may write meanwhile, who need not be ones that may read all that hsup may. Each is
//! held by a descriptor before it is looked at: so what is read is what was looked at, and no link that has taken its
//! place is followed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

/// A file, a folder, a link, or whatever else there is.
pub(crate) struct Held {
    open: OwnedFd,
    found: Metadata,
}

impl Held {
    /// What a path leads to.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Self::of(nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    fn of(open: OwnedFd) -> io::Result<Self> {
        let open = File::from(open);
        Ok(Self { found: open.metadata()?, open: open.into() })
    }

    /// What is in this folder by that name: of a link the link itself.
    pub(crate) fn within(&self, name: &OsStr) -> io::Result<Self> {
        let itself = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Self::of(openat(&self.open, name, itself, Mode::empty())?)
    }

    /// What it is.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.found
    }

    /// What is in this folder, in the order of names.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        let names = fs::read_dir(self.path())?.map(|entry| Ok(entry?.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    /// Where this link leads.
    pub(crate) fn target(&self) -> io::Result<PathBuf> {
        Ok(readlinkat(&self.open, "")?.into())
    }

    /// A path by which this process, for as long as it holds it, has this file or folder and no other.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.open.as_raw_fd()).into()
    }
}
