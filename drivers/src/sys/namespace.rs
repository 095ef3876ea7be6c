//! Namespaces and mounts.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::process::is_alone;

/// Which side of a clone a process is on.
#[derive(Debug)]
pub enum Cloned {
    /// The caller; the new process is a child of the caller's own parent.
    Caller {
        /// The pid of the new process.
        pid: u32,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
    /// The new process.
    New,
}

/// Clones a process that has one thread only, into new namespaces (`CLONE_NEW*`) and, where one is given, into a
/// cgroup of the unified hierarchy. The new process is a sibling of the caller: the caller's parent reaps it.
///
/// # Errors
/// If the process has several threads, or the kernel refuses.
pub fn clone_sibling(namespaces: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    if !is_alone()? {
        return Err(io::Error::other("clone of a process with several threads"));
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: all of it is integers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD | namespaces;
    args.flags = u64::from(flags.cast_unsigned());
    args.pidfd = (&raw mut pidfd) as u64;
    if let Some(cgroup) = cgroup {
        // libc's constant is too narrow for its value
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    }
    // SAFETY: without CLONE_VM this is a fork: the child has a copy of all memory, the stack included. There is one
    // thread, so that no lock is held by anybody else. The kernel reads `args` and writes `pidfd` before it returns.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) } {
        0 => Ok(Cloned::New),
        pid => {
            let pid = u32::try_from(pid).map_err(|_| io::Error::last_os_error())?;
            // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
            Ok(Cloned::Caller { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
        }
    }
}

/// What a system call that makes a descriptor returned.
fn descriptor(returned: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(returned).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A copy of the mount at a path, attached nowhere.
///
/// # Errors
/// If there is no such path, or the kernel is older than 5.2.
pub fn clone_mount(path: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is NUL-terminated and lives until the call returns.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// Shows the files of a mount that is attached nowhere with the owners that a user namespace maps theirs to.
///
/// # Errors
/// If its file system or the kernel cannot do that.
pub fn idmap_mount(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all of it is integers, for which zero is a value.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = libc::MOUNT_ATTR_IDMAP;
    attributes.userns_fd = u64::try_from(userns.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: both descriptors are open, the path is empty and NUL-terminated, and the kernel reads as many bytes of
    // the attributes as it is told they have.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a mount and all below it plain: without set-user-id programs and devices, and read-only where asked for.
///
/// # Errors
/// If there is no mount at the path, or the kernel is older than 5.12.
pub fn restrict_mounts(path: &CStr, read_only: bool) -> io::Result<()> {
    // SAFETY: all of it is integers, for which zero is a value.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if read_only {
        attributes.attr_set |= libc::MOUNT_ATTR_RDONLY;
    }
    // SAFETY: the path is NUL-terminated and lives until the call returns, and the kernel reads as many bytes of the
    // attributes as it is told they have.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Attaches a mount at a path.
///
/// # Errors
/// If there is no such path.
pub fn attach_mount(mount: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    // SAFETY: the descriptor is open, both paths are NUL-terminated and live until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
