//! Attributes of files, and loop devices.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// An extended attribute of a file, of at most 64 bytes.
///
/// # Errors
/// `ENODATA` if the file has none of that name, `ENOTSUP` if its file system has none at all, `ERANGE` if it is
/// longer.
pub fn extended_attribute(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let (path, name) = (CString::new(path.as_os_str().as_bytes())?, CString::new(name)?);
    let mut value = [0u8; 64];
    let place = value.as_mut_ptr().cast();
    // SAFETY: both strings end with NUL and live until the call returns, which writes no more to `value` than it
    // is told that there is room for.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), place, value.len()) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(value.iter().take(length).copied().collect())
}

/// `struct loop_info64` of `<linux/loop.h>`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `<linux/loop.h>`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// The number of a loop device that is free at this moment; it is made where there is none. `control` is
/// `/dev/loop-control`.
///
/// # Errors
/// If it is not, or there can be no more devices.
pub fn free_loop_device(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the call takes no argument and touches no memory of ours.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Makes a loop device show a file, read-only, until the last who has it open (or mounted) closes it. `name` is what
/// tools show, of which 63 bytes count.
///
/// # Errors
/// `EBUSY` if another process was quicker to take the device.
pub fn attach_loop_device(device: BorrowedFd<'_>, file: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let mut file_name = [0; 64];
    for (byte, given) in file_name[..63].iter_mut().zip(name) {
        *byte = *given;
    }
    let config = LoopConfig {
        fd: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
        block_size: 0,
        info: LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads one `loop_config`, whose layout this is, and keeps no pointer to it.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
