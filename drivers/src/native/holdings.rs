//! What a run of a dyno holds of the host, from the moment it is claimed until it is given back.

use std::path::PathBuf;
use std::sync::Arc;

use super::cgroup::Cgroup;
use super::claims::ClaimedIdentity;
use super::ledger::Entry;
use super::remove_tree::remove_below;

/// All of it. What goes with the processes (namespaces, mounts, the dyno's end of its network, and with that the
/// host's) is not among it.
pub(super) struct Holdings {
    pub(super) dyno: String,
    pub(super) state_dir: PathBuf,
    pub(super) entry: Entry,
    pub(super) identity: ClaimedIdentity,
    pub(super) cgroup: Option<Arc<Cgroup>>,
    pub(super) dirs: Vec<PathBuf>,
}

impl Holdings {
    /// What removes the files that nobody uses once the dyno's processes are gone. Whatever it cannot remove is left to
    /// [`Holdings::give_back`].
    pub(super) fn file_removal(&self) -> impl FnOnce() + Send + use<> {
        let (state_dir, dirs) = (self.state_dir.clone(), self.dirs.clone());
        move || {
            for dir in dirs {
                let _tried_again = remove_below(&state_dir, &dir);
            }
        }
    }

    /// Gives everything back: last the record that says what there is. What cannot be given back stays in the record,
    /// and the next start of hsup tries again.
    pub(super) fn give_back(self) {
        let Self { dyno, state_dir, entry, identity, cgroup, dirs } = self;
        let mut results = Vec::new();
        if let Some(cgroup) = cgroup {
            results.push(("remove the cgroup", cgroup.remove().map_err(|error| crate::explain(&error))));
        }
        for dir in dirs {
            let removed = remove_below(&state_dir, &dir).map(drop);
            results.push(("remove a directory", removed.map_err(|error| error.to_string())));
        }
        // The record before what it names is anybody else's.
        if results.iter().all(|(_, result)| result.is_ok()) {
            results.push(("close the record", entry.close().map_err(|error| crate::explain(&error))));
            results.push(("give back the user", identity.release().map_err(|error| crate::explain(&error))));
        } else {
            identity.keep();
        }
        for (what, error) in results.into_iter().filter_map(|(what, result)| Some((what, result.err()?))) {
            tracing::error!("failed to {what} of {dyno}: {error}; `hsup doctor --fix` tries again");
        }
    }
}
