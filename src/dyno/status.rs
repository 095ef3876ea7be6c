//! What is to be seen of a dyno from outside: plain data, published by its executor.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use hsup_drivers::Exit;
use tokio::time::Instant;

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
    /// Why.
    pub why: Why,
    /// When.
    pub at: SystemTime,
    /// The last lines that it printed, as far as hsup reads them and still has them.
    pub last_lines: Arc<[String]>,
}

impl LastExit {
    /// The memory that its texts take, in bytes.
    pub fn text_bytes(&self) -> usize {
        let how = match &self.how {
            Ended::NotStarted { why, .. } => why.len(),
            Ended::Exited(_) => 0,
        };
        let why = match &self.why {
            Why::BootTimeout { missing: text } | Why::Unwell { finding: text } => text.len(),
            Why::ByItself
            | Why::NotStarted
            | Why::OutOfMemory
            | Why::ExitTimeout
            | Why::Restarted
            | Why::Retired => 0,
        };
        let lines = self.last_lines.iter().map(|line| line.len() + size_of::<String>());
        how + why + lines.sum::<usize>()
    }
}

/// Why a run came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It ended by itself, or somebody else ended it.
    ByItself,
    /// The driver could not start it.
    NotStarted,
    /// The kernel had killed processes of it for want of memory.
    OutOfMemory,
    /// It was not ready in time.
    BootTimeout {
        /// What was missing: nothing listens on port 5000.
        missing: String,
    },
    /// It failed its liveness check.
    Unwell {
        /// What the check says.
        finding: String,
    },
    /// It was told to end, and had not within the stop timeout: it was killed.
    ExitTimeout,
    /// An operator asked for a restart.
    Restarted,
    /// It was told to end for good: scaled down, replaced by another release, or stopped.
    Retired,
}

impl Why {
    /// The word for it on the wire and in metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::ByItself => "exited",
            Self::NotStarted => "not-started",
            Self::OutOfMemory => "out-of-memory",
            Self::BootTimeout { .. } => "boot-timeout",
            Self::Unwell { .. } => "liveness",
            Self::ExitTimeout => "exit-timeout",
            Self::Restarted => "restarted",
            Self::Retired => "retired",
        }
    }
}

/// How a dyno is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Nothing is asked of it, or nothing of it runs.
    #[default]
    Unknown,
    /// It has not shown yet that it is ready, for this reason.
    Booting {
        /// What the last try found.
        missing: Option<String>,
    },
    /// It is ready, and no check has said otherwise since.
    Healthy,
}

impl Health {
    /// The word for it, where there is something to say.
    pub fn word(&self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Booting { .. } => Some("booting"),
            Self::Healthy => Some("healthy"),
        }
    }
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
    /// How it is.
    pub health: Health,
    /// Since when it has been up.
    pub up_since: Option<Instant>,
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
    /// How many of its runs in a row have crashed or not started.
    pub crashes: u32,
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
            health: Health::Unknown,
            up_since: None,
            release,
            pid: None,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port,
            started_at: None,
            restarts: 0,
            crashes: 0,
            last_exit: None,
            next_retry_at: None,
        }
    }
}
