//! The spool: what a drain cannot send and has no memory for waits here, in segments below the state dir, oldest first.
//!
//! Every record is written at once, so that a kill of hsup loses none; a segment is synced when it is full and when hsup
//! ends, so that a loss of power loses what the kernel had not written yet. A segment goes when all its parcels have been
//! sent: after a kill some are sent again, under the ids that they had.
//!
//! Each hsup that uses a drain at the same time has a place of its own below the drain's directory, which it locks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::parcel::Parcel;
use super::segment::{Segment, SegmentReader};
use crate::durable::{TEMP_PREFIX, sync_dir};

/// Where segments begin to be counted: there is room below for what has to go before the first one.
const FIRST_SEGMENT: u64 = 1 << 32;

/// Into how many segments a full spool is divided: so much is dropped at once when it overflows.
const SEGMENTS: u64 = 16;
/// Within these bounds: a file that is worth its name, and one that is removed in no time.
const SEGMENT_BYTES: [u64; 2] = [256 << 10, 16 << 20];

/// How many hsups may use a drain at the same time.
const PLACES: u32 = 256;

/// A spool of one drain.
pub(super) struct Spool {
    dir: PathBuf,
    limit_bytes: u64,
    /// Whether what ended hsups have left is sent by this one.
    adopts: bool,
    place: Option<Place>,
    /// What has not been read to its end, oldest first.
    unread: VecDeque<(u64, Segment)>,
    /// Reads the first one.
    reader: Option<SegmentReader>,
    /// Lines of the first one that have been read.
    lines_read: u64,
    /// Appends to the last one.
    writer: Option<File>,
    /// Parcels that were read and not sent yet, by segment.
    unsent: BTreeMap<u64, u64>,
    next: u64,
    /// Lines of segments that could not be read.
    lost: u64,
    /// Segments of its own place that cannot be opened and are left for the next hsup.
    left: BTreeSet<u64>,
    /// Places and segments of which it has been said that they cannot be read.
    said: BTreeSet<PathBuf>,
}

/// A directory that is this hsup's while it is locked.
struct Place {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Spool {
    /// The spool below this directory. What is there from before is read if it is to be adopted.
    pub(super) fn open(dir: PathBuf, limit_bytes: u64, adopts: bool) -> Self {
        let mut spool = Self {
            dir,
            limit_bytes,
            adopts,
            place: None,
            unread: VecDeque::new(),
            reader: None,
            lines_read: 0,
            writer: None,
            unsent: BTreeMap::new(),
            next: FIRST_SEGMENT,
            lost: 0,
            left: BTreeSet::new(),
            said: BTreeSet::new(),
        };
        spool.adopt();
        spool
    }

    /// Takes over what hsups that have ended have left.
    pub(super) fn adopt(&mut self) {
        if self.adopts
            && self.dir.exists()
            && let Err(error) = self.place().and_then(|own| self.take_over(&own))
        {
            tracing::warn!(%error, "cannot read what waits to be sent in {}", self.dir.display());
        }
    }

    /// Whether there is nothing to be read.
    pub(super) fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    /// The bytes and lines that have not been read.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let (bytes, lines) = self
            .unread
            .iter()
            .fold((0, 0), |(bytes, lines), (_, segment)| (bytes + segment.bytes, lines + segment.lines));
        (bytes, lines - self.lines_read)
    }

    /// Whether it may be used at all.
    pub(super) fn is_on(&self) -> bool {
        self.limit_bytes > 0
    }

    /// Whether a parcel of so many bytes would be too much.
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        let (waiting, _) = self.waiting();
        waiting + bytes as u64 > self.limit_bytes
    }

    /// Appends a parcel.
    ///
    /// # Errors
    /// If it cannot be written: then it is not there.
    pub(super) fn append(&mut self, parcel: &Parcel) -> io::Result<()> {
        let own = self.place()?;
        let [least, most] = SEGMENT_BYTES;
        let full = (self.limit_bytes / SEGMENTS).clamp(least, most);
        if self.unread.back().is_some_and(|(_, segment)| segment.bytes >= full) {
            self.close_writer()?;
        }
        if self.writer.is_none() {
            let number = self.number();
            let segment = Segment::new(own.join(file_name(number)));
            self.writer = Some(segment.writer()?);
            self.unread.push_back((number, segment));
        }
        match (&mut self.writer, self.unread.back_mut()) {
            (Some(file), Some((_, segment))) => segment.append(file, parcel),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Drops the oldest segment; gives how many lines that were.
    pub(super) fn drop_oldest(&mut self) -> u64 {
        let read = std::mem::take(&mut self.lines_read);
        self.reader = None;
        let Some((number, segment)) = self.unread.pop_front() else { return 0 };
        if self.unread.is_empty() {
            self.writer = None;
        }
        if !self.unsent.contains_key(&number) {
            remove(&segment.path);
        }
        segment.lines - read
    }

    /// Reads the oldest parcel that has not been read.
    pub(super) fn read(&mut self) -> Option<Parcel> {
        loop {
            let (number, segment) = self.unread.front()?;
            let number = *number;
            let read = match &mut self.reader {
                Some(reader) => reader.next(),
                None => SegmentReader::open(&segment.path).and_then(|mut reader| {
                    let first = reader.next();
                    self.reader = Some(reader);
                    first
                }),
            };
            match read {
                Ok(Some(parcel)) => {
                    self.lines_read += u64::from(parcel.lines);
                    *self.unsent.entry(number).or_default() += 1;
                    return Some(Parcel { segment: Some(number), ..parcel });
                }
                Ok(None) => {}
                Err(error) => {
                    let path = segment.path.display();
                    tracing::error!(%error, "cannot read lines that wait to be sent in {path}: they are lost");
                }
            }
            self.lost += self.drop_oldest();
        }
    }

    /// Lines that turned out to be unreadable since this was last asked.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// A parcel that was read from this segment has been sent, or will never be.
    pub(super) fn done(&mut self, number: u64) {
        let Some(count) = self.unsent.get_mut(&number) else { return };
        *count -= 1;
        if *count == 0 {
            self.unsent.remove(&number);
            let unread = self.unread.iter().any(|(other, _)| *other == number);
            if let (false, Some(place)) = (unread, &self.place) {
                remove(&place.path.join(file_name(number)));
            }
        }
    }

    /// Keeps what is left for the next hsup: `first`, which was read from here or never was here, goes before all that
    /// has not been read, and `last` behind it.
    ///
    /// # Errors
    /// If it cannot be written; what was there before is there still.
    pub(super) fn close(mut self, first: &[Parcel], last: &[Parcel]) -> io::Result<()> {
        if !first.is_empty() || self.reader.is_some() {
            self.put_before(first)?;
        }
        for parcel in last {
            self.append(parcel)?;
        }
        self.close_writer()?;
        match &self.place {
            Some(place) => sync_dir(&place.path),
            None => Ok(()),
        }
    }

    /// Puts parcels before all that has not been read, under a name that no crash leaves half-written.
    fn put_before(&mut self, first: &[Parcel]) -> io::Result<()> {
        let own = self.place()?;
        self.close_writer()?;
        let mut whole = Segment::new(own.join(format!("{TEMP_PREFIX}first")));
        remove(&whole.path);
        let mut file = whole.writer()?;
        for parcel in first {
            whole.append(&mut file, parcel)?;
        }
        // What is left of the segment that is being read, which the new one replaces.
        let partly = self.reader.take();
        if let Some(mut reader) = partly {
            while let Some(parcel) = reader.next()? {
                whole.append(&mut file, &parcel)?;
            }
            let replaced = self.unread.pop_front();
            self.next = self.next.max(replaced.map_or(0, |(number, _)| number + 1));
        }
        file.sync_all()?;
        let mut number = match self.unread.front() {
            Some((number, _)) => number - 1,
            None => self.number(),
        };
        while self.left.contains(&number) {
            number -= 1;
        }
        let path = own.join(file_name(number));
        fs::rename(&whole.path, &path)?;
        sync_dir(&own)?;
        // Their parcels are in it, or have been sent.
        let kept: Vec<u64> = self.unread.iter().map(|(number, _)| *number).chain([number]).collect();
        let is_sent = |other: &u64| !kept.contains(other) && !self.left.contains(other);
        for other in segments(&own)?.into_iter().filter(is_sent) {
            remove(&own.join(file_name(other)));
        }
        self.lines_read = 0;
        self.unread.push_front((number, Segment { path, ..whole }));
        Ok(())
    }

    fn close_writer(&mut self) -> io::Result<()> {
        self.writer.take().map_or(Ok(()), |file| file.sync_all())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// The directory that is this hsup's. What is found in it was left by another.
    fn place(&mut self) -> io::Result<PathBuf> {
        if let Some(place) = &self.place {
            return Ok(place.path.clone());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        for number in 0..PLACES {
            let path = self.dir.join(number.to_string());
            let is_new = match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(error) => return Err(error),
            };
            match self.claim(&path) {
                Ok(Some(place)) => {
                    self.place = Some(place);
                    return Ok(path);
                }
                Ok(None) => {}
                Err(error) if is_new => {
                    let _as_good_as_possible = fs::remove_dir(&path);
                    return Err(error);
                }
                Err(error) => self.leave(&path, &error),
            }
        }
        Err(io::Error::other(format!("more than {PLACES} hsups use this drain")))
    }

    /// Makes a place this hsup's own, unless it is that of another.
    fn claim(&mut self, path: &Path) -> io::Result<Option<Place>> {
        let Some(lock) = lock(path)? else { return Ok(None) };
        if self.adopts {
            self.find(path)?;
        } else if !segments(path)?.is_empty() {
            return Ok(None);
        }
        Ok(Some(Place { path: path.to_owned(), _lock: lock }))
    }

    /// Takes up the segments of this hsup's own place.
    fn find(&mut self, own: &Path) -> io::Result<()> {
        remove(&own.join(format!("{TEMP_PREFIX}first")));
        for number in segments(own)? {
            self.next = self.next.max(number + 1);
            let path = own.join(file_name(number));
            match Segment::open(&path) {
                Ok(empty) if empty.bytes == 0 => remove(&path),
                Ok(segment) => self.unread.push_back((number, segment)),
                Err(error) => {
                    self.left.insert(number);
                    self.leave(&path, &error);
                }
            }
        }
        Ok(())
    }

    /// Takes over the segments of places whose hsups have ended.
    fn take_over(&mut self, own: &Path) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let other = entry?.path();
            if other == own || !other.is_dir() {
                continue;
            }
            if let Err(error) = self.empty(&other, own) {
                self.leave(&other, &error);
            }
        }
        Ok(())
    }

    /// Moves the segments of another place to this hsup's own, if the hsup of that one has ended.
    fn empty(&mut self, other: &Path, own: &Path) -> io::Result<()> {
        let Some(_lock) = lock(other)? else { return Ok(()) };
        for number in segments(other)? {
            let theirs = other.join(file_name(number));
            let segment = match Segment::open(&theirs) {
                Ok(segment) => segment,
                Err(error) => {
                    self.leave(&theirs, &error);
                    continue;
                }
            };
            // They are behind what is being written.
            self.close_writer()?;
            let new = self.number();
            let path = own.join(file_name(new));
            fs::rename(&theirs, &path)?;
            self.unread.push_back((new, Segment { path, ..segment }));
        }
        Ok(())
    }

    /// Says that a place or a segment cannot be read, once: it is left as it is, and the others are used.
    fn leave(&mut self, path: &Path, error: &io::Error) {
        if self.said.insert(path.to_owned()) {
            tracing::error!(%error, "cannot read what waits to be sent in {}: it stays there", path.display());
        }
    }
}

fn file_name(number: u64) -> String {
    format!("{number:016x}")
}

/// The numbers of the segments in a directory, in order.
fn segments(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Locks a directory, unless another hsup has.
fn lock(dir: &Path) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(File::open(dir)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Removes a file; one that stays would be sent again.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "cannot remove {}: its lines may be sent again", path.display());
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
