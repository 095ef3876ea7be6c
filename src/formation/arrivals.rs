//! Waiting for what others publish to the supervisor.

use tokio::sync::watch;

use super::work::Shutdown;
use crate::history::Arrival;

/// The next release; never, once the source has no more.
pub(super) async fn next_release(releases: &mut watch::Receiver<Option<Arrival>>) -> Arrival {
    loop {
        if releases.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if let Some(release) = releases.borrow_and_update().clone() {
            return release;
        }
    }
}

/// The next word on shutting down; never, once nobody is left to give it.
pub(super) async fn next_shutdown(shutdown: &mut watch::Receiver<Shutdown>) -> Shutdown {
    if shutdown.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    *shutdown.borrow_and_update()
}
