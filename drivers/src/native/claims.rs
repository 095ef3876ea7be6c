//! Claims of UIDs and /30 networks: numbers of which each belongs to one dyno of this host, whichever hsup runs it.
//!
//! A claim is a file, `<state dir>/native/claims/<kind>/<number>`, that holds its owner. All claims of a process
//! are hard links of one file, written before the first: a claim is one link(2), is there whole or not at all,
//! and who owns thousands of them is told by their inodes. Nothing is synced to disk: what is claimed is of this
//! boot only, and so is its owner.
//!
//! A dead owner's claim is taken back, under a lock, once no record of a run of that owner is left in the ledger:
//! until then what it used may still be there. Nothing here looks at what a number is used for.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::native::scan::{Scan, Standing};
use crate::native::{files, ledger};
use crate::owner::{Owner, OwnerState};
use crate::running::Running;

/// The first UID of dynos, as it has always been for hsup: above what distributions give to people and their
/// services (from 1000 on, one by one), and far below what they hand out for containers (100000 and up).
pub const UID_MIN: u32 = 3000;

/// The last UID of dynos, as it has always been for hsup; who runs more dynos on one host widens the range.
pub const UID_MAX: u32 = 11000;

/// How often a number is tried whose claim comes and goes meanwhile.
const TRIES: usize = 4;

/// What numbers are claimed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UIDs.
    Uid,
    /// Indexes of /30 networks in the block of dynos.
    Subnet,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Uid, Self::Subnet];

    /// The name of its directory.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uid => "uid",
            Self::Subnet => "subnet",
        }
    }

    /// What to do when there is none left.
    fn remedy(self) -> &'static str {
        match self {
            Self::Uid => "widen LIBCONTAINER_DYNO_UID_MIN and LIBCONTAINER_DYNO_UID_MAX",
            Self::Subnet => "widen LIBCONTAINER_DYNO_SUBNET",
        }
    }

    fn nouns(self) -> &'static str {
        match self {
            Self::Uid => "UIDs",
            Self::Subnet => "/30 networks",
        }
    }
}

/// A number cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// All of them are taken.
    #[error(
        "all {} {} to {} are claimed (hsup doctor tells by whom): {} or its HSUP_NATIVE_ name",
        kind.nouns(), range.start(), range.end(), kind.remedy()
    )]
    Exhausted {
        /// What there is no more of.
        kind: Kind,
        /// From the lowest to the highest number that may be claimed; empty if there is none.
        range: RangeInclusive<u32>,
    },
    /// A file operation failed.
    #[error("failed to {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Makes a [`ClaimError`] of an operation's error.
pub(super) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClaimError {
    let path = path.to_owned();
    move |source| ClaimError::Io { operation, path, source }
}

/// The UID and the /30 network of a dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its UID and GID.
    pub uid: u32,
    /// Which /30 of the block of dynos is its own, counted from 0.
    pub subnet_index: u32,
}

/// The claims of this process; clones share them.
#[derive(Clone, Debug)]
pub struct Claims {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// `<state dir>/native/claims`.
    dir: PathBuf,
    /// The records of the ledger.
    pub(super) runs: PathBuf,
    owner: Owner,
    pub(super) running: Running,
    books: Mutex<Books>,
}

/// What this process knows of its claims without a look at the file system.
#[derive(Debug)]
struct Books {
    /// The file that claims are links of.
    source: PathBuf,
    held: HashSet<(Kind, u32)>,
    /// The number after the last UID and /30 that was found.
    next_uid: u32,
    next_subnet: u32,
}

impl Claims {
    /// Opens the claims of a state dir, for this process.
    ///
    /// # Errors
    /// If their directories or this process's file there cannot be made.
    pub fn open(state_dir: &Path) -> Result<Self, ClaimError> {
        let dir = files::claims_dir(state_dir);
        for dir in Kind::ALL.iter().map(|kind| dir.join(kind.as_str())).chain([dir.join("owners")]) {
            files::make_dir(&dir).map_err(failed("create", &dir))?;
        }
        let owner = Owner::me();
        let source = write_source(&dir, &owner)?;
        let books = Books { source, held: HashSet::new(), next_uid: 0, next_subnet: 0 };
        let (runs, running, books) = (files::runs_dir(state_dir), Running::of(state_dir), Mutex::new(books));
        Ok(Self { inner: Arc::new(Inner { dir, runs, owner, running, books }) })
    }

    /// Has the turn of UIDs begin at this one. The kernel removes the network of a dyno some time after it has ended,
    /// and whoever comes next with the same UID and /30 would wait for that.
    pub fn begin_at(&self, uid: u32) {
        self.inner.books().next_uid = uid;
    }

    /// Claims the first of these numbers that is free.
    ///
    /// # Errors
    /// [`ClaimError::Exhausted`] if none is, and if the claims cannot be read or written.
    pub fn claim(&self, kind: Kind, candidates: impl IntoIterator<Item = u32>) -> Result<Claim, ClaimError> {
        let mut scan = Scan::new(&self.inner, kind);
        let mut range: Option<RangeInclusive<u32>> = None;
        for number in candidates {
            if self.inner.try_number(kind, number, &mut scan)? {
                return Ok(Claim { inner: Arc::clone(&self.inner), kind, number, kept: false });
            }
            range = Some(
                range.map_or(number..=number, |range| number.min(*range.start())..=number.max(*range.end())),
            );
        }
        #[expect(clippy::reversed_empty_ranges, reason = "there were no candidates")]
        let range = range.unwrap_or(1..=0);
        Err(ClaimError::Exhausted { kind, range })
    }

    /// Claims a UID and a /30 of the block's `subnets` for a dyno: the /30 that belongs to the UID, as counted
    /// from the first one, or another if that is claimed.
    ///
    /// UIDs are handed out in turn, so that one that has become free is not at once somebody else's.
    ///
    /// # Errors
    /// As [`Claims::claim`]; then neither is claimed.
    pub fn claim_identity(
        &self,
        uids: RangeInclusive<u32>,
        subnets: u32,
    ) -> Result<ClaimedIdentity, ClaimError> {
        let (first, last) = (*uids.start(), *uids.end());
        let exhausted = |kind, range| {
            move |error| match error {
                ClaimError::Exhausted { .. } => ClaimError::Exhausted { kind, range },
                ClaimError::Io { .. } => error,
            }
        };
        let next = self.inner.books().next_uid;
        let turn = if uids.contains(&next) { next } else { first };
        let in_turn = (turn..=last).chain(first..turn);
        let uid = self.claim(Kind::Uid, in_turn).map_err(exhausted(Kind::Uid, uids))?;

        let own = uid.number - first;
        // The others: first those that belong to no UID.
        let owned = (last - first).saturating_add(1).min(subnets);
        let next = self.inner.books().next_subnet;
        let turn = if (owned..subnets).contains(&next) { next } else { owned };
        let others = (turn..subnets).chain(owned..turn).chain(0..owned);
        let candidates = (own < subnets).then_some(own).into_iter().chain(others);
        let all = 0..=subnets.saturating_sub(1);
        let subnet = self.claim(Kind::Subnet, candidates).map_err(exhausted(Kind::Subnet, all))?;

        let mut books = self.inner.books();
        books.next_uid = uid.number.wrapping_add(1);
        if subnet.number != own {
            books.next_subnet = subnet.number.wrapping_add(1);
        }
        drop(books);
        Ok(ClaimedIdentity { uid, subnet })
    }
}

impl Inner {
    pub(super) fn path(&self, kind: Kind, number: u32) -> PathBuf {
        self.kind_dir(kind).join(number.to_string())
    }

    pub(super) fn kind_dir(&self, kind: Kind) -> PathBuf {
        self.dir.join(kind.as_str())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_number(&self, kind: Kind, number: u32, scan: &mut Scan<'_>) -> Result<bool, ClaimError> {
        if self.books().held.contains(&(kind, number)) || scan.has_seen_taken(number) {
            return Ok(false);
        }
        for _ in 0..TRIES {
            let claimed = self.link(kind, number)?
                || match scan.standing(number)? {
                    Standing::Taken => return Ok(false),
                    Standing::Dead => self.take_back(kind, number)?,
                    Standing::Gone => false,
                };
            if claimed {
                self.books().held.insert((kind, number));
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the number was free and now is this process's.
    fn link(&self, kind: Kind, number: u32) -> Result<bool, ClaimError> {
        let path = self.path(kind, number);
        let mut source = self.books().source.clone();
        for _ in 0..TRIES {
            match fs::hard_link(&source, &path) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                // A file cannot have more links, or somebody has tidied it away: another one does as well.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::TooManyLinks | io::ErrorKind::NotFound) =>
                {
                    let another = write_source(&self.dir, &self.owner)?;
                    let old = std::mem::replace(&mut self.books().source, another.clone());
                    let _gone = fs::remove_file(old);
                    source = another;
                }
                Err(error) => return Err(failed("claim", &path)(error)),
            }
        }
        Err(failed("claim", &path)(io::ErrorKind::NotFound.into()))
    }

    /// Whether a record of a run of that owner is left.
    pub(super) fn has_records(&self, owner: &Owner) -> io::Result<bool> {
        Ok(ledger::run_ids(&self.runs)?.iter().any(|run| run.owner() == owner))
    }

    /// Replaces the claim of a dead owner by one of this process; `false` if somebody else was first.
    fn take_back(&self, kind: Kind, number: u32) -> Result<bool, ClaimError> {
        let undone = |owner: Option<&Owner>| owner.map_or(Ok(true), |owner| Ok(!self.has_records(owner)?));
        let removed = remove_dead(&self.dir, kind, number, &self.running, undone)?;
        Ok(removed.is_some() && self.link(kind, number)?)
    }
}

/// Removes a claim whose owner is dead and of which `undone` says that nothing is left of what it was used for.
/// Gives the lock under which that was done; `None` if there is no such claim any more.
///
/// Only under this lock is a claim removed by another than its owner, and a dead one removes none: what is read
/// here stays so until it is removed.
pub(super) fn remove_dead(
    dir: &Path,
    kind: Kind,
    number: u32,
    running: &Running,
    undone: impl FnOnce(Option<&Owner>) -> io::Result<bool>,
) -> Result<Option<files::Lock>, ClaimError> {
    let lock = dir.join("lock");
    let lock = files::lock(&lock).map_err(failed("lock", &lock))?;
    let path = dir.join(kind.as_str()).join(number.to_string());
    let (standing, owner) = read_claim(&path, running).map_err(failed("read", &path))?;
    if standing != Standing::Dead || !undone(owner.as_ref()).map_err(failed("read the runs beside", dir))? {
        return Ok(None);
    }
    fs::remove_file(&path).map_err(failed("remove", &path))?;
    Ok(Some(lock))
}

/// What a claim's own file says of its owner.
pub(super) fn read_claim(path: &Path, running: &Running) -> io::Result<(Standing, Option<Owner>)> {
    match fs::read(path) {
        Ok(bytes) => Ok(standing_of(&bytes, running)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((Standing::Gone, None)),
        // Something else of that name: not ours to judge, nor to take.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok((Standing::Taken, None)),
        Err(error) => Err(error),
    }
}

/// What is in a claim's file, and the owner that it names.
fn standing_of(bytes: &[u8], running: &Running) -> (Standing, Option<Owner>) {
    // Claims are there whole or not at all, but for a crash of the host, which leaves the size and not the bytes.
    if bytes.iter().all(|byte| *byte == 0) {
        return (Standing::Dead, None);
    }
    // Without the newline it is not whole, and names another owner than was meant.
    let text = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_suffix('\n'));
    let owner = text.and_then(|text| text.parse::<Owner>().ok());
    let dead = owner.as_ref().is_some_and(|owner| running.state_of(owner) == OwnerState::Dead);
    (if dead { Standing::Dead } else { Standing::Taken }, owner)
}

/// Writes the file that claims are links of. Its own name is never read as a claim, so that it need not be there
/// at once.
fn write_source(dir: &Path, owner: &Owner) -> Result<PathBuf, ClaimError> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let path = dir.join("owners").join(format!("{owner}-{number}"));
        match File::create_new(&path) {
            Ok(mut file) => {
                let written = io::Write::write_all(&mut file, format!("{owner}\n").as_bytes());
                return written.map(|()| path.clone()).map_err(failed("write", &path));
            }
            // One that this process left there before it became another program.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create", &path)(error)),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if std::process::id() == self.owner.pid {
            let _gone = fs::remove_file(&self.books().source);
        }
    }
}

/// A number that is this process's until it is released or dropped. In a fork of the process nothing happens
/// then: it is not the owner.
#[derive(Debug)]
#[must_use = "a claim that is dropped is released"]
pub struct Claim {
    inner: Arc<Inner>,
    kind: Kind,
    number: u32,
    kept: bool,
}

impl Claim {
    /// The number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Makes the number free.
    ///
    /// # Errors
    /// If its file cannot be removed: then it stays claimed as long as this process lives.
    pub fn release(mut self) -> Result<(), ClaimError> {
        self.kept = true;
        self.unlink()
    }

    /// Leaves the number claimed: for a dyno that outlives its handle, or one of which not all could be undone.
    pub fn keep(mut self) {
        self.kept = true;
    }

    fn unlink(&self) -> Result<(), ClaimError> {
        if std::process::id() != self.inner.owner.pid {
            return Ok(());
        }
        let path = self.inner.path(self.kind, self.number);
        files::remove(&path).map_err(failed("remove", &path))?;
        self.inner.books().held.remove(&(self.kind, self.number));
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.unlink()
        {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, cause, "a number stays claimed");
        }
    }
}

/// The claimed UID and /30 of a dyno, released when dropped.
#[derive(Debug)]
#[must_use = "claims that are dropped are released"]
pub struct ClaimedIdentity {
    uid: Claim,
    subnet: Claim,
}

impl ClaimedIdentity {
    /// What is claimed.
    pub fn identity(&self) -> Identity {
        Identity { uid: self.uid.number, subnet_index: self.subnet.number }
    }

    /// Makes both free.
    ///
    /// # Errors
    /// If a file cannot be removed; the other is, all the same.
    pub fn release(self) -> Result<(), ClaimError> {
        let uid = self.uid.release();
        self.subnet.release().and(uid)
    }

    /// Leaves both claimed; see [`Claim::keep`].
    pub fn keep(self) {
        self.uid.keep();
        self.subnet.keep();
    }
}

#[cfg(test)]
mod tests;
