//! Restricting a mount with all that is mounted below it: at once, or, on a kernel that cannot (before 5.12, without
//! mount_setattr(2)), each of them by mounting it anew at its own place.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use super::in_root::by_number;
use super::mountinfo::entries_below;
use crate::sys;

/// What is set for a mount, as its line in `/proc/self/mountinfo` says it. What is not asked for anew is lost.
const OPTIONS: [(&str, MsFlags); 7] = [
    ("ro", MsFlags::MS_RDONLY),
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodiratime", MsFlags::MS_NODIRATIME),
    ("relatime", MsFlags::MS_RELATIME),
];

/// Makes the mount that has been opened and all below it plain: without set-user-id programs and devices, and
/// read-only where asked for.
pub(super) fn restrict(top: &OwnedFd, read_only: bool) -> io::Result<()> {
    let path = CString::new(by_number(top).into_os_string().into_encoded_bytes())?;
    match sys::restrict_mounts(&path, read_only) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => restrict_each(top, read_only),
        restricted => restricted,
    }
}

fn restrict_each(top: &OwnedFd, read_only: bool) -> io::Result<()> {
    let point = fs::read_link(by_number(top))?;
    let table = fs::read("/proc/self/mountinfo")?;
    let mut more = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    more.set(MsFlags::MS_RDONLY, read_only);
    for entry in entries_below(&table, &point) {
        // Some lie below one that was mounted later, and nobody sees them.
        let place = match open(&entry.point, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(place) if mount_id(&place)? == entry.id => place,
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            Err(error) => return Err(error.into()),
        };
        let set = entry.options.split(',').filter_map(|option| {
            OPTIONS.into_iter().find_map(|(name, flag)| (name == option).then_some(flag))
        });
        mount(None::<&str>, &by_number(&place), None::<&str>, more | set.collect(), None::<&str>)?;
    }
    Ok(())
}

/// The number of the mount that something opened is on.
fn mount_id(open: &OwnedFd) -> io::Result<u64> {
    let text = io::read_to_string(File::open(format!("/proc/self/fdinfo/{}", open.as_raw_fd()))?)?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("/proc/self/fdinfo names no mount"))
}
