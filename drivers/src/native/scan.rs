//! One search for a free number among the claims of others. It reads, and changes nothing.
//!
//! What it has learned is forgotten with it: the next search may find owners dead that this one saw alive.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};

use crate::native::claims::{ClaimError, Inner, Kind, failed, read_claim};

/// How many claims of others are looked at one by one before the whole directory is read. Two hsups that hand out
/// numbers side by side meet once in a while; only where many are taken is a listing, which tells the inodes of
/// all at once, the cheaper way.
const SINGLE_LOOKS: usize = 4;

/// What is to be thought of a claimed number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its owner lives, or nothing can be known of it, or there is a record of a run that has yet to be undone.
    Taken,
    /// Its owner is dead and has left nothing behind.
    Dead,
    /// It is not claimed any more.
    Gone,
}

pub(super) struct Scan<'a> {
    claims: &'a Inner,
    kind: Kind,
    looks: usize,
    /// The inode of each claim, once the directory has been read.
    listed: Option<HashMap<u32, u64>>,
    /// All claims of an owner are one inode.
    owners: HashMap<u64, Standing>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(claims: &'a Inner, kind: Kind) -> Self {
        Self { claims, kind, looks: 0, listed: None, owners: HashMap::new() }
    }

    /// Whether it is known, without another look, that the number is taken.
    pub(super) fn has_seen_taken(&self, number: u32) -> bool {
        let inode = self.listed.as_ref().and_then(|listed| listed.get(&number));
        inode.and_then(|inode| self.owners.get(inode)) == Some(&Standing::Taken)
    }

    /// What is to be thought of a number that is claimed.
    pub(super) fn standing(&mut self, number: u32) -> Result<Standing, ClaimError> {
        self.looks += 1;
        if self.looks == SINGLE_LOOKS {
            self.list()?;
        }
        let path = self.claims.dir.path(self.kind, number);
        let inode = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::Gone),
            Err(error) => return Err(failed("look at", &path)(error)),
        };
        if let Some(standing) = self.owners.get(&inode) {
            return Ok(*standing);
        }
        let standing = self.read(number)?;
        if standing != Standing::Gone {
            self.owners.insert(inode, standing);
        }
        Ok(standing)
    }

    fn read(&self, number: u32) -> Result<Standing, ClaimError> {
        let path = self.claims.dir.path(self.kind, number);
        let (standing, claimant) = read_claim(&path, &self.claims.here).map_err(failed("read", &path))?;
        let Some(claimant) = claimant.filter(|_| standing == Standing::Dead) else { return Ok(standing) };
        Ok(if Inner::has_records(&claimant) { Standing::Taken } else { Standing::Dead })
    }

    fn list(&mut self) -> Result<(), ClaimError> {
        let dir = self.claims.dir.of(self.kind);
        let entries = fs::read_dir(&dir).map_err(failed("read", &dir))?;
        let number = |entry: &fs::DirEntry| self.kind.number(entry.file_name().to_str()?);
        let listed = entries.flatten().filter_map(|entry| Some((number(&entry)?, entry.ino())));
        self.listed = Some(listed.collect());
        Ok(())
    }
}
