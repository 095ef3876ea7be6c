//! One thing that has happened, as plain data, and a sentence for people. It knows neither who hears of it nor how it
//! is written on the wire.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::dyno::{DynoState, Ended, LastExit, Why};
use crate::model::{DynoName, ReleaseVersion};

/// One thing that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number. The events of one hsup are numbered without gaps, and those of a later one higher.
    pub id: u64,
    /// When.
    pub at: SystemTime,
    /// What.
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Something of a dyno.
    Dyno {
        /// Which one.
        dyno: DynoName,
        /// The release that it runs.
        release: ReleaseVersion,
        /// What.
        news: DynoNews,
    },
    /// Something of a release.
    Release {
        /// Which one.
        release: ReleaseVersion,
        /// What.
        news: ReleaseNews,
    },
    /// The source of releases cannot be read, or has something that is no release.
    SourceFailed {
        /// Why.
        why: String,
    },
    /// The source can be read again.
    SourceRecovered {
        /// How many looks had failed.
        failures: u64,
    },
    /// Somebody has asked for something over the control socket.
    Command {
        /// Who: `root (uid 0, pid 42)`.
        by: String,
        /// For what: `stop`, `restart`, `scale` or `rollback`.
        command: &'static str,
        /// Its arguments, as on the command line.
        arguments: Vec<String>,
        /// Why it is not done.
        refused: Option<String>,
    },
}

/// What can happen to a dyno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DynoNews {
    /// It is in another state.
    State {
        /// The one before.
        from: DynoState,
        /// The new one.
        to: DynoState,
        /// How long the driver took to start the run, if that is now up.
        started_in: Option<Duration>,
        /// How long it took from then until it was ready, if that is now up and was asked.
        ready_in: Option<Duration>,
    },
    /// A run of it has ended.
    Exit(LastExit),
    /// It is started again in place.
    Restart {
        /// Why the run before ended.
        reason: &'static str,
        /// How often it has been started again.
        restarts: u64,
    },
    /// It uses all the memory that it may (R14).
    Memory,
}

/// What can become of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseNews {
    /// Its slug, its stack and what else its dynos need is being made ready.
    Preparing,
    /// That did not succeed; what runs goes on.
    Failed {
        /// Why.
        why: String,
    },
    /// Its dynos are those that should be.
    Live,
    /// All its dynos are healthy.
    Good,
    /// One of its dynos, or its release phase, speaks against it.
    Bad {
        /// Why.
        why: String,
    },
    /// It has made way for another one by itself.
    RolledBack {
        /// What runs in its place.
        to: ReleaseVersion,
    },
}

impl What {
    /// The word for it on the wire.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Dyno { news, .. } => match news {
                DynoNews::State { .. } => "dyno.state",
                DynoNews::Exit(_) => "dyno.exit",
                DynoNews::Restart { .. } => "dyno.restart",
                DynoNews::Memory => "dyno.memory",
            },
            Self::Release { news, .. } => match news {
                ReleaseNews::Preparing => "release.preparing",
                ReleaseNews::Failed { .. } => "release.failed",
                ReleaseNews::Live => "release.live",
                ReleaseNews::Good => "release.good",
                ReleaseNews::Bad { .. } => "release.bad",
                ReleaseNews::RolledBack { .. } => "release.rolled-back",
            },
            Self::SourceFailed { .. } => "source.failed",
            Self::SourceRecovered { .. } => "source.recovered",
            Self::Command { .. } => "command",
        }
    }

    /// Every word that there is.
    pub const WORDS: [&'static str; 13] = [
        "dyno.state",
        "dyno.exit",
        "dyno.restart",
        "dyno.memory",
        "release.preparing",
        "release.failed",
        "release.live",
        "release.good",
        "release.bad",
        "release.rolled-back",
        "source.failed",
        "source.recovered",
        "command",
    ];

    /// The dyno that it is about.
    pub fn dyno(&self) -> Option<&DynoName> {
        match self {
            Self::Dyno { dyno, .. } => Some(dyno),
            Self::Release { .. }
            | Self::SourceFailed { .. }
            | Self::SourceRecovered { .. }
            | Self::Command { .. } => None,
        }
    }

    /// The memory that its texts take, in bytes.
    pub(super) fn text_bytes(&self) -> usize {
        match self {
            Self::Dyno { news, .. } => match news {
                DynoNews::Exit(exit) => exit.text_bytes(),
                DynoNews::State { .. } | DynoNews::Restart { .. } | DynoNews::Memory => 0,
            },
            Self::Release { news, .. } => match news {
                ReleaseNews::Failed { why } | ReleaseNews::Bad { why } => why.len(),
                ReleaseNews::Preparing
                | ReleaseNews::Live
                | ReleaseNews::Good
                | ReleaseNews::RolledBack { .. } => 0,
            },
            Self::SourceFailed { why } => why.len(),
            Self::SourceRecovered { .. } => 0,
            Self::Command { by, command: _, arguments, refused } => {
                let refused = refused.as_ref().map_or(0, String::len);
                by.len()
                    + refused
                    + arguments.iter().map(|text| text.len() + size_of::<String>()).sum::<usize>()
            }
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyno { dyno, news, release: _ } => write!(f, "{dyno}: {news}"),
            Self::Release { release, news } => write!(f, "release {release} {news}"),
            Self::SourceFailed { why } => write!(f, "the source of releases: {why}"),
            Self::SourceRecovered { failures } => {
                write!(f, "the source of releases can be read again, after {failures} failures")
            }
            Self::Command { by, command, arguments, refused } => {
                write!(f, "{by} asks: {command}")?;
                arguments.iter().try_for_each(|argument| write!(f, " {argument}"))?;
                match refused {
                    Some(why) => write!(f, ", and it is not done: {why}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for DynoNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State { from, to, .. } => {
                write!(f, "State changed from {} to {}", from.word(), to.word())
            }
            Self::Exit(LastExit { how, why, .. }) => {
                match how {
                    Ended::Exited(exit) => f.write_str(&exit.told())?,
                    Ended::NotStarted { why, .. } => return write!(f, "Cannot start: {why}"),
                }
                match why {
                    Why::ByItself | Why::NotStarted => Ok(()),
                    Why::BootTimeout { missing } => write!(f, " (boot timeout: {missing})"),
                    Why::Unwell { finding } => write!(f, " (not well: {finding})"),
                    Why::OutOfMemory | Why::ExitTimeout | Why::Restarted | Why::Retired => {
                        write!(f, " ({})", why.word())
                    }
                }
            }
            Self::Restart { reason, restarts } => {
                write!(f, "Starting again ({reason}), restart {restarts}")
            }
            Self::Memory => f.write_str("Error R14 (Memory quota exceeded)"),
        }
    }
}

impl fmt::Display for ReleaseNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preparing => f.write_str("is being prepared"),
            Self::Failed { why } => write!(f, "is not live: {why}"),
            Self::Live => f.write_str("is live"),
            Self::Good => f.write_str("is good: all its dynos are healthy"),
            Self::Bad { why } => write!(f, "is bad: {why}"),
            Self::RolledBack { to } => write!(f, "was rolled back to release {to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use hsup_drivers::Exit;

    use super::*;

    #[test]
    fn events_read_as_the_log_does() {
        let exit = |how, why| {
            let at = SystemTime::UNIX_EPOCH;
            let news = DynoNews::Exit(LastExit { how, why, at, last_lines: std::sync::Arc::default() });
            What::Dyno { dyno: "web.1".parse().unwrap(), release: ReleaseVersion(3), news }.to_string()
        };
        let killed = Ended::Exited(Exit::Signal(9));
        assert_eq!(
            exit(killed.clone(), Why::OutOfMemory),
            "web.1: Process was killed by SIGKILL (out-of-memory)"
        );
        assert_eq!(
            exit(killed, Why::BootTimeout { missing: "nothing listens".to_owned() }),
            "web.1: Process was killed by SIGKILL (boot timeout: nothing listens)"
        );
        let command = What::Command {
            by: "root (uid 0)".to_owned(),
            command: "scale",
            arguments: vec!["web=3".to_owned()],
            refused: Some("no port is left".to_owned()),
        };
        assert_eq!(
            command.to_string(),
            "root (uid 0) asks: scale web=3, and it is not done: no port is left"
        );
        let rolled_back = ReleaseNews::RolledBack { to: ReleaseVersion(2) };
        let release = What::Release { release: ReleaseVersion(3), news: rolled_back };
        assert_eq!(release.to_string(), "release v3 was rolled back to release v2");
        assert!(What::WORDS.contains(&release.word()) && What::WORDS.contains(&command.word()));
    }
}
