//! How what a run took of the host is undone, one thing at a time. When that is to be done is decided elsewhere.

use std::error::Error;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::native::ledger::Init;
use crate::native::mountinfo::mounts_below;
use crate::native::remove_tree::{check_below, remove_below};
use crate::owner::Owner;
use crate::{KillSignal, process, sys};

/// How long a killed init may take: it ends after every process of its namespace.
const KILLED: Duration = Duration::from_secs(5);

/// Why something cannot be undone.
pub type Fault = Box<dyn Error + Send + Sync>;

/// Whether there was something to undo, which now is undone.
pub type Undone = Result<bool, Fault>;

/// Something of this host whose name says that an hsup has made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<T> {
    /// Its name, as a record would have it.
    pub name: T,
    /// The hsup that has made it, if its name tells.
    pub owner: Option<Owner>,
}

/// Undoes what runs took of the host. Each call may be repeated: what is not there is undone already.
///
/// The four listings give whatever has a name of ours, whether it is in use or not. Those who call them look for
/// owners and records, and know only those of one state dir: a listing has to leave out what may be of an hsup
/// with another state dir, unless it names the owner.
pub trait Undo {
    /// Kills a dyno's init, and so every process of its pid namespace.
    ///
    /// # Errors
    /// If it does not end.
    fn kill_init(&self, init: Init) -> Undone {
        kill_init(init)
    }

    /// Kills the processes of a cgroup and removes it, with those below it.
    ///
    /// # Errors
    /// If a process does not end, or the cgroup cannot be removed.
    fn remove_cgroup(&self, cgroup: &Path) -> Undone;

    /// Deletes the host's end of a veth pair, unless a dyno lives at the other end: the name may be another's by now.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn delete_link(&self, name: &str) -> Undone;

    /// Unmounts one mount.
    ///
    /// # Errors
    /// If it is in use.
    fn unmount(&self, point: &Path) -> Undone {
        unmount(point)
    }

    /// Removes a directory below the state dir, after unmounting what is mounted in it.
    ///
    /// # Errors
    /// If it leads out of the state dir, or something in it cannot be unmounted or removed.
    fn remove_dir(&self, state_dir: &Path, dir: &Path) -> Undone {
        check_below(state_dir, dir)?;
        unmount_below(state_dir, dir, |point| self.unmount(point))?;
        Ok(remove_below(state_dir, dir)?)
    }

    /// The cgroups that have a name of ours.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn cgroups(&self) -> Result<Vec<Seen<PathBuf>>, Fault>;

    /// The links of this network namespace that have a name of ours.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn links(&self) -> Result<Vec<Seen<String>>, Fault>;

    /// The directories of runs.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn dirs(&self) -> Result<Vec<Seen<PathBuf>>, Fault>;

    /// Mounts of this mount namespace that are ours and that nobody uses. No record names mounts, so that those
    /// without an owner are taken for strays.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn mounts(&self) -> Result<Vec<Seen<PathBuf>>, Fault>;
}

/// Kills a dyno's init, if the process of that pid still is the one that was written down. Whether it was.
///
/// # Errors
/// If it cannot be killed, or does not end.
pub fn kill_init(init: Init) -> Undone {
    // The pidfd is opened first, so that what is looked at and what is killed is the same process.
    let pidfd = match sys::pidfd_open(init.pid) {
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Ok(false),
        // Linux says so of a thread that leads no process: the pid has been reused.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(false),
        opened => opened?,
    };
    let Some(stat) = process::stat(init.pid) else {
        // The process has been reaped meanwhile, or /proc cannot be read.
        return if process::ends_within(pidfd.as_fd(), Duration::ZERO) {
            Ok(false)
        } else {
            Err(format!("failed to read /proc/{}/stat", init.pid).into())
        };
    };
    if stat.start_time != init.start_time || process::ends_within(pidfd.as_fd(), Duration::ZERO) {
        return Ok(false);
    }
    match sys::pidfd_signal(pidfd.as_fd(), KillSignal::Kill) {
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Ok(true),
        signalled => signalled?,
    }
    if process::ends_within(pidfd.as_fd(), KILLED) {
        Ok(true)
    } else {
        Err(format!("process {} has been killed and does not end; see ps -e for state D", init.pid).into())
    }
}

/// Unmounts what is mounted on a mount point last. Whether anything was.
///
/// # Errors
/// If it is in use.
pub fn unmount(point: &Path) -> Undone {
    match umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(true),
        // Not a mount point, or no such path.
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(false),
        Err(error) => Err(format!("failed to unmount {}: {error}", point.display()).into()),
    }
}

/// Unmounts what is mounted at a directory of the state dir or below it, the last one first.
///
/// # Errors
/// If the directory is outside of the state dir, if the mounts cannot be read, and that of the first one that
/// `unmount` cannot undo.
pub fn unmount_below(state_dir: &Path, dir: &Path, unmount: impl Fn(&Path) -> Undone) -> Result<(), Fault> {
    // As the kernel names it; a directory that is not there has no mounts.
    let Ok(real) = fs::canonicalize(dir) else { return Ok(()) };
    let state_dir = fs::canonicalize(state_dir)?;
    if real == state_dir || !real.starts_with(&state_dir) {
        return Err(format!("{} leads to {}, out of the state dir", dir.display(), real.display()).into());
    }
    for point in mounts_below(&fs::read("/proc/self/mountinfo")?, &real).iter().rev() {
        unmount(point)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::native::testing::Helper;

    #[test]
    fn what_is_mounted_in_a_directory_is_unmounted_and_not_removed() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root may mount");
            return;
        }
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("file"), "").unwrap();
        let state = tempfile::tempdir().unwrap();
        let role = format!("unmount {}", outside.path().display());
        let mut helper = Helper::start_with_own_mounts(&role, state.path());
        // Which one of them depends on which mount is found first.
        let refused = helper.hear();
        assert!(["Err(CrossesDevices)", "Err(ResourceBusy)"].contains(&refused.as_str()), "{refused}");
        assert!(outside.path().join("file").exists());
        assert_eq!(helper.hear(), "Err(())");
        assert_eq!(helper.hear(), "Ok(true) false");
        helper.let_go();
        assert!(outside.path().join("file").exists());
    }
}
