//! The system calls that a dyno may make: those that unprivileged programs use. All others are refused as if they
//! needed a privilege, and those that are newer than this list as if the kernel did not have them, so that programs
//! fall back to older ones. The list follows that of Docker's default profile for a process without capabilities.

use std::collections::BTreeSet;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

use super::protocol::Failure;

/// What clone(2) may not be asked for: new namespaces. In one of its own a process is privileged, and most flaws
/// of the kernel that give root begin there.
const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u32 as u64;

/// This processor, as the kernel names it to filters (`linux/audit.h`).
#[cfg(target_arch = "x86_64")]
const PROCESSOR: u32 = 0xc000_003e;
/// This processor, as the kernel names it to filters (`linux/audit.h`).
#[cfg(target_arch = "aarch64")]
const PROCESSOR: u32 = 0xc000_00b7;

// Instructions of filters (`linux/bpf_common.h`), and where they find the call and the processor.
const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const IF_NOT_LESS: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const SKIP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const CALL_AT: u32 = 0;
const PROCESSOR_AT: u32 = 4;

/// How many ranges are tried one after the other, once they have been found: to search further takes the kernel as long.
const IN_A_ROW: usize = 4;

/// A compiled filter.
pub(super) struct Filter(BpfProgram);

impl Filter {
    /// Compiles it; to be done once.
    ///
    /// The calls that are allowed whatever their arguments come first, as ranges of numbers that are searched: the
    /// kernel compiles the filter anew for each dyno and tries it with each call that there is, which takes ten times
    /// as long if each call has instructions of its own. The rest is made by the crate.
    pub(super) fn compile() -> Result<Self, Failure> {
        let arch =
            TargetArch::try_from(std::env::consts::ARCH).map_err(|_| failed("an unknown processor"))?;
        let rules = [
            (libc::SYS_clone, vec![without_new_namespaces()?]),
            (libc::SYS_personality, personalities()?),
            (libc::SYS_socket, sockets()?),
        ];
        let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
        let by_arguments = SeccompFilter::new(rules.into(), denied, SeccompAction::Allow, arch)
            .and_then(BpfProgram::try_from)
            .map_err(|_| failed("its compiler"))?;
        let mut program = vec![
            does(LOAD, PROCESSOR_AT),
            decides(IF_EQUAL, PROCESSOR, 1, 0),
            does(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
            does(LOAD, CALL_AT),
            // Said not to exist, so that the C library uses an older one whose arguments can be looked at.
            decides(IF_EQUAL, number(libc::SYS_clone3), 0, 1),
            does(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
            decides(IF_GREATER, number(NEWEST), 0, 1),
            does(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
        ];
        let ranges = ranges(ALLOWED.iter().chain(OF_THIS_PROCESSOR));
        program.extend(allowed(&ranges, 0));
        program.extend(by_arguments);
        Ok(Self(program))
    }

    /// Applies it to this thread and all that it starts. The process has renounced new privileges already.
    pub(super) fn apply(&self) -> Result<(), Failure> {
        apply_filter(&self.0).map_err(|_| failed("the kernel"))
    }
}

/// The ranges of numbers that these calls make: the first and the last of each.
fn ranges<'a>(calls: impl Iterator<Item = &'a i64>) -> Vec<(u32, u32)> {
    let calls: BTreeSet<u32> = calls.map(|call| number(*call)).collect();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for call in calls {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == call => *last = call,
            Some(_) | None => ranges.push((call, call)),
        }
    }
    ranges
}

/// Instructions that let the calls of these ranges through. All others skip the rest of these instructions and so many
/// that come after them.
fn allowed(ranges: &[(u32, u32)], after: usize) -> Vec<sock_filter> {
    if ranges.len() <= IN_A_ROW {
        let tries = ranges.iter().flat_map(|(first, last)| {
            [
                decides(IF_NOT_LESS, *first, 0, 2),
                decides(IF_GREATER, *last, 1, 0),
                does(RETURN, libc::SECCOMP_RET_ALLOW),
            ]
        });
        let skip = u32::try_from(after).expect("a filter has a few hundred instructions");
        return tries.chain([does(SKIP, skip)]).collect();
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let middle = upper[0].0;
    let upper = allowed(upper, after);
    let lower = allowed(lower, after + upper.len());
    let skip = u8::try_from(lower.len()).expect("half of the ranges take fewer than 256 instructions");
    [decides(IF_NOT_LESS, middle, skip, 0)].into_iter().chain(lower).chain(upper).collect()
}

fn number(call: i64) -> u32 {
    u32::try_from(call).expect("the numbers of system calls are small")
}

fn does(code: u16, k: u32) -> sock_filter {
    decides(code, k, 0, 0)
}

/// An instruction that skips so many of the next ones if it holds (`jt`), or does not (`jf`).
fn decides(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn failed(by: &str) -> Failure {
    Failure::Step { what: format!("set up the seccomp filter: refused by {by}"), errno: libc::EINVAL }
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, Failure> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
    condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(|_| failed("its compiler"))
}

fn without_new_namespaces() -> Result<SeccompRule, Failure> {
    rule(0, SeccompCmpOp::MaskedEq(NEW_NAMESPACES), 0)
}

/// Linux, 32-bit and "what is it": no other personality, of which some turn off defences.
fn personalities() -> Result<Vec<SeccompRule>, Failure> {
    [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff]
        .into_iter()
        .map(|personality| rule(0, SeccompCmpOp::Eq, personality))
        .collect()
}

/// The address families that programs use: all but these have been doors to the kernel more often than of use.
fn sockets() -> Result<Vec<SeccompRule>, Failure> {
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK]
        .into_iter()
        .map(|family| rule(0, SeccompCmpOp::Eq, u64::from(family.cast_unsigned())))
        .collect()
}

/// The newest call that this list knows of: `removexattrat`, of Linux 6.13.
const NEWEST: i64 = 466;

/// Calls that the libc crate does not name everywhere yet. From 424 on a call has the same number on every processor.
mod unnamed {
    pub(super) const CACHESTAT: i64 = 451;
    pub(super) const FCHMODAT2: i64 = 452;
    pub(super) const MAP_SHADOW_STACK: i64 = 453;
    pub(super) const FUTEX_WAKE: i64 = 454;
    pub(super) const FUTEX_WAIT: i64 = 455;
    pub(super) const FUTEX_REQUEUE: i64 = 456;
    pub(super) const STATMOUNT: i64 = 457;
    pub(super) const LISTMOUNT: i64 = 458;
    pub(super) const SETXATTRAT: i64 = 463;
    pub(super) const GETXATTRAT: i64 = 464;
    pub(super) const LISTXATTRAT: i64 = 465;
    pub(super) const REMOVEXATTRAT: i64 = super::NEWEST;
    #[cfg(target_arch = "x86_64")]
    pub(super) const IO_PGETEVENTS: i64 = 333;
    #[cfg(target_arch = "x86_64")]
    pub(super) const URETPROBE: i64 = 335;
    #[cfg(target_arch = "aarch64")]
    pub(super) use aarch64::{GETRLIMIT, IO_PGETEVENTS, RENAMEAT, SETRLIMIT, SYNC_FILE_RANGE};
    #[cfg(target_arch = "aarch64")]
    mod aarch64 {
        pub(in super::super) const RENAMEAT: i64 = 38;
        pub(in super::super) const SYNC_FILE_RANGE: i64 = 84;
        pub(in super::super) const GETRLIMIT: i64 = 163;
        pub(in super::super) const SETRLIMIT: i64 = 164;
        pub(in super::super) const IO_PGETEVENTS: i64 = 292;
    }
}

/// What programs call on every processor.
const ALLOWED: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_adjtimex,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_chdir,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_connect,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fanotify_mark,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getitimer,
    libc::SYS_getpeername,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_getxattr,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_io_cancel,
    libc::SYS_io_destroy,
    libc::SYS_io_getevents,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_ioctl,
    libc::SYS_ioprio_get,
    libc::SYS_ioprio_set,
    libc::SYS_kill,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_lgetxattr,
    libc::SYS_linkat,
    libc::SYS_listen,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lseek,
    libc::SYS_lsetxattr,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_mincore,
    libc::SYS_mkdirat,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mlockall,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mq_getsetattr,
    libc::SYS_mq_notify,
    libc::SYS_mq_open,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_unlink,
    libc::SYS_mremap,
    libc::SYS_mseal,
    libc::SYS_msgctl,
    libc::SYS_msgget,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munlockall,
    libc::SYS_munmap,
    libc::SYS_name_to_handle_at,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pipe2,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_prlimit64,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pselect6,
    libc::SYS_ptrace,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_remap_file_pages,
    libc::SYS_removexattr,
    libc::SYS_mknodat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_rr_get_interval,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield,
    libc::SYS_seccomp,
    libc::SYS_semctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_sendfile,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setitimer,
    libc::SYS_setpgid,
    libc::SYS_setpriority,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setsid,
    libc::SYS_setsockopt,
    libc::SYS_setuid,
    libc::SYS_setxattr,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_shmget,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_socketpair,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_sysinfo,
    libc::SYS_tee,
    libc::SYS_tgkill,
    libc::SYS_timer_create,
    libc::SYS_timer_delete,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_gettime,
    libc::SYS_timer_settime,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_times,
    libc::SYS_tkill,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_vmsplice,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
    unnamed::CACHESTAT,
    unnamed::FCHMODAT2,
    unnamed::FUTEX_REQUEUE,
    unnamed::FUTEX_WAIT,
    unnamed::FUTEX_WAKE,
    unnamed::GETXATTRAT,
    unnamed::IO_PGETEVENTS,
    unnamed::LISTMOUNT,
    unnamed::LISTXATTRAT,
    unnamed::MAP_SHADOW_STACK,
    unnamed::REMOVEXATTRAT,
    unnamed::SETXATTRAT,
    unnamed::STATMOUNT,
];

/// What is left on this processor of older calls.
#[cfg(target_arch = "x86_64")]
const OF_THIS_PROCESSOR: &[i64] = &[
    libc::SYS_access,
    libc::SYS_alarm,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_creat,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_ctl_old,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_wait_old,
    libc::SYS_eventfd,
    libc::SYS_fork,
    libc::SYS_futimesat,
    libc::SYS_get_thread_area,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_getrlimit,
    libc::SYS_inotify_init,
    libc::SYS_lchown,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_mknod,
    libc::SYS_modify_ldt,
    libc::SYS_open,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_set_thread_area,
    libc::SYS_setrlimit,
    libc::SYS_signalfd,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_sync_file_range,
    libc::SYS_time,
    libc::SYS_unlink,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_vfork,
    unnamed::URETPROBE,
];

/// What is left on this processor of older calls.
#[cfg(target_arch = "aarch64")]
const OF_THIS_PROCESSOR: &[i64] =
    &[unnamed::GETRLIMIT, unnamed::RENAMEAT, unnamed::SETRLIMIT, unnamed::SYNC_FILE_RANGE];

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program returns of a call that has been loaded.
    fn returned(program: &[sock_filter], call: u32) -> u32 {
        let mut at = 0;
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1 + match code {
                RETURN => return k,
                SKIP => k as usize,
                IF_NOT_LESS => usize::from(if call >= k { jt } else { jf }),
                IF_GREATER => usize::from(if call > k { jt } else { jf }),
                code => panic!("no instruction of these: {code}"),
            };
        }
    }

    #[test]
    fn the_calls_of_the_list_are_let_through_and_no_others() {
        let all: BTreeSet<u32> = ALLOWED.iter().chain(OF_THIS_PROCESSOR).map(|call| number(*call)).collect();
        let ranges = ranges(ALLOWED.iter().chain(OF_THIS_PROCESSOR));
        for length in 0..=ranges.len() {
            let listed = &ranges[..length];
            let mut program = allowed(listed, 1);
            program.extend([does(RETURN, 1), does(RETURN, 2)]);
            for call in 0..1024 {
                let in_list = all.contains(&call) && listed.last().is_some_and(|(_, last)| call <= *last);
                let expected = if in_list { libc::SECCOMP_RET_ALLOW } else { 2 };
                assert_eq!(returned(&program, call), expected, "{call} of {length} ranges");
            }
        }
        assert!(all.contains(&number(libc::SYS_read)) && !all.contains(&number(libc::SYS_mount)));
    }
}
