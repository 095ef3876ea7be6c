//! What a run says of itself: by a line that it prints, or by sd_notify. One end is given to what hears it, the
//! other to what waits for it.

use std::sync::Arc;

use tokio::sync::watch;

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
pub(super) struct Signs(Arc<watch::Sender<Said>>);

impl Signs {
    /// Of a run that has said nothing yet.
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Said::default())))
    }

    /// It has said `READY=1`.
    pub(super) fn note_ready(&self) {
        self.0.send_modify(|said| said.ready = true);
    }

    /// It has printed the line that is waited for.
    pub(super) fn note_printed(&self) {
        self.0.send_modify(|said| said.printed = true);
    }

    /// It has said `WATCHDOG=1`.
    pub(super) fn note_alive(&self) {
        self.0.send_modify(|said| said.beats += 1);
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
        let before = self.0.borrow().beats;
        self.until(|said| said.beats != before).await;
    }

    async fn until(&self, reached: impl Fn(&Said) -> bool) {
        // the sender is in this very value, so that it cannot be gone
        let mut said = self.0.subscribe();
        let _reached = said.wait_for(reached).await;
    }
}
