//! What is to be seen of a dyno from outside: plain data, published by its executor.

use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use hsup_drivers::Exit;

use crate::model::{DynoName, ReleaseVersion};

/// The state of a dyno as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DynoState {
    /// Not running, and not about to: nothing has started it yet.
    Stopped,
    /// Its processes are being made.
    Starting,
    /// Running.
    Up,
    /// Its last run crashed or did not start; it is waiting to be started again.
    Crashed,
    /// Its processes have been told to end, and a new run follows.
    Restarting,
    /// Its processes have been told to end, for good.
    Stopping,
    /// Ended for good.
    Retired,
}

impl DynoState {
    /// The word for it in state lines: `State changed from starting to up`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Crashed => "crashed",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Retired => "down",
        }
    }
}

/// How and when the last run of a dyno ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastExit {
    /// How.
    pub how: Ended,
    /// Whether the kernel had killed processes of it for want of memory.
    pub out_of_memory: bool,
    /// When.
    pub at: SystemTime,
}

/// How a run came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its main process ended.
    Exited(Exit),
    /// It never started, for this reason.
    NotStarted {
        /// What went wrong and what to do.
        why: String,
        /// The exit status that a shell gives for it: 127 not found, 126 not executable.
        status: u8,
    },
}

/// One dyno at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynoStatus {
    /// Its name.
    pub name: DynoName,
    /// Its state.
    pub state: DynoState,
    /// The release that it runs.
    pub release: ReleaseVersion,
    /// The process id of its main process while there is one on this host.
    pub pid: Option<u32>,
    /// The address at which its `port` is to be reached.
    pub address: IpAddr,
    /// The port at which it is to be reached: the one that it is to listen on (`$PORT`), or the one that is published
    /// for that.
    pub port: u16,
    /// When the run that is going on was started.
    pub started_at: Option<SystemTime>,
    /// How often it has been started again after its first start.
    pub restarts: u64,
    /// How its last run ended.
    pub last_exit: Option<LastExit>,
    /// When it will be started again, while it waits for that.
    pub next_retry_at: Option<SystemTime>,
}

impl DynoStatus {
    /// A dyno that an operator has stopped before it was ever started.
    pub fn never_started(name: DynoName, release: ReleaseVersion, port: u16) -> Self {
        Self {
            name,
            state: DynoState::Retired,
            release,
            pid: None,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port,
            started_at: None,
            restarts: 0,
            last_exit: None,
            next_retry_at: None,
        }
    }
}
