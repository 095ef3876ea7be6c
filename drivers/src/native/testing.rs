//! What the tests of the books share: other processes, which run this test binary anew, to compete with and to be
//! killed; and an [`Undo`] that undoes nothing.

use std::collections::HashSet;
use std::env;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::native::claims::{ClaimError, Claims, ClaimsDir, Kind};
use crate::native::ledger::{Init, Ledger, Record, RunId};
use crate::native::network::Block;
use crate::native::reconcile::mend;
use crate::native::undo::{Fault, Seen, Undo, Undone, kill_init};
use crate::owner::Owner;

const ROLE: &str = "HSUP_TEST_ROLE";
const STATE_DIR: &str = "HSUP_TEST_STATE_DIR";

/// How many threads of a helper compete.
const THREADS: usize = 4;

/// Another process. It does what its role is when it is told to go, says what came of it, and stays until it is
/// killed or let go.
pub(super) struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    pub(super) fn start(role: &str, state_dir: &Path) -> Self {
        Self::spawn(Command::new(env::current_exe().unwrap()), role, state_dir)
    }

    /// One with a mount namespace of its own.
    pub(super) fn start_with_own_mounts(role: &str, state_dir: &Path) -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private"]).arg(env::current_exe().unwrap());
        Self::spawn(unshare, role, state_dir)
    }

    fn spawn(mut command: Command, role: &str, state_dir: &Path) -> Self {
        let mut child = command
            .args(["--exact", "native::testing::helper", "--nocapture"])
            .envs([(ROLE, role.as_ref()), (STATE_DIR, state_dir.as_os_str())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut helper = Self { child, input, output };
        assert_eq!(helper.hear(), "ready");
        helper
    }

    pub(super) fn go(&mut self) {
        writeln!(self.input.as_mut().unwrap(), "go").unwrap();
    }

    /// What it says next.
    pub(super) fn hear(&mut self) -> String {
        loop {
            let line = self.output.next().expect("the helper has ended").unwrap();
            if let Some(said) = line.strip_prefix('@') {
                return said.to_owned();
            }
        }
    }

    /// The numbers that it says next.
    pub(super) fn hear_numbers(&mut self) -> Vec<u32> {
        self.hear().split_ascii_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    pub(super) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(super) fn let_go(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }
}

fn say(text: &str) {
    let mut output = io::stdout().lock();
    // libtest has begun a line.
    write!(output, "\n@{text}\n").and_then(|()| output.flush()).unwrap();
}

fn wait() {
    io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn helper() {
    let (Ok(role), Some(state_dir)) = (env::var(ROLE), env::var_os(STATE_DIR)) else { return };
    let state_dir = PathBuf::from(state_dir);
    let (name, argument) = role.split_once(' ').unwrap_or((&role, ""));
    match name {
        "claim" => claim(&state_dir, argument.parse().unwrap()),
        "run" => run(&state_dir, argument),
        "unmount" => unmount(&state_dir, Path::new(argument)),
        "mend" => mend_along(&state_dir, Path::new(argument)),
        _ => panic!("no such role: {role}"),
    }
}

/// Claims as many UIDs as it gets of so many, by several threads.
fn claim(state_dir: &Path, count: u32) {
    say("ready");
    wait();
    let claims = open(state_dir);
    let got = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    match claims.claim(Kind::Uid, 0..count) {
                        Ok(claim) => got.lock().unwrap().push(claim),
                        Err(ClaimError::Exhausted { .. }) => return,
                        Err(error @ ClaimError::Io { .. }) => panic!("{error:?}"),
                    }
                }
            });
        }
    });
    let got = got.into_inner().unwrap();
    let numbers: Vec<String> = got.iter().map(|claim| claim.number().to_string()).collect();
    say(&numbers.join(" "));
    wait();
}

/// Runs a dyno whose init is a sleep.
#[expect(clippy::zombie_processes, reason = "it is to outlive this process")]
fn run(state_dir: &Path, dyno: &str) {
    say("ready");
    wait();
    let claims = open(state_dir);
    let ledger = Ledger::open(state_dir).unwrap();
    let claimed = claims.claim_identity(3000..=3003, &block(8)).unwrap();
    let identity = claimed.identity();
    let mut record = record(&ledger.new_run(dyno));
    let subnet = identity.subnet.network().to_bits();
    (record.uid, record.subnet) = (identity.uid, subnet);
    record.dirs = vec![state_dir.join("native/dynos").join(record.run.as_str())];
    let mut entry = ledger.enter(record).unwrap();
    std::fs::create_dir_all(&entry.record().dirs[0]).unwrap();
    let sleep = sleep();
    entry.update(|record| record.init = Init::of(sleep.id())).unwrap();
    say(&format!("{} {} {}", identity.uid, subnet, sleep.id()));
    wait();
}

/// Has a directory of a run removed in which things of another directory are mounted.
fn unmount(state_dir: &Path, outside: &Path) {
    let dir = state_dir.join("native/dynos/web.1");
    for point in ["a", "b/c"].map(|point| dir.join(point)) {
        std::fs::create_dir_all(&point).unwrap();
        let none: Option<&str> = None;
        nix::mount::mount(Some(outside), &point, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
    }
    say("ready");
    let refused = crate::native::remove_tree::remove_below(state_dir, &dir);
    say(&format!("{:?}", refused.map_err(|error| error.kind())));
    let real = Real;
    let outside = real.remove_dir(state_dir, outside);
    say(&format!("{:?}", outside.map_err(drop)));
    say(&format!(
        "{:?} {}",
        real.remove_dir(state_dir, &dir).map_err(|error| error.to_string()),
        dir.exists()
    ));
}

/// A process that holds nothing that whoever reads the output of the tests would wait for.
pub(super) fn sleep() -> Child {
    let mut command = Command::new("sleep");
    command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Mends, and logs each thing that it undoes.
fn mend_along(state_dir: &Path, log: &Path) {
    say("ready");
    wait();
    let fake = Fake { log: Some(log.to_owned()), ..Fake::default() };
    for finding in mend(state_dir, &ClaimsDir::of_test(state_dir), &fake) {
        assert!(!finding.to_string().contains("kept"), "{finding}");
    }
    say("done");
    wait();
}

/// The claims of a test, which are in its state dir.
pub(super) fn open(state_dir: &Path) -> Claims {
    Claims::open(ClaimsDir::of_test(state_dir), state_dir).unwrap()
}

/// The file of a claim of a test.
pub(super) fn claim_path(state_dir: &Path, kind: Kind, number: u32) -> PathBuf {
    ClaimsDir::of_test(state_dir).path(kind, number)
}

/// Has a claim be there as another hsup with this state dir would have made it.
pub(super) fn plant(state_dir: &Path, kind: Kind, number: u32, text: &str) {
    let path = claim_path(state_dir, kind, number);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// What is in the claim of an owner with this state dir.
pub(super) fn claim_text(owner: &Owner, state_dir: &Path) -> String {
    format!("{owner}\n{}\n", state_dir.canonicalize().unwrap().display())
}

/// A block of that many subnets, of which the last one is 10.0.0.60/30.
pub(super) fn block(count: u8) -> Block {
    format!("10.0.0.{}/26", 64 - 4 * count).parse().unwrap()
}

/// A record that names a link and a cgroup after its run.
pub(super) fn record(run: &RunId) -> Record {
    Record {
        run: run.clone(),
        owner: run.owner().clone(),
        dyno: "web.1".to_owned(),
        uid: 3000,
        subnet: 0,
        link: Some(format!("link-{run}")),
        cgroups: vec![PathBuf::from(format!("/cgroup/{run}"))],
        dirs: Vec::new(),
        init: None,
        release: Some("v1".to_owned()),
    }
}

/// This process, had it been started at another time: dead.
pub(super) fn dead() -> Owner {
    let me = Owner::me();
    Owner { start_time: me.start_time + 1, ..me }
}

/// One of a container of this host: of it nothing can be known.
pub(super) fn foreign() -> Owner {
    let me = Owner::me();
    Owner { pid_namespace: me.pid_namespace + 1, ..me }
}

/// Notes what it is asked to undo; only inits are really killed, and directories really removed.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) calls: Mutex<Vec<String>>,
    /// The calls that fail.
    pub(super) failing: HashSet<String>,
    pub(super) cgroups: Vec<Seen<PathBuf>>,
    pub(super) links: Vec<Seen<String>>,
    pub(super) dirs: Vec<Seen<PathBuf>>,
    pub(super) mounts: Vec<Seen<PathBuf>>,
    pub(super) log: Option<PathBuf>,
    /// What happens meanwhile, when the first mount is unmounted.
    pub(super) on_unmount: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Fake {
    fn call(&self, what: &str, place: impl std::fmt::Display) -> Undone {
        let call = format!("{what} {place}");
        if let Some(log) = &self.log {
            let mut log = OpenOptions::new().append(true).create(true).open(log)?;
            log.write_all(format!("{call}\n").as_bytes())?;
        }
        let fails = self.failing.contains(&call);
        self.calls.lock().unwrap().push(call);
        if fails { Err("it is stuck".into()) } else { Ok(true) }
    }

    pub(super) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

impl Undo for Fake {
    fn kill_init(&self, init: Init) -> Undone {
        self.call("kill", init.pid)?;
        kill_init(init)
    }

    fn remove_cgroup(&self, cgroup: &Path) -> Undone {
        self.call("cgroup", cgroup.display())
    }

    fn delete_link(&self, name: &str) -> Undone {
        self.call("link", name)
    }

    fn unmount(&self, point: &Path) -> Undone {
        if let Some(happen) = self.on_unmount.lock().unwrap().take() {
            happen();
        }
        self.call("unmount", point.display())
    }

    fn remove_dir(&self, state_dir: &Path, dir: &Path) -> Undone {
        self.call("dir", dir.display())?;
        Ok(crate::native::remove_tree::remove_below(state_dir, dir)?)
    }

    fn cgroups(&self) -> Result<Vec<Seen<PathBuf>>, Fault> {
        Ok(self.cgroups.clone())
    }

    fn links(&self) -> Result<Vec<Seen<String>>, Fault> {
        Ok(self.links.clone())
    }

    fn dirs(&self) -> Result<Vec<Seen<PathBuf>>, Fault> {
        Ok(self.dirs.clone())
    }

    fn mounts(&self) -> Result<Vec<Seen<PathBuf>>, Fault> {
        Ok(self.mounts.clone())
    }
}

/// Undoes as is done where nothing else is said, and lists nothing.
struct Real;

impl Undo for Real {
    fn remove_cgroup(&self, _cgroup: &Path) -> Undone {
        Ok(false)
    }

    fn delete_link(&self, _name: &str) -> Undone {
        Ok(false)
    }

    fn cgroups(&self) -> Result<Vec<Seen<PathBuf>>, Fault> {
        Ok(Vec::new())
    }

    fn links(&self) -> Result<Vec<Seen<String>>, Fault> {
        Ok(Vec::new())
    }

    fn dirs(&self) -> Result<Vec<Seen<PathBuf>>, Fault> {
        Ok(Vec::new())
    }

    fn mounts(&self) -> Result<Vec<Seen<PathBuf>>, Fault> {
        Ok(Vec::new())
    }
}
