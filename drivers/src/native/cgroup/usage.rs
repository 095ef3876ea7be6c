//! What a cgroup uses.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Cgroup;
use super::dirs::{keyed, numbers};

/// What a cgroup uses, each `None` where nobody counts it for this dyno.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory, page cache included.
    pub memory_bytes: Option<u64>,
    /// The most memory that it ever used at a time.
    pub memory_peak_bytes: Option<u64>,
    /// CPU time since it was made.
    pub cpu: Option<Duration>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Cgroup {
    /// What it uses. In v1 memory is counted only for a dyno that has a limit of it; CPU time and processes are
    /// counted for every dyno where there is a v2 hierarchy, whatever controllers that has.
    pub fn usage(&self) -> Usage {
        let number = |file: &str| self.paths().find_map(|dir| read(dir, file)?.trim().parse().ok());
        let micros = self
            .unified
            .iter()
            .find_map(|dir| keyed(&read(dir, "cpu.stat")?, "usage_usec"))
            .map(Duration::from_micros);
        let nanos = || number("cpuacct.usage").map(Duration::from_nanos);
        let threads = || {
            let threads = numbers(self.unified.as_deref()?, "cgroup.threads").ok()?;
            u64::try_from(threads.len()).ok()
        };
        Usage {
            memory_bytes: number("memory.current").or_else(|| number("memory.usage_in_bytes")),
            memory_peak_bytes: number("memory.peak").or_else(|| number("memory.max_usage_in_bytes")),
            cpu: micros.or_else(nanos),
            pids: number("pids.current").or_else(threads),
        }
    }
}

pub(super) fn read(dir: &Path, file: &str) -> Option<String> {
    fs::read_to_string(dir.join(file)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let unified = tempfile::tempdir().unwrap();
        let v1 = tempfile::tempdir().unwrap();
        let write = |dir: &Path, file: &str, text: &str| fs::write(dir.join(file), text).unwrap();
        write(unified.path(), "cgroup.events", "populated 1\nfrozen 0\n");
        let cgroup = Cgroup::open([unified.path().to_owned(), v1.path().to_owned()]);
        assert_eq!(cgroup.usage(), Usage { pids: Some(0), ..Usage::default() });
        write(unified.path(), "cgroup.threads", "12\n13\n");
        write(unified.path(), "cpu.stat", "usage_usec 1500\nuser_usec 900\n");
        let hybrid = Usage { cpu: Some(Duration::from_micros(1500)), pids: Some(2), ..Usage::default() };
        assert_eq!(cgroup.usage(), hybrid);
        write(v1.path(), "memory.usage_in_bytes", "4096\n");
        write(v1.path(), "memory.max_usage_in_bytes", "8192\n");
        write(v1.path(), "pids.current", "3\n");
        let limited =
            Usage { memory_bytes: Some(4096), memory_peak_bytes: Some(8192), pids: Some(3), ..hybrid };
        assert_eq!(cgroup.usage(), limited);
        write(unified.path(), "memory.current", "1\n");
        write(unified.path(), "memory.peak", "2\n");
        let v2 = Usage { memory_bytes: Some(1), memory_peak_bytes: Some(2), ..limited };
        assert_eq!(cgroup.usage(), v2);
        assert_eq!(Cgroup::open([]).usage(), Usage::default());
    }
}
