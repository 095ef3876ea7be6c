//! The console: what dynos print, on hsup's standard output, each line behind the name of its dyno.
//!
//! One thread writes, so that a terminal that has been stopped holds up nothing but the dynos that print to it.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How many batches of lines may wait for the terminal before the dynos that print wait as well.
const QUEUE: usize = 16;

/// How long a reader of hsup's output may take nothing at all before it counts as gone for good, once there is
/// nothing else to wait for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Colours that can be told apart on light and on dark ground, in turn.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Where a dyno's lines go. Cheap to clone; a clone writes under the name it was made for.
#[derive(Clone)]
pub struct Console {
    batches: mpsc::Sender<Vec<u8>>,
    /// What the thread is to do, until the first batch has started it: a one-off dyno has the output itself.
    thread: Arc<Mutex<Option<Thread>>>,
    colour: bool,
    progress: Progress,
}

type Thread = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("colour", &self.colour).finish_non_exhaustive()
    }
}

/// How many batches have been written.
#[derive(Clone, Debug, Default)]
struct Progress(Arc<AtomicU64>);

impl Progress {
    fn batches(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Tells when everything that was printed has been written.
#[derive(Debug)]
pub struct Written(oneshot::Receiver<()>, Progress);

impl Written {
    /// Waits until every [`Console`] has been dropped and what they were given is written; whether it has been.
    pub async fn wait(self) -> bool {
        let Self(mut end, progress) = self;
        loop {
            let before = progress.batches();
            match timeout(PATIENCE, &mut end).await {
                Ok(_) => return true,
                Err(_) if progress.batches() == before => return false,
                Err(_) => {}
            }
        }
    }
}

impl Console {
    /// A console on standard output, in colour if that is a terminal.
    pub fn stdout() -> (Self, Written) {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self::to(io::stdout(), colour)
    }

    fn to(mut out: impl Write + Send + 'static, colour: bool) -> (Self, Written) {
        let (batches, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
        let (done, written) = oneshot::channel();
        let progress = Progress::default();
        let made = progress.clone();
        let thread: Thread = Box::new(move || {
            let mut broken = false;
            while let Some(batch) = queue.blocking_recv() {
                // Dynos go on when nobody reads what they print.
                if !broken && let Err(error) = out.write_all(&batch).and_then(|()| out.flush()) {
                    broken = true;
                    tracing::warn!(%error, "standard output is gone; the dynos' lines are no longer printed");
                }
                made.0.fetch_add(1, Ordering::Relaxed);
            }
            let _nobody_waits = done.send(());
        });
        let thread = Arc::new(Mutex::new(Some(thread)));
        (Self { batches, thread, colour, progress: progress.clone() }, Written(written, progress))
    }

    /// What stands before each line of a dyno. `index` chooses the colour.
    pub fn prefix(&self, dyno: &str, index: usize) -> Vec<u8> {
        match COLOURS.get(index % COLOURS.len()) {
            Some(colour) if self.colour => format!("\x1b[{colour}m{dyno} |\x1b[0m "),
            Some(_) | None => format!("{dyno} | "),
        }
        .into_bytes()
    }

    /// Waits for what prints to this console to end, as long as the console is behind and makes progress. Whether it
    /// has ended.
    pub async fn drained(&self, mut printing: &mut JoinHandle<()>) -> bool {
        while self.batches.capacity() == 0 {
            let before = self.progress.batches();
            match timeout(PATIENCE, &mut printing).await {
                Ok(_) => return true,
                Err(_) if self.progress.batches() == before => return false,
                Err(_) => {}
            }
        }
        false
    }

    fn start(&self) {
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if let Err(error) = thread::Builder::new().name("console".to_owned()).spawn(thread) {
            tracing::error!(%error, "cannot start the console's thread; the dynos' lines are not printed");
        }
    }

    /// Prints a batch of complete lines; waits while the terminal is behind.
    pub async fn print(&self, batch: Vec<u8>) {
        self.start();
        let _gone_at_shutdown = self.batches.send(batch).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn everything_is_written_before_the_end() {
        let out = Shared::default();
        let (console, written) = Console::to(out.clone(), false);
        for _ in 0..1000 {
            console.print(b"web.1 | line\n".to_vec()).await;
        }
        drop(console);
        assert!(written.wait().await);
        assert_eq!(out.0.lock().unwrap().len(), 13_000);
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_stops_nobody() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (console, written) = Console::to(Broken, true);
        assert_eq!(console.prefix("web.1", 6), b"\x1b[36mweb.1 |\x1b[0m ");
        for _ in 0..1000 {
            console.print(b"x\n".to_vec()).await;
        }
        drop(console);
        assert!(written.wait().await);
    }
}
