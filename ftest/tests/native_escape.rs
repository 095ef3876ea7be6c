//! What a native dyno tries in vain: to change the host, to look at it, or to become somebody else.

use hsup_ftest::{Driver, Room, is_about, slug};

/// Tries everything and says what it could do. Each attempt is a line; what was refused has the name of the error.
const PROBE: &str = r#"
import ctypes, errno, os, platform, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)

def said(name, result):
    print(name, result, flush=True)

def call(name, function, *args):
    ctypes.set_errno(0)
    result = function(*args)
    said(name, "CAN" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), "?"))

def attempt(name, work):
    try:
        work()
        said(name, "CAN")
    except OSError as error:
        said(name, errno.errorcode.get(error.errno, "?"))

def read(path):
    with open(path, "rb") as file:
        if not file.read(1):
            raise OSError(errno.ENODATA, "it is empty")

def write(path, text):
    with open(path, "w") as file:
        file.write(text)

NEWNS, NEWUSER, NEWNET, NEWPID = 0x20000, 0x10000000, 0x40000000, 0x20000000
host = int(sys.argv[1])
call("mount", libc.mount, b"none", b"/tmp", b"tmpfs", 0, None)
call("remount", libc.mount, b"none", b"/", None, 32 | 4096, None)
call("umount", libc.umount2, b"/proc", 2)
call("pivot_root", libc.syscall, {"x86_64": 155, "aarch64": 41}[platform.machine()], b".", b".")
attempt("chroot", lambda: os.chroot("/tmp"))
attempt("mknod", lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(254, 0)))
for name, flag in [("user", NEWUSER), ("mount", NEWNS), ("network", NEWNET), ("pid", NEWPID)]:
    call("unshare the " + name + " namespace", libc.unshare, flag)
call("clone a user namespace", libc.syscall, {"x86_64": 56, "aarch64": 220}[platform.machine()], NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
call("ptrace init", libc.ptrace, 16, 1, 0, 0)
call("ptrace a process of the host", libc.ptrace, 16, host, 0, 0)
attempt("kill a process of the host", lambda: os.kill(host, 0) if host > 99 else None)
attempt("kill init", lambda: os.kill(1, signal.SIGKILL))
numbers = {
    "x86_64": {"init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "reboot": 169, "swapon": 167,
               "bpf": 321, "perf_event_open": 298, "add_key": 248, "keyctl": 250, "open_by_handle_at": 304, "userfaultfd": 323,
               "setns": 308, "acct": 163, "syslog": 103, "quotactl": 179, "move_mount": 429, "fsopen": 430, "open_tree": 428,
               "mount_setattr": 442, "io_uring_setup": 425},
    "aarch64": {"init_module": 105, "finit_module": 273, "delete_module": 106, "kexec_load": 104, "reboot": 142, "swapon": 224,
                "bpf": 280, "perf_event_open": 241, "add_key": 217, "keyctl": 219, "open_by_handle_at": 265, "userfaultfd": 282,
                "setns": 268, "acct": 89, "syslog": 116, "quotactl": 60, "move_mount": 429, "fsopen": 430, "open_tree": 428,
                "mount_setattr": 442, "io_uring_setup": 425},
}[platform.machine()]
arguments = {"syslog": (3, 0, 0), "io_uring_setup": (1, b"\0" * 120), "keyctl": (0, -3, 1)}
for name, number in numbers.items():
    call(name, libc.syscall, number, *arguments.get(name, (0, 0, 0, 0, 0)))
attempt("set the host name", lambda: socket.sethostname("other"))
call("set the time", libc.settimeofday, (ctypes.c_long * 2)(0, 0), None)
attempt("setuid", lambda: os.setuid(0))
attempt("setgroups", lambda: os.setgroups([0]))
attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
attempt("the root of init", lambda: os.listdir("/proc/1/root"))
attempt("the environment of init", lambda: read("/proc/1/environ"))
attempt("the memory of init", lambda: read("/proc/1/mem"))
for path in ["/proc/kcore", "/proc/keys", "/dev/mem", "/dev/kmsg", "/proc/kmsg", "/sys/kernel/debug/tracing", "/etc/shadow"]:
    attempt("read " + path, lambda: read(path))
for path in ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/sys/vm/overcommit_memory",
             "/sys/power/state", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/cgroup.procs", "/proc/self/oom_score_adj"]:
    attempt("write " + path, lambda: write(path, "-1000" if "oom" in path else "0"))
attempt("an AF_PACKET socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("an AF_ALG socket", lambda: socket.socket(38, socket.SOCK_SEQPACKET))
attempt("an AF_VSOCK socket", lambda: socket.socket(40, socket.SOCK_STREAM))
"#;

#[test]
fn nothing_that_could_change_or_show_the_host_is_possible() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let slug = slug::pack(room.dir(), "probe.tgz", &[("probe.py", PROBE)]);
    room.release(&room.app().slug(&slug.display().to_string()));
    let host = std::process::id().to_string();
    let ended = room.hsup(["run", "python3", "probe.py"]).arg(&host).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    println!("{}", ended.stdout);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(lines.len() > 60, "{ended:?}");
    let can: Vec<&&str> = lines.iter().filter(|line| line.ends_with(" CAN")).collect();
    assert!(can.is_empty(), "a dyno can: {can:#?}");
}

#[test]
fn a_setuid_program_gives_nothing() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let line = "test -u /usr/bin/su && test -u /bin/mount && echo they are there; \
                cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id; /tmp/id -u; \
                unshare -Ur id -u 2>/dev/null || echo no; mount -t tmpfs none /mnt 2>/dev/null || echo no; \
                su -c id 2>/dev/null </dev/null || echo no";
    let ended = room.hsup(["run", line]).end();
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[0], "they are there", "{ended:?}");
    assert_ne!(lines[1], "0", "{ended:?}");
    assert_eq!(lines[2..], ["no", "no", "no"], "{ended:?}");
}
