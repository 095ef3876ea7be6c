//! How the last run of a dyno ended, as JSON.

use hsup_drivers::Exit;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::Timestamp;
use crate::dyno::{self, Why};

/// How and when the last run of a dyno ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// How.
    #[serde(flatten)]
    pub how: Ended,
    /// Why, as a word: `exited`, `out-of-memory`, `boot-timeout`, `liveness`, ...
    #[serde(rename = "Reason", default)]
    pub reason: String,
    /// What there is to say beyond that.
    #[serde(rename = "Detail", default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When.
    #[serde(rename = "At")]
    pub at: Timestamp,
    /// The last lines that it printed: up to ten, and up to 4 KiB.
    #[serde(rename = "LastLines", default)]
    pub last_lines: Vec<String>,
}

/// How a run ended. A reader tries the forms in this order: `Error` has a `Code` as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ended {
    /// It never started.
    #[serde(rename_all = "PascalCase")]
    NotStarted {
        /// What went wrong.
        error: String,
        /// What a shell gives for it: 127 not found, 126 not executable.
        code: u8,
    },
    /// A signal ended it.
    #[serde(rename_all = "PascalCase")]
    Signal {
        /// The number of the signal.
        signal: i32,
        /// Its name, `SIGKILL`.
        name: String,
    },
    /// It exited.
    #[serde(rename_all = "PascalCase")]
    Exited {
        /// With this code.
        code: u8,
    },
}

impl From<&dyno::LastExit> for LastExit {
    fn from(last: &dyno::LastExit) -> Self {
        let how = match &last.how {
            dyno::Ended::Exited(Exit::Code(code)) => Ended::Exited { code: *code },
            dyno::Ended::Exited(Exit::Signal(number)) => {
                Ended::Signal { signal: *number, name: signal_name(*number) }
            }
            dyno::Ended::NotStarted { why, status } => {
                Ended::NotStarted { error: why.clone(), code: *status }
            }
        };
        let detail = match &last.why {
            Why::BootTimeout { missing } => Some(missing.clone()),
            Why::Unwell { finding } => Some(finding.clone()),
            Why::ByItself
            | Why::NotStarted
            | Why::OutOfMemory
            | Why::ExitTimeout
            | Why::Restarted
            | Why::Retired => None,
        };
        let (reason, last_lines) = (last.why.word().to_owned(), last.last_lines.to_vec());
        Self { how, reason, detail, at: Timestamp(last.at), last_lines }
    }
}

fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("SIG{number}"), |signal| signal.as_str().to_owned())
}
