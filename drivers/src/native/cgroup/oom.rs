//! What memory limits do to a dyno: how often it ran into them, what the kernel killed for them, and word of both.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::controller::write;
use super::dirs::keyed;
use super::usage::read;
use super::{Cgroup, CgroupError};

/// The v2 file that counts, and that tells of changes.
const EVENTS: &str = "memory.events";
/// The v1 file that counts, and that tells of running out of memory.
const OOM_CONTROL: &str = "memory.oom_control";
/// More than the kernel writes there.
const EVENTS_LENGTH: usize = 512;

/// What has happened to the memory of a cgroup since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// How often its processes were throttled for `memory.high`, which hsup does not set; 0 in v1.
    pub high: u64,
    /// How often it was about to go over its limit, and something had to be reclaimed. Page cache counts: a dyno
    /// that reads files larger than its limit comes here without being short of memory.
    pub max: u64,
    /// How many processes were killed for being over its limit, or while the whole host was out of memory.
    pub oom_kills: u64,
}

/// Word of what happens to a cgroup's memory: its descriptor, or a duplicate of that, is readable when something
/// has. What has is told by [`Cgroup::memory_events`].
///
/// In v2 every event counts. In v1 only running out of memory does, and the word comes *before* the kernel has
/// killed anybody; it also comes when the cgroup is removed.
#[derive(Debug)]
pub struct OomWatch(Source);

#[derive(Debug)]
enum Source {
    /// The events file, and the epoll that makes its exceptional condition a plain readable one.
    Unified {
        events: File,
        epoll: Epoll,
    },
    V1(EventFd),
}

impl Cgroup {
    /// What has happened to its memory; `None` where that is not counted for this dyno.
    pub fn memory_events(&self) -> Option<MemoryEvents> {
        self.paths().find_map(memory_events)
    }

    /// How many of its processes were killed for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        self.memory_events().map_or(0, |events| events.oom_kills)
    }

    /// Watches its memory; `None` where that is not counted for this dyno.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn oom_watch(&self) -> Result<Option<OomWatch>, CgroupError> {
        for dir in self.paths() {
            if dir.join(EVENTS).exists() {
                return unified_watch(&dir.join(EVENTS)).map(Some);
            }
            if dir.join(OOM_CONTROL).exists() {
                return v1_watch(dir).map(Some);
            }
        }
        Ok(None)
    }
}

fn memory_events(dir: &Path) -> Option<MemoryEvents> {
    if let Some(text) = read(dir, EVENTS) {
        let count = |key| keyed(&text, key).unwrap_or(0);
        return Some(MemoryEvents { high: count("high"), max: count("max"), oom_kills: count("oom_kill") });
    }
    let text = read(dir, OOM_CONTROL)?;
    let number = |file: &str| read(dir, file)?.trim().parse::<u64>().ok();
    // Memory alone, and memory with swap: only the one that was in the way counts.
    let counted = ["memory.failcnt", "memory.memsw.failcnt"].into_iter().filter_map(number).sum();
    // Kernels from 6.15 on do not count the latter. That the limit was reached shows all the same.
    let limit = number("memory.limit_in_bytes");
    let reached = limit.is_some() && number("memory.max_usage_in_bytes") >= limit;
    let oom_kills = keyed(&text, "oom_kill").unwrap_or(0);
    Some(MemoryEvents { high: 0, max: u64::max(counted, reached.into()), oom_kills })
}

pub(super) fn unified_watch(path: &Path) -> Result<OomWatch, CgroupError> {
    let events = File::open(path).map_err(CgroupError::io("open", path))?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).and_then(|epoll| {
        epoll.add(&events, EpollEvent::new(EpollFlags::EPOLLPRI, 0))?;
        Ok(epoll)
    });
    let epoll = epoll.map_err(|errno| CgroupError::io("watch", path)(errno.into()))?;
    let watch = OomWatch(Source::Unified { events, epoll });
    // What was before is no news.
    watch.clear().map_err(CgroupError::io("read", path))?;
    Ok(watch)
}

fn v1_watch(dir: &Path) -> Result<OomWatch, CgroupError> {
    let path = dir.join(OOM_CONTROL);
    let control = File::open(&path).map_err(CgroupError::io("open", &path))?;
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let event = EventFd::from_flags(flags).map_err(|errno| CgroupError::io("watch", &path)(errno.into()))?;
    let pair = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    write(&dir.join("cgroup.event_control"), &pair)?;
    Ok(OomWatch(Source::V1(event)))
}

impl OomWatch {
    /// Takes note: the descriptor is not readable again before something else happens.
    ///
    /// # Errors
    /// If the cgroup is gone.
    pub fn clear(&self) -> io::Result<()> {
        match &self.0 {
            Source::Unified { events, .. } => events.read_at(&mut [0; EVENTS_LENGTH], 0).map(drop),
            Source::V1(event) => match event.read() {
                Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Source::Unified { epoll, .. } => epoll.0.as_fd(),
            Source::V1(event) => event.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn golden() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        let events = || Cgroup::open([dir.path().to_owned()]).memory_events();
        assert_eq!(events(), None);
        write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        assert_eq!(events(), Some(MemoryEvents { high: 0, max: 0, oom_kills: 2 }));
        write("memory.limit_in_bytes", "4096\n");
        write("memory.max_usage_in_bytes", "4096\n");
        assert_eq!(events(), Some(MemoryEvents { high: 0, max: 1, oom_kills: 2 }));
        write("memory.failcnt", "3\n");
        write("memory.memsw.failcnt", "4\n");
        assert_eq!(events(), Some(MemoryEvents { high: 0, max: 7, oom_kills: 2 }));
        write("memory.events", "low 0\nhigh 5\nmax 6\noom 7\noom_kill 8\noom_group_kill 1\n");
        assert_eq!(events(), Some(MemoryEvents { high: 5, max: 6, oom_kills: 8 }));
    }
}
