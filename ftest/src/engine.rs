//! A Docker Engine of the tests' own: Debian's, in a network and a mount namespace of its own, with its data in a
//! directory of its own. Nothing of the host's network is changed, and nothing is left when it is dropped.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::binary::stack;
use crate::namespaces::Namespaces;
use crate::procs;
use crate::runtime;
use crate::wait::eventually;

/// What the tests' stack is called in an engine.
pub const STACK_IMAGE: &str = "heroku/heroku:24";

/// How long what is killed may take to be gone.
const DYING: Duration = Duration::from_secs(5);

/// A Docker Engine.
#[derive(Debug)]
pub struct Engine {
    namespaces: Namespaces,
    data: TempDir,
    /// For sockets, whose paths must be short.
    run: TempDir,
    cgroup: String,
    daemon: Option<Child>,
    more: Vec<String>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill(Signal::SIGTERM);
        // What the engine keeps in memory file systems and layers is mounted in its namespace only.
        let _with_the_namespace = self.namespaces.try_sh(&format!(
            "grep -o ' {}[^ ]*' /proc/self/mounts | tac | xargs -r umount -l",
            self.data.path().display()
        ));
        let below = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let own = below.map(|hierarchy| hierarchy.path().join(&self.cgroup));
        for cgroup in own.chain([Path::new("/sys/fs/cgroup").join(&self.cgroup)]) {
            remove_cgroup(&cgroup);
        }
    }
}

/// Removes a cgroup with those below it. What still runs there is a container that its engine has lost.
fn remove_cgroup(dir: &Path) {
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    for child in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&child.path());
    }
    let pids = || fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids().lines().filter_map(|pid| pid.parse().ok()).for_each(|pid| procs::signal(pid, Signal::SIGKILL));
    let deadline = Instant::now() + DYING;
    while !pids().is_empty() && Instant::now() < deadline {
        thread::yield_now();
    }
    let _is_not_there = fs::remove_dir(dir);
}

impl Engine {
    /// A running engine that has the tests' stack.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with more options.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_with(more: &[&str]) -> Self {
        let below = programs().parent().expect("it has one").join("engine-data");
        fs::create_dir_all(&below).expect("a directory can be made");
        let named = |prefix| {
            let mut builder = tempfile::Builder::new();
            builder.prefix(prefix);
            builder
        };
        let data = named("e-").tempdir_in(below).expect("a directory can be made");
        let run = named("ftest-e-").tempdir().expect("a directory can be made");
        let name = run.path().file_name().expect("it has a name").to_string_lossy().into_owned();
        let more = more.iter().map(|&option| option.to_owned()).collect();
        let mut engine = Self { namespaces: Namespaces::new(), data, run, cgroup: name, daemon: None, more };
        engine.up();
        engine.docker(&["import", &engine.stack_archive().display().to_string(), STACK_IMAGE]);
        let _no_longer_needed = fs::remove_file(engine.stack_archive());
        engine
    }

    /// The stack as an archive, made anew: it is packed within a second.
    fn stack_archive(&self) -> PathBuf {
        let path = self.data.path().join("stack.tar");
        if !path.exists() {
            let tar = Command::new("tar").arg("-C").arg(stack()).arg("-cf").arg(&path).arg(".").status();
            assert!(tar.is_ok_and(|status| status.success()), "tar cannot pack the stack");
        }
        path
    }

    /// Starts the daemon and waits for it to answer.
    ///
    /// # Panics
    /// If it does not.
    pub fn up(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.log()).expect("a file can be made");
        let mut words = self.namespaces.enter("/".as_ref());
        let path = format!("PATH={}", search_path());
        let options = [
            path,
            "dockerd".to_owned(),
            format!("--data-root={}", self.data.path().display()),
            format!("--exec-root={}", self.run.path().join("x").display()),
            format!("--pidfile={}", self.run.path().join("pid").display()),
            format!("--host={}", self.host()),
            format!("--cgroup-parent={}", self.cgroup),
            // Ports are published by a proxy: the kernel's packet filter is left alone.
            "--iptables=false".to_owned(),
            "--ip-forward=false".to_owned(),
        ];
        let runtime = runtime::write(self.run.path()).map(|path| {
            [format!("--add-runtime=bounded={}", path.display()), "--default-runtime=bounded".to_owned()]
        });
        words.extend(options.iter().chain(runtime.iter().flatten()).chain(&self.more).map(OsString::from));
        let (program, args) = words.split_first().expect("there is nsenter");
        let output = log.try_clone().expect("a file can be shared");
        let mut daemon = Command::new(program);
        daemon.args(args).env_clear().stdin(Stdio::null()).stdout(output).stderr(log);
        let mut child = Some(daemon.spawn().expect("there is nsenter"));
        let answers = || {
            let daemon = child.as_mut().expect("it is there until it is dropped");
            let ended = daemon.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "the Docker Engine does not start:\n{}", self.said());
            self.try_docker(&["version"]).then_some(())
        };
        eventually("the Docker Engine answers", || self.said(), answers);
        self.daemon = child;
    }

    /// Ends the daemon by a signal, be it frozen or not, and waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn kill(&mut self, signal: Signal) {
        let Some(mut daemon) = self.daemon.take() else { return };
        procs::signal(daemon.id(), signal);
        procs::signal(daemon.id(), Signal::SIGCONT);
        daemon.wait().expect("a child can be waited for");
        // containerd is the daemon's child, and ends with it or is killed here
        for pid in procs::marked(&self.run.path().join("x").display().to_string()) {
            procs::signal(pid, Signal::SIGKILL);
        }
        let _is_there_or_not = fs::remove_file(self.run.path().join("pid"));
        let _is_there_or_not = fs::remove_file(self.run.path().join("x/containerd/containerd.pid"));
    }

    /// Has the daemon say nothing any more, like one whose host has lost its network. Its connections stay.
    pub fn freeze(&self) {
        self.daemon.iter().for_each(|daemon| procs::signal(daemon.id(), Signal::SIGSTOP));
    }

    /// What `DOCKER_HOST` is to be.
    pub fn host(&self) -> String {
        format!("unix://{}", self.run.path().join("s").display())
    }

    /// Its namespaces.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    fn log(&self) -> PathBuf {
        self.run.path().join("log")
    }

    fn said(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Runs the `docker` command with this engine and gives what it prints.
    ///
    /// # Panics
    /// If it fails.
    pub fn docker(&self, args: &[&str]) -> String {
        docker(&self.host(), args)
    }

    fn try_docker(&self, args: &[&str]) -> bool {
        command(&self.host(), args).output().is_ok_and(|output| output.status.success())
    }
}

/// Runs the `docker` command with the engine that `DOCKER_HOST` of the tests names, and gives what it prints.
///
/// # Panics
/// If it fails.
pub fn docker(host: &str, args: &[&str]) -> String {
    let output = command(host, args).output().expect("there is docker");
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn command(host: &str, args: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(args).env("PATH", search_path()).env("DOCKER_HOST", host);
    command
}

/// The engine that all tests of a run share: what `DOCKER_HOST` names.
///
/// # Panics
/// If there is none.
pub fn shared_engine() -> String {
    std::env::var("DOCKER_HOST")
        .expect("the tests of the docker driver need an engine: use `make ftest-docker`")
}

/// Where the programs of Debian's packages are: `make engine` unpacks them beside the tests' stack, so that no daemon
/// is ever installed on the host, to be started there.
fn programs() -> PathBuf {
    stack().parent().and_then(Path::parent).expect("target/stack/bookworm").join("engine")
}

/// A program of the engine's packages.
pub fn program(name: &str) -> PathBuf {
    let dirs = ["usr/bin", "usr/sbin"].map(|dir| programs().join(dir).join(name));
    let found = dirs.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("there is no {name} in {}: run `make engine`", programs().display()))
}

fn search_path() -> String {
    let own = programs();
    format!(
        "{}:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        own.join("usr/bin").display(),
        own.join("usr/sbin").display()
    )
}
