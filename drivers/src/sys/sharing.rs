//! Processes that share the memory of the one that starts them: there are no page tables to copy, and no pages when
//! either writes to them, which is most of what a fork takes.

use std::ffi::c_void;
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid};

use super::process::is_alone;

/// The stack of a process that runs code of ours: far more than that takes, and no memory until it is used.
const STACK_BYTES: usize = 512 << 10;
/// The stack of a process that only sleeps.
const SLEEPER_STACK_BYTES: usize = 16 << 10;
/// How much below a stack must not be touched: a multiple of every size of pages.
const GUARD_BYTES: usize = 64 << 10;

/// What a process that has failed to execute a program exits with.
const FAILED: libc::c_int = 70;

/// A stack, below which there is nothing: to need more of it ends the process, and overwrites nothing of ours.
struct Stack {
    start: NonNull<c_void>,
    /// The guard included.
    bytes: usize,
}

impl Stack {
    fn new(bytes: usize) -> io::Result<Self> {
        let bytes = GUARD_BYTES + bytes;
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK);
        // SAFETY: the kernel chooses a place where nothing is yet.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start).ok_or_else(io::Error::last_os_error)?;
        let stack = Self { start, bytes };
        // SAFETY: the place is ours, and nobody has a reference to it.
        match unsafe { libc::mprotect(start.as_ptr(), GUARD_BYTES, libc::PROT_NONE) } {
            0 => Ok(stack),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its end, where it begins.
    fn top(&self) -> *mut c_void {
        // SAFETY: one past the last byte of the mapping.
        unsafe { self.start.as_ptr().byte_add(self.bytes) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and the process that has used it is gone.
        unsafe { libc::munmap(self.start.as_ptr(), self.bytes) };
    }
}

/// Clones a process, which begins with all signals blocked: a handler that it ran would work on the memory of both.
///
/// # Safety
/// What `enter` does to the memory that it shares is to disturb nobody, and the stack is to stay until it is gone.
unsafe fn clone_sharing(
    enter: extern "C" fn(*mut c_void) -> libc::c_int,
    stack: &Stack,
    flags: libc::c_int,
    argument: *mut c_void,
) -> io::Result<Pid> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let flags = libc::CLONE_VM | libc::SIGCHLD | flags;
    // SAFETY: the stack is nobody else's; the rest is the caller's word.
    let pid = match unsafe { libc::clone(enter, stack.top(), flags, argument) } {
        ..0 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    };
    before.thread_set_mask().expect("what was the mask can be the mask");
    pid
}

/// What a process that is to execute a program does, and what it says if it fails.
struct Work<F, T> {
    child: Option<F>,
    failure: Option<T>,
}

extern "C" fn work<F: FnOnce() -> T, T>(work: *mut c_void) -> libc::c_int {
    // SAFETY: it is what `start_sharing` has handed over, which nobody else touches until this process has ended or has
    // executed a program.
    let work = unsafe { &mut *work.cast::<Work<F, T>>() };
    work.failure = work.child.take().map(|child| child());
    FAILED
}

/// Starts a process that executes a program, and waits until it has. The new process shares all memory with this one,
/// which does nothing meanwhile, and nothing else: neither descriptors nor credentials. What `child` allocates and does
/// not free stays allocated here. It begins with all signals blocked, and unblocks them when it has given up the handlers
/// of this process.
///
/// Where `child` returns, which is to mean that it could not execute the program, the new process ends and what it has
/// returned is given. The new process is to be waited for in either case.
///
/// # Errors
/// If this process has several threads, or the kernel refuses.
pub fn start_sharing<T>(child: impl FnOnce() -> T) -> io::Result<(Pid, Option<T>)> {
    fn enter<F: FnOnce() -> T, T>(_: &Work<F, T>) -> extern "C" fn(*mut c_void) -> libc::c_int {
        work::<F, T>
    }
    if !is_alone()? {
        return Err(io::Error::other("start of a process that shares the memory of several threads"));
    }
    let stack = Stack::new(STACK_BYTES)?;
    let mut work = Work { child: Some(child), failure: None };
    let enter = enter(&work);
    // SAFETY: the kernel lets this process go on when the new one has executed a program or is gone, so that the stack
    // and the work live for as long as it uses them, and that nothing of either is used by both at once: this process
    // has no other thread. A panic does not leave `work`, which is an `extern "C"` function.
    let pid = unsafe { clone_sharing(enter, &stack, libc::CLONE_VFORK, (&raw mut work).cast()) }?;
    Ok((pid, work.failure))
}

/// A process that does nothing, so that there is one in its namespaces. It ends when the process that has made it does,
/// and holds open nothing that that one has closed.
pub struct Sleeper {
    pid: Pid,
    /// Freed only once it is gone.
    stack: ManuallyDrop<Stack>,
}

extern "C" fn sleep(parent: *mut c_void) -> libc::c_int {
    // SAFETY: these calls touch no memory, but for the number of an error, of which there is none: all signals that
    // could be handled are blocked.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        while usize::try_from(libc::getppid()) == Ok(parent.addr()) {
            libc::pause();
        }
    }
    0
}

impl Sleeper {
    /// Makes one in new namespaces (`CLONE_NEW*`).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn begin(namespaces: libc::c_int) -> io::Result<Self> {
        let parent = usize::try_from(getpid().as_raw()).map_err(io::Error::other)?;
        let stack = Stack::new(SLEEPER_STACK_BYTES)?;
        let (flags, parent) = (libc::CLONE_FILES | namespaces, ptr::without_provenance_mut(parent));
        // SAFETY: the process does nothing to the memory that it shares, and its stack goes when it has been reaped.
        let pid = unsafe { clone_sharing(sleep, &stack, flags, parent) }?;
        Ok(Self { pid, stack: ManuallyDrop::new(stack) })
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends it. Only for the process that has made it: a copy of that has another child, or none, of this pid.
    pub fn end(self) {
        let _gone = kill(self.pid, Signal::SIGKILL);
        // Where it is not gone its stack stays.
        if waitpid(self.pid, None).is_ok() {
            drop(ManuallyDrop::into_inner(self.stack));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_sleeps_until_it_is_ended() {
        let sleeper = Sleeper::begin(0).unwrap();
        let pid = sleeper.pid();
        assert_eq!(kill(pid, None), Ok(()));
        sleeper.end();
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }

    #[test]
    fn nothing_is_started_beside_other_threads() {
        let error = start_sharing(|| ()).unwrap_err();
        assert!(error.to_string().contains("several threads"), "{error}");
    }
}
