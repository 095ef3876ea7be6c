//! What a run of a dyno holds of the host, from the moment it is claimed until it is given back.

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::cgroup::Cgroup;
use super::claims::ClaimedIdentity;
use super::ledger::Entry;
use super::remove_tree::remove_below;

/// All of it. What goes with the processes (namespaces, the dyno's end of its network, and with that the host's) is not
/// among it, and of mounts those of a one-off dyno only.
pub(super) struct Holdings {
    pub(super) dyno: String,
    pub(super) state_dir: PathBuf,
    pub(super) entry: Entry,
    pub(super) identity: ClaimedIdentity,
    pub(super) cgroup: Option<Arc<Cgroup>>,
    pub(super) dirs: Vec<PathBuf>,
    /// The mount namespace of a one-off dyno, so that it does not go with init, whose end is waited for.
    pub(super) mounts: Option<OwnedFd>,
}

/// What could not be given back at once, since that takes descriptors and there was none: a matter of moments. It is
/// tried again with whatever is given back next, and at the end.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Vec<Holdings>>);

impl Waiting {
    /// Gives everything back: last the record that says what there is. What cannot be given back stays in the record,
    /// and the next start of hsup tries again.
    pub(super) fn give_back(&self, holdings: Holdings) {
        let before = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let wait =
            before.into_iter().chain([holdings]).filter_map(|holdings| holdings.try_give_back(Try::Again));
        let wait: Vec<Holdings> = wait.collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(wait);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        for holdings in self.0.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _none_waits = holdings.try_give_back(Try::Last);
        }
    }
}

/// Whether another attempt will follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Try {
    Again,
    Last,
}

impl Holdings {
    /// Removes the files, which nobody uses once the dyno's processes are gone. Whatever it cannot remove is left to
    /// [`Waiting::give_back`].
    pub(super) fn remove_files(&mut self) {
        self.dirs.retain(|dir| remove_below(&self.state_dir, dir).is_err());
    }

    /// Lets go of the mounts, which has the kernel take them down, beside what is still to be done. The end of hsup waits
    /// for it, as that of any process waits for its threads.
    pub(super) fn let_mounts_go(&mut self) {
        let mounts = self.mounts.take();
        // Where there can be no thread it has been done by now.
        let _beside = mounts.map(|mounts| thread::Builder::new().spawn(move || drop(mounts)));
    }

    /// Gives it all back, or nothing of the books if there is no descriptor left for the rest.
    fn try_give_back(self, attempt: Try) -> Option<Self> {
        let mut faults: Vec<(&str, Box<dyn Error>)> = Vec::new();
        if let Some(Err(error)) = self.cgroup.as_ref().map(|cgroup| cgroup.remove()) {
            faults.push(("remove the cgroup", error.into()));
        }
        for dir in &self.dirs {
            if let Err(error) = remove_below(&self.state_dir, dir) {
                faults.push(("remove a directory", error.into()));
            }
        }
        if attempt == Try::Again && faults.iter().any(|(_, error)| is_want_of_descriptors(error.as_ref())) {
            return Some(self);
        }
        let Self { dyno, entry, identity, .. } = self;
        // The record before what it names is anybody else's.
        if faults.is_empty() {
            faults.extend(entry.close().err().map(|error| ("close the record", error.into())));
            faults.extend(identity.release().err().map(|error| ("give back the user", error.into())));
        } else {
            identity.keep();
        }
        for (what, error) in faults {
            let error = crate::explain(error.as_ref());
            tracing::error!("failed to {what} of {dyno}: {error}; `hsup doctor --fix` tries again");
        }
        None
    }
}

/// Whether an error comes of too many open files, in hsup or on the host.
fn is_want_of_descriptors(error: &(dyn Error + 'static)) -> bool {
    let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    matches!(number, Some(libc::EMFILE | libc::ENFILE)) || error.source().is_some_and(is_want_of_descriptors)
}
