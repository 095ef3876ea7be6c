//! What a drain and those who give it lines share: a bounded queue, and the numbers that tell how it is doing.
//!
//! Giving never waits. Readers wait for [`Intake::room`] before they read more: for as long as it takes (`block`), or
//! for a moment, after which the oldest lines go and are counted (`drop`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::logs::batch::Batch;
use crate::logs::settings::Overflow;

/// How long who has read much waits for a receiver to take what is here: see [`MUCH_BYTES`].
const MOMENT: Duration = Duration::from_millis(20);

/// How much is much. No dyno is held below so much in a [`MOMENT`], 13 MB/s, which slows no app; and a receiver that takes
/// as much keeps up with any dyno by memory alone.
pub(in crate::logs) const MUCH_BYTES: usize = 256 * 1024;

/// How long a disk may take for what is here. One that takes longer counts as none.
const DISK_PATIENCE: Duration = Duration::from_secs(1);

/// Lines that were dropped and of which the receiver has not been told yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) lines: u64,
    pub(super) since: SystemTime,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    dropped: Option<Dropped>,
}

/// The queue and the numbers of one drain.
#[derive(Debug)]
pub(in crate::logs) struct Intake {
    limit_bytes: usize,
    overflow: Overflow,
    queue: Mutex<Queue>,
    /// Whether there was no room for who gives: what is here is to go to disk, if it cannot be sent.
    pressed: AtomicBool,
    /// Whether it can neither be sent nor go to disk.
    stuck: AtomicBool,
    /// There is something to take.
    pub(in crate::logs) filled: Notify,
    /// There is room again.
    emptied: Notify,
    /// When everything has to have been sent, once that is so.
    pub(in crate::logs) closing: watch::Sender<Option<Instant>>,
    pub(super) numbers: Numbers,
}

/// What a drain has done, and what it holds. All count since hsup was started.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// Lines that were given to it.
    pub(super) taken: AtomicU64,
    /// Lines that the receiver has accepted.
    pub(super) sent: AtomicU64,
    /// Bytes of frames that the receiver has accepted.
    pub(super) sent_bytes: AtomicU64,
    /// Requests that were accepted.
    pub(super) requests: AtomicU64,
    /// Attempts that failed and were or will be made again.
    pub(super) retries: AtomicU64,
    /// Lines that were dropped for want of room.
    pub(super) dropped: AtomicU64,
    /// Lines that the receiver has refused.
    pub(super) refused: AtomicU64,
    /// Lines that were dropped since hsup ended before they could be sent or kept.
    pub(super) lost_at_end: AtomicU64,
    /// Bytes that wait in memory, the queue not counted.
    pub(super) held_bytes: AtomicU64,
    /// Bytes that wait on disk.
    pub(super) spooled_bytes: AtomicU64,
    /// Lines that wait on disk.
    pub(super) spooled_lines: AtomicU64,
    /// Why nothing can be sent at the moment.
    pub(super) trouble: Mutex<Option<String>>,
}

impl Numbers {
    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Intake {
    pub(in crate::logs) fn new(limit_bytes: usize, overflow: Overflow) -> Self {
        Self {
            limit_bytes,
            overflow,
            queue: Mutex::default(),
            pressed: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            filled: Notify::new(),
            emptied: Notify::new(),
            closing: watch::Sender::new(None),
            numbers: Numbers::default(),
        }
    }

    pub(super) fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// Gives a batch. What is beyond the limit of one that blocks is what its readers had read already.
    pub(in crate::logs) fn give(&self, batch: &Arc<Batch>) {
        self.numbers.taken.fetch_add(batch.len(), Ordering::Relaxed);
        let mut queue = self.queue();
        queue.bytes += batch.size();
        queue.batches.push_back(Arc::clone(batch));
        let dropped = match self.overflow {
            Overflow::Drop => queue.drop_oldest(self.limit_bytes),
            Overflow::Block => 0,
        };
        let first = queue.batches.len() == 1;
        let full = queue.bytes > self.limit_bytes / 4 * 3;
        drop(queue);
        self.numbers.dropped.fetch_add(dropped, Ordering::Relaxed);
        if full {
            self.press();
        }
        if first || dropped > 0 {
            self.filled.notify_one();
        }
    }

    /// Says that there was no room for too long.
    pub(in crate::logs) fn press(&self) {
        if !self.pressed.swap(true, Ordering::Relaxed) {
            self.filled.notify_one();
        }
    }

    /// Whether there was no room for too long, and there is little still.
    pub(super) fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    /// How much it may hold before readers are to wait. What they have read meanwhile fits beside it.
    fn readers_limit(&self) -> usize {
        self.limit_bytes / 2
    }

    /// Waits until there is room. Cancel safe.
    pub(in crate::logs) async fn room(&self) {
        self.room_or(|| false).await;
    }

    /// Waits a moment for there to be room, or for what is here to go to disk, which is quick. Who has not read much
    /// waits for the latter only. Cancel safe.
    pub(in crate::logs) async fn room_soon(&self, has_read_much: bool) {
        let is_full = self.queue().bytes >= self.readers_limit();
        let goes_to_disk = self.is_pressed() && !self.is_stuck();
        if !is_full || !(has_read_much || goes_to_disk) || timeout(MOMENT, self.room()).await.is_ok() {
            return;
        }
        self.press();
        let _drops_what_is_oldest = timeout(DISK_PATIENCE, self.room_or(|| self.is_stuck())).await;
    }

    async fn room_or(&self, give_up: impl Fn() -> bool) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.queue().bytes < self.readers_limit() || give_up() {
                return;
            }
            emptied.await;
        }
    }

    /// Says whether what is here can neither be sent nor go to disk.
    pub(super) fn set_stuck(&self, stuck: bool) {
        if self.stuck.swap(stuck, Ordering::Relaxed) != stuck && stuck {
            self.emptied.notify_waiters();
        }
    }

    fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Takes the oldest batch.
    pub(in crate::logs) fn take(&self) -> Option<Arc<Batch>> {
        let mut queue = self.queue();
        let batch = queue.batches.pop_front()?;
        let was_full = queue.bytes >= self.readers_limit();
        queue.bytes -= batch.size();
        if was_full && queue.bytes < self.readers_limit() {
            self.emptied.notify_waiters();
        }
        if queue.bytes < self.readers_limit() / 2 {
            self.pressed.store(false, Ordering::Relaxed);
        }
        if queue.batches.is_empty() {
            queue.batches.shrink_to(KEPT_PLACES);
        }
        Some(batch)
    }

    /// Counts lines that were dropped elsewhere, from the oldest end.
    pub(super) fn dropped(&self, lines: u64) {
        self.numbers.dropped.fetch_add(lines, Ordering::Relaxed);
        self.queue().count(lines);
    }

    /// What was dropped since this was last asked.
    pub(super) fn take_dropped(&self) -> Option<Dropped> {
        self.queue().dropped.take()
    }

    /// What was dropped since that was last taken.
    pub(super) fn untold_dropped(&self) -> Option<Dropped> {
        self.queue().dropped
    }

    /// How long the oldest batch has been waiting. A clock that was set back counts as long.
    pub(super) fn waiting(&self) -> Option<Duration> {
        let oldest = self.queue().batches.front()?.at;
        Some(oldest.elapsed().unwrap_or(Duration::MAX))
    }

    /// The bytes that wait in the queue.
    pub(super) fn bytes(&self) -> usize {
        self.queue().bytes
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many places the queue keeps once it is empty.
const KEPT_PLACES: usize = 16;

impl Queue {
    /// Drops the oldest batches until so many bytes are left; gives how many lines that were.
    fn drop_oldest(&mut self, limit_bytes: usize) -> u64 {
        let mut lines = 0;
        while self.bytes > limit_bytes {
            let Some(batch) = self.batches.pop_front() else { break };
            self.bytes -= batch.size();
            lines += batch.len();
        }
        if lines > 0 {
            self.count(lines);
        }
        lines
    }

    fn count(&mut self, lines: u64) {
        let dropped = self.dropped.get_or_insert(Dropped { lines: 0, since: SystemTime::now() });
        dropped.lines += lines;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{Origin, Speaker};

    fn batch(text: &str) -> Arc<Batch> {
        let speaker = Speaker::dyno(&"web.1".parse().unwrap());
        Arc::new(Batch::new(speaker, Origin::Stdout, SystemTime::now(), text.as_bytes().to_vec()))
    }

    #[test]
    fn the_oldest_lines_are_dropped_and_counted() {
        let size = batch("n\n").size();
        let intake = Intake::new(3 * size, Overflow::Drop);
        for n in 0..5 {
            intake.give(&batch(&format!("{n}\n")));
        }
        let dropped = intake.take_dropped().unwrap();
        assert_eq!((dropped.lines, intake.take_dropped()), (2, None));
        let left: Vec<_> = std::iter::from_fn(|| intake.take()).collect();
        assert_eq!(
            left.iter().map(|batch| batch.lines().next().unwrap().bytes[0]).collect::<Vec<_>>(),
            b"234"
        );
        assert_eq!((intake.numbers.taken.into_inner(), intake.numbers.dropped.into_inner()), (5, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_blocks_drops_nothing_and_is_waited_for() {
        let intake = Intake::new(4 * batch("n\n").size(), Overflow::Block);
        intake.room().await;
        for _ in 0..3 {
            intake.give(&batch("n\n"));
        }
        assert!(timeout(Duration::from_secs(60), intake.room()).await.is_err());
        let (_, ()) = tokio::join!(intake.room(), async {
            intake.take().unwrap();
            intake.take().unwrap();
        });
        assert_eq!((intake.take_dropped(), intake.bytes()), (None, batch("n\n").size()));
    }
}
