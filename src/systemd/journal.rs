//! Whether a stream goes to the journal, which has a time and a priority for each line by itself
//! (systemd.exec(5) `JOURNAL_STREAM`, sd-daemon(3)).

use std::env;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing::Level;

/// Whether the stream goes to the journal: it is the socket that systemd names. A descriptor that was redirected is
/// another one.
pub fn is_journal(stream: impl AsFd) -> bool {
    let Ok(named) = env::var("JOURNAL_STREAM") else { return false };
    fstat(stream).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// What stands before a line of this level for the journal to know its priority.
pub const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// [`priority`] where the stream goes to the journal, and else nothing.
pub fn prefix(stream: impl AsFd, level: Level) -> &'static str {
    if is_journal(stream) { priority(level) } else { "" }
}

/// Says on stderr what ends hsup.
pub fn say(text: &str) {
    let prefix = prefix(io::stderr(), Level::ERROR);
    let lines = text.trim_end().lines().map(|line| format!("{prefix}{line}\n"));
    let _nobody_listens = io::stderr().write_all(lines.collect::<String>().as_bytes());
}
