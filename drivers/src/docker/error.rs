//! What goes wrong between hsup and a Docker Engine.

use std::io;
use std::path::PathBuf;

use bollard::errors::Error;

/// A step of the `docker` driver failed.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// Nobody answers.
    #[error(
        "no Docker Engine answers at {engine}: start it, or name another with DOCKER_HOST (see `docker context ls`)"
    )]
    Unreachable {
        /// Where it was looked for.
        engine: String,
        /// Why.
        source: io::Error,
    },
    /// The engine has not answered in time.
    #[error("the Docker Engine at {engine} did not answer in time when asked to {what}")]
    Slow {
        /// Where it is.
        engine: String,
        /// What it was asked for.
        what: String,
    },
    /// The engine refuses.
    #[error("the Docker Engine cannot {what}: {message}")]
    Refused {
        /// What it was asked for.
        what: String,
        /// Its HTTP status; 0 where it failed in the middle of an answer.
        status: u16,
        /// What it says.
        message: String,
    },
    /// The talk with the engine broke off, or what it says is not understood.
    #[error("failed to {what} by the Docker Engine")]
    Talk {
        /// What it was asked for.
        what: String,
        /// Why.
        source: Box<Error>,
    },
    /// The files that TLS needs cannot be used.
    #[error("cannot use {} for the Docker Engine: {why}; DOCKER_CERT_PATH names the directory of it", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The binary of hsup cannot run in an image.
    #[error(
        "{} cannot be the first process of containers: {why}; use the hsup that `make static` builds, or name one with \
         --docker-entry", path.display()
    )]
    Entry {
        /// The binary.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
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
}

impl DockerError {
    /// Whether the engine itself is the matter, and not what it was asked for.
    pub(super) fn is_of_the_engine(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Slow { .. } | Self::Talk { .. } => true,
            Self::Refused { .. } | Self::Certificate { .. } | Self::Entry { .. } | Self::Io { .. } => false,
        }
    }

    /// The HTTP status with which the engine has refused.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Unreachable { .. }
            | Self::Slow { .. }
            | Self::Talk { .. }
            | Self::Certificate { .. }
            | Self::Entry { .. }
            | Self::Io { .. } => None,
        }
    }

    /// As an error of input and output, for those who know no other.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}
