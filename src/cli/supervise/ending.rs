//! The end of supervising: the last lines are sent, and what has happened becomes an exit status.

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::ExitCode;
use super::super::fatal::Fatal;
use super::{DRAIN, Never};
use crate::formation::{Outcome, Shutdown};
use crate::logs::{Logs, Written};
use crate::sources::GaveUp;

/// Waits for the last lines of the dynos to be sent and shown; a second signal, which `signals` hears, cuts that short.
pub(super) async fn close_logs(
    logs: &Logs,
    written: Written,
    signals: impl Future<Output = Never>,
    mut shutdown: watch::Receiver<Shutdown>,
) {
    let hurry = async {
        let _told = shutdown.wait_for(|shutdown| *shutdown == Shutdown::Now).await;
    };
    tokio::select! {
        () = logs.close(hurry) => {}
        never = signals => match never {},
    }
    if !written.wait().await {
        tracing::warn!("standard output is stuck; the last lines of the dynos are lost");
    }
}

/// Waits for what has become of releases to be written down; that is none of the tasks that are cut off.
pub(super) async fn write_down(keeping: JoinHandle<()>) {
    if timeout(DRAIN, keeping).await.is_err() {
        tracing::warn!("the history of releases could not be written in time");
    }
}

/// The status that hsup ends with.
pub(super) fn exit_status(outcome: Result<Outcome, GaveUp>) -> Result<u8, Fatal> {
    match outcome {
        Ok(Outcome::Stopped) => Ok(ExitCode::Ok.number()),
        Ok(Outcome::Finished(status)) => Ok(status),
        Ok(Outcome::Interrupted) => Ok(ExitCode::INTERRUPTED),
        Ok(Outcome::NotPrepared) => Ok(ExitCode::ReleaseInvalid.number()),
        Err(GaveUp::Unreadable(error)) => Err(Fatal::new(ExitCode::NoSource, error.as_ref())),
        Err(GaveUp::Invalid(error)) => Err(Fatal::new(ExitCode::ReleaseInvalid, error.as_ref())),
    }
}
