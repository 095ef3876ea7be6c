//! Reads a tar, that of a slug or of a root file system, and has its entries written. It owns what an archive may
//! say and how much of it is read; it must not touch the file system itself. Archives come from the network:
//! every one is taken to be hostile.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entries, Entry, EntryType, Header};

use super::limits::Limits;
use super::tree::{Attributes, Tree};
use crate::blocking::Stop;

/// What may stand between two entries: the headers, long names and pax records of one. The tar crate holds
/// them in memory, so a name of 1 GiB would do harm; Linux paths end at 4 KiB.
const METADATA_BYTES: u64 = 1 << 20;

/// What all entries together may need beside their contents, for each: header, padding and pax records.
const METADATA_BYTES_PER_FILE: u64 = 4096;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What an archive holds, and so what may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `./app/...`, gzipped: an app's code, whose files become hsup's own.
    Slug,
    /// A root file system, gzipped or not: modes and owners count, and links mean what they do once it is the root.
    Root,
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It does not begin as gzip does.
    #[error("is not a gzipped tar: {why}; make it with `tar czf slug.tgz ./app`")]
    NotGzip {
        /// What it begins with.
        why: &'static str,
    },
    /// It is gzip, but what is in it is not tar.
    #[error("is not a gzipped tar: its gzip data holds no tar archive")]
    NotTar(#[source] io::Error),
    /// It ends too early.
    #[error("is cut short after {entries} entries; put it there again in full")]
    CutShort {
        /// The entries that were read.
        entries: u64,
        /// How it ended.
        #[source]
        source: io::Error,
    },
    /// It cannot be read on.
    #[error("is damaged after {entries} entries")]
    Damaged {
        /// The entries that were read.
        entries: u64,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// It is a tar, but not one of a slug.
    #[error("holds no ./app: a slug is a gzipped tar of ./app/...")]
    NoApp,
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// An entry would end up outside.
    #[error("entry {entry:?} is refused: {why}")]
    Place {
        /// Its name.
        entry: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// An entry's place is taken, or lies behind something that is no directory.
    #[error("entry {entry:?} has no place: {why}")]
    Blocked {
        /// Its path.
        entry: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// A link that leads where it must not.
    #[error("link {entry:?} to {target:?} is refused: {why}")]
    Link {
        /// Its path.
        entry: PathBuf,
        /// Its target.
        target: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// A kind of entry that must not be.
    #[error("entry {entry:?} is refused: it is {kind}, and only files, directories and links may be")]
    Kind {
        /// Its name.
        entry: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It is too large unpacked.
    #[error("is larger than {} unpacked", indicatif::HumanBytes(*limit_bytes))]
    TooManyBytes {
        /// The limit.
        limit_bytes: u64,
    },
    /// It has too many entries.
    #[error("holds more than {limit} files, directories and links")]
    TooManyFiles {
        /// The limit.
        limit: u64,
    },
    /// Its headers and names are too large.
    #[error("holds more headers and names than it can need")]
    TooMuchMetadata,
    /// The content of an entry cannot be read.
    #[error("an entry cannot be read")]
    Content(#[source] io::Error),
    /// An entry cannot be written.
    #[error("cannot {operation} {entry:?}")]
    Write {
        /// What was tried.
        operation: &'static str,
        /// Its path.
        entry: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Unpacks an archive so that the `./app` of a slug, or all of a root file system, becomes `dir`, which must not
/// exist yet.
///
/// # Errors
/// When the archive is refused or cannot be written. What was written so far is the caller's to remove.
pub(crate) fn unpack(
    mut archive: File,
    dir: &Path,
    layout: Layout,
    limits: Limits,
    stop: &Stop,
) -> Result<(), UnpackError> {
    let gzipped = is_gzipped(&mut archive, layout)?;
    let meter = Rc::new(Meter::new(limits));
    let inner: Box<dyn Read> =
        if gzipped { Box::new(MultiGzDecoder::new(archive)) } else { Box::new(archive) };
    let metered = Metered { inner, meter: Rc::clone(&meter), stop: stop.clone() };
    let mut tar = Archive::new(metered);
    let mut tree = Tree::new(dir, layout, limits);
    let mut entries = 0;
    let mut outcome = tar
        .entries()
        .map_err(UnpackError::Content)
        .and_then(|list| add_all(list, layout, &meter, &mut tree, &mut entries));
    if outcome.is_ok() {
        // to the end, so that gzip's checksum is compared and a cut is seen
        meter.grant(u64::MAX);
        let rest = io::copy(&mut tar.into_inner(), &mut io::sink());
        outcome = rest.map(drop).map_err(UnpackError::Content);
    }
    if meter.overrun.get() {
        return Err(UnpackError::TooMuchMetadata);
    }
    outcome.map_err(|error| with_place(error, layout, entries))?;
    match (tree.finish()?, layout) {
        (true, _) => Ok(()),
        (false, Layout::Slug) => Err(UnpackError::NoApp),
        (false, Layout::Root) => Err(UnpackError::Empty),
    }
}

fn is_gzipped(archive: &mut File, layout: Layout) -> Result<bool, UnpackError> {
    let mut magic = Vec::new();
    archive.take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic).map_err(UnpackError::Content)?;
    io::Seek::rewind(archive).map_err(UnpackError::Content)?;
    match magic.as_slice() {
        magic if magic == GZIP_MAGIC => Ok(true),
        _ if layout == Layout::Root => Ok(false),
        [] => Err(UnpackError::NotGzip { why: "it is empty" }),
        _ => Err(UnpackError::NotGzip { why: "it does not begin as gzip data does" }),
    }
}

/// Says how far the archive could be read, where reading is what failed.
fn with_place(error: UnpackError, layout: Layout, entries: u64) -> UnpackError {
    let UnpackError::Content(source) = error else { return error };
    if source.kind() == ErrorKind::UnexpectedEof {
        UnpackError::CutShort { entries, source }
    } else if entries == 0 && layout == Layout::Slug {
        UnpackError::NotTar(source)
    } else {
        UnpackError::Damaged { entries, source }
    }
}

fn add_all<R: Read>(
    mut list: Entries<'_, R>,
    layout: Layout,
    meter: &Meter,
    tree: &mut Tree<'_>,
    entries: &mut u64,
) -> Result<(), UnpackError> {
    loop {
        meter.grant(METADATA_BYTES);
        let Some(entry) = list.next() else { return Ok(()) };
        let mut entry = entry.map_err(UnpackError::Content)?;
        *entries += 1;
        // the contents of files have their own limit
        meter.grant(u64::MAX);
        add(&mut entry, layout, tree)?;
    }
}

fn add<R: Read>(entry: &mut Entry<'_, R>, layout: Layout, tree: &mut Tree<'_>) -> Result<(), UnpackError> {
    let kind = entry.header().entry_type();
    if kind.is_pax_global_extensions() {
        return Ok(());
    }
    let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
    if has_pax_sparse_map(entry).map_err(UnpackError::Content)? {
        return Err(UnpackError::Kind { entry: name, kind: "a sparse file in pax format" });
    }
    let header = entry.header();
    let attributes = Attributes {
        mode: header.mode().map_err(UnpackError::Content)?,
        modified_unix_s: header.mtime().ok(),
        owner: owner(header, layout).map_err(UnpackError::Content)?,
    };
    // tars of before 1988 mark a directory by the slash alone
    let old_directory = header.as_ustar().is_none() && name.as_os_str().as_bytes().ends_with(b"/");
    let is_directory = kind.is_dir() || kind.is_file() && old_directory;
    let Some(path) = place(&name, layout, is_directory)? else { return Ok(()) };
    if is_directory {
        tree.directory(&path, attributes)
    } else if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
        let bytes = entry.size();
        tree.file(&path, attributes, bytes, entry)
    } else if kind.is_symlink() {
        tree.symlink(&path, &link_target(entry, &name)?, attributes)
    } else if kind.is_hard_link() {
        let target = link_target(entry, &name)?;
        let outside = |_| UnpackError::Link {
            entry: name,
            target: target.clone(),
            why: match layout {
                Layout::Slug => "the target of a hard link must be a file below ./app of the same archive",
                Layout::Root => "the target of a hard link must be a file of the same archive",
            },
        };
        // unlike a symlink's, it counts from the top of the archive
        let inside = place(&target, layout, false).map_err(outside)?;
        tree.hard_link(&path, &inside.unwrap_or_default())
    } else if layout == Layout::Root && is_device(kind) {
        // dynos get a /dev of their own
        tracing::debug!(entry = ?name, "left out {}", name_of(kind));
        Ok(())
    } else {
        Err(UnpackError::Kind { entry: name, kind: name_of(kind) })
    }
}

/// That of a slug's files does not matter, whatever it says.
fn owner(header: &Header, layout: Layout) -> io::Result<(u32, u32)> {
    if layout == Layout::Slug {
        return Ok((0, 0));
    }
    let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::other("the id of an owner is out of range"));
    Ok((id(header.uid()?)?, id(header.gid()?)?))
}

fn is_device(kind: EntryType) -> bool {
    kind.is_character_special() || kind.is_block_special() || kind.is_fifo()
}

/// The tar crate would write the map of such a file in front of its contents.
fn has_pax_sparse_map<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<bool> {
    let Some(records) = entry.pax_extensions()? else { return Ok(false) };
    Ok(records.flatten().any(|record| record.key_bytes().starts_with(b"GNU.sparse.")))
}

/// The path in the tree: that below the `./app` of a slug. None for the folder above, which archives may list.
fn place(name: &Path, layout: Layout, is_directory: bool) -> Result<Option<PathBuf>, UnpackError> {
    let refused = |why| Err(UnpackError::Place { entry: name.to_path_buf(), why });
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::ParentDir => return refused("its name holds `..`"),
            Component::RootDir | Component::Prefix(_) => return refused("its name is an absolute path"),
        }
    }
    match parts.split_first() {
        None if is_directory && layout == Layout::Root => Ok(Some(PathBuf::new())),
        Some(_) if layout == Layout::Root => Ok(Some(parts.iter().collect())),
        None if is_directory => Ok(None),
        None => refused("it is not a directory, but its name is that of the archive's top"),
        Some((top, [])) if *top == "app" && !is_directory => refused("app must be a directory"),
        Some((top, rest)) if *top == "app" => Ok(Some(rest.iter().collect())),
        Some(_) => refused("it is outside of ./app, and a slug is a gzipped tar of ./app/..."),
    }
}

fn link_target<R: Read>(entry: &Entry<'_, R>, name: &Path) -> Result<PathBuf, UnpackError> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() => Ok(PathBuf::from(OsStr::from_bytes(&target))),
        Some(_) | None => Err(UnpackError::Link {
            entry: name.to_path_buf(),
            target: PathBuf::new(),
            why: "it names no target",
        }),
    }
}

fn name_of(kind: EntryType) -> &'static str {
    match kind {
        kind if kind.is_character_special() => "a character device",
        kind if kind.is_block_special() => "a block device",
        kind if kind.is_fifo() => "a FIFO",
        _ => "of an unknown kind",
    }
}

/// How much more may be read.
struct Meter {
    step_left: Cell<u64>,
    total_left: Cell<u64>,
    overrun: Cell<bool>,
}

impl Meter {
    fn new(limits: Limits) -> Self {
        let metadata = limits.files.saturating_mul(METADATA_BYTES_PER_FILE).saturating_add(METADATA_BYTES);
        Self {
            step_left: Cell::new(METADATA_BYTES),
            total_left: Cell::new(limits.unpacked_bytes.saturating_add(metadata)),
            overrun: Cell::new(false),
        }
    }

    fn grant(&self, bytes: u64) {
        self.step_left.set(bytes);
    }

    fn allowed(&self) -> u64 {
        self.step_left.get().min(self.total_left.get())
    }

    fn spend(&self, bytes: u64) {
        self.step_left.set(self.step_left.get().saturating_sub(bytes));
        self.total_left.set(self.total_left.get().saturating_sub(bytes));
    }
}

/// The unzipped bytes, as many as the meter grants, and none once the work is given up.
struct Metered<R> {
    inner: R,
    meter: Rc<Meter>,
    stop: Stop,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check()?;
        let allowed = usize::try_from(self.meter.allowed()).unwrap_or(usize::MAX);
        if allowed == 0 {
            self.meter.overrun.set(true);
            return Err(io::Error::other("the archive holds more than it may"));
        }
        let end = buffer.len().min(allowed);
        let read = self.inner.read(&mut buffer[..end])?;
        self.meter.spend(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
