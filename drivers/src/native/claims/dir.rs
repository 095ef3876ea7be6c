//! Where claims are, and what is in the file of one. Whose they are to be is decided elsewhere.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{ClaimError, Kind, failed};
use crate::native::files;
use crate::native::scan::Standing;
use crate::owner::{Owner, OwnerState, Place};
use crate::running::Running;

/// The directory of the claims of a host. Users are the whole host's, and networks those of a network namespace.
#[derive(Clone, Debug)]
pub struct ClaimsDir {
    /// Where it is, with what else hsups have in common.
    shared: PathBuf,
    subnets: String,
}

/// Who has claimed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::native) struct Claimant {
    /// The process.
    pub(in crate::native) owner: Owner,
    /// The state dir whose ledger tells of its runs.
    pub(in crate::native) state_dir: PathBuf,
}

impl Claimant {
    /// Whether it is still there. One in another pid namespace is told by its state dir.
    fn state_from(&self, here: &Place) -> OwnerState {
        match self.owner.state_from(here) {
            OwnerState::Unknown => Running::of(&self.state_dir).state_of(&self.owner),
            known @ (OwnerState::Alive | OwnerState::Dead) => known,
        }
    }
}

impl ClaimsDir {
    /// That of this host. All hsups have it in common, whatever their state dirs, and no boot has that of another.
    pub fn of_host() -> Self {
        // Who cannot read this finds no use for a network either.
        let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |namespace| namespace.ino());
        Self { shared: files::SHARED.into(), subnets: format!("subnet-{namespace}") }
    }

    /// One of a test's own.
    #[cfg(test)]
    pub(in crate::native) fn of_test(dir: &Path) -> Self {
        Self { shared: dir.to_owned(), subnets: "subnet".to_owned() }
    }

    fn dir(&self) -> PathBuf {
        self.shared.join("claims")
    }

    /// Makes all of it.
    pub(super) fn make(&self) -> Result<(), ClaimError> {
        files::make_shared(&self.shared).map_err(failed("create", &self.shared))?;
        for dir in Kind::ALL.map(|kind| self.of(kind)).iter().chain([&self.owners()]) {
            files::make_dir(dir).map_err(failed("create", dir))?;
        }
        Ok(())
    }

    /// The claims of a kind.
    pub(in crate::native) fn of(&self, kind: Kind) -> PathBuf {
        self.dir().join(match kind {
            Kind::Uid => "uid",
            Kind::Subnet => &self.subnets,
        })
    }

    /// The files that claims are links of.
    pub(in crate::native) fn owners(&self) -> PathBuf {
        self.dir().join("owners")
    }

    /// What is locked to remove the claim of another.
    pub(super) fn lock(&self) -> PathBuf {
        self.dir().join("lock")
    }

    /// The claim of a number.
    pub(in crate::native) fn path(&self, kind: Kind, number: u32) -> PathBuf {
        self.of(kind).join(kind.name(number))
    }

    /// Writes the file that claims are links of. Its own name is never read as a claim, so that it need not be there
    /// at once.
    pub(super) fn write_source(&self, claimant: &Claimant) -> Result<PathBuf, ClaimError> {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let owner = &claimant.owner;
        loop {
            let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
            let path = self.owners().join(format!("{owner}-{number}"));
            match File::create_new(&path) {
                Ok(mut file) => {
                    let state_dir = claimant.state_dir.as_os_str().as_bytes();
                    let text = [format!("{owner}\n").as_bytes(), state_dir, b"\n"].concat();
                    return file.write_all(&text).map(|()| path.clone()).map_err(failed("write", &path));
                }
                // One that this process left there before it became another program.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("create", &path)(error)),
            }
        }
    }
}

/// What a claim's own file says of its owner.
pub(in crate::native) fn read_claim(path: &Path, here: &Place) -> io::Result<(Standing, Option<Claimant>)> {
    match fs::read(path) {
        Ok(bytes) => Ok(standing_of(&bytes, here)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((Standing::Gone, None)),
        // Something else of that name: not ours to judge, nor to take.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok((Standing::Taken, None)),
        Err(error) => Err(error),
    }
}

/// What is in a claim's file, and whom it names.
fn standing_of(bytes: &[u8], here: &Place) -> (Standing, Option<Claimant>) {
    // Claims are there whole or not at all, but for a crash of the host, which leaves the size and not the bytes.
    if bytes.iter().all(|byte| *byte == 0) {
        return (Standing::Dead, None);
    }
    let claimant = claimant_of(bytes);
    let dead = claimant.as_ref().is_some_and(|claimant| claimant.state_from(here) == OwnerState::Dead);
    (if dead { Standing::Dead } else { Standing::Taken }, claimant)
}

fn claimant_of(bytes: &[u8]) -> Option<Claimant> {
    // Without the last newline it is not whole, and names another than was meant.
    let bytes = bytes.strip_suffix(b"\n")?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let owner = str::from_utf8(&bytes[..end]).ok()?.parse().ok()?;
    Some(Claimant { owner, state_dir: OsStr::from_bytes(&bytes[end + 1..]).into() })
}
