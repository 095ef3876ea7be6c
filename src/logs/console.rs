//! The console: hsup's own standard output and errors, where dynos' lines are printed behind the names of their
//! dynos, and what a one-off dyno prints passes through as it is.
//!
//! One thread writes, so that a terminal that has been stopped holds up nothing but the dynos that print to it: its
//! contract is that they wait.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use memchr::memchr_iter;
use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::batch::{Batch, Origin};
use super::loss::Loss;
use super::waiting::Waiting;

/// How many pieces of output may wait for the terminal before the dynos that print wait as well.
const QUEUE: usize = 16;

/// How long a reader of hsup's output may take nothing at all before it counts as gone for good, once there is
/// nothing else to wait for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Colours that can be told apart on light and on dark ground, in turn.
pub const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// What stands at the end of a line that was too long and goes on in the next one.
pub const CUT_MARK: &str = "…";

/// Whether what is written to a terminal of this process may have colours.
pub fn may_be_coloured(out: &impl IsTerminal) -> bool {
    out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Where dynos' lines are printed. Cheap to clone.
#[derive(Clone)]
pub struct Console {
    pieces: mpsc::Sender<Piece>,
    /// What the thread is to do, until the first piece has started it: a one-off dyno has the output itself.
    thread: Arc<Mutex<Option<Thread>>>,
    colour: bool,
    progress: Arc<Progress>,
}

type Thread = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("colour", &self.colour).finish_non_exhaustive()
    }
}

/// Something to be written.
enum Piece {
    /// Lines, each behind a prefix.
    Lines(Arc<[u8]>, Arc<Batch>),
    /// Bytes as they are.
    Raw(Channel, Vec<u8>),
}

/// One of the two outputs of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl From<Channel> for Origin {
    fn from(channel: Channel) -> Self {
        match channel {
            Channel::Stdout => Self::Stdout,
            Channel::Stderr => Self::Stderr,
        }
    }
}

/// What has been written.
#[derive(Debug, Default)]
struct Progress {
    pieces: AtomicU64,
    /// Whether nobody reads standard output, and standard errors, any longer.
    gone: [AtomicBool; 2],
}

impl Progress {
    fn pieces(&self) -> u64 {
        self.pieces.load(Ordering::Relaxed)
    }

    fn gone(&self, channel: Channel) -> &AtomicBool {
        let [stdout, stderr] = &self.gone;
        match channel {
            Channel::Stdout => stdout,
            Channel::Stderr => stderr,
        }
    }
}

/// Tells when everything that was printed has been written.
#[derive(Debug)]
pub struct Written(oneshot::Receiver<()>, Arc<Progress>);

impl Written {
    /// Waits until every [`Console`] has been dropped and what they were given is written; whether it has been.
    pub async fn wait(self) -> bool {
        let Self(mut end, progress) = self;
        loop {
            let before = progress.pieces();
            match timeout(PATIENCE, &mut end).await {
                Ok(_) => return true,
                Err(_) if progress.pieces() == before => return false,
                Err(_) => {}
            }
        }
    }
}

impl Console {
    /// A console on standard output and errors, in colour if that is a terminal.
    pub fn of_process() -> (Self, Written) {
        Self::to(Waiting(io::stdout()), Waiting(io::stderr()), may_be_coloured(&io::stdout()))
    }

    fn to(
        stdout: impl Write + Send + 'static,
        stderr: impl Write + Send + 'static,
        colour: bool,
    ) -> (Self, Written) {
        let (pieces, queue) = mpsc::channel::<Piece>(QUEUE);
        let (done, written) = oneshot::channel();
        let progress = Arc::new(Progress::default());
        let made = Arc::clone(&progress);
        let thread: Thread = Box::new(move || {
            write_all(queue, stdout, stderr, &made);
            let _nobody_waits = done.send(());
        });
        let thread = Arc::new(Mutex::new(Some(thread)));
        (Self { pieces, thread, colour, progress: Arc::clone(&progress) }, Written(written, progress))
    }

    /// What stands before each line of a dyno. `index` chooses the colour.
    pub fn prefix(&self, dyno: &str, index: usize) -> Arc<[u8]> {
        match COLOURS.get(index % COLOURS.len()) {
            Some(colour) if self.colour => format!("\x1b[{colour}m{dyno} |\x1b[0m "),
            Some(_) | None => format!("{dyno} | "),
        }
        .into_bytes()
        .into()
    }

    /// Waits for what prints to this console to end, as long as the console is behind and makes progress. Whether it
    /// has ended.
    pub(super) async fn drained(&self, mut printing: &mut JoinHandle<()>) -> bool {
        while self.pieces.capacity() == 0 {
            let before = self.progress.pieces();
            match timeout(PATIENCE, &mut printing).await {
                Ok(_) => return true,
                Err(_) if self.progress.pieces() == before => return false,
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

    /// Prints lines behind a prefix; waits while the terminal is behind.
    pub(super) async fn print(&self, prefix: &Arc<[u8]>, batch: &Arc<Batch>) {
        self.start();
        let _gone_at_shutdown = self.pieces.send(Piece::Lines(Arc::clone(prefix), Arc::clone(batch))).await;
    }

    /// Passes bytes through, waiting while the terminal is behind. Whether anybody reads them: as with a pipe, who
    /// prints to nobody is to be told.
    pub(super) async fn pass(&self, channel: Channel, bytes: Vec<u8>) -> bool {
        self.start();
        let sent = self.pieces.send(Piece::Raw(channel, bytes)).await;
        sent.is_ok() && !self.progress.gone(channel).load(Ordering::Relaxed)
    }
}

/// The thread's life.
fn write_all(mut queue: mpsc::Receiver<Piece>, stdout: impl Write, stderr: impl Write, progress: &Progress) {
    let (mut stdout, mut stderr) =
        (Sink::new(stdout, "standard output"), Sink::new(stderr, "standard error"));
    let mut text = Vec::new();
    while let Some(piece) = queue.blocking_recv() {
        match piece {
            Piece::Lines(prefix, batch) => {
                text.clear();
                append(&mut text, &prefix, &batch);
                stdout.write(&text, progress.gone(Channel::Stdout), false);
                // What a flood has needed is not kept for good.
                text.shrink_to(KEPT_TEXT_BYTES);
            }
            Piece::Raw(Channel::Stdout, bytes) => {
                stdout.write(&bytes, progress.gone(Channel::Stdout), true);
            }
            Piece::Raw(Channel::Stderr, bytes) => {
                stderr.write(&bytes, progress.gone(Channel::Stderr), true);
            }
        }
        progress.pieces.fetch_add(1, Ordering::Relaxed);
    }
    stdout.close();
    stderr.close();
}

/// One of the two outputs, for the thread.
struct Sink<W> {
    out: W,
    name: &'static str,
    loss: Loss,
}

impl<W: Write> Sink<W> {
    fn new(out: W, name: &'static str) -> Self {
        Self { out, name, loss: Loss::default() }
    }

    /// Writes whole pieces, or loses them: dynos go on when nobody reads what they print, and when a disk is full.
    fn write(&mut self, bytes: &[u8], gone: &AtomicBool, raw: bool) {
        if gone.load(Ordering::Relaxed) {
            return;
        }
        let name = self.name;
        match self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            Ok(()) => {
                if let Some(lines) = self.loss.over() {
                    tracing::warn!("{name} is written again; {lines} lines of dynos could not be written");
                }
            }
            Err(error) if is_gone(&error) => {
                gone.store(true, Ordering::Relaxed);
                match raw {
                    true => tracing::debug!(%error, "{name}: nobody reads what the dyno prints"),
                    false => tracing::warn!(%error, "{name} is gone; the dynos' lines are no longer printed"),
                }
            }
            Err(error) => {
                if self.loss.add(memchr_iter(b'\n', bytes).count() as u64) {
                    tracing::error!(%error, "cannot write {name}; the dynos' lines are lost until it can be");
                }
            }
        }
    }

    fn close(self) {
        if let Some(lines) = self.loss.rest() {
            tracing::warn!("{lines} lines of dynos could not be written to {}", self.name);
        }
    }
}

/// Whether nothing can ever be written again: nobody reads, it was closed, or its terminal has hung up.
fn is_gone(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    error.kind() == io::ErrorKind::BrokenPipe || matches!(errno, Some(Errno::EBADF | Errno::EIO))
}

/// How much memory the console's thread keeps for the next lines.
const KEPT_TEXT_BYTES: usize = 64 * 1024;

fn append(text: &mut Vec<u8>, prefix: &[u8], batch: &Batch) {
    for line in batch.lines() {
        text.extend_from_slice(prefix);
        text.extend_from_slice(line.bytes);
        if line.cut {
            text.extend_from_slice(CUT_MARK.as_bytes());
        }
        text.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::logs::Speaker;

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

    fn batch(text: &str) -> Arc<Batch> {
        let speaker = Speaker::dyno(&"web.1".parse().unwrap());
        Arc::new(Batch::new(speaker, Origin::Stdout, SystemTime::now(), text.as_bytes().to_vec()))
    }

    #[tokio::test]
    async fn everything_is_written_before_the_end() {
        let (out, err) = (Shared::default(), Shared::default());
        let (console, written) = Console::to(out.clone(), err.clone(), false);
        let prefix = console.prefix("web.1", 0);
        for _ in 0..1000 {
            console.print(&prefix, &batch("line\n")).await;
        }
        console.print(&prefix, &batch("a\ncut")).await;
        assert!(console.pass(Channel::Stderr, b"raw".to_vec()).await);
        drop(console);
        assert!(written.wait().await);
        let out = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(out, "web.1 | line\n".repeat(1000) + "web.1 | a\nweb.1 | cut…\n");
        assert_eq!(*err.0.lock().unwrap(), b"raw");
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_stops_nobody_and_is_noticed() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (console, written) = Console::to(Broken, Vec::new(), true);
        let prefix = console.prefix("web.1", 6);
        assert_eq!(&*prefix, b"\x1b[36mweb.1 |\x1b[0m ");
        for _ in 0..1000 {
            console.print(&prefix, &batch("x\n")).await;
        }
        assert!(!console.pass(Channel::Stdout, b"x".to_vec()).await);
        assert!(console.pass(Channel::Stderr, b"x".to_vec()).await);
        drop(console);
        assert!(written.wait().await);
    }

    #[tokio::test]
    async fn a_full_disk_loses_lines_for_as_long_as_it_is_full() {
        struct Full(Shared, u32);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1 = self.1.saturating_sub(1);
                if self.1 > 0 { Err(Errno::ENOSPC.into()) } else { self.0.write(bytes) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let out = Shared::default();
        let (console, written) = Console::to(Full(out.clone(), 5), Vec::new(), false);
        let prefix = console.prefix("web.1", 0);
        for n in 0..10 {
            console.print(&prefix, &batch(&format!("{n}\n"))).await;
        }
        assert!(console.pass(Channel::Stdout, b"raw".to_vec()).await);
        drop(console);
        assert!(written.wait().await);
        let expected: String = (4..10).map(|n| format!("web.1 | {n}\n")).collect();
        assert_eq!(String::from_utf8(out.0.lock().unwrap().clone()).unwrap(), expected + "raw");
    }
}
