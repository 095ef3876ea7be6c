//! What a process inherits of how the kernel treats it, set back to what it is at the boot of a host.

use std::io;

/// Sets the scheduling of this process to that of an ordinary one: no real time, nice value 0, all processors, no
/// priority of its own for its disk, timers that are as exact as they usually are, and the personality of Linux.
///
/// # Errors
/// If it may not, which takes `CAP_SYS_NICE` where it is worse off than that.
pub fn reset_scheduling() -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_long = 1;
    const TIMER_SLACK_NANOSECONDS: libc::c_ulong = 50_000;
    let ordinary = libc::sched_param { sched_priority: 0 };
    // More processors than any kernel has: it takes those that there are.
    let all = [u8::MAX; 1024];
    // SAFETY: the calls take integers, and two places that live until they return, one of them with its length.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &raw const ordinary),
            libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, 0),
            libc::syscall(libc::SYS_sched_setaffinity, 0, all.len(), all.as_ptr()),
            libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0),
            libc::syscall(libc::SYS_prctl, libc::PR_SET_TIMERSLACK, TIMER_SLACK_NANOSECONDS, 0, 0, 0),
            libc::syscall(libc::SYS_personality, 0),
        ]
        .map(|result| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) })
    };
    results.into_iter().collect()
}
