//! Why a stack cannot be had, kept or removed.

use std::io;
use std::path::PathBuf;

use super::checksum::Checksum;
use super::content::BadContent;
use super::id::StackId;
use super::location::StackLocation;
use super::manifest_cache::NoManifest;
use super::mount::MountFault;
use crate::archive::{FetchError, StageError, UnpackError};

/// A stack is not the one that was meant.
#[derive(Debug, thiserror::Error)]
#[error(
    "stack {id} from {location} is not the one that was meant: its checksum is {got}, expected {expected}"
)]
pub struct WrongChecksum {
    /// Which.
    pub id: StackId,
    /// Where it was had from.
    pub location: StackLocation,
    /// What was expected.
    pub expected: Checksum,
    /// What it has.
    pub got: Checksum,
}

/// Why a stack cannot be had, kept or removed.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// No stack is called so, here or in the manifest.
    #[error("there is no stack {name} {}: {}", where_to_look(.manifest), add_one(name))]
    NotFound {
        /// Its name.
        name: String,
        /// The manifest that was asked, and the names in it.
        manifest: Option<(StackLocation, Vec<String>)>,
    },
    /// It is not here.
    #[error("there is no stack {id} on this host: hsup stack list shows those that are")]
    NotHere {
        /// Which.
        id: StackId,
    },
    /// The release names no stack, and there is none.
    #[error("the release names no stack, and there is none on this host: {}", add_one("NAME"))]
    NoStack,
    /// The release names no stack, and there are several.
    #[error("the release names no stack, and there are several on this host: name one of {} in it", names.join(", "))]
    SeveralStacks {
        /// Their names.
        names: Vec<String>,
    },
    /// It is here already.
    #[error(
        "stack {id} is on this host already: add it under another version, or remove it first (hsup stack remove {id})"
    )]
    AlreadyHere {
        /// Which.
        id: StackId,
    },
    /// Dynos run on it.
    #[error("stack {id} is in use: stop the dynos that run on it first")]
    InUse {
        /// Which.
        id: StackId,
    },
    /// It is a directory, which could change while it is copied.
    #[error("{} is a directory: pack it (tar -C {} -czf stack.tgz .) and add the archive", path.display(), path.display())]
    IsDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The manifest cannot be had.
    #[error("the manifest of stacks at {location} cannot be used")]
    Manifest {
        /// Where it was looked for.
        location: StackLocation,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It is not the one that was meant.
    #[error(transparent)]
    Checksum(Box<WrongChecksum>),
    /// It is neither a tar nor an image.
    #[error("stack {id} cannot be used")]
    Content {
        /// Which.
        id: StackId,
        /// Why not.
        #[source]
        source: BadContent,
    },
    /// Its archive is refused.
    #[error("stack {id} cannot be unpacked")]
    Unpack {
        /// Which.
        id: StackId,
        /// Why not.
        #[source]
        source: UnpackError,
    },
    /// Its image is damaged.
    #[error("the image of stack {id} is damaged: cannot {operation}")]
    BadImage {
        /// Which.
        id: StackId,
        /// What was tried.
        operation: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// This host cannot mount its image.
    #[error("cannot mount stack {id}: cannot {operation}")]
    Mount {
        /// Which.
        id: StackId,
        /// What was tried.
        operation: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// There is no root file system in it.
    #[error(
        "stack {id} holds no root file system: it has neither bin nor usr at its top; pack it with tar -C ROOT -czf stack.tgz ."
    )]
    NoRoot {
        /// Which.
        id: StackId,
    },
    /// It is too large.
    #[error("stack {id} is larger than {} unpacked", indicatif::HumanBytes(*limit_bytes))]
    TooLarge {
        /// Which.
        id: StackId,
        /// The limit.
        limit_bytes: u64,
    },
    /// The folder of stacks cannot be used.
    #[error("the folder of stacks cannot be used: cannot {operation} {}", path.display())]
    Folder {
        /// What was tried.
        operation: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The folder of stacks takes nothing new.
    #[error("the folder of stacks cannot be used")]
    Stage(#[from] StageError),
}

impl StackError {
    pub(super) fn of_mount(id: &StackId, fault: MountFault) -> Self {
        let (id, MountFault { operation, image_is_bad, source }) = (id.clone(), fault);
        if image_is_bad {
            Self::BadImage { id, operation, source }
        } else {
            Self::Mount { id, operation, source }
        }
    }

    pub(super) fn of_manifest(location: &StackLocation) -> impl FnOnce(NoManifest) -> Self {
        let location = location.clone();
        move |source| Self::Manifest { location, source: Box::new(source) }
    }
}

fn where_to_look(manifest: &Option<(StackLocation, Vec<String>)>) -> String {
    match manifest {
        None => "on this host".to_owned(),
        Some((location, names)) if names.is_empty() => {
            format!("on this host, and none at all in the manifest at {location}")
        }
        Some((location, names)) => {
            format!("on this host, nor in the manifest at {location}, which has {}", names.join(", "))
        }
    }
}

fn add_one(name: &str) -> String {
    format!("add it with hsup stack add {name}-VERSION PATH|URL, or name a manifest with --stack-manifest")
}
