//! A runtime for an engine whose root is not all-powerful, as in some virtual machines: Debian's engine gives a
//! privileged container every capability that the kernel knows, and fails where it does not have one itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The capabilities in the order of their numbers (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// runc, with those capabilities taken out of what a container is to have.
const WRAPPER: &str = r#"#!/usr/bin/env python3
import json, os, sys
lacking = set("@LACKING@".split())
args = sys.argv[1:]
if "--bundle" in args:
    path = os.path.join(args[args.index("--bundle") + 1], "config.json")
    with open(path) as file:
        config = json.load(file)
    sets = config["process"].get("capabilities") or {}
    for name, held in sets.items():
        sets[name] = [one for one in held if one not in lacking]
    with open(path, "w") as file:
        json.dump(config, file)
os.execvp("runc", ["runc"] + args)
"#;

/// Writes the runtime into a directory, if this host needs it.
///
/// # Panics
/// If it cannot be written.
pub(crate) fn write(dir: &Path) -> Option<PathBuf> {
    let status = fs::read_to_string("/proc/self/status").expect("there is a /proc");
    let bounding =
        status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("it has a bounding set");
    let bounding = u64::from_str_radix(bounding.trim(), 16).expect("it is a number");
    let lacking: Vec<String> = (0..)
        .zip(NAMES)
        .filter(|(n, _)| bounding & (1 << n) == 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect();
    if lacking.is_empty() {
        return None;
    }
    let path = dir.join("runc");
    fs::write(&path, WRAPPER.replace("@LACKING@", &lacking.join(" "))).expect("a file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    Some(path)
}
