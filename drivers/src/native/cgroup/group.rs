//! The cgroup of one run of a dyno: made with its limits in force, entered by its first process.
//!
//! It is one directory in each hierarchy that is used for it. How it ends is in `kill`.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::controller::{Version, apply, write};
use super::{CgroupError, Hierarchies, Warning};
use crate::Limits;

/// How often to make the cgroup of all dynos anew, if it is removed by others that end at the same moment.
const TRIES: usize = 8;

/// The cgroup of one run of a dyno. Dropping it removes nothing; see [`Cgroup::remove`].
#[derive(Debug)]
pub struct Cgroup {
    /// Its directory in the v2 hierarchy.
    pub(super) unified: Option<PathBuf>,
    unified_fd: Option<OwnedFd>,
    /// Its directories in v1 hierarchies: those whose controllers keep a limit of this dyno.
    pub(super) v1: Vec<PathBuf>,
    warnings: Vec<Warning>,
}

impl Cgroup {
    /// Makes the cgroup `name` with these limits in force, after [`Hierarchies::prepare`]. Whatever was made is
    /// removed again if not all can be.
    ///
    /// # Errors
    /// If the name cannot be one or is taken, a limit cannot be kept here, or a file operation fails.
    pub fn create(hierarchies: &Hierarchies, name: &str, limits: &Limits) -> Result<Self, CgroupError> {
        let paths = hierarchies.plan(name, limits)?;
        let mut made = Vec::new();
        let filled = paths.iter().try_for_each(|path| {
            make(hierarchies, path)?;
            made.push(path);
            Ok(())
        });
        match filled.and_then(|()| Self::fill(hierarchies, name, limits)) {
            Ok(cgroup) => Ok(cgroup),
            Err(error) => {
                for path in made {
                    if let Err(error) = fs::remove_dir(path) {
                        tracing::warn!(path = %path.display(), %error, "cannot remove an unused cgroup");
                    }
                }
                Err(error)
            }
        }
    }

    /// Puts the limits in force in directories that have just been made.
    fn fill(hierarchies: &Hierarchies, name: &str, limits: &Limits) -> Result<Self, CgroupError> {
        let unified = hierarchies.unified.as_ref().map(|unified| unified.base.join(name));
        let mut warnings = Vec::new();
        if let Some(dir) = &unified {
            for controller in hierarchies.unified_controllers() {
                for setting in controller.settings(Version::V2, limits) {
                    warnings.extend(apply(dir, &setting)?);
                }
            }
        }
        let mut v1 = Vec::new();
        for (controller, base) in hierarchies.asked_v1(limits) {
            let dir = base.join(name);
            for setting in controller.settings(Version::V1, limits) {
                warnings.extend(apply(&dir, &setting)?);
            }
            if !v1.contains(&dir) {
                v1.push(dir);
            }
        }
        warnings.retain(|warning| match warning {
            Warning::SwapNotCounted => !hierarchies.said_swap.swap(true, Ordering::Relaxed),
        });
        let unified_fd = unified.as_deref().map(open_directory).transpose()?;
        Ok(Self { unified, unified_fd, v1, warnings })
    }

    /// The cgroup that has these directories, whoever made it. Those that are gone do no harm.
    pub fn open(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        // Only v2 has that file, and has it in every cgroup that a dyno can be in.
        let is_unified = |path: &PathBuf| path.join("cgroup.events").exists();
        let (mut unified, v1): (Vec<_>, Vec<_>) = paths.into_iter().partition(is_unified);
        let unified = unified.pop();
        let unified_fd = unified.as_deref().and_then(|dir| open_directory(dir).ok());
        Self { unified, unified_fd, v1, warnings: Vec::new() }
    }

    /// Its directories.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.unified.iter().chain(&self.v1).map(PathBuf::as_path)
    }

    /// Its directory in the v2 hierarchy, for a process to be cloned into (`CLONE_INTO_CGROUP`).
    pub fn unified_dir(&self) -> Option<BorrowedFd<'_>> {
        self.unified_fd.as_ref().map(AsFd::as_fd)
    }

    /// What is to be told to the user about its limits. Each thing is said once for all dynos.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Moves a process that is anywhere into the cgroup: v2 first, so that whoever is in the cgroup at all is found
    /// there.
    ///
    /// # Errors
    /// If the process is gone or may not be moved.
    pub fn attach(&self, pid: u32) -> Result<(), CgroupError> {
        self.paths().try_for_each(|dir| enter(dir, pid))
    }

    /// Moves a process that was cloned into the cgroup (`CLONE_INTO_CGROUP`) to where that does not reach.
    ///
    /// # Errors
    /// If the process is gone or may not be moved.
    pub fn attach_after_clone(&self, pid: u32) -> Result<(), CgroupError> {
        self.v1.iter().try_for_each(|dir| enter(dir, pid))
    }
}

fn enter(dir: &Path, pid: u32) -> Result<(), CgroupError> {
    write(&dir.join("cgroup.procs"), &pid.to_string())
}

fn open_directory(dir: &Path) -> Result<OwnedFd, CgroupError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(dir, flags, Mode::empty()).map_err(|errno| CgroupError::io("open", dir)(errno.into()))
}

/// Makes one directory of a cgroup.
fn make(hierarchies: &Hierarchies, path: &Path) -> Result<(), CgroupError> {
    let mut gone = io::Error::from(ErrorKind::NotFound);
    for _ in 0..TRIES {
        match fs::create_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => gone = error,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(CgroupError::Exists(path.to_owned()));
            }
            Err(error) => return Err(CgroupError::io("make the cgroup", path)(error)),
        }
        hierarchies.make_base_of(path)?;
    }
    Err(CgroupError::io("make the cgroup", path)(gone))
}
