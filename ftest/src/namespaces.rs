//! A network and a mount namespace for a test, so that nothing of the host's own is ever changed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Says when it is ready, and lives until its input ends, which it does at the latest with the test. What hsups that are
/// killed leave in /run/hsup goes with it.
const HOLD: &str =
    "mkdir -p /run/hsup && mount -t tmpfs run /run/hsup && ip link set lo up && echo ready && read -r end";

/// A network and a mount namespace, held by a process. They go with it and with the last process in them.
#[derive(Debug)]
pub struct Namespaces {
    holder: Child,
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _gone = self.holder.kill();
        let _reaped = self.holder.wait();
    }
}

impl Default for Namespaces {
    fn default() -> Self {
        Self::new()
    }
}

impl Namespaces {
    /// New ones: a network of which there is loopback only, and the host's mounts.
    ///
    /// # Panics
    /// If they cannot be made, which takes root.
    pub fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c", HOLD])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is unshare");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it can be read");
        assert_eq!(line, "ready\n", "a network of its own takes root, and ip of iproute2");
        Self { holder }
    }

    /// The pid of the holder.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A file of the holder below `/proc`.
    pub fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.holder.id()).into()
    }

    /// What enters the namespaces and executes what follows, in a directory.
    pub fn enter(&self, dir: &std::path::Path) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["nsenter".into()];
        for (flag, file) in [("--net=", "ns/net"), ("--mount=", "ns/mnt")] {
            let mut word = OsString::from(flag);
            word.push(self.proc(file));
            words.push(word);
        }
        words.extend(["env".into(), "-C".into(), dir.into()]);
        words
    }

    /// Runs a shell script there and gives what it prints.
    ///
    /// # Panics
    /// If it fails.
    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell script there.
    ///
    /// # Panics
    /// If there is no shell.
    pub fn try_sh(&self, script: &str) -> Output {
        let words = self.enter("/".as_ref());
        let (program, args) = words.split_first().expect("there is nsenter");
        let output = Command::new(program).args(args).args(["sh", "-ec", script]).output();
        output.expect("there is nsenter")
    }

    /// Runs something in a thread of this network: what it opens stays there.
    ///
    /// # Panics
    /// If the network cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let network = self.network();
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter_network(&network);
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The network.
    pub(crate) fn network(&self) -> File {
        File::open(self.proc("ns/net")).expect("the holder lives")
    }
}

/// Moves this thread, and no other, to a network.
pub(crate) fn enter_network(network: &File) {
    setns(network, CloneFlags::CLONE_NEWNET).expect("the tests are root's");
}
