//! Processes that share the memory of the one that starts them: there are no page tables to copy, and no pages when
//! either writes to them, which is most of what a fork takes.

use std::ffi::c_void;
use std::io;
use std::mem::ManuallyDrop;
use std::ptr;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid};

use super::process::is_alone;

/// The stack of a process that runs code of ours: far more than that takes, and no memory until it is used.
const STACK_BYTES: usize = 512 << 10;
/// The stack of a process that only sleeps.
const SLEEPER_STACK_BYTES: usize = 16 << 10;
/// What processors want a stack to be a multiple of.
const ALIGNMENT: usize = 16;

/// What a process that has failed to execute a program exits with.
const FAILED: libc::c_int = 70;

/// A stack, as the process that has it uses it. It is not initialised, and nobody else reads it.
struct Stack(Vec<u8>);

impl Stack {
    fn new(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Its end, where it begins.
    fn top(&mut self) -> *mut c_void {
        let bytes = self.0.capacity() - ALIGNMENT;
        let start = self.0.as_mut_ptr();
        let end = start.wrapping_add(bytes);
        end.wrapping_sub(end.addr() % ALIGNMENT).cast()
    }
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
/// not free stays allocated here.
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
    let mut stack = Stack::new(STACK_BYTES);
    let mut work = Work { child: Some(child), failure: None };
    let enter = enter(&work);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the kernel lets this process go on when the new one has executed a program or is gone, so that the stack
    // and the work live for as long as it uses them, and that nothing of either is used by both at once: this process
    // has no other thread. A panic does not leave `work`, which is an `extern "C"` function.
    let pid = unsafe { libc::clone(enter, stack.top(), flags, (&raw mut work).cast()) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok((Pid::from_raw(pid), work.failure)) }
}

/// A process that does nothing, so that there is one in its namespaces. It ends when the process that has made it does,
/// and holds open nothing that that one has closed.
pub struct Sleeper {
    pid: Pid,
    /// Freed only once it is gone.
    stack: ManuallyDrop<Stack>,
}

extern "C" fn sleep(parent: *mut c_void) -> libc::c_int {
    // SAFETY: these calls touch no memory, but for the number of an error, of which there is none until a signal is
    // handled; whoever shares the memory has no handler that this process could be sent the signal of.
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
        let mut stack = ManuallyDrop::new(Stack::new(SLEEPER_STACK_BYTES));
        let parent = usize::try_from(getpid().as_raw()).map_err(io::Error::other)?;
        let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::SIGCHLD | namespaces;
        // SAFETY: the process has a stack of its own, which is freed only when it has been reaped, and does nothing to
        // the memory that it shares.
        let pid = unsafe { libc::clone(sleep, stack.top(), flags, ptr::without_provenance_mut(parent)) };
        if pid < 0 {
            let error = io::Error::last_os_error();
            drop(ManuallyDrop::into_inner(stack));
            return Err(error);
        }
        Ok(Self { pid: Pid::from_raw(pid), stack })
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
