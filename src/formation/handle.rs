//! The one way into the formation: a cheap handle whose calls are messages to the supervisor's task.

use tokio::sync::{mpsc, oneshot};

use crate::dyno::DynoStatus;
use crate::model::{AppName, DynoName, ReleaseVersion, Target};

/// How many commands may wait for the supervisor before a caller waits with them.
const MAILBOX: usize = 16;

/// A command to the supervisor. The supervisor answers each one; a dropped `reply` only means that nobody
/// listens any more.
#[derive(Debug)]
pub(crate) enum Command {
    /// Gives the state of everything.
    Status(oneshot::Sender<FormationStatus>),
    /// Stops dynos for good and answers with their names when all their processes are gone.
    Stop { targets: Vec<Target>, reply: oneshot::Sender<Vec<DynoName>> },
}

/// The formation at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormationStatus {
    /// The app; its name is known with the first release.
    pub app: Option<AppName>,
    /// The release that is live: the newest that has been prepared.
    pub release: Option<ReleaseVersion>,
    /// Every dyno, sorted by name; a dyno that is being replaced stands beside its successor.
    pub dynos: Vec<DynoStatus>,
}

/// The supervisor has ended, and with it everything that it could be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hsup is shutting down")]
pub struct ShuttingDown;

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
        self.ask(Command::Status).await
    }

    /// Stops dynos for good; returns when all their processes are gone, with their names in order.
    ///
    /// # Errors
    /// If the supervisor has ended.
    pub async fn stop(&self, targets: Vec<Target>) -> Result<Vec<DynoName>, ShuttingDown> {
        self.ask(|reply| Command::Stop { targets, reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ShuttingDown> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ShuttingDown)?;
        answer.await.map_err(|_| ShuttingDown)
    }
}
