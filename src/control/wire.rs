//! The JSON of the control API, as values that both ends share. Field names are PascalCase, times RFC 3339 in
//! UTC with milliseconds. Nothing here does I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use hsup_drivers::Exit;
use hsup_drivers::process::Usage;
use nix::sys::signal::Signal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::dyno::{self, DynoState, DynoStatus, Health, Why};
use crate::formation::FormationStatus;
use crate::logs::LogsStatus;
use crate::model::{AppName, DynoName, ProcessType, Quantity, ReleaseVersion, Target};

mod operate;

pub use operate::{
    HistoryEntry, ReleasesResponse, RestartRequest, RestartResponse, RollbackRequest, RollbackResponse,
    ScaleRequest,
};

/// The answer to `GET /status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StatusResponse {
    /// One entry a process type, as hsup has always given it.
    pub processes: BTreeMap<ProcessType, ProcessEntry>,
    /// One entry a dyno, sorted by name.
    #[serde(default)]
    pub dynos: Vec<DynoEntry>,
    /// The release that is live.
    #[serde(default)]
    pub release: ReleaseEntry,
    /// How many dynos of each type there are to be.
    #[serde(default)]
    pub formation: BTreeMap<ProcessType, Quantity>,
    /// What becomes of the dynos' log lines.
    #[serde(default)]
    pub logs: LogsEntry,
}

/// A process type, seen through one of its dynos: the lowest-numbered one that is running or, if none is, the
/// lowest-numbered one of those that are nearest to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProcessEntry {
    /// The state of that dyno.
    pub status: ProcessState,
    /// Its address.
    #[serde(rename = "IPAddress")]
    pub ip_address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its number: 1 for `web.1`.
    #[serde(rename = "ProcessID")]
    pub process_id: u32,
}

/// The states that hsup has always named in `Processes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProcessState {
    /// It has a run, or one is being made.
    Started,
    /// It has none.
    Stopped,
    /// It has been told to end for good.
    Retiring,
    /// It has ended for good.
    Retired,
}

impl From<DynoState> for ProcessState {
    fn from(state: DynoState) -> Self {
        match state {
            DynoState::Starting | DynoState::Up | DynoState::Restarting => Self::Started,
            DynoState::Stopped | DynoState::Crashed => Self::Stopped,
            DynoState::Stopping => Self::Retiring,
            DynoState::Retired => Self::Retired,
        }
    }
}

/// A dyno.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DynoEntry {
    /// Its name, `web.1`.
    pub name: DynoName,
    /// Its process type.
    pub r#type: ProcessType,
    /// The word of its [`DynoState`]. A text, so that a client understands a newer hsup.
    pub state: String,
    /// What its health check says; none while nothing checks it.
    pub health: Option<String>,
    /// The process id of its main process, while there is one on this host.
    pub pid: Option<u32>,
    /// The address at which its port is to be reached.
    #[serde(rename = "IPAddress")]
    pub ip_address: IpAddr,
    /// The port that it is to listen on.
    pub port: u16,
    /// The release that it runs, `v3`.
    pub release: Version,
    /// When the run that is going on was started.
    pub started_at: Option<Timestamp>,
    /// How often it has been started again.
    pub restarts: u64,
    /// How many of its runs in a row have crashed or not started.
    #[serde(default)]
    pub crashes: u32,
    /// What its health check misses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// How its last run ended.
    pub last_exit: Option<LastExit>,
    /// When it will be started again, while it waits for that.
    pub next_retry_at: Option<Timestamp>,
    /// The memory that its processes use, where that is known.
    pub memory_bytes: Option<u64>,
    /// The CPU time that its processes have used, where that is known.
    pub cpu_seconds: Option<f64>,
}

/// The live release; both are unknown until the first one has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReleaseEntry {
    /// The app.
    pub app: Option<AppName>,
    /// The version.
    pub version: Option<Version>,
}

/// What becomes of log lines; all counts are since hsup was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LogsEntry {
    /// Lines that dynos have printed, and that hsup has said of them.
    pub lines: u64,
    /// The bytes of these.
    pub bytes: u64,
    /// Each drain that lines are sent to.
    pub drains: Vec<DrainEntry>,
}

/// A drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DrainEntry {
    /// Its URL, without user, password and query.
    #[serde(rename = "URL")]
    pub url: String,
    /// Lines that were given to it.
    pub lines: u64,
    /// Lines that the receiver has accepted.
    pub sent: u64,
    /// Bytes of frames that the receiver has accepted.
    pub sent_bytes: u64,
    /// Requests that were accepted.
    pub requests: u64,
    /// Attempts that have failed and are made again.
    pub retries: u64,
    /// Lines that were dropped since there was no room for them (L10).
    pub dropped: u64,
    /// Lines that the receiver has refused.
    pub refused: u64,
    /// Bytes that wait in memory.
    pub buffered_bytes: u64,
    /// Lines that wait on disk.
    pub spooled: u64,
    /// Bytes that wait on disk.
    pub spooled_bytes: u64,
    /// Why nothing can be sent at the moment, if that is so.
    pub trouble: Option<String>,
}

impl From<&LogsStatus> for LogsEntry {
    fn from(status: &LogsStatus) -> Self {
        let drains = status.drains.iter().map(|drain| DrainEntry {
            url: drain.url.clone(),
            lines: drain.taken_lines,
            sent: drain.sent_lines,
            sent_bytes: drain.sent_bytes,
            requests: drain.requests,
            retries: drain.retries,
            dropped: drain.dropped_lines,
            refused: drain.refused_lines,
            buffered_bytes: drain.buffered_bytes,
            spooled: drain.spooled_lines,
            spooled_bytes: drain.spooled_bytes,
            trouble: drain.trouble.clone(),
        });
        Self { lines: status.lines, bytes: status.bytes, drains: drains.collect() }
    }
}

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
            Why::ByItself | Why::NotStarted | Why::OutOfMemory | Why::Restarted | Why::Retired => None,
        };
        Self { how, reason: last.why.word().to_owned(), detail, at: Timestamp(last.at) }
    }
}

fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("SIG{number}"), |signal| signal.as_str().to_owned())
}

/// The body of `POST /control/stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StopRequest {
    /// Process types and dyno names. Texts, since a name that cannot be is only one that nothing has.
    pub processes: Vec<String>,
}

/// The answer to `POST /control/stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StopResponse {
    /// An entry a dyno that has stopped: its type where that was asked for, its name where that was.
    pub stopped_processes: Vec<String>,
}

impl StopResponse {
    /// Names each dyno that has stopped by the first target that meant it.
    pub fn new(targets: &[Target], stopped: &[DynoName]) -> Self {
        let asked_as = |dyno: &DynoName| {
            let target = targets.iter().find(|target| target.covers(dyno));
            target.map_or_else(|| dyno.to_string(), Target::to_string)
        };
        Self { stopped_processes: stopped.iter().map(asked_as).collect() }
    }
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    /// What is wrong.
    pub error: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A release version as text: `v3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub ReleaseVersion);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let number = text.strip_prefix('v').and_then(|number| number.parse().ok());
        number
            .map(|number| Self(ReleaseVersion(number)))
            .ok_or_else(|| de::Error::custom(format!("{text:?} is not a release version such as \"v3\"")))
    }
}

/// A moment, cut to milliseconds on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub SystemTime);

/// 9999-12-31T23:59:59Z. RFC 3339 has four digits for the year.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

impl fmt::Display for Timestamp {
    /// A moment that RFC 3339 cannot say (a clock that was never set) becomes the nearest one that it can.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since_epoch = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since_epoch.min(LAST_SECOND)).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        humantime::parse_rfc3339(&String::deserialize(input)?).map(Self).map_err(de::Error::custom)
    }
}

impl StatusResponse {
    /// Describes the formation; `usage` tells what the processes under a dyno's main process use.
    pub fn new(status: &FormationStatus, logs: &LogsStatus, usage: impl Fn(u32) -> Option<Usage>) -> Self {
        Self {
            processes: processes(&status.dynos),
            dynos: status.dynos.iter().map(|dyno| DynoEntry::new(dyno, &usage)).collect(),
            release: ReleaseEntry { app: status.app.clone(), version: status.release.map(Version) },
            formation: status.formation.clone(),
            logs: LogsEntry::from(logs),
        }
    }
}

impl DynoEntry {
    fn new(dyno: &DynoStatus, usage: impl Fn(u32) -> Option<Usage>) -> Self {
        let usage = dyno.pid.and_then(usage);
        Self {
            name: dyno.name.clone(),
            r#type: dyno.name.process_type.clone(),
            state: dyno.state.word().to_owned(),
            health: dyno.health.word().map(str::to_owned),
            pid: dyno.pid,
            ip_address: dyno.address,
            port: dyno.port,
            release: Version(dyno.release),
            started_at: dyno.started_at.map(Timestamp),
            restarts: dyno.restarts,
            crashes: dyno.crashes,
            missing: match &dyno.health {
                Health::Booting { missing } => missing.clone(),
                Health::Unknown | Health::Healthy => None,
            },
            last_exit: dyno.last_exit.as_ref().map(LastExit::from),
            next_retry_at: dyno.next_retry_at.map(Timestamp),
            memory_bytes: usage.map(|usage| usage.memory_bytes),
            cpu_seconds: usage.map(|usage| usage.cpu.as_secs_f64()),
        }
    }
}

/// The variants of [`ProcessState`] stand in the order of liveness, so the least pair is the one to show.
fn processes(dynos: &[DynoStatus]) -> BTreeMap<ProcessType, ProcessEntry> {
    let mut processes = BTreeMap::<ProcessType, ProcessEntry>::new();
    for dyno in dynos {
        let entry = ProcessEntry {
            status: dyno.state.into(),
            ip_address: dyno.address,
            port: dyno.port,
            process_id: dyno.name.number,
        };
        let rank = |entry: &ProcessEntry| (entry.status, entry.process_id);
        match processes.get(&dyno.name.process_type) {
            Some(shown) if rank(shown) <= rank(&entry) => {}
            Some(_) | None => {
                processes.insert(dyno.name.process_type.clone(), entry);
            }
        }
    }
    processes
}

#[cfg(test)]
mod tests;
