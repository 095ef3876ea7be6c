//! How logs are kept and shipped: what an operator may set, and what holds otherwise.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::secret::Secret;

/// What happens to lines when a drain has no room left, in memory nor on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest ones are dropped, counted and told of: a drain must not stop an app.
    #[default]
    Drop,
    /// Dynos that print wait.
    Block,
}

/// Why a text is not an overflow policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not what can be done with lines that a drain has no room for: write drop or block")]
pub struct InvalidOverflow(String);

impl FromStr for Overflow {
    type Err = InvalidOverflow;

    fn from_str(given: &str) -> Result<Self, InvalidOverflow> {
        match given {
            "drop" => Ok(Self::Drop),
            "block" => Ok(Self::Block),
            other => Err(InvalidOverflow(other.to_owned())),
        }
    }
}

/// How a drain buffers and sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainSettings {
    /// What happens when there is no room left.
    pub overflow: Overflow,
    /// What waits in memory for each drain, in bytes.
    pub buffer_bytes: usize,
    /// What waits on disk for each drain, in bytes; 0 for nothing.
    pub spool_bytes: u64,
    /// Whether requests are compressed.
    pub gzip: bool,
    /// How long to send what is left when hsup ends.
    pub flush_timeout: Duration,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            overflow: Overflow::default(),
            // 60 ms of the fastest dyno, or an hour of a common one
            buffer_bytes: 8 << 20,
            // hours of a common app, and no danger to a disk
            spool_bytes: 256 << 20,
            gzip: false,
            // within the 90 s that systemd gives a service to stop, after the dynos' own 30
            flush_timeout: Duration::from_secs(10),
        }
    }
}

/// How lines are written to files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// The directory.
    pub dir: PathBuf,
    /// The size from which on a file is put aside, in bytes.
    pub rotate_bytes: u64,
    /// The age from which on a file is put aside.
    pub rotate_age: Duration,
    /// How many that were put aside are kept of each dyno.
    pub rotate_keep: usize,
}

impl FileSettings {
    /// The size from which on a file is put aside: an editor still opens it.
    pub const ROTATE_BYTES: u64 = 64 << 20;
    /// The age from which on a file is put aside: as logrotate's `daily`.
    pub const ROTATE_AGE: Duration = Duration::from_secs(24 * 3600);
    /// How many are kept: with one a day, those of a week.
    pub const ROTATE_KEEP: usize = 7;
}

/// How logs are kept and shipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The drains that the operator has named. They count in place of what releases say.
    pub drains: Vec<Secret>,
    /// How each drain buffers and sends.
    pub drain: DrainSettings,
    /// What the tail buffer holds, in bytes.
    pub tail_bytes: usize,
    /// Where lines are written to files, if they are.
    pub files: Option<FileSettings>,
}

impl Default for LogSettings {
    fn default() -> Self {
        // some ten thousand lines, and what an idle hsup may well use
        Self { drains: Vec::new(), drain: DrainSettings::default(), tail_bytes: 1 << 20, files: None }
    }
}
