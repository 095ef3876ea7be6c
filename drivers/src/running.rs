//! Whether the owner of something in a state dir lives, told even of one in another pid namespace, whose pid means
//! nothing here: by the lock that its hsup holds on its entry in the ledger.
//!
//! The lock is of the open file that guardian, hsup proper and all that these fork share, until the last of them has
//! ended or executed another program: a dyno does not hold it, the inits of dynos do. Nothing is locked here for longer
//! than a look takes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::owner::{Owner, OwnerState, Place};

/// Why something is kept of whose owner nothing is known.
pub(crate) const UNKNOWN: &str = "whether its hsup lives cannot be told from this pid namespace";

/// The hsups of a state dir, as seen from here.
#[derive(Clone, Debug)]
pub struct Running {
    dir: PathBuf,
    /// Where this process is.
    pub here: Place,
}

impl Running {
    /// Those of this state dir.
    pub fn of(state_dir: &Path) -> Self {
        Self { dir: dir(state_dir), here: Place::here() }
    }

    /// Whether an owner of something in the state dir is still there. Each hsup enters the ledger before it owns
    /// anything, so that one which has no entry has ended.
    pub fn state_of(&self, owner: &Owner) -> OwnerState {
        let state = owner.state_from(&self.here);
        if state != OwnerState::Unknown || owner.boot != self.here.boot || owner.boot.is_empty() {
            return state;
        }
        self.state_by_lock(owner).unwrap_or(OwnerState::Unknown)
    }

    fn state_by_lock(&self, owner: &Owner) -> io::Result<OwnerState> {
        let mut all_told = true;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Some(guardian) = entry.file_name().to_str().and_then(|name| name.parse::<Owner>().ok())
            else {
                continue;
            };
            if (&guardian.boot, guardian.pid_namespace) != (&owner.boot, owner.pid_namespace) {
                continue;
            }
            match owners(&entry.path()) {
                Some(owners) if owners.contains(owner) => return state_of_lock(&entry.path()),
                Some(_) => {}
                None => all_told = false,
            }
        }
        Ok(if all_told { OwnerState::Dead } else { OwnerState::Unknown })
    }
}

/// Where the entries are.
pub(crate) fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("running")
}

/// The processes that an entry names: that which was started and, where that is a guardian, its hsup proper. None where the entry is
/// being written, or of an hsup that did not lock it.
pub(crate) fn owners(entry: &Path) -> Option<Vec<Owner>> {
    let text = fs::read_to_string(entry).ok()?;
    let owners = text.strip_suffix('\n')?.split('\n').map(|line| line.parse().ok());
    owners.collect()
}

/// Any number may look at once: they do not take one another for the owner.
fn state_of_lock(entry: &Path) -> io::Result<OwnerState> {
    let file = match File::open(entry) {
        Ok(file) => file,
        // Its hsup has just ended, or somebody has cleaned up after it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(OwnerState::Dead),
        Err(error) => return Err(error),
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_free) => Ok(OwnerState::Dead),
        Err((_, Errno::EWOULDBLOCK)) => Ok(OwnerState::Alive),
        Err((_, error)) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_another_pid_namespace_lives_who_holds_its_entry_and_who_has_none_has_ended() {
        let state = tempfile::tempdir().unwrap();
        let me = Owner::me();
        let guardian = Owner { pid_namespace: me.pid_namespace + 1, ..me.clone() };
        let proper = Owner { pid: guardian.pid + 1, ..guardian.clone() };
        let elsewhere = Owner { pid_namespace: me.pid_namespace + 2, ..me.clone() };
        let running = Running::of(state.path());
        let state_of = |owner: &Owner| running.state_of(owner);
        assert_eq!(state_of(&proper), OwnerState::Unknown, "there is no ledger");

        let dir = dir(state.path());
        fs::create_dir(&dir).unwrap();
        assert_eq!(state_of(&proper), OwnerState::Dead);
        let entry = dir.join(guardian.to_string());
        for unclear in ["", "123 456", &format!("{guardian}\n{proper}")] {
            fs::write(&entry, unclear).unwrap();
            assert_eq!(state_of(&guardian), OwnerState::Unknown, "{unclear}");
            assert_eq!(state_of(&proper), OwnerState::Unknown, "{unclear}");
            assert_eq!(state_of(&elsewhere), OwnerState::Dead, "{unclear}");
        }

        fs::write(&entry, format!("{guardian}\n{proper}\n")).unwrap();
        let held = Flock::lock(File::open(&entry).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!([&guardian, &proper].map(state_of), [OwnerState::Alive; 2]);
        assert_eq!(state_of(&Owner { pid: 1, ..proper.clone() }), OwnerState::Dead);
        drop(held);
        assert_eq!([&guardian, &proper].map(state_of), [OwnerState::Dead; 2]);
        assert_eq!(state_of(&me), OwnerState::Alive, "/proc tells of whoever is here");
    }
}
