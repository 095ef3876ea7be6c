//! Sockets: descriptors that come along, netlink, interfaces.

use std::ffi::c_char;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Receives bytes from a socket, until the place is full or the stream ends, and the descriptors that come along.
///
/// # Errors
/// If the socket cannot be read.
pub fn receive_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    most: usize,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = vec![0; most * size_of::<RawFd>() + 64];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
    loop {
        let mut into = [IoSliceMut::new(bytes)];
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut space), flags) {
            Ok(message) => message,
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut fds = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just made these descriptors for us and nobody else knows them.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        return Ok((message.bytes, fds));
    }
}

/// Switches an option of a netlink socket on, as `NETLINK_EXT_ACK`.
///
/// # Errors
/// If the kernel does not know it, or the descriptor is no netlink socket.
pub fn set_netlink_option(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    const LENGTH: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the call reads `LENGTH` bytes of `on`, which it is the length of.
    match unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), LENGTH)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The index of an interface in the network namespace of a socket.
///
/// # Errors
/// `ENODEV` if there is none of that name, as for one that is too long.
pub fn interface_index(socket: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    // SAFETY: all fields are integers, pointers or arrays of integers, which may be zero.
    let mut request = unsafe { MaybeUninit::<libc::ifreq>::zeroed().assume_init() };
    // The last byte stays the NUL that ends the name.
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as c_char;
    }
    // SAFETY: SIOCGIFINDEX reads the name, which ends with a NUL, and writes the index to the same place.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX as libc::Ioctl, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded and has filled this field of the union.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    u32::try_from(index).map_err(io::Error::other)
}
