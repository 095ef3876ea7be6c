//! How far a download or copy has come: a bar for someone at a terminal, now and then a line in the log for
//! everyone else. It must not fail the work it reports on.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::item::Item;

/// Between two lines of the log: often enough to see that a slow download lives, rare enough not to flood.
const LINE_EVERY: Duration = Duration::from_secs(10);

const TEMPLATE: &str = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// The progress of one attempt.
pub(crate) struct Progress {
    what: Item,
    bytes: u64,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    pub(crate) fn start(what: &Item, total: Option<u64>) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            if total.is_some()
                && let Ok(style) = ProgressStyle::with_template(TEMPLATE)
            {
                bar.set_style(style);
            }
            bar.with_prefix(what.to_string())
        });
        if bar.is_none() {
            tracing::info!(total_bytes = total, "fetching {what}");
        }
        Self { what: what.clone(), bytes: 0, total, bar, last_line: Instant::now() }
    }

    /// What has arrived by now.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        match &self.bar {
            Some(bar) => bar.set_position(self.bytes),
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                tracing::info!(bytes = self.bytes, total_bytes = self.total, "fetching {}", self.what);
            }
            None => {}
        }
    }

    pub(crate) fn finish(self) {
        if self.bar.is_none() {
            tracing::info!(bytes = self.bytes, "fetched {} ({})", self.what, HumanBytes(self.bytes));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
