//! What the kernel tells of processes. Read only; a process that goes away meanwhile is simply not there.
//!
//! To look takes descriptors. Where there being nobody decides something, it matters that there was one: see [`look`].

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A process as `/proc/PID/stat` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// One letter: `R`, `S`, `Z`, ...
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// The processor time that it has used, in clock ticks.
    pub cpu_ticks: u64,
    /// When it was started, in clock ticks since boot: with the pid it names a process for good.
    pub start_time: u64,
    /// Its resident memory, in pages.
    pub resident_pages: u64,
    /// Where its environment ends, in its memory; 0 where it has none, not even an empty one.
    environment_end: u64,
}

impl Stat {
    /// Whether the process, whose pid that is, is in the middle of execve(2): it has no environment yet that anybody could
    /// read, for those who may.
    pub fn is_being_executed(&self, pid: u32) -> bool {
        self.environment_end == 0 && File::open(format!("/proc/{pid}/environ")).is_ok()
    }

    /// Whether the process, whose pid that is, has not ended. One whose first thread has ended looks like one that
    /// waits to be reaped, but for its other threads; where there is too little to look for them with, it may have some.
    pub fn is_alive(&self, pid: u32) -> bool {
        let threads = || seen(fs::read_dir(format!("/proc/{pid}/task")));
        !matches!(self.state, 'Z' | 'X' | 'x')
            || threads().map_or(true, |threads| threads.is_some_and(|threads| threads.count() > 1))
    }
}

/// Whether there is such a process and it has not ended.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.is_alive(pid))
}

/// Waits for the process of a pidfd to end, so long; whether it has.
pub fn ends_within(pidfd: BorrowedFd<'_>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            Ok(ready) => return ready > 0,
            Err(_) => return false,
        }
    }
}

/// Reads `/proc/PID/stat`; none if it cannot be read, whatever the reason.
pub fn stat(pid: u32) -> Option<Stat> {
    look(pid).ok().flatten()
}

/// Reads `/proc/PID/stat`; none if there is no such process, or none that this user may see.
///
/// # Errors
/// If there is too little to look with, which says nothing of the process: no descriptor is left, or no memory.
pub fn look(pid: u32) -> io::Result<Option<Stat>> {
    Ok(seen(fs::read_to_string(format!("/proc/{pid}/stat")))?.as_deref().and_then(parse_stat))
}

/// What was read of processes; none if there is nothing to be read.
///
/// # Errors
/// As [`look`].
pub(crate) fn seen<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
            Err(error)
        }
        read => Ok(read.ok()),
    }
}

/// The fields of proc_pid_stat(5); the second one, the name, may hold blanks and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: u32::try_from(number(1)?).ok()?,
        group: u32::try_from(number(2)?).ok()?,
        session: u32::try_from(number(3)?).ok()?,
        cpu_ticks: number(11)? + number(12)?,
        start_time: number(19)?,
        resident_pages: number(21)?,
        environment_end: number(48)?,
    })
}

/// The children of a process, whichever of its threads made them; none if they cannot be read, whatever the reason.
pub fn children(pid: u32) -> Vec<u32> {
    look_for_children(pid).unwrap_or_default()
}

/// The children of a process, whichever of its threads made them.
///
/// # Errors
/// As [`look`].
pub fn look_for_children(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in seen(fs::read_dir(format!("/proc/{pid}/task")))?.into_iter().flatten().flatten() {
        let list = seen(fs::read_to_string(task.path().join("children")))?.unwrap_or_default();
        children.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

/// The child of a process that has this pid in the namespace that it was cloned into: for one of an init, that which init
/// knows it by.
pub fn child_by_inner_pid(parent: u32, inner: u32) -> Option<u32> {
    children(parent).into_iter().find(|pid| inner_pid(*pid) == Some(inner))
}

/// The pid of a process in the innermost of its namespaces.
fn inner_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    pids.split_ascii_whitespace().next_back()?.parse().ok()
}

/// These processes and everything below them.
///
/// # Errors
/// As [`look`].
pub fn with_descendants(roots: impl IntoIterator<Item = u32>) -> io::Result<HashSet<u32>> {
    let mut found = HashSet::new();
    let mut queue: Vec<u32> = roots.into_iter().collect();
    while let Some(pid) = queue.pop() {
        if found.insert(pid) {
            queue.extend(look_for_children(pid)?);
        }
    }
    Ok(found)
}

/// Every process of the system.
///
/// # Errors
/// If /proc is not there.
pub fn all() -> io::Result<Vec<u32>> {
    Ok(fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// The value of a variable in the environment with which a process was started; none if it cannot be read, whatever the
/// reason.
pub fn variable(pid: u32, name: &str) -> Option<String> {
    look_for_variable(pid, name).ok().flatten()
}

/// The value of a variable in the environment with which a process was started.
///
/// # Errors
/// As [`look`].
pub fn look_for_variable(pid: u32, name: &str) -> io::Result<Option<String>> {
    let environment = seen(fs::read(format!("/proc/{pid}/environ")))?.unwrap_or_default();
    let mut entries = environment.split(|byte| *byte == 0);
    let value = entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    Ok(value.and_then(|value| String::from_utf8(value.to_vec()).ok()))
}

/// The memory and processor time that processes use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, in bytes; pages that processes share count for each.
    pub memory_bytes: u64,
    /// Processor time of the processes that are alive.
    pub cpu: Duration,
}

/// What runs of dynos use at the moment, by their main processes: each that and everything below it or, where it has an
/// init of its own, below that. Every process of the system is looked at once, however many dynos there are.
pub fn usages(mains: &[u32]) -> HashMap<u32, Usage> {
    let Some((page_bytes, ticks_a_second)) = units() else { return HashMap::new() };
    let every = all().unwrap_or_default();
    let stats: HashMap<u32, Stat> = every.into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, stat) in &stats {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let is_ours = |parent: &u32| stats.get(parent).is_some_and(|parent| parent.parent == std::process::id());
    let usage = |main: u32| {
        let init = stats.get(&main).map(|main| main.parent).filter(is_ours);
        let (mut usage, mut ticks, mut queue) = (Usage::default(), 0, vec![init.unwrap_or(main)]);
        // Not everything is seen at the same moment, and a pid may be another process's by then.
        let mut counted = HashSet::new();
        while let Some(pid) = queue.pop().filter(|pid| counted.insert(*pid)) {
            let stat = stats.get(&pid)?;
            usage.memory_bytes += stat.resident_pages * page_bytes;
            ticks += stat.cpu_ticks;
            queue.extend(children.get(&pid).into_iter().flatten());
        }
        usage.cpu = Duration::from_millis(ticks * 1000 / ticks_a_second);
        Some(usage)
    };
    mains.iter().filter_map(|main| Some((*main, usage(*main)?))).collect()
}

/// What a process uses by itself.
pub fn usage_alone(pid: u32) -> Option<Usage> {
    let ((page_bytes, ticks_a_second), stat) = (units()?, stat(pid)?);
    let cpu = Duration::from_millis(stat.cpu_ticks * 1000 / ticks_a_second);
    Some(Usage { memory_bytes: stat.resident_pages * page_bytes, cpu })
}

/// The bytes of a page, and how many clock ticks there are in a second.
fn units() -> Option<(u64, u64)> {
    use nix::unistd::{SysconfVar, sysconf};
    let unit = |name| sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
    Some((unit(SysconfVar::PAGE_SIZE)?, unit(SysconfVar::CLK_TCK)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_blanks_is_no_trouble() {
        let text = "42 (a) b (c) S 1 42 40 0 -1 4194560 1 0 0 0 7 5 0 0 20 0 1 0 9000 1 3 18446744073709551615 1 1 0 0 0 0 \
             0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 77 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.session), ('S', 1, 40));
        assert_eq!((stat.cpu_ticks, stat.start_time, stat.resident_pages), (12, 9000, 3));
        assert_eq!(stat.environment_end, 77);
    }

    #[test]
    fn this_process_is_there_and_no_process_0() {
        let me = std::process::id();
        assert!(is_alive(me));
        assert!(inner_pid(me).is_some());
        assert!(stat(me).is_some_and(|stat| stat.environment_end > 0 && !stat.is_being_executed(me)));
        let usages = usages(&[me, 0]);
        assert!(usages.get(&me).is_some_and(|usage| usage.memory_bytes > 0) && usages.len() == 1);
        assert!(!is_alive(0));
        assert!(children(0).is_empty());
    }
}
