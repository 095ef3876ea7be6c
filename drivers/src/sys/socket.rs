//! Sockets: descriptors that come along, netlink, interfaces.

use std::ffi::c_char;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Descriptors that have come along with bytes.
#[derive(Debug)]
pub struct Descriptors {
    /// How many bytes.
    pub bytes: usize,
    /// The descriptors.
    pub fds: Vec<OwnedFd>,
    /// Whether these are all that were sent: not if this process may have no more, or there was no place for them.
    pub all: bool,
}

/// Receives bytes from a socket, until the place is full or the stream ends, and the descriptors that come along.
///
/// # Errors
/// If the socket cannot be read.
pub fn receive_descriptors(socket: BorrowedFd<'_>, bytes: &mut [u8], most: usize) -> io::Result<Descriptors> {
    // In words of eight bytes, since the kernel's headers in it are aligned to these.
    let mut space = vec![0_u64; (most * size_of::<RawFd>()).div_ceil(8) + 8];
    let (received, message) = receive(socket, bytes, &mut space, libc::MSG_WAITALL)?;
    let all = message.msg_flags & libc::MSG_CTRUNC == 0;
    Ok(Descriptors { bytes: received, fds: rights(&message), all })
}

/// Receives a message that is there from a socket with `SO_PASSCRED`: how long it is, and the user that has sent it. What
/// is longer than the place is cut. Descriptors that come along are let go of.
///
/// # Errors
/// If the socket cannot be read; `WouldBlock` if there is no message.
pub fn receive_with_sender(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<u32>)> {
    // The credentials come first and fill it, so that there is no place for any descriptor.
    let mut space = [0_u64; CREDENTIALS_BYTES / 8];
    let (received, message) = receive(socket, bytes, &mut space, libc::MSG_DONTWAIT)?;
    // SAFETY: the kernel has filled the message's place for such headers, and said how much of it; the first one is read
    // where it is whole, and holds credentials of that length if it is of their type.
    let sender = unsafe {
        libc::CMSG_FIRSTHDR(&raw const message).as_ref().and_then(|found| {
            let is_sender = (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS);
            is_sender.then(|| libc::CMSG_DATA(found).cast::<libc::ucred>().read_unaligned().uid)
        })
    };
    Ok((received, sender))
}

/// What credentials take with their header, in bytes.
#[expect(clippy::cast_possible_truncation, reason = "it is 32")]
// SAFETY: the macro calculates.
const CREDENTIALS_BYTES: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// Receives bytes, and what comes along in this space, to which the message that is given points.
fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    space: &mut [u64],
    flags: libc::c_int,
) -> io::Result<(usize, libc::msghdr)> {
    let mut place = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all of it is integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut place;
    message.msg_iovlen = 1;
    loop {
        message.msg_control = space.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(space) as _;
        let flags = libc::MSG_CMSG_CLOEXEC | flags;
        // SAFETY: the message names two places, which live until the call returns, with their lengths.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        match usize::try_from(received) {
            Ok(received) => {
                message.msg_iov = std::ptr::null_mut();
                return Ok((received, message));
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// A length, whose type is another one in each C library.
fn wide(length: impl TryInto<usize>) -> usize {
    length.try_into().unwrap_or_default()
}

/// The descriptors of a message that has just been received: of one that has lost some, those that have come.
fn rights(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the message's place for such headers, and said how much of it; the macros stay
    // within that. Descriptors may be unaligned; the kernel has just made them for us and nobody else knows them.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(found) = header.as_ref() {
            if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let length = wide(found.cmsg_len).saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                fds.extend(
                    (0..length / size_of::<RawFd>())
                        .map(|index| OwnedFd::from_raw_fd(data.add(index).read_unaligned())),
                );
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    fds
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

/// The supplementary groups that the process at the other end of a unix socket had when it connected.
///
/// # Errors
/// If the kernel does not tell (before Linux 4.13), or the descriptor is no unix socket.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // More than almost anybody has; where that is too little the kernel says how many there are.
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let too_many = |_| io::Error::from_raw_os_error(libc::EOVERFLOW);
        let room = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(too_many)?;
        let mut length = room;
        let place = groups.as_mut_ptr().cast();
        // SAFETY: the kernel writes at most `length` bytes, which is how large the place is.
        let got = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                place,
                &raw mut length,
            )
        };
        let count = wide(length) / size_of::<libc::gid_t>();
        if got == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || length <= room {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}
