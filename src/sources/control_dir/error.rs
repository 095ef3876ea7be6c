//! What can be wrong with a control dir and with what is put into it.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use crate::durable::ReplaceError;
use crate::sources::control_file::ControlFileError;

/// Why a control dir cannot be a source at all.
#[derive(Debug, thiserror::Error)]
pub enum ControlDirError {
    /// There is none.
    #[error("control dir {} does not exist: create it with `mkdir -p {}`", path.display(), path.display())]
    Missing {
        /// The control dir.
        path: PathBuf,
    },
    /// Something else has its name.
    #[error("control dir {} is not a directory: name a directory, or move that file away", path.display())]
    NotADirectory {
        /// The control dir.
        path: PathBuf,
    },
    /// Releases cannot be accepted.
    #[error("control dir {} is not writable, so no release could be accepted: give the user of hsup write permission on it", path.display())]
    NotWritable {
        /// The control dir.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Anything else.
    #[error("control dir {} cannot be opened: {}", path.display(), mend(error))]
    Io {
        /// The control dir.
        path: PathBuf,
        /// What the system says; the text has it, with what to do about it.
        error: io::Error,
    },
}

/// What is wrong with the content of `new` or `loaded`, so that it can never be a release.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error(transparent)]
    Content(#[from] ControlFileError),
    #[error("it is {0}, not a regular file: write the release to a file and rename that to `new`")]
    Kind(&'static str),
}

/// A fault of a running control dir: said once, and what runs keeps running.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}/new: {unfit}; it is kept as {0}/rejected, what runs keeps running", dir.display())]
    Rejected { dir: PathBuf, unfit: Unfit },
    #[error(
        "{0}/new: {unfit}; it cannot be renamed to {0}/rejected ({source}): remove both by hand, what runs keeps running",
        dir.display()
    )]
    NotRejectable { dir: PathBuf, unfit: Unfit, source: io::Error },
    #[error("{}: {unfit}; write a good release to `new`", path.display())]
    Unfit { path: PathBuf, unfit: Unfit },
    #[error("cannot read {}: {}; it is tried again", path.display(), mend(source))]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot {operation} {}: {}; the release is not in force, it is tried again", path.display(), mend(source))]
    Persist { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot remove {} whose release is in force: {}", path.display(), mend(source))]
    Remove { path: PathBuf, source: io::Error },
    #[error("control dir {} is gone: create it again with `mkdir -p {}`, what runs keeps running", path.display(), path.display())]
    Gone { path: PathBuf },
}

/// Why there is no release for somebody who is to have one and waits for no other.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoRelease {
    #[error("control dir {0} has no release: write one to {0}/new", dir.display())]
    Nothing { dir: PathBuf },
    #[error("cannot read {}: {}", path.display(), mend(error))]
    Read { path: PathBuf, error: io::Error },
    #[error("cannot {operation} {}: {}", path.display(), mend(error))]
    Persist { operation: &'static str, path: PathBuf, error: io::Error },
    #[error("{0}")]
    Fault(Fault),
}

impl From<Fault> for NoRelease {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Read { path, source } => Self::Read { path, error: source },
            Fault::Persist { operation, path, source } => Self::Persist { operation, path, error: source },
            Fault::Rejected { .. }
            | Fault::NotRejectable { .. }
            | Fault::Unfit { .. }
            | Fault::Remove { .. }
            | Fault::Gone { .. } => Self::Fault(fault),
        }
    }
}

impl Fault {
    /// Whether it is one of what was put there: it is over with the next release only, for all that the dir is in order.
    pub(super) fn is_of_a_release(&self) -> bool {
        match self {
            Self::Rejected { .. } | Self::NotRejectable { .. } | Self::Unfit { .. } => true,
            Self::Read { .. } | Self::Persist { .. } | Self::Remove { .. } | Self::Gone { .. } => false,
        }
    }
}

impl From<ReplaceError> for Fault {
    fn from(error: ReplaceError) -> Self {
        let ReplaceError { operation, path, source } = error;
        Self::Persist { operation, path, source }
    }
}

/// The error with what to do about it.
fn mend(error: &io::Error) -> String {
    const ADVICE: [(ErrorKind, &str); 7] = [
        (ErrorKind::StorageFull, "free some space on that file system"),
        (ErrorKind::QuotaExceeded, "free some space on that file system"),
        (ErrorKind::PermissionDenied, "give the user of hsup permission with chmod or chown"),
        (ErrorKind::ReadOnlyFilesystem, "mount that file system writable"),
        (ErrorKind::IsADirectory, "a directory is in the way, move it away"),
        (ErrorKind::NotADirectory, "a file is in the way, move it away"),
        (ErrorKind::DirectoryNotEmpty, "a directory is in the way, move it away"),
    ];
    match ADVICE.into_iter().find(|(kind, _)| *kind == error.kind()) {
        Some((_, advice)) => format!("{error}: {advice}"),
        None => error.to_string(),
    }
}
