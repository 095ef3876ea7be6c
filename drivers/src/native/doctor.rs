//! What hsups that could not clean up after themselves have left on this host: found, and mended.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::cgroup::{Cgroup, Hierarchies, Host};
use super::claims::ClaimsDir;
use super::files;
use super::ledger::RunId;
use super::network::{self, Links, Obstacle, Remains, nft};
use super::network_users::Users;
use super::reconcile;
use super::undo::{Fault, Seen, Undo, Undone};
use crate::finding::{Finding, State, What};

/// Where the places of runs are, below the state dir.
pub(super) const DYNOS: &str = "native/dynos";

/// Looks for what is left, and changes nothing.
pub fn look(state_dir: &Path) -> Vec<Finding> {
    let state_dir = &files::real_name(state_dir);
    let mut findings =
        reconcile::look(state_dir, &ClaimsDir::of_host(), &OfHost { state_dir, hierarchies: None });
    findings.extend(filter(false));
    findings
}

/// What of the host's settings keeps native dynos from the world outside, while an hsup has some. None of it is hsup's
/// to change.
pub fn hints() -> Vec<Obstacle> {
    match Users::alone() {
        Ok(None) => network::obstacles().unwrap_or_default(),
        Ok(Some(nobody)) => {
            drop(nobody.leave());
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// Undoes what is left.
pub fn mend(state_dir: &Path) -> Vec<Finding> {
    let state_dir = &files::real_name(state_dir);
    let mut findings =
        reconcile::mend(state_dir, &ClaimsDir::of_host(), &OfHost { state_dir, hierarchies: None });
    findings.extend(filter(true));
    findings
}

/// The packet filter, where nobody uses it. Only root may look.
fn filter(mend: bool) -> Option<Finding> {
    if !geteuid().is_root() {
        return None;
    }
    let finding = |state| Finding { what: What::Filter, place: "hsup".to_owned(), state };
    let alone = match Users::alone() {
        Ok(alone) => alone?.leave(),
        Err(error) => return Some(finding(State::Kept(format!("cannot tell who uses it: {error}")))),
    };
    match (nft::is_installed(), mend) {
        (Ok(false), _) => None,
        (Ok(true), false) => Some(finding(State::Found)),
        (Ok(true), true) => {
            let removed = nft::Filter::open().and_then(nft::Filter::uninstall);
            drop(alone);
            Some(finding(
                removed.map_or_else(|error| State::Kept(crate::explain(&error)), |()| State::Mended),
            ))
        }
        (Err(error), _) => Some(finding(State::Kept(crate::explain(&error)))),
    }
}

/// Undoes what is left, at the start of an hsup, and logs it. The state dir goes by its real name.
pub(super) fn mend_and_tell(state_dir: &Path, hierarchies: &Hierarchies) {
    let mut mended = 0;
    let host = OfHost { state_dir, hierarchies: Some(hierarchies) };
    for finding in reconcile::mend(state_dir, &ClaimsDir::of_host(), &host) {
        match &finding.state {
            State::Mended => mended += 1,
            State::Found | State::Kept(_) => tracing::error!("{finding}"),
        }
    }
    if mended > 0 {
        tracing::warn!("removed {mended} things that an hsup which was killed had left behind");
    }
}

/// The real things.
struct OfHost<'a> {
    state_dir: &'a Path,
    /// Where it is known already.
    hierarchies: Option<&'a Hierarchies>,
}

impl Undo for OfHost<'_> {
    fn remove_cgroup(&self, cgroup: &Path) -> Undone {
        if !cgroup.exists() {
            return Ok(false);
        }
        let cgroup = Cgroup::open([cgroup.to_owned()]);
        cgroup.kill()?;
        cgroup.remove()?;
        Ok(true)
    }

    fn delete_link(&self, name: &str) -> Undone {
        // Another hsup may have given a dyno of its own the same subnet since: that of one that lives is not meant.
        Ok(Links::open()?.remove_remains(name)? == Remains::Removed)
    }

    fn cgroups(&self) -> Result<Vec<Seen<PathBuf>>, Fault> {
        let detected;
        let hierarchies = match self.hierarchies {
            Some(known) => known,
            None => {
                detected = Hierarchies::detect(&Host::read()?);
                &detected
            }
        };
        // Each limit has a hierarchy of its own, where the host has those.
        let mut bases = hierarchies.bases();
        bases.sort_unstable();
        bases.dedup();
        Ok(bases.into_iter().flat_map(of_runs).collect())
    }

    /// None: a link does not tell whose it is, and goes with the namespace of its dyno.
    fn links(&self) -> Result<Vec<Seen<String>>, Fault> {
        Ok(Vec::new())
    }

    fn dirs(&self) -> Result<Vec<Seen<PathBuf>>, Fault> {
        Ok(of_runs(&self.state_dir.join(DYNOS)))
    }

    /// None: the mounts of dynos are in namespaces of their own.
    fn mounts(&self) -> Result<Vec<Seen<PathBuf>>, Fault> {
        Ok(Vec::new())
    }
}

/// What is in a directory and named after a run.
fn of_runs(dir: &Path) -> Vec<Seen<PathBuf>> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let seen = entries.filter_map(|entry| {
        let run: RunId = entry.file_name().to_str()?.parse().ok()?;
        Some(Seen { name: entry.path(), owner: Some(run.owner().clone()) })
    });
    seen.collect()
}
