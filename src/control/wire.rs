//! The JSON of the control API, as values that both ends share. Field names are PascalCase, times RFC 3339 in
//! UTC with milliseconds. Nothing here does I/O.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hsup_drivers::process::Usage;
use serde::{Deserialize, Serialize};

use crate::dyno::{DynoState, DynoStatus, Health};
use crate::formation::FormationStatus;
use crate::logs::LogsStatus;
use crate::model::{AppName, DynoName, ProcessType, Quantity, Target};

mod event;
mod inspect;
mod last_exit;
mod operate;
mod quantities;
mod text;

pub use event::{EventEntry, EventHead};
pub use inspect::{ConfigResponse, ConfigValues, LiveResponse, PlanResponse, PlannedConfig, PlannedDyno};
pub use last_exit::{Ended, LastExit};
pub use operate::{
    HistoryEntry, ReleasesResponse, RestartRequest, RestartResponse, RollbackRequest, RollbackResponse,
    ScaleRequest,
};
pub use text::{Timestamp, Version};

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
    pub state: Cow<'static, str>,
    /// What its health check says; none while nothing checks it.
    pub health: Option<Cow<'static, str>>,
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
            state: dyno.state.word().into(),
            health: dyno.health.word().map(Cow::from),
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
fn processes(dynos: &[Arc<DynoStatus>]) -> BTreeMap<ProcessType, ProcessEntry> {
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
