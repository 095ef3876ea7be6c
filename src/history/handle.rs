//! The handle to the history: what others may ask of its keeper. It asks, and must not know how that is done.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::keeper::Arrival;
use super::record::Entry;
use crate::model::{ProcessType, Quantity, Release, ReleaseVersion};

/// There is no way back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    /// The release that was named is not known.
    #[error("there is no release {asked} in the history; there are: {known}")]
    Unknown {
        /// What was named.
        asked: ReleaseVersion,
        /// What there is.
        known: String,
    },
    /// No release was named, and there is none that was good.
    #[error("there is no good release to go back to: name one of those that `hsup releases` shows")]
    NoneGood,
    /// The source has not given any release yet.
    #[error("no release has come yet")]
    Nothing,
    /// hsup ends.
    #[error("hsup is shutting down")]
    ShuttingDown,
}

/// What the keeper is asked for.
pub(super) enum Command {
    List(oneshot::Sender<(Vec<Entry>, Option<Arc<Release>>)>),
    Preview { newest: Arc<Release>, reply: oneshot::Sender<Arrival> },
    Scale { quantities: BTreeMap<ProcessType, Quantity>, reply: oneshot::Sender<Result<(), RollbackError>> },
    Rollback { to: Option<ReleaseVersion>, reply: oneshot::Sender<Result<Arc<Release>, RollbackError>> },
}

/// A handle to the history. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HistoryHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) good: watch::Receiver<()>,
}

impl HistoryHandle {
    /// Tells whenever a release has become good and that is kept: what was forgotten for it is forgotten on disk too.
    pub fn good(&self) -> watch::Receiver<()> {
        self.good.clone()
    }

    /// The releases, the oldest first, and the one that is live.
    ///
    /// # Errors
    /// If hsup ends.
    pub async fn list(&self) -> Result<(Vec<Entry>, Option<Arc<Release>>), RollbackError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::List(reply)).await?;
        answer.await.map_err(|_| RollbackError::ShuttingDown)
    }

    /// What the supervisor would be given if the source had this release now. Nothing is changed.
    ///
    /// # Errors
    /// If hsup ends.
    pub async fn preview(&self, newest: Arc<Release>) -> Result<Arrival, RollbackError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Preview { newest, reply }).await?;
        answer.await.map_err(|_| RollbackError::ShuttingDown)
    }

    /// Goes back to a release; without a version to the last good one. It runs until the source has something new.
    /// Returns when the supervisor has been given it.
    ///
    /// # Errors
    /// If there is no such release.
    pub async fn rollback(&self, to: Option<ReleaseVersion>) -> Result<Arc<Release>, RollbackError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Rollback { to, reply }).await?;
        answer.await.map_err(|_| RollbackError::ShuttingDown)?
    }

    /// Runs so many dynos of these types, until the source says otherwise. Returns when the supervisor has been
    /// told.
    ///
    /// # Errors
    /// If there is no release yet.
    pub async fn scale(&self, quantities: BTreeMap<ProcessType, Quantity>) -> Result<(), RollbackError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Scale { quantities, reply }).await?;
        answer.await.map_err(|_| RollbackError::ShuttingDown)?
    }

    async fn ask(&self, command: Command) -> Result<(), RollbackError> {
        self.commands.send(command).await.map_err(|_| RollbackError::ShuttingDown)
    }
}
