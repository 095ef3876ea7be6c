//! Where all lines come together: the tail buffer, the drains and the files get them from here, each by its own contract.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use hsup_drivers::Stdio;
use tokio::time::Instant;

use super::batch::Batch;
use super::drain::{Drain, DrainError, DrainPlace, DrainStatus, MUCH_BYTES};
use super::dyno_log::{DynoLog, Printing};
use super::files::{Claim, LogFiles};
use super::settings::LogSettings;
use super::tail::Tail;
use crate::model::DynoName;
use crate::secret::Secret;

/// Everything that takes lines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Logs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: LogSettings,
    place: DrainPlace,
    tail: Tail,
    files: Option<LogFiles>,
    /// Those that get lines.
    drains: RwLock<Vec<Drain>>,
    /// Those that still send what they have.
    leaving: Mutex<Vec<Drain>>,
    lines: AtomicU64,
    bytes: AtomicU64,
}

/// How logs are doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogsStatus {
    /// Lines that dynos have printed, and that were said of them.
    pub lines: u64,
    /// The bytes of these.
    pub bytes: u64,
    /// Each drain.
    pub drains: Vec<DrainStatus>,
}

/// Logs cannot be kept or shipped as they should be.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// A drain cannot be started.
    #[error(transparent)]
    Drain(#[from] DrainError),
    /// The directory of the log files cannot be used.
    #[error(transparent)]
    Files(#[from] super::files::FilesError),
}

impl Logs {
    /// Starts everything that the operator has asked for.
    ///
    /// # Errors
    /// If a drain or the log files cannot be.
    pub fn start(settings: LogSettings, place: DrainPlace) -> Result<Self, LogsError> {
        let tail = Tail::new(settings.tail_bytes);
        let claim = if place.adopts { Claim::Directory } else { Claim::OneOff };
        let files = settings.files.clone().map(|files| LogFiles::start(files, claim)).transpose()?;
        let start = |url| Drain::start(url, &settings.drain, &place, tail.clone());
        let drains = settings.drains.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Shared {
            settings,
            place,
            tail,
            files,
            drains: RwLock::new(drains),
            leaving: Mutex::default(),
            lines: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })))
    }

    /// The log of a dyno.
    pub fn dyno(&self, name: &DynoName, printing: Printing) -> DynoLog {
        DynoLog::new(self.clone(), name, printing)
    }

    /// Logs that go nowhere but to a tail buffer.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let place = DrainPlace { spools: "/nonexistent".into(), adopts: false, host: String::new() };
        Self::start(LogSettings::default(), place).unwrap()
    }

    /// Ships to the drain that a release names, unless the operator has named others. The one before sends what it has.
    pub fn set_release_drain(&self, url: Option<&str>) {
        if !self.0.settings.drains.is_empty() {
            return;
        }
        let url = url.map(|url| Secret::from(url.to_owned()));
        let mut drains = self.0.drains.write().unwrap_or_else(PoisonError::into_inner);
        let same = match (&url, drains.as_slice()) {
            (None, []) => true,
            (Some(url), [drain]) => drain.is_to(url),
            (_, _) => false,
        };
        if same {
            return;
        }
        let deadline = Instant::now() + self.0.settings.drain.flush_timeout;
        let mut leaving = self.leaving();
        leaving.retain_mut(|drain| !drain.has_ended());
        for old in drains.drain(..) {
            old.close(deadline);
            leaving.push(old);
        }
        let Some(url) = url else { return };
        match Drain::start(&url, &self.0.settings.drain, &self.0.place, self.0.tail.clone()) {
            Ok(drain) => drains.push(drain),
            Err(error) => tracing::error!("{}; log lines are not sent", crate::explain(&error)),
        }
    }

    /// What a one-off dyno that is to have this output has: one that hsup reads, if lines go anywhere.
    pub fn stdio(&self, stdio: &Stdio) -> Stdio {
        match self.0.files.is_some() || !self.drains().is_empty() {
            true => stdio.clone().readable(),
            false => stdio.clone(),
        }
    }

    /// The newest lines.
    pub fn tail(&self) -> Tail {
        self.0.tail.clone()
    }

    /// How everything is doing.
    pub fn status(&self) -> LogsStatus {
        LogsStatus {
            lines: self.0.lines.load(Ordering::Relaxed),
            bytes: self.0.bytes.load(Ordering::Relaxed),
            drains: self.drains().iter().map(Drain::status).collect(),
        }
    }

    /// Gives lines to everything that takes them. Never waits.
    pub(super) fn offer(&self, batch: &Arc<Batch>) {
        self.0.lines.fetch_add(batch.len(), Ordering::Relaxed);
        self.0.bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        self.0.tail.push(batch);
        if let Some(files) = &self.0.files {
            files.give(batch);
        }
        self.drains().iter().for_each(|drain| drain.give(batch));
    }

    /// Waits for those that must not lose lines to have room, and for the others for a moment. `read_bytes` is what was
    /// read since there was last a wait. Cancel safe.
    pub(super) async fn room(&self, read_bytes: &mut usize) {
        if let Some(files) = &self.0.files {
            files.room().await;
        }
        let much = *read_bytes >= MUCH_BYTES;
        let waits: Vec<_> = self.drains().iter().map(|drain| drain.room(much)).collect();
        for wait in waits {
            wait.await;
        }
        if much {
            *read_bytes = 0;
        }
    }

    /// No more lines will come: sends what there is, for so long as the operator allows and until `hurry` is ready, and
    /// ends everything.
    pub async fn close(&self, hurry: impl Future<Output = ()>) {
        self.0.tail.close();
        let deadline = Instant::now() + self.0.settings.drain.flush_timeout;
        let mut drains = std::mem::take(&mut *self.0.drains.write().unwrap_or_else(PoisonError::into_inner));
        drains.iter().for_each(|drain| drain.close(deadline));
        drains.append(&mut self.leaving());
        tokio::select! {
            () = ended(&mut drains, deadline) => {}
            () = hurry => {
                let now = Instant::now();
                drains.iter().for_each(|drain| drain.close(now));
                ended(&mut drains, now).await;
            }
        }
        if let Some(files) = &self.0.files {
            files.close().await;
        }
    }

    fn drains(&self) -> RwLockReadGuard<'_, Vec<Drain>> {
        self.0.drains.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Drain>> {
        self.0.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for drains to end that were told to.
async fn ended(drains: &mut [Drain], deadline: Instant) {
    for drain in drains {
        drain.ended(deadline).await;
    }
}
