//! Removes directories that dynos have filled, and nothing else.
//!
//! What a dyno left in a directory is not to be trusted: symlinks lead out of it, directories are nested deeper
//! than any stack or limit of open files, mounts may be found below. So paths are resolved by the kernel below a
//! directory that is known, symlinks and mounts are never entered, and depth costs no memory: what is nested is
//! moved up first.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Checks that a path is below `base` by its name. Gives what follows the base.
///
/// # Errors
/// If it is not, or is the base itself, or not a plain path.
pub fn check_below<'a>(base: &Path, dir: &'a Path) -> io::Result<&'a Path> {
    let refused = |why| io::Error::new(io::ErrorKind::InvalidInput, format!("{} {why}", dir.display()));
    let below = dir.strip_prefix(base).map_err(|_| refused("is not below the state dir"))?;
    if below.as_os_str().is_empty() {
        return Err(refused("is the state dir itself"));
    }
    if !below.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(refused("is not a plain path"));
    }
    Ok(below)
}

/// Removes a directory below `base` with everything in it. Whether there was one.
///
/// # Errors
/// If `dir` is not below `base` by its name, or is so only by a symlink; if it is no directory, or a mount is at
/// it or in it; if something in it cannot be removed: what can be is removed all the same.
pub fn remove_below(base: &Path, dir: &Path) -> io::Result<bool> {
    let below = check_below(base, dir)?;
    let Some(name) = below.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let parent = below.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = match open_parent(base, parent.unwrap_or(Path::new("."))) {
        Ok(parent) => parent,
        Err(Errno::ENOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    match remove_dir(&parent, &CString::new(name.as_encoded_bytes())?) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open_parent(base: &Path, parent: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let base = open(base, flags, Mode::empty())?;
    // The base may hold mounts on the way to the directory; only at it and in it there must be none.
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    openat2(base, parent, OpenHow::new().flags(flags).resolve(resolve))
}

/// Opens a directory of a directory: no symlink, and no mount.
fn open_dir(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let resolve = resolve | ResolveFlag::RESOLVE_NO_XDEV;
    openat2(parent, name, OpenHow::new().flags(flags).resolve(resolve))
}

/// Removes a directory of `parent`: pass by pass over its top level, until a pass gets nowhere.
fn remove_dir(parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let top = open_dir(parent, name)?;
    let mut moved_up = 0;
    loop {
        let mut pass = Pass::default();
        pass.over_top(&top, &mut moved_up)?;
        if !pass.progress {
            let removed = unlinkat(parent, name, UnlinkatFlags::RemoveDir);
            return pass.fault.map_or(removed, Err);
        }
    }
}

#[derive(Default)]
struct Pass {
    progress: bool,
    /// The first error: later ones are often its consequences.
    fault: Option<Errno>,
}

impl Pass {
    fn note(&mut self, done: Result<(), Errno>) {
        match done {
            Ok(()) => self.progress = true,
            Err(error) => {
                self.fault.get_or_insert(error);
            }
        }
    }

    fn over_top(&mut self, top: &OwnedFd, moved_up: &mut u64) -> Result<(), Errno> {
        // Opened anew, so that each pass begins at the beginning.
        for_each(open_dir(top, c".")?, |name, is_dir| {
            if !is_dir {
                self.note(unlinkat(top, name, UnlinkatFlags::NoRemoveDir));
                return Ok(());
            }
            match open_dir(top, name) {
                Ok(dir) => {
                    self.over_nested(top, dir, moved_up)?;
                    self.note(unlinkat(top, name, UnlinkatFlags::RemoveDir));
                }
                Err(error) => self.note(Err(error)),
            }
            Ok(())
        })
    }

    /// Empties a directory of the top level: its files are removed, its directories moved up to the top level.
    fn over_nested(&mut self, top: &OwnedFd, dir: OwnedFd, moved_up: &mut u64) -> Result<(), Errno> {
        let parent = dir.try_clone().map_err(errno_of)?;
        for_each(dir, |name, is_dir| {
            let flag = if is_dir { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
            match unlinkat(&parent, name, flag) {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) if is_dir => {
                    self.note(move_up(&parent, name, top, moved_up));
                }
                done => self.note(done),
            }
            Ok(())
        })
    }
}

/// Moves a directory to the top level, under a name that nothing but an empty directory has there.
fn move_up(parent: &OwnedFd, name: &CStr, top: &OwnedFd, moved_up: &mut u64) -> Result<(), Errno> {
    loop {
        *moved_up += 1;
        match renameat(parent, name, top, format!("removing-{moved_up}").as_str()) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
            done => return done,
        }
    }
}

/// Each name in a directory, and whether it is a directory, one at a time: there may be millions.
fn for_each(dir: OwnedFd, mut act: impl FnMut(&CStr, bool) -> Result<(), Errno>) -> Result<(), Errno> {
    let again = dir.try_clone().map_err(errno_of)?;
    for entry in Dir::from_fd(dir)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        let is_dir = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => open_dir(&again, name).is_ok(),
        };
        if !matches!(name.to_bytes(), b"." | b"..") {
            act(name, is_dir)?;
        }
    }
    Ok(())
}

fn errno_of(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests;
