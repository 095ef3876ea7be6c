//! The one file with `unsafe`: what neither the standard library nor `nix` offers as a safe call.
//!
//! Each wrapper is safe to call with any arguments. Nothing here decides anything.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use nix::unistd::{ForkResult, Pid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::KillSignal;

/// Forks a process that has one thread only.
///
/// # Errors
/// If the process has several threads (the child would inherit locks that nobody can open) or the kernel
/// refuses.
pub fn fork_alone() -> io::Result<ForkResult> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("fork of a process with several threads"));
    }
    // SAFETY: with one thread there is nobody who could hold a lock across the fork, so that the child may run
    // any code; that there is one only was just checked, and no other thread exists that could start more.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// Gives memory that has been freed back to the system, where the C library can. What is not given back before a
/// fork is there twice after it.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes the allocator's own locks and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Opens a pidfd for a process.
///
/// # Errors
/// `ESRCH` if there is no such process.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Signals the process of a pidfd.
///
/// # Errors
/// `ESRCH` if it has been reaped, `EPERM` if it is not ours to signal.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: KillSignal) -> io::Result<()> {
    let number = match signal {
        KillSignal::Term => libc::SIGTERM,
        KillSignal::Kill => libc::SIGKILL,
    };
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for the length of the call; a null siginfo means "as by kill(2)".
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, none, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the runtime wait for a descriptor to become readable: a pidfd does when its process has ended.
///
/// # Errors
/// If the runtime cannot watch it.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays the same open descriptor until it is dropped, which `AsyncFd` does only after
    // it has deregistered it; nobody else can replace it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Marks every open descriptor from 3 on as close-on-exec, so that what hsup was started with does not leak
/// into dynos. A kernel before 5.11 cannot do that in one call; there they stay as they are.
pub fn seal_inherited_descriptors() {
    // SAFETY: the call changes flags of descriptors and no memory; close-on-exec is what all of ours have.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Sets the soft limit of open files of a process, the hard one staying as it is.
///
/// # Errors
/// If the process is gone or not ours.
pub fn limit_open_files(pid: Pid, soft: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place to write to; a null new limit means "read only".
    if unsafe { libc::prlimit(pid.as_raw(), libc::RLIMIT_NOFILE, ptr::null(), &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = soft.min(limit.rlim_max);
    // SAFETY: `limit` is a valid limit to read; a null old limit means "do not tell".
    match unsafe { libc::prlimit(pid.as_raw(), libc::RLIMIT_NOFILE, &raw const limit, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The size of a terminal.
///
/// # Errors
/// If it is none.
pub fn window_size(terminal: BorrowedFd<'_>) -> io::Result<libc::winsize> {
    let mut size = MaybeUninit::<libc::winsize>::uninit();
    // SAFETY: TIOCGWINSZ writes one winsize to the place it is given.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) } {
        // SAFETY: the call has succeeded and has filled it.
        0 => Ok(unsafe { size.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the size of a terminal; its foreground processes are told.
///
/// # Errors
/// If it is none.
pub fn set_window_size(terminal: BorrowedFd<'_>, size: &libc::winsize) -> io::Result<()> {
    // SAFETY: TIOCSWINSZ reads one winsize from the place it is given.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, ptr::from_ref(size)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a spawned process has as input, output and errors.
#[derive(Clone, Copy, Debug)]
pub enum SpawnStdio<'a> {
    /// These three descriptors.
    Descriptors([BorrowedFd<'a>; 3]),
    /// This terminal, opened by the new process, whose controlling terminal it becomes.
    Terminal(&'a CStr),
}

/// A process to be spawned.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program: a path with a slash.
    pub program: &'a CStr,
    /// Its arguments, the name of the program first.
    pub args: &'a [CString],
    /// Its whole environment.
    pub env: &'a [CString],
    /// Its working directory; `None` for ours.
    pub dir: Option<&'a CStr>,
    /// Its input, output and errors.
    pub stdio: SpawnStdio<'a>,
}

/// Spawns a process as the leader of a new session and process group, with default signal handling and an
/// empty signal mask.
///
/// This is posix_spawn(3): the C library shares our memory with the child until it has exec'd (no copy of page
/// tables, no code of ours after the fork) and reports a failed exec as an error of the call.
///
/// # Errors
/// The error of whatever step failed, that of exec among them.
pub fn spawn(request: &Spawn<'_>) -> io::Result<Pid> {
    let mut actions = FileActions::new()?;
    match request.stdio {
        SpawnStdio::Descriptors(fds) => {
            for (fd, target) in fds.iter().zip(0..) {
                actions.dup(fd.as_raw_fd(), target)?;
            }
        }
        SpawnStdio::Terminal(path) => {
            actions.open(0, path)?;
            actions.dup(0, 1)?;
            actions.dup(0, 2)?;
        }
    }
    if let Some(dir) = request.dir {
        actions.chdir(dir)?;
    }
    let attributes = Attributes::new_session()?;
    let args = null_terminated(request.args);
    let env = null_terminated(request.env);
    let mut pid = 0;
    // SAFETY: all pointers are to NUL-terminated strings and NULL-terminated arrays of them that live until
    // the call returns, and to initialised actions and attributes; the child only reads them.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            request.program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            args.as_ptr(),
            env.as_ptr(),
        )
    })?;
    Ok(Pid::from_raw(pid))
}

fn null_terminated(texts: &[CString]) -> Vec<*mut c_char> {
    texts.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// The posix_spawn family returns error numbers.
fn check(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: init fills the place it is given, and has when it returns 0.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: as above.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn dup(&mut self, fd: RawFd, target: RawFd) -> io::Result<()> {
        // SAFETY: the actions are initialised; descriptors are checked when the child uses them.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, fd, target) })
    }

    fn open(&mut self, target: RawFd, path: &CStr) -> io::Result<()> {
        // SAFETY: the actions are initialised and copy the path.
        check(unsafe {
            libc::posix_spawn_file_actions_addopen(&raw mut self.0, target, path.as_ptr(), libc::O_RDWR, 0)
        })
    }

    fn chdir(&mut self, dir: &CStr) -> io::Result<()> {
        // SAFETY: the actions are initialised and copy the path.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, dir.as_ptr()) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: they are initialised and are not used again.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// A new session, all signals at their defaults, none blocked.
    fn new_session() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: init fills the place it is given, and has when it returns 0.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: as above.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both calls fill the set they are given and cannot fail; the setters copy the sets.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(none.as_mut_ptr());
            check(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, all.as_ptr()))?;
            check(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, none.as_ptr()))?;
        }
        let flags = libc::c_short::try_from(libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK)
            .map_err(io::Error::other)?
            | libc::POSIX_SPAWN_SETSID;
        // SAFETY: the attributes are initialised.
        check(unsafe { libc::posix_spawnattr_setflags(&raw mut attributes.0, flags) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: they are initialised and are not used again.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

// Loop devices, for the images of stacks.

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

// The network of native dynos.

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

// cgroups

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
