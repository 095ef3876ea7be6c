//! Claims of UIDs and /30 networks: numbers of which each belongs to one dyno of this host, whichever hsup runs it.
//!
//! A claim is a file, `/run/hsup/claims/<kind>/<number>`, that holds its owner and the state dir of that. All claims of
//! a process are hard links of one file, written before the first: a claim is one link(2), is there whole or not at all,
//! and who owns thousands of them is told by their inodes. They are of this boot only, and so are their owners and where
//! they are.
//!
//! A dead owner's claim is taken back, under a lock, once no record of a run of that owner is left in the ledger of its
//! state dir: until then what it used may still be there. Nothing here looks at what a number is used for.

mod dir;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::dir::ClaimsDir;
pub(super) use self::dir::{Claimant, read_claim};
use crate::native::network::{Block, Subnet};
use crate::native::scan::{Scan, Standing};
use crate::native::{files, ledger};
use crate::owner::{Owner, Place};

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
    /// The first addresses of /30 networks.
    Subnet,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Uid, Self::Subnet];

    /// How a number is written: that of a network as the address that it is.
    pub fn name(self, number: u32) -> String {
        match self {
            Self::Uid => number.to_string(),
            Self::Subnet => Ipv4Addr::from_bits(number).to_string(),
        }
    }

    /// The number that is written so.
    pub fn number(self, name: &str) -> Option<u32> {
        match self {
            Self::Uid => name.parse().ok(),
            Self::Subnet => name.parse().ok().map(Ipv4Addr::to_bits),
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
        "all {} {} to {} are claimed (their files below /run/hsup/claims tell by whom): {} or its HSUP_NATIVE_ name",
        kind.nouns(), kind.name(*range.start()), kind.name(*range.end()), kind.remedy()
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
    /// Its /30.
    pub subnet: Subnet,
}

/// The claims of this process; clones share them.
#[derive(Clone, Debug)]
pub struct Claims {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dir: ClaimsDir,
    me: Claimant,
    pub(super) here: Place,
    books: Mutex<Books>,
}

/// What this process knows of its claims without a look at the file system.
#[derive(Debug)]
struct Books {
    /// The file that claims are links of.
    source: PathBuf,
    held: HashSet<(Kind, u32)>,
    /// The number after the last UID that was found, and the index in the block after that of the last /30.
    next_uid: u32,
    next_subnet: u32,
}

impl Claims {
    /// Opens the claims of a host, for this process, whose runs are in the ledger of this state dir.
    ///
    /// # Errors
    /// If their directories or this process's file there cannot be made.
    pub fn open(dir: ClaimsDir, state_dir: &Path) -> Result<Self, ClaimError> {
        dir.make()?;
        let state_dir = fs::canonicalize(state_dir).map_err(failed("find", state_dir))?;
        let me = Claimant { owner: Owner::me(), state_dir };
        let source = dir.write_source(&me)?;
        let books = Books { source, held: HashSet::new(), next_uid: 0, next_subnet: 0 };
        let (here, books) = (Place::here(), Mutex::new(books));
        Ok(Self { inner: Arc::new(Inner { dir, me, here, books }) })
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

    /// Claims a UID and a /30 of the block for a dyno: the /30 that belongs to the UID, as counted from the first one, or
    /// another if that is claimed.
    ///
    /// UIDs are handed out in turn, so that one that has become free is not at once somebody else's.
    ///
    /// # Errors
    /// As [`Claims::claim`]; then neither is claimed.
    pub fn claim_identity(
        &self,
        uids: RangeInclusive<u32>,
        block: &Block,
    ) -> Result<ClaimedIdentity, ClaimError> {
        let (first, last, subnets) = (*uids.start(), *uids.end(), block.len());
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
        let number = |index| block.subnet(index).map_or(0, |subnet: Subnet| subnet.network().to_bits());
        let all = number(0)..=number(subnets - 1);
        let mut tried = 0;
        let candidates = candidates.inspect(|index| tried = *index).map(number);
        let claim = self.claim(Kind::Subnet, candidates).map_err(exhausted(Kind::Subnet, all))?;
        let subnet = block.subnet(tried).expect("what was tried is of the block");

        let mut books = self.inner.books();
        books.next_uid = uid.number.wrapping_add(1);
        if tried != own {
            books.next_subnet = tried.wrapping_add(1);
        }
        drop(books);
        Ok(ClaimedIdentity { uid, claim, subnet })
    }
}

impl Inner {
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
        let path = self.dir.path(kind, number);
        let mut source = self.books().source.clone();
        for _ in 0..TRIES {
            match fs::hard_link(&source, &path) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                // A file cannot have more links, or somebody has tidied it away: another one does as well.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::TooManyLinks | io::ErrorKind::NotFound) =>
                {
                    self.dir.make()?;
                    let another = self.dir.write_source(&self.me)?;
                    let old = std::mem::replace(&mut self.books().source, another.clone());
                    let _gone = fs::remove_file(old);
                    source = another;
                }
                Err(error) => return Err(failed("claim", &path)(error)),
            }
        }
        Err(failed("claim", &path)(io::ErrorKind::NotFound.into()))
    }

    /// Whether a record of a run of that claimant is left, or it cannot be told.
    pub(super) fn has_records(claimant: &Claimant) -> bool {
        let runs = ledger::run_ids(&files::runs_dir(&claimant.state_dir));
        runs.map_or(true, |runs| runs.iter().any(|run| *run.owner() == claimant.owner))
    }

    /// Replaces the claim of a dead owner by one of this process; `false` if somebody else was first.
    fn take_back(&self, kind: Kind, number: u32) -> Result<bool, ClaimError> {
        let undone = |claimant: Option<&Claimant>| !claimant.is_some_and(Self::has_records);
        let removed = remove_dead(&self.dir, kind, number, &self.here, undone)?;
        Ok(removed.is_some() && self.link(kind, number)?)
    }
}

/// Removes a claim whose owner is dead and of which `undone` says that nothing is left of what it was used for.
/// Gives the lock under which that was done; `None` if there is no such claim any more.
///
/// Only under this lock is a claim removed by another than its owner, and a dead one removes none: what is read
/// here stays so until it is removed.
pub(super) fn remove_dead(
    dir: &ClaimsDir,
    kind: Kind,
    number: u32,
    here: &Place,
    undone: impl FnOnce(Option<&Claimant>) -> bool,
) -> Result<Option<files::Lock>, ClaimError> {
    let lock = dir.lock();
    let lock = files::lock(&lock).map_err(failed("lock", &lock))?;
    let path = dir.path(kind, number);
    let (standing, claimant) = read_claim(&path, here).map_err(failed("read", &path))?;
    if standing != Standing::Dead || !undone(claimant.as_ref()) {
        return Ok(None);
    }
    fs::remove_file(&path).map_err(failed("remove", &path))?;
    Ok(Some(lock))
}

impl Drop for Inner {
    fn drop(&mut self) {
        if std::process::id() == self.me.owner.pid {
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
        if std::process::id() != self.inner.me.owner.pid {
            return Ok(());
        }
        let path = self.inner.dir.path(self.kind, self.number);
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
    /// That of the /30.
    claim: Claim,
    subnet: Subnet,
}

impl ClaimedIdentity {
    /// What is claimed.
    pub fn identity(&self) -> Identity {
        Identity { uid: self.uid.number, subnet: self.subnet }
    }

    /// Makes both free.
    ///
    /// # Errors
    /// If a file cannot be removed; the other is, all the same.
    pub fn release(self) -> Result<(), ClaimError> {
        let uid = self.uid.release();
        self.claim.release().and(uid)
    }

    /// Leaves both claimed; see [`Claim::keep`].
    pub fn keep(self) {
        self.uid.keep();
        self.claim.keep();
    }
}

#[cfg(test)]
mod tests;
