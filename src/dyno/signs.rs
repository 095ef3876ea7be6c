//! What a run says of itself: by a line that it prints, or by sd_notify. One end is given to what hears it, the
//! other to what waits for it.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// What has been said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    ready: bool,
    printed: bool,
    /// How often it has said that it is alive.
    beats: u64,
}

/// The signs of one run. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Signs(Arc<(Mutex<Said>, Notify)>);

impl Signs {
    /// Of a run that has said nothing yet.
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// It has said `READY=1`.
    pub(super) fn note_ready(&self) {
        self.note(|said| said.ready = true);
    }

    /// It has printed the line that is waited for.
    pub(super) fn note_printed(&self) {
        self.note(|said| said.printed = true);
    }

    /// It has said `WATCHDOG=1`.
    pub(super) fn note_alive(&self) {
        self.note(|said| said.beats += 1);
    }

    /// Waits for `READY=1`.
    pub(super) async fn ready(&self) {
        self.until(|said| said.ready).await;
    }

    /// Waits for the line.
    pub(super) async fn printed(&self) {
        self.until(|said| said.printed).await;
    }

    /// Waits for the next `WATCHDOG=1`.
    pub(super) async fn alive(&self) {
        let before = self.said().beats;
        self.until(|said| said.beats != before).await;
    }

    fn said(&self) -> Said {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_waiters();
    }

    async fn until(&self, reached: impl Fn(&Said) -> bool) {
        loop {
            // before the look, so that nothing that is said meanwhile is missed
            let mut news = pin!(self.0.1.notified());
            news.as_mut().enable();
            if reached(&self.said()) {
                return;
            }
            news.await;
        }
    }
}
