//! Processes: forks, pidfds, descriptors, terminals.

use std::ffi::c_char;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::ptr;

use nix::unistd::{ForkResult, Pid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::KillSignal;

/// No page is smaller; on a host with larger ones `madvise` refuses what does not begin at one, and nothing is gained.
const PAGE_BYTES: u64 = 4096;

/// Forks a process that has one thread only.
///
/// # Errors
/// If the process has several threads (the child would inherit locks that nobody can open) or the kernel
/// refuses.
pub fn fork_alone() -> io::Result<ForkResult> {
    if !is_alone()? {
        return Err(io::Error::other("fork of a process with several threads"));
    }
    // SAFETY: with one thread there is nobody who could hold a lock across the fork, so that the child may run
    // any code; that there is one only was just checked, and no other thread exists that could start more.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// Whether this process has one thread only.
pub(super) fn is_alone() -> io::Result<bool> {
    // What every directory has, and one for each thread.
    const LINKS_OF_ONE: u64 = 2 + 1;
    Ok(std::fs::metadata("/proc/self/task")?.nlink() == LINKS_OF_ONE)
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

/// Unmaps the pages of this program's own file that nobody writes to: its code and constants. What is needed again
/// comes back from the page cache when it is touched; what only start-up needed stays away, and does not count as
/// memory of this process any more.
pub fn forget_code() {
    // SAFETY: the callback matches what the call expects, and the data that it hands on is not used.
    unsafe { libc::dl_iterate_phdr(Some(forget_segments), ptr::null_mut()) };
}

/// The first object is the program itself: any other than zero ends the iteration there.
unsafe extern "C" fn forget_segments(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the C library hands over a valid object whose headers stay mapped and unchanged.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)))
    };
    let page = PAGE_BYTES;
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let first = base + header.p_vaddr;
        let start = first / page * page;
        let length = (first + header.p_filesz).next_multiple_of(page) - start;
        // SAFETY: a segment that is not writable is a private mapping of a file that has no pages of its own (what
        // relocations change is in a writable segment), so that each page comes back as it was when it is touched.
        unsafe {
            let start = ptr::with_exposed_provenance_mut(start as usize);
            libc::madvise(start, length as usize, libc::MADV_DONTNEED)
        };
    }
    1
}

/// How much freed memory the allocator keeps for itself: what it asks for at once, and a buffer for a directory beside.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 256 << 10;

/// Has the allocator serve all threads from one place. By default each thread gets one of its own, which costs system
/// calls when it starts and memory for as long as hsup runs; the threads of hsup allocate little. And has it keep what a
/// look into a directory has needed for the next one: to give that back each time is system calls and page faults.
pub fn share_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the calls set numbers of the allocator's, under its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
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
/// into dynos. A kernel before 5.11 cannot do that in one call.
///
/// # Errors
/// If a kernel that is older does not list them.
pub fn seal_inherited_descriptors() -> io::Result<()> {
    // SAFETY: the call changes flags of descriptors and no memory; close-on-exec is what all of ours have.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } == 0 {
        return Ok(());
    }
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // SAFETY: as above; a number that is no descriptor any more gives an error and changes nothing.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// A descriptor of our own for what a number stands for: that of a descriptor which this process was started with.
///
/// # Errors
/// `EBADF` if there is none of that number.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes integers; what the number stands for stays as it is.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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

/// Gives this process a session keyring of its own, with nothing in it. A kernel without keyrings has nothing to
/// hide.
pub fn join_new_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name means a new keyring without a name.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<c_char>()) };
}

/// Makes a terminal the controlling one of this process, which leads a session without one.
///
/// # Errors
/// If it is no terminal, or somebody else's.
pub fn take_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the ends of children told and kept until they are waited for.
pub fn default_sigchld() {
    // SAFETY: the default takes no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Sets every signal of this process to its default.
pub fn reset_signals() {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: the default takes no handler; a number that cannot be set gives an error and changes nothing.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}
