//! Reconciles the host with the ledger: finds what dead hsups have left behind, and undoes it.
//!
//! What is alive, or of which nothing can be known, is left alone. Any number of hsups may do this at once, each
//! at its start, while others start and stop dynos:
//! - A run is undone by one of them, which holds the lock of its record. The record goes when all that it names is
//!   undone, and only then its claims, so that nobody is given a number, and makes a link named after it, while
//!   somebody still removes the old one.
//! - What has a name of ours is listed before the records are read, and records are written before what they
//!   name is made: what no record names then has none. That is looked at once more, and removed, under a lock
//!   that keeps new records from being written.
//!
//! How each thing is undone is the business of [`Undo`].

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, hash_map};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use crate::finding::{Finding, State, What};
use crate::native::claims::{self, Claimant, ClaimsDir, Kind};
use crate::native::files;
use crate::native::ledger::{self, Reading, Record, RunId};
use crate::native::remove_tree::check_below;
use crate::native::scan::Standing;
use crate::native::undo::{Fault, Seen, Undo, Undone};
use crate::owner::{Owner, OwnerState};
use crate::running::{self, Running};

/// Looks for what dead hsups have left behind in a state dir, of which this is the real name, and changes nothing.
pub fn look(state_dir: &Path, claims: &ClaimsDir, undo: &dyn Undo) -> Vec<Finding> {
    Reconciler::new(state_dir, claims, undo, false).reconcile()
}

/// Undoes what dead hsups have left behind in a state dir, of which this is the real name. Nothing that cannot be undone
/// keeps the rest from it: it stays in the ledger, and is tried again the next time.
pub fn mend(state_dir: &Path, claims: &ClaimsDir, undo: &dyn Undo) -> Vec<Finding> {
    Reconciler::new(state_dir, claims, undo, true).reconcile()
}

/// What a record names and somebody may have left without one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Resource {
    Cgroup(PathBuf),
    Link(String),
    Mount(PathBuf),
    Dir(PathBuf),
}

impl Resource {
    fn describe(&self) -> (What, String) {
        match self {
            Self::Cgroup(path) => (What::Cgroup, path.display().to_string()),
            Self::Link(name) => (What::Link, name.clone()),
            Self::Mount(path) => (What::Mount, path.display().to_string()),
            Self::Dir(path) => (What::Dir, path.display().to_string()),
        }
    }
}

struct Reconciler<'a> {
    state_dir: &'a Path,
    undo: &'a dyn Undo,
    mends: bool,
    running: Running,
    runs: PathBuf,
    claims: &'a ClaimsDir,
    findings: Vec<Finding>,
    left: Left,
    looked_at: RefCell<HashMap<Owner, OwnerState>>,
}

/// What is left of dead hsups whose claims therefore stay.
#[derive(Default)]
struct Left {
    /// The runs whose numbers are known.
    runs: HashSet<RunId>,
    /// The numbers of runs that are not undone, or have been handed over.
    numbers: HashSet<(Kind, u32)>,
    /// The numbers of runs that are: they have been told of already.
    undone: HashSet<(Kind, u32)>,
}

/// What a claim is, to those who release it.
enum Abandoned {
    /// Its owner is dead, and its runs are known; without an owner where a crash of the host has left none.
    By(Option<Claimant>),
    No,
}

fn numbers(record: &Record) -> [(Kind, u32); 2] {
    [(Kind::Uid, record.uid), (Kind::Subnet, record.subnet)]
}

impl<'a> Reconciler<'a> {
    fn new(state_dir: &'a Path, claims: &'a ClaimsDir, undo: &'a dyn Undo, mends: bool) -> Self {
        let (runs, running) = (files::runs_dir(state_dir), Running::of(state_dir));
        let (findings, left, looked_at) = (Vec::new(), Left::default(), RefCell::default());
        Self { state_dir, undo, mends, running, runs, claims, findings, left, looked_at }
    }

    fn reconcile(mut self) -> Vec<Finding> {
        let seen = self.list_seen();
        self.reconcile_runs();
        self.reconcile_strays(seen);
        for kind in Kind::ALL {
            self.reconcile_claims(kind);
        }
        self.tidy_sources();
        self.findings
    }

    fn find(&mut self, what: What, place: impl fmt::Display, state: State) {
        self.findings.push(Finding { what, place: place.to_string(), state });
    }

    fn keep(&mut self, what: What, place: impl fmt::Display, why: &(dyn std::error::Error + 'static)) {
        self.find(what, place, State::Kept(explain(why)));
    }

    fn keep_ledger(&mut self, why: &io::Error) {
        self.keep(What::Record, self.runs.display().to_string(), why);
    }

    /// Reports how undoing something went; whether it is undone.
    fn report(&mut self, (what, place): (What, String), undone: Undone) -> bool {
        match undone {
            Ok(true) => self.find(what, place, State::Mended),
            Ok(false) => {}
            Err(fault) => {
                self.keep(what, place, &*fault);
                return false;
            }
        }
        true
    }

    /// Each owner is looked at once: who dies meanwhile is left to the next one who reconciles.
    fn state_of(&self, owner: &Owner) -> OwnerState {
        let mut looked_at = self.looked_at.borrow_mut();
        *looked_at.entry(owner.clone()).or_insert_with(|| self.running.state_of(owner))
    }

    fn is_dead(&self, owner: &Owner) -> bool {
        self.state_of(owner) == OwnerState::Dead
    }

    /// What has a name of ours and an owner that is dead or not known.
    fn list_seen(&mut self) -> Vec<Resource> {
        let mut seen = Vec::new();
        let listed = self.undo.cgroups();
        self.add_seen(&mut seen, What::Cgroup, listed, Resource::Cgroup);
        let listed = self.undo.links();
        self.add_seen(&mut seen, What::Link, listed, Resource::Link);
        let listed = self.undo.mounts();
        self.add_seen(&mut seen, What::Mount, listed, Resource::Mount);
        let listed = self.undo.dirs();
        self.add_seen(&mut seen, What::Dir, listed, Resource::Dir);
        seen
    }

    fn add_seen<T>(
        &mut self,
        seen: &mut Vec<Resource>,
        what: What,
        listed: Result<Vec<Seen<T>>, Fault>,
        resource: impl Fn(T) -> Resource,
    ) {
        match listed {
            Ok(listed) => {
                // What is not in the state dir may be of an hsup with another one, whose ledger tells of it.
                let is_dead = |owner: &Owner| {
                    self.is_dead(owner) && (what == What::Dir || owner.state() == OwnerState::Dead)
                };
                let abandoned = |seen: &Seen<T>| seen.owner.as_ref().is_none_or(is_dead);
                seen.extend(listed.into_iter().filter(abandoned).map(|seen| resource(seen.name)));
            }
            Err(fault) => self.keep(what, "that no run has", &*fault),
        }
    }

    fn reconcile_runs(&mut self) {
        let listed = match ledger::list(&self.runs) {
            Ok(listed) => listed,
            Err(error) => return self.keep_ledger(&error),
        };
        for (path, run) in listed {
            // A record's name tells its first owner: while that is alive it is not even read.
            match run.as_ref().map(|run| self.state_of(run.owner())) {
                None | Some(OwnerState::Dead) => self.reconcile_run(&path),
                Some(OwnerState::Alive) => {}
                Some(OwnerState::Unknown) => {
                    self.find(What::Record, path.display(), State::Kept(running::UNKNOWN.to_owned()));
                }
            }
        }
    }

    fn reconcile_run(&mut self, path: &Path) {
        let why = match ledger::read(path) {
            Ok(Reading::Gone) => return,
            // Handed over to one that lives.
            Ok(Reading::Record(record)) if !self.is_dead(&record.owner) => return self.leave(&record),
            Ok(Reading::Record(record)) if self.mends => return self.mend_run(path, &record),
            Ok(Reading::Record(record)) => {
                self.leave(&record);
                return self.find(What::Run, &record.run, State::Found);
            }
            Ok(Reading::Garbage(why)) => return self.set_aside(path, &why),
            Ok(Reading::Foreign(format)) => format!("another version of hsup wrote it, in format {format}"),
            Err(error) => explain(&error),
        };
        self.find(What::Record, path.display(), State::Kept(why));
    }

    fn leave(&mut self, record: &Record) {
        self.left.runs.insert(record.run.clone());
        self.left.numbers.extend(numbers(record));
    }

    /// Undoes a run of a dead hsup.
    fn mend_run(&mut self, path: &Path, record: &Record) {
        let lock = match files::try_lock(path) {
            Ok(Some(lock)) => lock,
            // Another hsup undoes it at this moment, and tells of it; or has done so.
            Ok(None) => return self.leave(record),
            Err(error) => {
                self.leave(record);
                return self.keep(What::Run, &record.run, &error);
            }
        };
        let struck = if self.undo_run(record) {
            fs::remove_file(path).map_err(|error| explain(&error))
        } else {
            Err("not all of it can be undone; it is tried again when an hsup starts".to_owned())
        };
        drop(lock);
        match struck {
            Ok(()) => {
                self.left.undone.extend(numbers(record));
                self.find(What::Run, &record.run, State::Mended);
            }
            Err(why) => {
                self.leave(record);
                self.find(What::Run, &record.run, State::Kept(why));
            }
        }
    }

    /// Whether all that the record names is undone.
    fn undo_run(&mut self, record: &Record) -> bool {
        // A boot undoes all but directories, and something else may have the names and the pid by now.
        let this_boot = record.owner.boot == self.running.here.boot;
        let mut stopped = true;
        let mut undone = true;
        if this_boot {
            // In another pid namespace its pid is somebody else's; there it has ended with its hsup.
            let here = record.owner.pid_namespace == self.running.here.pid_namespace;
            if let Some(init) = record.init.filter(|_| here) {
                stopped &= self.report((What::Init, init.pid.to_string()), self.undo.kill_init(init));
            }
            for cgroup in &record.cgroups {
                stopped &= self.undo_resource(&Resource::Cgroup(cgroup.clone()));
            }
            if let Some(link) = &record.link {
                undone &= self.undo_resource(&Resource::Link(link.clone()));
            }
        }
        for dir in &record.dirs {
            if stopped {
                undone &= self.undo_resource(&Resource::Dir(dir.clone()));
            } else {
                let why = "processes of the dyno may still use it".to_owned();
                self.find(What::Dir, dir.display(), State::Kept(why));
            }
        }
        stopped && undone
    }

    fn undo_resource(&mut self, resource: &Resource) -> bool {
        let undone = match resource {
            Resource::Cgroup(path) => self.undo.remove_cgroup(path),
            Resource::Link(name) => self.undo.delete_link(name),
            Resource::Mount(path) => self.undo.unmount(path),
            Resource::Dir(path) => self.remove_dir(path),
        };
        self.report(resource.describe(), undone)
    }

    /// A record names a directory as its hsup did, by whatever way that had come to the state dir.
    fn remove_dir(&self, dir: &Path) -> Undone {
        if fs::symlink_metadata(dir).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(false);
        }
        let dir = match (dir.parent(), dir.file_name()) {
            (Some(parent), Some(name)) => fs::canonicalize(parent)?.join(name),
            (Some(_) | None, _) => dir.to_owned(),
        };
        self.check_dir(&dir)?;
        self.undo.remove_dir(self.state_dir, &dir)
    }

    /// Nothing outside of the state dir is removed, nor the books themselves, whatever a record says.
    fn check_dir(&self, dir: &Path) -> Result<(), Fault> {
        check_below(self.state_dir, dir)?;
        let books = [&self.runs, &files::unreadable_dir(self.state_dir)];
        if books.iter().any(|books| books.starts_with(dir) || dir.starts_with(books)) {
            return Err(format!("{} holds the ledger of hsup", dir.display()).into());
        }
        Ok(())
    }

    /// A file that is no record is of no use to anybody but who wants to know how it came about.
    fn set_aside(&mut self, path: &Path, why: &str) {
        let aside = files::unreadable_dir(self.state_dir);
        let mut state = State::Kept(format!("it is no record: {why}"));
        if let (true, Some(name)) = (self.mends, path.file_name()) {
            let to = aside.join(name);
            let moved = files::make_dir(&aside).and_then(|()| fs::rename(path, &to));
            state = match moved {
                Ok(()) => {
                    State::Kept(format!("it is no record: {why}; it has been moved to {}", to.display()))
                }
                // Another hsup was first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(error) => State::Kept(format!("it is no record: {why}; failed to move it: {error}")),
            };
        }
        self.find(What::Record, path.display(), state);
    }

    /// Undoes what has a name of ours and is in no record.
    fn reconcile_strays(&mut self, seen: Vec<Resource>) {
        if seen.is_empty() {
            return;
        }
        let _lock = if self.mends {
            // Where nobody ever wrote a record there is nobody to wait for.
            match files::make_dir(&self.runs).and_then(|()| files::lock(&ledger::lock_path(&self.runs))) {
                Ok(lock) => Some(lock),
                Err(error) => return self.keep_ledger(&error),
            }
        } else {
            None
        };
        let (recorded, all_read) = match self.recorded() {
            Ok(recorded) => recorded,
            Err(error) => return self.keep_ledger(&error),
        };
        for resource in seen.into_iter().filter(|resource| !recorded.contains(resource)) {
            let (what, place) = resource.describe();
            if !all_read {
                let why = "a record that cannot be read may be of it".to_owned();
                self.find(what, place, State::Kept(why));
            } else if self.mends {
                self.undo_resource(&resource);
            } else {
                self.find(what, place, State::Found);
            }
        }
    }

    /// What the records name, those of live hsups too; and whether all of them could be read.
    fn recorded(&self) -> io::Result<(HashSet<Resource>, bool)> {
        let mut recorded = HashSet::new();
        let mut all_read = true;
        for (path, _) in ledger::list(&self.runs)? {
            match ledger::read(&path) {
                Ok(Reading::Record(record)) => {
                    recorded.extend(record.cgroups.into_iter().map(Resource::Cgroup));
                    recorded.extend(record.link.map(Resource::Link));
                    recorded.extend(record.dirs.into_iter().map(Resource::Dir));
                }
                Ok(Reading::Gone) => {}
                Ok(Reading::Garbage(_) | Reading::Foreign(_)) | Err(_) => all_read = false,
            }
        }
        Ok((recorded, all_read))
    }

    /// Releases the claims of dead hsups that had this state dir, but for those of runs that are not undone.
    fn reconcile_claims(&mut self, kind: Kind) {
        let dir = self.claims.of(kind);
        let what = match kind {
            Kind::Uid => What::Uid,
            Kind::Subnet => What::Subnet,
        };
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            // Nobody but root claims anything: what others may not see is not theirs.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                return;
            }
            Err(error) => return self.keep(what, dir.display(), &error),
        };
        // All claims of an owner are one inode.
        let mut owners: HashMap<u64, Abandoned> = HashMap::new();
        for entry in entries.flatten() {
            let Some(number) = entry.file_name().to_str().and_then(|name| kind.number(name)) else {
                continue;
            };
            let inode = entry.ino();
            if let hash_map::Entry::Vacant(unknown) = owners.entry(inode) {
                match self.read_claim(&entry.path()) {
                    Ok(claim) => drop(unknown.insert_entry(claim)),
                    Err(error) => self.keep(what, kind.name(number), &error),
                }
            }
            if let Some(Abandoned::By(claimant)) = owners.get(&inode) {
                self.reconcile_claim(what, (kind, number), claimant.as_ref());
            }
        }
    }

    /// Looks at the owner of a claim first and at its runs after: one that has died since they were reconciled
    /// has runs that are not accounted for.
    fn read_claim(&self, path: &Path) -> io::Result<Abandoned> {
        let (Standing::Dead, claimant) = claims::read_claim(path, &self.running.here)? else {
            return Ok(Abandoned::No);
        };
        let Some(claimant) = claimant else { return Ok(Abandoned::By(None)) };
        if claimant.state_dir != self.state_dir {
            return Ok(Abandoned::No);
        }
        let runs = ledger::run_ids(&self.runs)?;
        let mut of_owner = runs.iter().filter(|run| *run.owner() == claimant.owner);
        let known = of_owner.all(|run| self.left.runs.contains(run));
        Ok(if known { Abandoned::By(Some(claimant)) } else { Abandoned::No })
    }

    fn reconcile_claim(&mut self, what: What, claim: (Kind, u32), claimant: Option<&Claimant>) {
        if self.left.numbers.contains(&claim) {
            return;
        }
        let (kind, number) = claim;
        if !self.mends {
            return self.find(what, kind.name(number), State::Found);
        }
        let same = |now: Option<&Claimant>| now == claimant;
        match claims::remove_dead(self.claims, kind, number, &self.running.here, same) {
            // The run that had it has been told of.
            Ok(Some(_)) if self.left.undone.contains(&claim) => {}
            Ok(Some(_)) => self.find(what, kind.name(number), State::Mended),
            Ok(None) => {}
            Err(error) => self.keep(what, kind.name(number), &error),
        }
    }

    /// Removes the files of which the claims of dead hsups were links.
    fn tidy_sources(&self) {
        let Some(entries) = fs::read_dir(self.claims.owners()).ok().filter(|_| self.mends) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.rsplit_once('-')).map(|(owner, _)| owner.parse());
            if matches!(owner, Some(Ok(owner)) if self.is_dead(&owner)) {
                let _gone = fs::remove_file(entry.path());
            }
        }
    }
}

/// An error with its causes, in one line.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
