//! Who owns something of this host: a process, named so that a later hsup can tell whether it is still there.
//!
//! Here an owner is named, read and looked at. What it owns, and what becomes of that once it is dead, is its
//! users' business.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::process;

/// How much of a boot id is kept: 48 random bits tell the boots of one host apart.
const BOOT_DIGITS: usize = 12;

/// What pids mean something in: this boot of the host, and this pid namespace. A container that shares a state
/// dir with its host shares the boot and not the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first digits of the boot id; empty where it cannot be read.
    pub boot: String,
    /// The inode of the pid namespace; 0 where it cannot be read.
    pub pid_namespace: u64,
}

impl Place {
    /// Where this process is: looked at once, since a process stays there.
    pub fn here() -> Self {
        static HERE: OnceLock<Place> = OnceLock::new();
        HERE.get_or_init(Self::look).clone()
    }

    fn look() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.chars().filter(char::is_ascii_hexdigit).take(BOOT_DIGITS).collect();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let digits: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        Self { boot, pid_namespace: digits.parse().unwrap_or(0) }
    }
}

/// `<boot id>-<pid namespace>`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.boot, self.pid_namespace)
    }
}

/// A process, named for good: no other one ever has the same name.
///
/// As text, in JSON too: `<boot id>-<pid namespace>-<pid>-<start time>`, which may be part of a file's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner {
    /// The first digits of the boot id; empty where it could not be read.
    pub boot: String,
    /// The inode of its pid namespace; 0 where it could not be read.
    pub pid_namespace: u64,
    /// Its pid, in that namespace.
    pub pid: u32,
    /// When it was started, in clock ticks since boot; 0 where that could not be read.
    pub start_time: u64,
}

/// Whether an owner is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It runs.
    Alive,
    /// It has ended, or the host was booted anew.
    Dead,
    /// Nothing can be said from here: it is of another pid namespace, or /proc tells too little. What it owns is
    /// to be left alone, unless its state dir tells more: see [`crate::running`].
    Unknown,
}

impl Owner {
    /// This process: looked at once, and again where a fork has made it another one.
    pub fn me() -> Self {
        static ME: OnceLock<Owner> = OnceLock::new();
        let pid = std::process::id();
        let me = ME.get_or_init(|| Self::of(pid));
        if me.pid == pid { me.clone() } else { Self::of(pid) }
    }

    /// A process of this place. What /proc does not tell stays empty, and others then know nothing of the owner.
    pub fn of(pid: u32) -> Self {
        let Place { boot, pid_namespace } = Place::here();
        let start_time = process::stat(pid).map_or(0, |stat| stat.start_time);
        Self { boot, pid_namespace, pid, start_time }
    }

    /// Whether it is still there. `Dead` is for good.
    pub fn state(&self) -> OwnerState {
        self.state_from(&Place::here())
    }

    /// As [`Owner::state`], for those who look at many and know where they are.
    pub fn state_from(&self, here: &Place) -> OwnerState {
        if here.boot.is_empty() || self.boot.is_empty() {
            return OwnerState::Unknown;
        }
        if self.boot != here.boot {
            return OwnerState::Dead;
        }
        if self.pid_namespace != here.pid_namespace || here.pid_namespace == 0 || self.start_time == 0 {
            return OwnerState::Unknown;
        }
        if !is_there(self.pid) {
            return OwnerState::Dead;
        }
        match process::stat(self.pid) {
            Some(stat) if stat.start_time == self.start_time && stat.is_alive(self.pid) => OwnerState::Alive,
            Some(_) => OwnerState::Dead,
            // It has ended meanwhile, or there is no descriptor left to read with: that is no proof of death.
            None if is_there(self.pid) => OwnerState::Unknown,
            None => OwnerState::Dead,
        }
    }
}

/// Whether the kernel knows such a process, asked without a descriptor.
fn is_there(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0);
    pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH))
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { boot, pid_namespace, pid, start_time } = self;
        write!(f, "{boot}-{pid_namespace}-{pid}-{start_time}")
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.to_string()
    }
}

/// A text names no owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no owner is named by {text:?}: need <boot id>-<pid namespace>-<pid>-<start time>")]
pub struct ParseOwnerError {
    text: String,
}

impl FromStr for Owner {
    type Err = ParseOwnerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseOwnerError { text: text.to_owned() })
    }
}

impl TryFrom<String> for Owner {
    type Error = ParseOwnerError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

fn parse(text: &str) -> Option<Owner> {
    let mut parts = text.split('-');
    let boot = parts.next().filter(|boot| boot.chars().all(|digit| digit.is_ascii_hexdigit()))?;
    let pid_namespace = parts.next()?.parse().ok()?;
    let (pid, start_time) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then(|| Owner { boot: boot.to_owned(), pid_namespace, pid, start_time })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_text_names_the_same_owner_again_and_nothing_else_does() {
        let me = Owner::me();
        assert_eq!(me.to_string().parse(), Ok(me.clone()));
        assert_eq!(serde_json::from_str::<Owner>(&serde_json::to_string(&me).unwrap()).unwrap(), me);
        for text in ["", "a", "a-1-2", "a-1-2-3-4", "g-1-2-3", "a-1-2-", "a-1--2-3", "a-1-2-x", "../a-1-2-3"]
        {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }

    #[test]
    fn this_process_is_alive_and_one_that_has_been_reaped_is_not() {
        assert_eq!(Owner::me().state(), OwnerState::Alive);
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let owner = Owner::of(child.id());
        assert_eq!(owner.state(), OwnerState::Alive);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(owner.state(), OwnerState::Dead);
    }

    #[test]
    fn a_reused_pid_and_another_boot_are_dead_and_another_namespace_is_unknown() {
        let me = Owner::me();
        let reused = Owner { start_time: me.start_time + 1, ..me.clone() };
        let booted = Owner { boot: "0123456789ab".to_owned(), ..me.clone() };
        let contained = Owner { pid_namespace: me.pid_namespace + 1, ..me.clone() };
        assert_eq!(reused.state(), OwnerState::Dead);
        assert_eq!(booted.state(), OwnerState::Dead);
        assert_eq!(contained.state(), OwnerState::Unknown);
        for pid in [0, u32::MAX] {
            assert_eq!(Owner { pid, ..me.clone() }.state(), OwnerState::Dead);
        }
    }

    #[test]
    fn where_proc_tells_too_little_nobody_is_dead() {
        let me = Owner::me();
        let nowhere = Place { boot: String::new(), pid_namespace: 0 };
        assert_eq!(me.state_from(&nowhere), OwnerState::Unknown);
        let nameless = Owner { start_time: 0, ..me };
        assert_eq!(nameless.state(), OwnerState::Unknown);
    }
}
