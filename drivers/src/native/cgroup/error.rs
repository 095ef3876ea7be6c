//! What can go wrong with cgroups, and what the user can do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An operation on cgroups failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file operation failed.
    #[error("failed to {operation} {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel took no such value.
    #[error("failed to write {value} to {}", path.display())]
    Write {
        /// What was being written.
        value: String,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Limits were asked for that cannot be kept here.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unkept(Vec<Unkept>),
    /// A name that cannot be that of a cgroup.
    #[error("\"{0}\" cannot be the name of a cgroup: it must be a file name that Linux has not taken there")]
    Name(String),
    /// A cgroup is there already.
    #[error("cgroup {} is there already, left by an earlier run: see hsup doctor", .0.display())]
    Exists(PathBuf),
    /// Processes that do not end.
    #[error("processes {pids:?} in cgroup {} do not end; see ps -e for state D", path.display())]
    Populated {
        /// The cgroup.
        path: PathBuf,
        /// Those in it.
        pids: Vec<u32>,
    },
}

impl CgroupError {
    /// For `map_err` of a file operation.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}

/// A limit that cannot be kept, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unkept {
    /// The limit, by the name that users know.
    pub limit: &'static str,
    /// Why.
    pub(super) lack: Lack,
}

impl fmt::Display for Unkept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit {} cannot be kept: {}", self.limit, self.lack)
    }
}

/// Why a controller is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// No mounted hierarchy has it.
    NotMounted(&'static str),
    /// Its hierarchy can only be read.
    ReadOnly { controller: &'static str, dir: PathBuf },
    /// The kernel does not let children have it.
    NotEnabled { controller: &'static str, dir: PathBuf, why: String },
    /// It has no file for this.
    NoFile { dir: PathBuf, files: String },
    /// v1 counts memory and swap together only.
    SwapAlone,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMounted(controller) => write!(
                f,
                "this host has no {controller} controller that hsup may use: mount or delegate it, or leave the \
                 limit out"
            ),
            Self::ReadOnly { controller, dir } => write!(
                f,
                "this host has no {controller} controller that hsup may use: {} cannot be written; have it \
                 mounted read-write, or leave the limit out",
                dir.display()
            ),
            Self::NotEnabled { controller, dir, why } => write!(
                f,
                "the {controller} controller cannot be enabled in {}: {why}; under systemd give the unit \
                 Delegate=yes, or leave the limit out",
                dir.display()
            ),
            Self::NoFile { dir, files } => write!(
                f,
                "this kernel has no {files} in {}; leave the limit out, or boot one that has",
                dir.display()
            ),
            Self::SwapAlone => f.write_str(
                "cgroup v1 limits memory and swap together only: give the dyno a limit of memory as well",
            ),
        }
    }
}

/// A limit is not kept, which nobody dies of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The kernel does not count swap.
    SwapNotCounted,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SwapNotCounted => f.write_str(
                "limit swap is not kept: this kernel does not count swap; boot it with swapaccount=1",
            ),
        }
    }
}
