//! hsup's standard error, written by a thread of its own: a terminal that has been stopped or a full pipe holds up
//! the log and nothing else.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::Level;

use crate::systemd;

/// How many pieces of text may wait. What comes on top of that is dropped, and counted.
const QUEUE: usize = 256;

enum Item {
    Text(Vec<u8>),
    /// Everything before this has been written once it is answered.
    Mark(SyncSender<()>),
}

/// A writer to standard error that never waits. Each `write` is one piece of text, whole lines of it.
#[derive(Clone)]
pub struct Stderr {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
    /// What the thread is to do, until the first text has started it: many an hsup never says anything.
    thread: Arc<Mutex<Option<Thread>>>,
}

type Thread = Box<dyn FnOnce() + Send>;

impl Stderr {
    /// A writer to hsup's standard error.
    pub fn new() -> Self {
        Self::to(io::stderr(), systemd::prefix(io::stderr(), Level::WARN))
    }

    fn to(out: impl Write + Send + 'static, prefix: &'static str) -> Self {
        let (queue, items) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        let thread: Thread = Box::new(move || write_all(&items, out, prefix, &counted));
        Self { queue, dropped, thread: Arc::new(Mutex::new(Some(thread))) }
    }

    fn thread(&self) -> MutexGuard<'_, Option<Thread>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what has been said so far is written, for so long at the most.
    pub fn flush(&self, patience: Duration) {
        if self.thread().is_some() {
            return;
        }
        let (answer, written) = sync_channel(1);
        if self.queue.try_send(Item::Mark(answer)).is_ok() {
            let _too_late = written.recv_timeout(patience);
        }
    }
}

/// The thread's life. Where nobody reads any more, what is written is lost.
fn write_all(items: &Receiver<Item>, mut out: impl Write, prefix: &str, dropped: &AtomicU64) {
    for item in items {
        match item {
            Item::Text(text) => {
                let _nobody_reads = out.write_all(&text);
            }
            Item::Mark(answer) => {
                let _nobody_waits = answer.send(());
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _nobody_reads =
                writeln!(out, "{prefix}hsup: {lost} lines of hsup's log dropped: stderr is read too slowly");
        }
    }
}

impl Default for Stderr {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if let Some(thread) = self.thread().take() {
            // Where there can be none the text is lost: there is nobody who could be told.
            let _started = thread::Builder::new().name("stderr".to_owned()).spawn(thread);
        }
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Item::Text(text.to_vec())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Lets a piece through for each permit, and keeps what came through.
    #[derive(Clone)]
    struct Slow(Arc<Mutex<Receiver<()>>>, Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let _open = self.0.lock().unwrap().recv();
            self.1.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_never_waits_and_what_is_lost_is_counted() {
        let (permit, permits) = sync_channel::<()>(0);
        let kept = Arc::new(Mutex::new(Vec::new()));
        let mut stderr = Stderr::to(Slow(Arc::new(Mutex::new(permits)), Arc::clone(&kept)), "");
        for _ in 0..QUEUE + 100 {
            writeln!(stderr, "line").unwrap();
        }
        stderr.flush(Duration::ZERO);
        // From now on everything passes: a receiver without a sender never waits.
        drop(permit);
        let begin = Instant::now();
        loop {
            // no mark fits in while the queue is full
            stderr.flush(Duration::from_secs(10));
            let text = String::from_utf8(kept.lock().unwrap().clone()).unwrap();
            let lines = text.lines().filter(|line| *line == "line").count();
            assert!(lines <= QUEUE + 1, "{lines}");
            if text.contains("dropped") && lines >= QUEUE {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{lines} lines have come, {QUEUE} were taken");
        }
    }
}
