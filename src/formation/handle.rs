//! The one way into the formation: a cheap handle whose calls are messages to the supervisor's task.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::ports::NoPort;
use super::preview::Preview;
use crate::dyno::DynoStatus;
use crate::history::Arrival;
use crate::model::{AppName, DynoName, ProcessType, Quantity, ReleaseVersion, Target};

/// How many commands may wait for the supervisor before a caller waits with them.
const MAILBOX: usize = 16;

/// A command to the supervisor. The supervisor answers each one; a dropped `reply` only means that nobody
/// listens any more.
#[derive(Debug)]
pub(crate) enum Command {
    /// Asks for something that changes nothing.
    Ask(Question),
    /// Restarts dynos, and answers with their names.
    Restart { targets: Vec<Target>, rolling: bool, reply: oneshot::Sender<Vec<DynoName>> },
    /// Stops dynos and answers with their names when all their processes are gone.
    Stop { targets: Vec<Target>, reply: oneshot::Sender<Vec<DynoName>> },
}

/// What a formation's supervisor can be asked.
#[derive(Debug)]
pub(crate) enum Question {
    /// The state of everything.
    Status(oneshot::Sender<FormationStatus>),
    /// Whether the newest release can be had in these quantities.
    CheckScale {
        quantities: BTreeMap<ProcessType, Quantity>,
        reply: oneshot::Sender<Result<(), ScaleRefused>>,
    },
    /// What a release would change.
    Preview { arrival: Arrival, reply: oneshot::Sender<Result<Preview, CannotRun>> },
}

/// The formation at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormationStatus {
    /// The app; its name is known with the first release.
    pub app: Option<AppName>,
    /// The release that is live: the newest that has been prepared.
    pub release: Option<ReleaseVersion>,
    /// How many dynos of each type there are to be.
    pub formation: BTreeMap<ProcessType, Quantity>,
    /// Every dyno, sorted by name; a dyno that is being replaced stands beside its successor.
    pub dynos: Vec<Arc<DynoStatus>>,
}

/// The supervisor has ended, and with it everything that it could be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hsup is shutting down")]
pub struct ShuttingDown;

/// Dynos cannot be had in these quantities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScaleRefused {
    /// The release has no such process type.
    #[error("no dyno is called {asked}; there are: {known}")]
    Unknown {
        /// What was named.
        asked: ProcessType,
        /// What there is.
        known: String,
    },
    /// There are not enough ports.
    #[error(transparent)]
    Port(#[from] NoPort),
}

/// A release cannot run on this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("release {release} would be refused: {why}")]
pub struct CannotRun {
    /// The release.
    pub release: ReleaseVersion,
    /// Why.
    pub why: String,
}

/// A handle to the formation's supervisor.
#[derive(Clone, Debug)]
pub struct FormationHandle {
    commands: mpsc::Sender<Command>,
}

impl FormationHandle {
    /// A handle, and the end at which the supervisor reads.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, mailbox) = mpsc::channel(MAILBOX);
        (Self { commands }, mailbox)
    }

    /// The state of everything.
    ///
    /// # Errors
    /// If the supervisor has ended.
    pub async fn status(&self) -> Result<FormationStatus, ShuttingDown> {
        self.tell(|reply| Command::Ask(Question::Status(reply))).await
    }

    /// Whether the newest release can be had in these quantities.
    ///
    /// # Errors
    /// If the supervisor has ended; and inside, why it cannot.
    pub async fn check_scale(
        &self,
        quantities: BTreeMap<ProcessType, Quantity>,
    ) -> Result<Result<(), ScaleRefused>, ShuttingDown> {
        self.tell(|reply| Command::Ask(Question::CheckScale { quantities, reply })).await
    }

    /// What a release would change, as if it came now.
    ///
    /// # Errors
    /// If the supervisor has ended; and inside, why it would be refused.
    pub async fn preview(&self, arrival: Arrival) -> Result<Result<Preview, CannotRun>, ShuttingDown> {
        self.tell(|reply| Command::Ask(Question::Preview { arrival, reply })).await
    }

    /// Stops dynos, until another release or a restart. Once that is under way it gives what waits for all their
    /// processes to be gone, for their names, in order; whether anybody waits does not matter to it.
    ///
    /// # Errors
    /// If the supervisor has ended, or ends meanwhile.
    pub async fn stop(
        &self,
        targets: Vec<Target>,
    ) -> Result<impl Future<Output = Result<Vec<DynoName>, ShuttingDown>> + use<>, ShuttingDown> {
        self.begin(|reply| Command::Stop { targets, reply }).await
    }

    /// Restarts dynos, and starts those that were stopped; their names, in order. With `rolling` one of each type is
    /// restarted at a time.
    ///
    /// # Errors
    /// If the supervisor has ended.
    pub async fn restart(&self, targets: Vec<Target>, rolling: bool) -> Result<Vec<DynoName>, ShuttingDown> {
        self.tell(|reply| Command::Restart { targets, rolling, reply }).await
    }

    async fn tell<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ShuttingDown> {
        self.begin(command).await?.await
    }

    /// Sends a command; gives what waits for its answer.
    async fn begin<T, C: FnOnce(oneshot::Sender<T>) -> Command>(
        &self,
        command: C,
    ) -> Result<impl Future<Output = Result<T, ShuttingDown>> + use<T, C>, ShuttingDown> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ShuttingDown)?;
        Ok(async { answer.await.map_err(|_| ShuttingDown) })
    }
}
