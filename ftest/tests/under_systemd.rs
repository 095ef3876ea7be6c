//! hsup under a real systemd, which is PID 1 of namespaces and a cgroup of its own: with the units that are installed,
//! and no others of the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hsup_ftest::{Driver, Room, eventually, hsup_binary, is_about, missing, procs};
use nix::unistd::geteuid;

/// Becomes systemd in a root that has the host's programs, and nothing else of the host: `$1` is that root, `$2` the
/// binary, `$3` the units, `$4` the control dir.
const BECOME_SYSTEMD: &str = r#"
set -e
root=$1 hsup=$2 units=$3 control=$4
mount --make-rprivate /
mount -t tmpfs ftest "$root"
cd "$root"
mkdir -p usr etc/systemd/system etc/hsup srv/shop run tmp var/lib var/log proc sys dev root old
for name in bin sbin lib lib64; do ln -s usr/$name $name; done
mount --bind /usr usr
mount -o remount,bind,ro usr
touch usr.hsup && mount --bind "$hsup" usr.hsup
mount --bind "$control" srv/shop
cp "$units"/* etc/systemd/system/
echo root:x:0:0::/root:/bin/sh > etc/passwd
echo root:x:0: > etc/group
echo 0123456789abcdef0123456789abcdef > etc/machine-id
echo HSUP_CONTROL_DIR=/srv/shop > etc/hsup/shop.env
echo HSUP_STOP_TIMEOUT=30 > etc/hsup/bad.env
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs run run
mount -t tmpfs dev dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mount -t tmpfs cgroup sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
pivot_root . old
umount -l /old
exec env -i container=other SYSTEMD_UNIT_PATH=/etc/systemd/system PATH=/usr/sbin:/usr/bin \
    /lib/systemd/systemd --log-target=console --show-status=no
"#;

/// A system with a systemd of its own.
struct System {
    child: Child,
    cgroup: PathBuf,
    pid: u32,
}

impl Drop for System {
    fn drop(&mut self) {
        // with PID 1 of a namespace everything in it ends
        procs::signal(self.pid, nix::sys::signal::Signal::SIGKILL);
        let _reaped = self.child.wait();
        let _removed = Command::new("find")
            .arg(&self.cgroup)
            .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
            .status();
    }
}

impl System {
    /// Boots it; `None` where this host cannot.
    fn boot(room: &Room) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("there is /proc");
        let cgroups = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let cgroups = cgroups.filter(|fields| fields.get(2) == Some(&"cgroup2"));
        let Some(top) = cgroups.filter_map(|fields| fields.get(1).map(PathBuf::from)).next() else {
            missing("a cgroup v2 hierarchy");
            return None;
        };
        if !geteuid().is_root()
            || !Path::new("/lib/systemd/systemd").exists()
            || !Path::new("/lib").is_symlink()
        {
            missing("root, or systemd (apt-get install systemd), or a merged /usr");
            return None;
        }
        let cgroup = top.join(room.mark());
        fs::create_dir(&cgroup).expect("root can make cgroups");
        let (root, units) = (room.path("root"), room.path("units"));
        fs::create_dir(&root).expect("a directory can be made");
        install_units(&units);
        let script = "echo $$ > \"$0/cgroup.procs\" && exec unshare --pid --mount --uts --ipc --net --cgroup --fork \
                      --kill-child bash -c \"$@\"";
        let log = fs::File::create(room.path("systemd.log")).expect("a file can be made");
        let mut command = Command::new("bash");
        command.args(["-c", script]).arg(&cgroup).args([BECOME_SYSTEMD, "bash"]);
        command.arg(&root).arg(hsup_binary()).arg(&units).arg(room.control_dir());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("it can be")).stderr(log);
        let child = command.spawn().expect("there is bash");
        let mut system = Self { child, cgroup, pid: 0 };
        let log = || fs::read_to_string(room.path("systemd.log")).unwrap_or_default();
        system.pid = eventually("there is a systemd", log, || {
            let pid = procs::children(system.child.id()).into_iter().next()?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            (name.trim() == "systemd").then_some(pid)
        });
        eventually("systemd has booted", log, || {
            (system.run(&["systemctl", "is-system-running"]).1.trim() == "running").then_some(())
        });
        Some(system)
    }

    /// Runs a command in the system: whether it succeeds, and what it prints.
    fn run(&self, words: &[&str]) -> (bool, String) {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "--all", "--"]).args(words);
        let output = command.output().expect("there is nsenter");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    fn ok(&self, words: &[&str]) -> String {
        let (ok, said) = self.run(words);
        assert!(ok, "{words:?}: {said}\n{}", self.journal(&["-b"]));
        said
    }

    fn property(&self, unit: &str, name: &str) -> String {
        self.ok(&["systemctl", "show", "-P", name, unit]).trim().to_owned()
    }

    fn wait_property(&self, unit: &str, name: &str, value: &str) {
        let context = || format!("it is {:?}\n{}", self.property(unit, name), self.journal(&["-b"]));
        let look = || (self.property(unit, name) == value).then_some(());
        eventually(&format!("{name} of {unit} is {value:?}"), context, look);
    }

    fn journal(&self, args: &[&str]) -> String {
        self.run(&[&["journalctl", "--no-pager"], args].concat()).1
    }
}

/// hsup's units as they are in the sources, with the binary of this test and a watchdog that is soon out of patience; the
/// journal's; and targets with nothing in them.
fn install_units(dir: &Path) {
    fs::create_dir(dir).expect("a directory can be made");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("they are above").join("systemd");
    for unit in ["hsup@.service", "hsup@.socket"] {
        let text = fs::read_to_string(sources.join(unit)).expect("it is there");
        let text = text.replace("/usr/bin/hsup", "/usr.hsup").replace("WatchdogSec=30s", "WatchdogSec=2s");
        let text = text.replace("RestartSec=2s", "RestartSec=100ms");
        fs::write(dir.join(unit), text).expect("it can be written");
    }
    for unit in ["systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket"] {
        fs::copy(Path::new("/lib/systemd/system").join(unit), dir.join(unit)).expect("systemd has it");
    }
    for target in ["sysinit", "basic", "shutdown", "network-online"] {
        let text = "[Unit]\nDefaultDependencies=no\n";
        fs::write(dir.join(format!("{target}.target")), text).expect("it can be written");
    }
    let text = "[Unit]\nRequires=systemd-journald.service\nAfter=systemd-journald.service\n";
    fs::write(dir.join("default.target"), text).expect("it can be written");
}

#[test]
fn units_do_what_they_say() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let Some(system) = System::boot(&room) else { return };
    let unit = "hsup@shop.service";
    room.release(&room.app().process("worker", "echo hello; exec sleep 600", 2));
    system.ok(&["systemctl", "start", unit]);
    assert_eq!(system.property(unit, "ActiveState"), "active");
    system.wait_property(unit, "StatusText", "release v1 of app: 2 dynos up");
    let ps = system.ok(&["/usr.hsup", "ps", "-a", "shop"]);
    assert!(ps.contains("worker.2"), "{ps}");

    // the journal has priorities, and no time within a line
    let journal = || system.journal(&["-u", unit, "-o", "cat", "-p", "info"]);
    let up =
        || journal().lines().any(|line| line == "worker.1: State changed from starting to up").then_some(());
    eventually("the journal has it", journal, up);
    assert_eq!(system.journal(&["-u", unit, "-o", "cat", "-p", "warning"]), "");

    room.release(&room.app().process("worker", "echo hello; exec sleep 600", 3));
    system.ok(&["systemctl", "reload", unit]);
    assert_eq!(system.property(unit, "ActiveState"), "active");
    system.wait_property(unit, "StatusText", "release v1 of app: 3 dynos up");
    let beats = system.property(unit, "WatchdogTimestampMonotonic");
    let beaten = || (system.property(unit, "WatchdogTimestampMonotonic") != beats).then_some(());
    eventually("the watchdog is fed", journal, beaten);

    // a hung hsup is started anew, and takes its dynos with it
    let main = system.property(unit, "MainPID");
    let before = procs::marked(room.mark());
    system.ok(&["sh", "-c", &format!("kill -STOP $(cat /proc/{main}/task/*/children)")]);
    system.wait_property(unit, "NRestarts", "1");
    system.wait_property(unit, "StatusText", "release v1 of app: 3 dynos up");
    assert!(before.iter().all(|pid| !procs::alive(*pid)), "{before:?}");

    system.ok(&["systemctl", "stop", unit]);
    assert_eq!(system.property(unit, "Result"), "success");
    // what makes the system has the name of its cgroup, which is the mark, in its arguments
    let makes = [system.child.id(), system.pid];
    let left: Vec<u32> = procs::marked(room.mark()).into_iter().filter(|pid| !makes.contains(pid)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn wrong_settings_are_not_tried_again() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let Some(system) = System::boot(&room) else { return };
    let unit = "hsup@bad.service";
    assert!(!system.run(&["systemctl", "start", unit]).0);
    assert_eq!(system.property(unit, "ActiveState"), "failed");
    assert_eq!(
        (system.property(unit, "ExecMainStatus"), system.property(unit, "NRestarts")),
        ("64".into(), "0".into())
    );
    let said = || system.journal(&["-u", unit, "-o", "cat", "-p", "err"]);
    let look = || said().contains("HSUP_STOP_TIMEOUT: \"30\" has no unit").then_some(());
    eventually("the journal has the error", said, look);
}

#[test]
fn the_control_socket_may_be_the_managers() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let Some(system) = System::boot(&room) else { return };
    room.release(&room.app().process("worker", "exec sleep 600", 1));
    system.ok(&["systemctl", "start", "hsup@shop.socket"]);
    assert_eq!(system.property("hsup@shop.service", "ActiveState"), "inactive");
    // whoever asks for it has it started, and waits
    system.ok(&["/usr.hsup", "ps", "-a", "shop"]);
    system.wait_property("hsup@shop.service", "StatusText", "release v1 of app: 1 dyno up");
    system.ok(&["systemctl", "restart", "hsup@shop.service"]);
    system.ok(&["test", "-S", "/run/hsup/shop.sock"]);
    system.wait_property("hsup@shop.service", "StatusText", "release v1 of app: 1 dyno up");
}
