//! The system calls that a dyno may make: those that unprivileged programs use. All others are refused as if they
//! needed a privilege, and those that are newer than this list as if the kernel did not have them, so that programs
//! fall back to older ones. The list follows that of Docker's default profile for a process without capabilities.

mod calls;

use std::collections::BTreeSet;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

use self::calls::{ALLOWED, NEWEST, OF_THIS_PROCESSOR};
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
