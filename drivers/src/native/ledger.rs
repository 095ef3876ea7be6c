//! The ledger of runs: what each run of a dyno takes of the host, written down before it is taken.
//!
//! A run is a file, `<state dir>/native/runs/<run id>.json`, from before its first resource is made until the last
//! one is undone. Each of its lines is the whole record, and the last one holds: a line without an end was being
//! written when its hsup was killed, and nothing that is new in it has been made. What is in it is plain data, by which a later hsup undoes what a dead one left behind, or a
//! handle of the run could be made anew. Nothing is made or undone here.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::native::files;
use crate::owner::Owner;
use crate::process;

/// The version of the records that this hsup writes. One that cannot undo what a record names must not think that
/// it has.
const FORMAT: u32 = 1;

/// How much of a dyno's name is part of its runs' ids, in bytes: Heroku's names are shorter, and a file's name
/// ends at 255.
const DYNO_MAX: usize = 100;

/// The name of a run among all that ever are on this host: `<dyno>-<owner>-<number>`. It may be a file's name, and
/// names its owner, so that whatever is named after a run can be told from what nobody owns any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId {
    text: String,
    owner: Owner,
}

impl RunId {
    fn new(dyno: &str, owner: &Owner, number: u64) -> Self {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let name = dyno.bytes().take(DYNO_MAX).map(|byte| if plain(byte) { char::from(byte) } else { '_' });
        let name: String = name.collect();
        // Not a hidden file's.
        let name = if name.starts_with('.') { format!("_{name}") } else { name };
        Self { text: format!("{name}-{owner}-{number}"), owner: owner.clone() }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hsup whose run it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text is no run's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no run is named by {text:?}: need <dyno>-<owner>-<number>")]
pub struct ParseRunIdError {
    text: String,
}

impl FromStr for RunId {
    type Err = ParseRunIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_run_id(text).ok_or_else(|| ParseRunIdError { text: text.to_owned() })
    }
}

/// The dyno's name may have dashes in it, so it is read from the end.
fn parse_run_id(text: &str) -> Option<RunId> {
    let (rest, number) = text.rsplit_once('-')?;
    number.parse::<u64>().ok()?;
    let (dash, _) = rest.rmatch_indices('-').nth(3)?;
    let owner = rest.get(dash + 1..)?.parse().ok()?;
    let plain = !text.starts_with('.') && !text.contains('/');
    plain.then(|| RunId { text: text.to_owned(), owner })
}

impl TryFrom<String> for RunId {
    type Error = ParseRunIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(run: RunId) -> Self {
        run.text
    }
}

/// A dyno's init, named for good: its pid alone may be another process's later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Its pid in the pid namespace of its hsup.
    pub pid: u32,
    /// When it was started, in clock ticks since boot.
    pub start_time: u64,
}

impl Init {
    /// Looks at a process; `None` if there is none.
    pub fn of(pid: u32) -> Option<Self> {
        process::stat(pid).map(|stat| Self { pid, start_time: stat.start_time })
    }
}

/// What a run of a dyno takes of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The run.
    pub run: RunId,
    /// The hsup whose run it is: that of `run`, but for one that has been handed over.
    pub owner: Owner,
    /// The dyno: `web.1`.
    pub dyno: String,
    /// The UID that is claimed for it.
    pub uid: u32,
    /// The /30 network that is claimed for it, by its first address.
    pub subnet: u32,
    /// The host's end of its veth pair.
    pub link: Option<String>,
    /// Its cgroups.
    pub cgroups: Vec<PathBuf>,
    /// Its directories, each below the state dir.
    pub dirs: Vec<PathBuf>,
    /// Its init, once that has been started.
    pub init: Option<Init>,
    /// The release that it runs.
    pub release: Option<String>,
}

/// The ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
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
    /// A record cannot be written as JSON.
    #[error("failed to write down the run {run}: use a state dir and cgroups whose paths are UTF-8")]
    Encode {
        /// Whose record it is.
        run: RunId,
        /// What cannot be written.
        source: serde_json::Error,
    },
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Io { operation, path, source }
}

/// The ledger of a state dir, for the runs of this process.
#[derive(Clone, Debug)]
pub struct Ledger {
    dir: PathBuf,
    owner: Owner,
}

impl Ledger {
    /// Opens the ledger of a state dir.
    ///
    /// # Errors
    /// If its directory cannot be made.
    pub fn open(state_dir: &Path) -> Result<Self, LedgerError> {
        let dir = files::runs_dir(state_dir);
        files::make_dir(&dir).map_err(failed("create", &dir))?;
        Ok(Self { dir, owner: Owner::me() })
    }

    /// Names a new run of a dyno, after which its resources can be named.
    pub fn new_run(&self, dyno: &str) -> RunId {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        loop {
            let run = RunId::new(dyno, &self.owner, RUNS.fetch_add(1, Ordering::Relaxed));
            // One may be of the program that this process was before: it began to count at 0, too.
            if fs::symlink_metadata(self.dir.join(file_name(&run))).is_err() {
                return run;
            }
        }
    }

    /// Writes down a run, before anything of it is made.
    ///
    /// # Errors
    /// If the record cannot be written: then nothing is to be made.
    pub fn enter(&self, record: Record) -> Result<Entry, LedgerError> {
        let entry = Entry { path: self.dir.join(file_name(&record.run)), lock: lock_path(&self.dir), record };
        entry.write(&entry.record, files::create)?;
        Ok(entry)
    }
}

/// The record of a run that is being made, runs, or is being undone.
///
/// When it is dropped the record stays, for the next hsup to undo what this one could not; the claims of the run
/// are to be kept then, too.
#[derive(Debug)]
#[must_use = "the record stays until it is closed"]
pub struct Entry {
    path: PathBuf,
    lock: PathBuf,
    record: Record,
}

impl Entry {
    /// What is written down.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Changes the record; again before what it names is made, but for the pid of init. The run stays the same.
    ///
    /// # Errors
    /// If it cannot be written: the record is as it was.
    pub fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), LedgerError> {
        let mut record = self.record.clone();
        change(&mut record);
        record.run = self.record.run.clone();
        self.write(&record, files::append)?;
        self.record = record;
        Ok(())
    }

    /// Strikes out the record: all that it names has been undone. The claims of the run are to be released after.
    ///
    /// # Errors
    /// If its file cannot be removed.
    pub fn close(self) -> Result<(), LedgerError> {
        files::remove(&self.path).map_err(failed("remove", &self.path))
    }

    /// Waits while something that no record names is being removed: what is written down now must not be taken
    /// for it.
    fn write(
        &self,
        record: &Record,
        write: impl FnOnce(&Path, &[u8]) -> io::Result<()>,
    ) -> Result<(), LedgerError> {
        let line = line(record).map_err(|source| LedgerError::Encode { run: record.run.clone(), source })?;
        let _lock = files::lock_shared(&self.lock).map_err(failed("lock", &self.lock))?;
        write(&self.path, &line).map_err(failed("write", &self.path))
    }
}

fn line(record: &Record) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Written { format: FORMAT, record })?;
    line.push(b'\n');
    Ok(line)
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    #[serde(flatten)]
    record: &'a Record,
}

/// What every version of a record has.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

fn file_name(run: &RunId) -> String {
    format!("{run}.json")
}

/// The lock between those who write records and those who remove what no record names.
pub(super) fn lock_path(runs: &Path) -> PathBuf {
    runs.join(".lock")
}

/// The files of the ledger, with the run that each name tells, if it does; none if there is no ledger.
pub(super) fn list(runs: &Path) -> io::Result<Vec<(PathBuf, Option<RunId>)>> {
    let entries = match fs::read_dir(runs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // The lock, and nothing else that is ours.
        if !name.starts_with('.') {
            found.push((entry.path(), name.strip_suffix(".json").and_then(|run| run.parse().ok())));
        }
    }
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// The runs that have a record, by the names of the files.
pub(super) fn run_ids(runs: &Path) -> io::Result<Vec<RunId>> {
    Ok(list(runs)?.into_iter().filter_map(|(_, run)| run).collect())
}

/// What is in a file of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Record(Box<Record>),
    /// It is none, and why.
    Garbage(String),
    /// Another version of hsup has written it.
    Foreign(u32),
    /// It is not there any more.
    Gone,
}

pub(super) fn read(path: &Path) -> io::Result<Reading> {
    match fs::read(path) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Reading::Gone),
        Err(error) => Err(error),
    }
}

fn parse(bytes: &[u8]) -> Reading {
    let mut lines = bytes.rsplit(|byte| *byte == b'\n').skip(1);
    let Some(line) = lines.next() else { return Reading::Garbage("it has no whole line".to_owned()) };
    let record = match serde_json::from_slice(line) {
        Ok(Versioned { format: FORMAT }) => serde_json::from_slice(line),
        Ok(Versioned { format }) => return Reading::Foreign(format),
        Err(error) => Err(error),
    };
    record
        .map_or_else(|error| Reading::Garbage(error.to_string()), |record| Reading::Record(Box::new(record)))
}

#[cfg(test)]
mod tests;
