//! Cgroups of the real kernel. They need root and a hierarchy that can be written.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::Limits;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The host's hierarchies, removed as far as they are ours when the test ends, however it does.
struct Real(Hierarchies);

impl Drop for Real {
    fn drop(&mut self) {
        self.0.tidy();
    }
}

/// A cgroup that does not outlive the test.
struct Guard<'a> {
    cgroup: Cgroup,
    children: Vec<Child>,
    _hierarchies: &'a Real,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let killed = self.cgroup.kill();
        for child in &mut self.children {
            let _gone = (child.kill(), child.wait());
        }
        let removed = self.cgroup.remove();
        if !std::thread::panicking() {
            killed.unwrap();
            removed.unwrap();
        }
    }
}

impl Real {
    /// What the host has; `None`, said why, where these limits cannot be tested.
    fn new(limits: &str) -> Option<Self> {
        let skip = |why: String| {
            assert!(std::env::var_os("FTEST_REQUIRE").is_none(), "a required test cannot run: {why}");
            eprintln!("skipped: {why}");
        };
        if !nix::unistd::geteuid().is_root() {
            skip("cgroups are root's".into());
            return None;
        }
        let mut hierarchies = Hierarchies::detect(&Host::read().unwrap());
        hierarchies.prepare().unwrap();
        let real = Self(hierarchies);
        match real.0.plan("any", &limits.parse().unwrap()) {
            Ok(paths) if paths.is_empty() => skip("this host has no cgroups that can be written".into()),
            Ok(_) => return Some(real),
            Err(error) => skip(error.to_string()),
        }
        None
    }

    fn name() -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn cgroup(&self, limits: &str) -> Guard<'_> {
        let cgroup = Cgroup::create(&self.0, &Self::name(), &limits.parse().unwrap()).unwrap();
        Guard { cgroup, children: Vec::new(), _hierarchies: self }
    }
}

impl Guard<'_> {
    /// Starts a shell that is in the cgroup before it runs the script.
    fn start(&mut self, script: &str) -> &mut Child {
        let script = format!("read -r _; {script}");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let attached = self.cgroup.attach(child.id());
        let stdin = child.stdin.take();
        self.children.push(child);
        attached.unwrap();
        stdin.unwrap().write_all(b"\n").unwrap();
        self.children.last_mut().unwrap()
    }

    fn wait_for_procs(&self, count: usize) {
        let start = Instant::now();
        while self.cgroup.procs().unwrap().len() < count {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.cgroup.procs());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn file(&self, name: &str) -> Option<String> {
        let mut texts = self.cgroup.paths().filter_map(|dir| fs::read_to_string(dir.join(name)).ok());
        texts.next().map(|text| text.trim().to_owned())
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.cgroup.paths().map(PathBuf::from).collect()
    }
}

const TREE: &str =
    "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18; do sleep 600 & done; setsid sleep 600 & wait";
const TREE_PROCS: usize = 20;

fn gone(paths: &[PathBuf]) -> bool {
    !paths.is_empty() && paths.iter().all(|path| !path.exists())
}

#[test]
fn a_tree_of_processes_is_killed_and_the_cgroup_removed() {
    let Some(real) = Real::new("") else { return };
    let mut guard = real.cgroup("");
    assert_eq!(guard.cgroup.unified_dir().is_some(), guard.cgroup.unified.is_some());
    guard.start(TREE);
    guard.wait_for_procs(TREE_PROCS);
    assert_eq!(guard.cgroup.usage().pids, Some(20));
    guard.cgroup.kill().unwrap();
    guard.cgroup.remove().unwrap();
    assert!(gone(&guard.paths()));
    assert_eq!(guard.children[0].wait().unwrap().signal(), Some(libc::SIGKILL));
    guard.cgroup.kill().unwrap();
    assert!(guard.cgroup.procs().unwrap().is_empty());
}

#[test]
fn a_tree_is_killed_one_by_one_where_the_kernel_cannot_at_once() {
    let Some(real) = Real::new("") else { return };
    let mut guard = real.cgroup("");
    guard.start(TREE);
    guard.wait_for_procs(TREE_PROCS);
    guard.cgroup.kill_each().unwrap();
    assert!(guard.cgroup.procs().unwrap().is_empty());
    guard.cgroup.remove().unwrap();
    assert!(gone(&guard.paths()));
}

/// Forks whenever it can, from all its processes at once.
const BOMB: &str = "exec python3 -c '
import os
while True:
    try: os.fork()
    except OSError: pass'";

#[test]
fn a_fork_bomb_is_stopped_and_killed() {
    let Some(real) = Real::new("pids=40") else { return };
    for by_one in [false, true] {
        let mut guard = real.cgroup("pids=40");
        assert_eq!(guard.file("pids.max").unwrap(), "40");
        guard.start(BOMB);
        guard.wait_for_procs(38);
        let pids = guard.cgroup.usage().pids.unwrap();
        assert!((1..=40).contains(&pids), "{pids}");
        if by_one {
            // Where there is no v2, nothing can be frozen.
            let v1 = Cgroup::open(guard.cgroup.v1.clone());
            v1.kill_each().unwrap();
            assert!(v1.v1.is_empty() || guard.cgroup.procs().unwrap().is_empty());
        }
        guard.cgroup.kill().unwrap();
        guard.cgroup.remove().unwrap();
        assert!(gone(&guard.paths()));
    }
}

#[test]
fn a_limit_of_processes_is_kept() {
    let Some(real) = Real::new("pids=5") else { return };
    let mut guard = real.cgroup("pids=5");
    let status = guard.start("for i in 1 2 3 4 5 6 7 8 9; do sleep 600 & done").wait().unwrap();
    assert!(!status.success());
    assert_eq!(guard.cgroup.procs().unwrap().len(), 4);
}

#[test]
fn a_dyno_out_of_memory_is_killed_and_that_is_told() {
    let Some(real) = Real::new("memory=16MiB,swap=0") else { return };
    let mut guard = real.cgroup("memory=16MiB,swap=0");
    assert_eq!(guard.cgroup.oom_kills(), 0);
    let watch = guard.cgroup.oom_watch().unwrap().unwrap();
    let is_told = |timeout| is_told(&watch, timeout);
    assert!(!is_told(Duration::ZERO));
    let status = guard.start("exec tail /dev/zero").wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    assert!(is_told(PATIENCE));
    assert_eq!(guard.cgroup.oom_kills(), 1);
    assert!(guard.cgroup.memory_events().unwrap().max > 0);
    let usage = guard.cgroup.usage();
    assert!((8 << 20..=16 << 20).contains(&usage.memory_peak_bytes.unwrap()), "{usage:?}");
    // v2 tells of several events, each at most every 10 ms.
    let start = Instant::now();
    while is_told(Duration::from_millis(50)) {
        assert!(start.elapsed() < PATIENCE);
        watch.clear().unwrap();
    }
}

fn is_told(watch: &OomWatch, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(timeout).unwrap()).unwrap() == 1
}

#[test]
fn events_of_v2_make_a_watch_readable_once() {
    let Some(real) = Real::new("") else { return };
    let mut guard = real.cgroup("");
    // What tells of memory there tells in the same way as what tells of processes, which every v2 cgroup has.
    let watch = oom::unified_watch(&guard.paths()[0].join("cgroup.events")).unwrap();
    assert!(!is_told(&watch, Duration::ZERO));
    guard.start("exec sleep 600");
    assert!(is_told(&watch, PATIENCE));
    watch.clear().unwrap();
    assert!(!is_told(&watch, Duration::from_millis(30)));
    guard.cgroup.kill().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let duplicate = crate::sys::watch(watch.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let _told = tokio::time::timeout(PATIENCE, duplicate.readable()).await.unwrap().unwrap();
    });
}

#[test]
fn memory_is_limited_without_a_limit_of_swap() {
    let Some(real) = Real::new("memory=64MiB") else { return };
    let mut guard = real.cgroup("memory=64MiB");
    let limit = guard.file("memory.max").or_else(|| guard.file("memory.limit_in_bytes"));
    assert_eq!(limit.unwrap(), (64 << 20).to_string());
    assert_eq!(guard.cgroup.warnings(), []);
    assert!(guard.start("true").wait().unwrap().success());
    assert_eq!(guard.cgroup.memory_events().unwrap(), MemoryEvents::default());
}

#[test]
fn a_quota_of_cpu_is_set_and_its_use_counted() {
    let Some(real) = Real::new("cpu=0.5") else { return };
    let mut guard = real.cgroup("cpu=0.5");
    let quota = guard.file("cpu.max").or_else(|| {
        Some(format!("{} {}", guard.file("cpu.cfs_quota_us")?, guard.file("cpu.cfs_period_us")?))
    });
    assert_eq!(quota.unwrap(), "50000 100000");
    assert!(guard.start("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done").wait().unwrap().success());
    if guard.cgroup.unified.is_some() {
        assert!(guard.cgroup.usage().cpu.unwrap() > Duration::from_millis(1));
    }
}

#[test]
fn a_weight_of_io_is_set() {
    let Some(real) = Real::new("io=1000") else { return };
    match Cgroup::create(&real.0, &Real::name(), &"io=1000".parse().unwrap()) {
        Ok(cgroup) => {
            let guard = Guard { cgroup, children: Vec::new(), _hierarchies: &real };
            let weight = guard.file("io.weight").map(|text| text == "default 1000");
            let bfq = guard.file("io.bfq.weight").or_else(|| guard.file("blkio.bfq.weight"));
            assert!(weight.unwrap_or_else(|| bfq.unwrap().ends_with("181")));
        }
        // No scheduler of this kernel knows weights.
        Err(error) => assert!(error.to_string().starts_with("limit io cannot be kept: this kernel has no ")),
    }
}

#[test]
fn cgroups_that_a_dyno_made_are_removed_with_its_own() {
    let Some(real) = Real::new("") else { return };
    let mut guard = real.cgroup("");
    let below = guard.paths()[0].join("a/b");
    fs::create_dir_all(&below).unwrap();
    let pid = guard.start("sleep 600 & wait").id();
    guard.wait_for_procs(2);
    fs::write(below.join("cgroup.procs"), pid.to_string()).unwrap();
    assert_eq!(guard.cgroup.procs().unwrap().len(), 2);
    let later = Cgroup::open(guard.paths());
    assert_eq!(later.procs().unwrap(), guard.cgroup.procs().unwrap());
    assert!(later.unified_dir().is_some());
    later.kill().unwrap();
    later.remove().unwrap();
    assert!(gone(&guard.paths()));
}

#[test]
fn a_v1_cgroup_alone_is_removed_when_its_processes_have_ended() {
    let Some(real) = Real::new("pids=64") else { return };
    let mut guard = real.cgroup("pids=64");
    let Some(v1) = guard.cgroup.v1.first().cloned() else {
        eprintln!("skipped: pids is in v2 here");
        return;
    };
    guard.start("sleep 0.2 & exec sleep 0.1");
    guard.wait_for_procs(2);
    Cgroup::open([v1.clone()]).remove().unwrap();
    assert!(!v1.exists());
}

#[test]
fn nothing_is_left_of_a_cgroup_that_cannot_have_its_limits() {
    let Some(real) = Real::new("pids=64") else { return };
    let (name, limits) = (Real::name(), Limits { pids: Some(u32::MAX), ..Limits::default() });
    let paths = real.0.plan(&name, &limits).unwrap();
    let error = Cgroup::create(&real.0, &name, &limits).unwrap_err().to_string();
    assert!(error.starts_with("failed to write 4294967295 to /"), "{error}");
    assert!(gone(&paths));
}

#[test]
fn a_name_that_is_taken_is_refused_and_left_alone() {
    let Some(real) = Real::new("") else { return };
    let guard = real.cgroup("");
    let path = guard.paths()[0].clone();
    let name = path.file_name().unwrap().to_str().unwrap();
    let error = Cgroup::create(&real.0, name, &Limits::default()).unwrap_err();
    assert!(matches!(error, CgroupError::Exists(at) if at == path));
    assert!(path.exists());
}

#[test]
fn all_dynos_may_have_gone_while_one_is_made() {
    let Some(real) = Real::new("pids=64") else { return };
    real.0.tidy();
    let guard = real.cgroup("pids=64");
    assert!(guard.paths().iter().all(|path| path.exists()));
}

#[test]
fn hsup_stays_where_it_is_when_the_kernel_is_warmed() {
    let Some(real) = Real::new("pids=64") else { return };
    let before = fs::read_to_string("/proc/self/cgroup").unwrap();
    real.0.warm(&"pids=64".parse().unwrap());
    assert_eq!(fs::read_to_string("/proc/self/cgroup").unwrap(), before);
}

#[test]
fn processes_are_moved_out_of_the_way() {
    let Some(real) = Real::new("") else { return };
    let mut guard = real.cgroup("");
    guard.start(TREE);
    guard.wait_for_procs(TREE_PROCS);
    let dir = guard.paths()[0].clone();
    prepare::move_processes(&dir, &dir.join("hsup")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("cgroup.procs")).unwrap(), "");
    assert_eq!(dirs::procs(&dir.join("hsup")).unwrap().len(), TREE_PROCS);
}
