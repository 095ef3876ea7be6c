//! A drain: its handle, and the thread on which it ships.
//!
//! Each has a thread and a runtime of its own. To frame and send a million lines a second takes most of a core, and the
//! thread that supervises dynos has to answer a crash within a millisecond meanwhile.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::{Instant, timeout_at};

use super::intake::Intake;
use super::send::Sender;
use super::shipper::Shipper;
use super::spool::Spool;
use super::target::{InvalidDrain, Target};
use crate::logs::batch::Batch;
use crate::logs::settings::{DrainSettings, Overflow};
use crate::logs::tail::Tail;
use crate::secret::Secret;

/// How long after its deadline a drain may take to put on disk what is left.
const PUT_AWAY: std::time::Duration = std::time::Duration::from_secs(5);

/// Where drains keep what outlives them, and how they speak.
#[derive(Clone, Debug)]
pub struct DrainPlace {
    /// The directory of all spools.
    pub spools: std::path::PathBuf,
    /// Whether lines that other hsups have left there are sent, too: a one-off dyno sends only its own.
    pub adopts: bool,
    /// The name of this host.
    pub host: String,
}

/// A drain. It ends in good order by [`Drain::close`]; what it has not sent then is on disk.
#[derive(Debug)]
pub(in crate::logs) struct Drain {
    url: Secret,
    target: Arc<Target>,
    intake: Arc<Intake>,
    /// Told when it has ended; none once that is known.
    ended: Option<oneshot::Receiver<()>>,
}

/// How a drain is doing: all counts are since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainStatus {
    /// Its URL, without user, password and query.
    pub url: String,
    /// Lines that were given to it.
    pub taken_lines: u64,
    /// Lines that the receiver has accepted.
    pub sent_lines: u64,
    /// Bytes of frames that the receiver has accepted.
    pub sent_bytes: u64,
    /// Requests that were accepted.
    pub requests: u64,
    /// Attempts that have failed and are made again.
    pub retries: u64,
    /// Lines that were dropped for want of room.
    pub dropped_lines: u64,
    /// Lines that the receiver has refused.
    pub refused_lines: u64,
    /// Bytes that wait in memory.
    pub buffered_bytes: u64,
    /// Bytes that wait on disk.
    pub spooled_bytes: u64,
    /// Lines that wait on disk.
    pub spooled_lines: u64,
    /// Why nothing can be sent at the moment.
    pub trouble: Option<String>,
}

/// A drain cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// Its URL is wrong.
    #[error(transparent)]
    Url(#[from] InvalidDrain),
    /// There is no thread for it.
    #[error("failed to start a thread for the drain {url}")]
    Thread {
        /// Its URL, without its password.
        url: String,
        /// Why.
        source: io::Error,
    },
}

impl Drain {
    /// Starts a drain.
    ///
    /// # Errors
    /// If the URL is none, or there can be no thread.
    pub(in crate::logs) fn start(
        url: &Secret,
        settings: &DrainSettings,
        place: &DrainPlace,
        tail: Tail,
    ) -> Result<Self, DrainError> {
        let target = Arc::new(Target::new(url)?);
        // One half for batches that were given, the other for what was made of them.
        let half = settings.buffer_bytes / 2;
        let intake = Arc::new(Intake::new(half, settings.overflow));
        let (tell, ended) = oneshot::channel();
        let thread = |source| DrainError::Thread { url: target.to_string(), source };
        let runtime =
            Builder::new_current_thread().max_blocking_threads(2).enable_all().build().map_err(thread)?;
        let sender = Sender::new(&target, settings.gzip);
        let (spool_dir, spool_bytes) = (place.spools.join(target.id()), settings.spool_bytes);
        let (host, adopts) = (place.host.clone(), place.adopts);
        let (of_thread, taken) = (Arc::clone(&target), Arc::clone(&intake));
        let work = move || {
            let spool = Spool::open(spool_dir, spool_bytes, adopts);
            runtime.block_on(Shipper::new(of_thread, sender, taken, (&host, tail), spool, half).run());
            runtime.shutdown_background();
            let _nobody_waits = tell.send(());
        };
        thread::Builder::new().name("drain".to_owned()).spawn(work).map_err(thread)?;
        Ok(Self { url: url.clone(), target, intake, ended: Some(ended) })
    }

    /// Whether it is the drain of this URL.
    pub(in crate::logs) fn is_to(&self, url: &Secret) -> bool {
        self.url == *url
    }

    /// Gives it lines. Never waits.
    pub(in crate::logs) fn give(&self, batch: &Arc<Batch>) {
        self.intake.give(batch);
    }

    /// Waits until it has room: for as long as it takes if it blocks, else for a moment, if much was read or there is a
    /// disk that makes room.
    pub(in crate::logs) fn room(&self, has_read_much: bool) -> impl Future<Output = ()> + Send + use<> {
        let intake = Arc::clone(&self.intake);
        async move {
            match intake.overflow() {
                Overflow::Block => intake.room().await,
                Overflow::Drop => intake.room_soon(has_read_much).await,
            }
        }
    }

    /// Tells it to send what it has by then, and to end.
    pub(in crate::logs) fn close(&self, deadline: Instant) {
        self.intake.closing.send_replace(Some(deadline));
    }

    /// Waits for its end, for which it has been told.
    pub(in crate::logs) async fn ended(&mut self, deadline: Instant) {
        let Some(ended) = &mut self.ended else { return };
        if timeout_at(deadline + PUT_AWAY, ended).await.is_err() {
            tracing::error!("drain {}: the disk is too slow; lines are lost", self.target);
        }
        self.ended = None;
    }

    /// Whether it has ended.
    pub(in crate::logs) fn has_ended(&mut self) -> bool {
        let running = |ended: &mut oneshot::Receiver<()>| ended.try_recv() == Err(TryRecvError::Empty);
        !self.ended.as_mut().is_some_and(running)
    }

    pub(in crate::logs) fn status(&self) -> DrainStatus {
        let numbers = &self.intake.numbers;
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        DrainStatus {
            url: self.target.to_string(),
            taken_lines: get(&numbers.taken),
            sent_lines: get(&numbers.sent),
            sent_bytes: get(&numbers.sent_bytes),
            requests: get(&numbers.requests),
            retries: get(&numbers.retries),
            dropped_lines: get(&numbers.dropped) + get(&numbers.lost_at_end),
            refused_lines: get(&numbers.refused),
            buffered_bytes: get(&numbers.held_bytes) + self.intake.bytes() as u64,
            spooled_bytes: get(&numbers.spooled_bytes),
            spooled_lines: get(&numbers.spooled_lines),
            trouble: numbers.trouble(),
        }
    }
}

/// The directory of all spools below a state dir.
pub fn spools(state_dir: &Path) -> std::path::PathBuf {
    state_dir.join("drains")
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
