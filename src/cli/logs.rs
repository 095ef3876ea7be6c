//! What flags and variables say of logs: how lines are kept and shipped, and which ones `hsup logs` is to show.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hsup_drivers::parse_size;

use super::args::Options;
use super::parse::{read_bool, read_duration};
use super::settings::{Reader, Setting};
use crate::control::LogsQuery;
use crate::logs::{DrainSettings, FileSettings, LogSettings};
use crate::model::HumanDuration;
use crate::secret::Secret;
use crate::sources::control_file::check_logplex_url;

const LOGPLEX_URL: Setting = Setting { flag: "--logplex-url", variable: "HSUP_LOGPLEX_URL" };
const OVERFLOW: Setting = Setting { flag: "--log-overflow", variable: "HSUP_LOG_OVERFLOW" };
const BUFFER: Setting = Setting { flag: "--log-buffer", variable: "HSUP_LOG_BUFFER" };
const SPOOL: Setting = Setting { flag: "--log-spool", variable: "HSUP_LOG_SPOOL" };
const GZIP: Setting = Setting { flag: "--log-gzip", variable: "HSUP_LOG_GZIP" };
const FLUSH_TIMEOUT: Setting = Setting { flag: "--log-flush-timeout", variable: "HSUP_LOG_FLUSH_TIMEOUT" };
const TAIL: Setting = Setting { flag: "--log-tail", variable: "HSUP_LOG_TAIL" };
const DIR: Setting = Setting { flag: "--log-dir", variable: "HSUP_LOG_DIR" };
const DIR_SIZE: Setting = Setting { flag: "--log-dir-size", variable: "HSUP_LOG_DIR_SIZE" };
const DIR_AGE: Setting = Setting { flag: "--log-dir-age", variable: "HSUP_LOG_DIR_AGE" };
const DIR_KEEP: Setting = Setting { flag: "--log-dir-keep", variable: "HSUP_LOG_DIR_KEEP" };

/// Below that a buffer holds hardly more than the largest piece of output that is read at once.
const BUFFERS: [u64; 2] = [2 << 20, 4 << 30];
/// No spool at all, or one that holds a few segments.
const SPOOLS: [u64; 2] = [1 << 20, 1 << 40];
/// See [`BUFFERS`].
const TAILS: [u64; 2] = [512 << 10, 1 << 30];
/// A file smaller than a page of text is a nuisance.
const DIR_SIZES: [u64; 2] = [4 << 10, 1 << 40];
/// Sending nothing more is sensible for some, more than an hour for nobody.
const FLUSH_TIMEOUTS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(3600)];
/// From a second, for tests, to ten years.
const DIR_AGES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10 * 365 * 24 * 3600)];
/// More files of one dyno than that nobody looks through.
const MAX_KEEP: usize = 10_000;

/// The flags of it all.
pub(super) struct LogFlags {
    logplex_url: Vec<String>,
    overflow: Option<String>,
    buffer: Option<String>,
    spool: Option<String>,
    gzip: Option<String>,
    flush_timeout: Option<String>,
    tail: Option<String>,
    dir: Option<OsString>,
    dir_size: Option<String>,
    dir_age: Option<String>,
    dir_keep: Option<String>,
}

impl LogFlags {
    /// Takes them from among all options.
    pub(super) fn of(options: &mut Options) -> Self {
        Self {
            logplex_url: std::mem::take(&mut options.logplex_url),
            overflow: options.log_overflow.take(),
            buffer: options.log_buffer.take(),
            spool: options.log_spool.take(),
            gzip: options.log_gzip.take(),
            flush_timeout: options.log_flush_timeout.take(),
            tail: options.log_tail.take(),
            dir: options.log_dir.take(),
            dir_size: options.log_dir_size.take(),
            dir_age: options.log_dir_age.take(),
            dir_keep: options.log_dir_keep.take(),
        }
    }
}

/// Reads how lines are kept and shipped.
pub(super) fn read(reader: &mut Reader<'_>, flags: LogFlags, directory: &Path) -> LogSettings {
    let default = LogSettings::default();
    let drain = DrainSettings {
        overflow: reader.parsed(OVERFLOW, flags.overflow, str::parse).unwrap_or_default(),
        buffer_bytes: reader
            .parsed(BUFFER, flags.buffer, |text| read_size(text, BUFFERS))
            .map_or(default.drain.buffer_bytes, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        spool_bytes: reader
            .parsed(SPOOL, flags.spool, |text| if text == "0" { Ok(0) } else { read_size(text, SPOOLS) })
            .unwrap_or(default.drain.spool_bytes),
        gzip: reader.parsed(GZIP, flags.gzip, read_bool).unwrap_or_default(),
        flush_timeout: reader
            .parsed(FLUSH_TIMEOUT, flags.flush_timeout, |text| read_duration(text, FLUSH_TIMEOUTS))
            .unwrap_or(default.drain.flush_timeout),
    };
    let drains = read_drains(reader, flags.logplex_url);
    let tail_bytes = reader
        .parsed(TAIL, flags.tail, |text| read_size(text, TAILS))
        .map_or(default.tail_bytes, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let rotate_bytes = reader.parsed(DIR_SIZE, flags.dir_size, |text| read_size(text, DIR_SIZES));
    let rotate_age = reader.parsed(DIR_AGE, flags.dir_age, |text| read_duration(text, DIR_AGES));
    let rotate_keep = reader.parsed(DIR_KEEP, flags.dir_keep, read_keep);
    let files = reader.path(DIR, flags.dir).map(|dir| FileSettings {
        dir: directory.join(dir.value),
        rotate_bytes: rotate_bytes.unwrap_or(FileSettings::ROTATE_BYTES),
        rotate_age: rotate_age.unwrap_or(FileSettings::ROTATE_AGE),
        rotate_keep: rotate_keep.unwrap_or(FileSettings::ROTATE_KEEP),
    });
    LogSettings { drains, drain, tail_bytes, files }
}

/// The drains of the flags, else those of the variable. Their URLs hold passwords, so that no error shows any of them.
fn read_drains(reader: &mut Reader<'_>, flags: Vec<String>) -> Vec<Secret> {
    let (given, name) = if flags.is_empty() {
        let variable = reader.text_variable(LOGPLEX_URL.variable).unwrap_or_default();
        (variable.split_ascii_whitespace().map(str::to_owned).collect(), LOGPLEX_URL.variable)
    } else {
        (flags, LOGPLEX_URL.flag)
    };
    let mut drains = Vec::new();
    for url in given {
        let checked = match check_logplex_url(&url) {
            Ok(()) if drains.contains(&Secret::from(url.clone())) => {
                Err("the same URL (not shown, since it may hold a password) is there twice: keep one"
                    .to_owned())
            }
            Ok(()) => Ok(Secret::from(url)),
            Err(error) => Err(error.to_string()),
        };
        drains.extend(reader.keep(name, checked));
    }
    drains
}

fn read_size(given: &str, [least, most]: [u64; 2]) -> Result<u64, String> {
    let malformed =
        || format!("{given:?} is not a size: write a number with a unit (KiB, MiB or GiB), as in 64MiB");
    let bytes = parse_size(given).ok_or_else(malformed)?;
    if (least..=most).contains(&bytes) {
        return Ok(bytes);
    }
    let mib = |bytes: u64| {
        if bytes < 1 << 20 { format!("{}KiB", bytes >> 10) } else { format!("{}MiB", bytes >> 20) }
    };
    Err(format!("{given:?} is out of range: write {} to {}", mib(least), mib(most)))
}

fn read_keep(given: &str) -> Result<usize, String> {
    let number = given.parse().ok().filter(|number| *number <= MAX_KEEP);
    number.ok_or_else(|| {
        format!("{given:?} is not a number of files: write a whole number from 0 to {MAX_KEEP}")
    })
}

/// What `hsup logs` was given.
pub(super) struct LogsFlags {
    pub dyno: Vec<String>,
    pub num: Option<String>,
    pub follow: bool,
    pub since: Option<String>,
    pub json: bool,
}

/// Reads which lines are to be shown.
pub(super) fn read_query(reader: &mut Reader<'_>, flags: LogsFlags) -> Option<LogsQuery> {
    let targets: Vec<_> = flags.dyno.iter().map(|given| reader.keep("--dyno", given.parse())).collect();
    let lines = flags.num.map(|given| reader.keep("--num", read_lines(&given)));
    let since = flags.since.map(|given| reader.keep("--since", read_since(&given, SystemTime::now())));
    let targets = targets.into_iter().collect::<Option<_>>()?;
    // None if it was not given, nothing at all if it is wrong.
    let lines = lines.map_or(Some(None), |lines| lines.map(Some))?;
    let since = since.map_or(Some(None), |since| since.map(Some))?;
    Some(LogsQuery { targets, lines, follow: flags.follow, since, json: flags.json })
}

fn read_lines(given: &str) -> Result<u64, String> {
    given.parse().map_err(|_| format!("{given:?} is not a number of lines: write a whole number such as 100"))
}

/// A time, or how long ago.
fn read_since(given: &str, now: SystemTime) -> Result<SystemTime, String> {
    if let Ok(HumanDuration(ago)) = given.parse() {
        return Ok(now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::UNIX_EPOCH));
    }
    humantime::parse_rfc3339_weak(given).map_err(|_| {
        format!("{given:?} is neither a time nor a duration: write one such as 2026-11-21T10:00:00Z or 5m")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(read_since("5m", now), Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(700)));
        assert_eq!(read_since("5h", now), Ok(SystemTime::UNIX_EPOCH));
        assert_eq!(
            read_since("1970-01-01T00:00:07Z", now),
            Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(7))
        );
        assert!(read_since("yesterday", now).unwrap_err().contains("5m"));
    }

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!(read_size("64MiB", BUFFERS), Ok(64 << 20));
        assert_eq!(
            read_size("1KiB", BUFFERS).unwrap_err(),
            "\"1KiB\" is out of range: write 2MiB to 4096MiB"
        );
        for bad in ["64", "much", "", "-1MiB"] {
            assert!(read_size(bad, BUFFERS).is_err(), "{bad}");
        }
    }
}
