//! What an executor shows and says of its dyno.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use tracing::Level;

use super::super::fsm::{Phase, Retiring, RunId, Started, State, Timer};
use super::super::status::{DynoState, Health};
use super::Executor;
use crate::events::{DynoNews, What};

impl Executor {
    /// Says something of the dyno: in hsup's own log, and in the dyno's.
    pub(super) fn say(&self, level: Level, text: &str) {
        let name = &self.spec.name;
        match level {
            Level::ERROR => tracing::error!("{name}: {text}"),
            Level::WARN => tracing::warn!("{name}: {text}"),
            _ => tracing::info!("{name}: {text}"),
        }
        self.log.say(text);
    }

    /// Tells what has happened to the dyno.
    pub(super) fn tell(&self, news: DynoNews) {
        let status = self.publish.borrow();
        let (dyno, release) = (status.name.clone(), status.release);
        drop(status);
        self.events.tell(What::Dyno { dyno, release, news });
    }

    /// The news that the dyno is in another state; where it is up, with how long that took.
    pub(super) fn state_news(&self, from: DynoState, to: DynoState) -> DynoNews {
        let up = self.spawned.filter(|_| to == DynoState::Up);
        let started_in = up.map(|(_, took)| took);
        let ready_in = up.filter(|_| self.readiness.is_some()).map(|(at, _)| at.elapsed());
        DynoNews::State { from, to, started_in, ready_in }
    }

    /// Tells of a run that begins, if it is not the first one.
    pub(super) fn tell_restart(&self, run: RunId) {
        let restarts = run.number().saturating_sub(1);
        let reason = self.publish.borrow().last_exit.as_ref().map(|last| last.why.word());
        if let (1.., Some(reason)) = (restarts, reason) {
            self.tell(DynoNews::Restart { reason, restarts });
        }
    }

    /// Publishes the dyno as it is now.
    pub(super) fn publish(&self) {
        let state = visible(self.state);
        let run = self.run.as_ref();
        let crashes = self.state.crashes;
        let (phase, checked) = (self.state.phase, self.readiness.is_some() || self.liveness.is_some());
        self.publish.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.state = state;
            status.health = match (phase, &status.health) {
                (Phase::Started(Started::Booting), Health::Booting { missing }) => {
                    Health::Booting { missing: missing.clone() }
                }
                (Phase::Started(Started::Booting), Health::Unknown | Health::Healthy) => {
                    Health::Booting { missing: None }
                }
                (Phase::Started(Started::Up), _) if checked => Health::Healthy,
                (Phase::Stopped { .. } | Phase::Started(_) | Phase::Retiring(_) | Phase::Retired, _) => {
                    Health::Unknown
                }
            };
            status.up_since = match (state, status.up_since) {
                (DynoState::Up, None) => Some(Instant::now()),
                (DynoState::Up, since) => since,
                _ => None,
            };
            status.pid = run.and_then(|run| run.pid());
            if let Some(run) = run {
                status.address = run.address();
                status.port = run.port().unwrap_or(self.spec.port);
            }
            status.started_at = match (run.is_some(), status.started_at) {
                (true, None) => Some(SystemTime::now()),
                (true, at) => at,
                (false, _) => None,
            };
            status.crashes = crashes;
            status.restarts = self.state.run.number().saturating_sub(1);
            status.next_retry_at = match self.timer {
                Some((Timer::Backoff(_), at)) => {
                    Some(SystemTime::now() + at.saturating_duration_since(Instant::now()))
                }
                Some((Timer::Boot(_) | Timer::Grace(_), _)) | None => None,
            };
        });
    }
}

/// A state as operators see it.
pub(super) fn visible(state: State) -> DynoState {
    match state.phase {
        Phase::Stopped { backing_off: true } => DynoState::Crashed,
        Phase::Stopped { backing_off: false } => DynoState::Stopped,
        Phase::Started(Started::Starting | Started::Booting) => DynoState::Starting,
        Phase::Started(Started::Up) => DynoState::Up,
        Phase::Started(Started::Ending(_) | Started::Killing(_)) => DynoState::Restarting,
        Phase::Retiring(Retiring::Starting(_) | Retiring::Ending | Retiring::Killing) => DynoState::Stopping,
        Phase::Retired => DynoState::Retired,
    }
}
