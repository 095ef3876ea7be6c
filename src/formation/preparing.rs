//! A release on its way to being live: the attempt that is going on, or the time of the next one.

use std::sync::Arc;

use hsup_drivers::BoxFuture;
use tokio::task::Id;
use tokio::time::{Instant, sleep_until};

use super::plan::Desired;
use super::prepare::{PrepareError, Prepared};
use crate::model::Release;

/// A release on its way to being live.
pub(super) struct Preparing {
    pub(super) release: Arc<Release>,
    pub(super) desired: Vec<Desired>,
    pub(super) phase_done: bool,
    pub(super) failures: u32,
    pub(super) state: PreparingState,
}

/// What is being waited for.
pub(super) enum PreparingState {
    /// The attempt.
    Working(BoxFuture<'static, Result<Prepared, PrepareError>>),
    /// The time of the next attempt.
    RetryAt(Instant),
    /// The command of its release phase, which this dyno runs; it has been prepared.
    Phase(Id, Arc<Prepared>),
    /// The end of that of another release; it has been prepared.
    Waiting(Arc<Prepared>),
}

impl Preparing {
    /// Waits for the attempt that is going on; or for the time of the next one, which gives `None`.
    pub(super) async fn next(this: &mut Option<Self>) -> Option<Result<Prepared, PrepareError>> {
        match this.as_mut().map(|preparing| &mut preparing.state) {
            None | Some(PreparingState::Phase(..) | PreparingState::Waiting(_)) => {
                std::future::pending().await
            }
            Some(PreparingState::Working(work)) => Some(work.await),
            Some(PreparingState::RetryAt(at)) => {
                sleep_until(*at).await;
                None
            }
        }
    }
}
