//! The log of one dyno: what it prints and what hsup says of it goes by here, to everything that takes lines.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hsup_drivers::{Output, Stdio};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::awaited::Awaited;
use super::batch::{Batch, Origin, Speaker};
use super::console::{Channel, Console};
use super::hub::Logs;
use super::lines::Lines;
use super::reader::{Until, read_output};
use super::tail::Mark;
use crate::model::DynoName;

/// How long to read on after the last process of a run is gone. Its pipes are closed then, unless a process
/// that hides from hsup holds them.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How many pieces that a terminal has shown may wait to be taken into the log.
const SHOWN: usize = 16;

/// How hsup itself prints what a dyno prints.
#[derive(Clone, Debug)]
pub enum Printing {
    /// Its lines, each behind this prefix.
    Lines(Console, Arc<[u8]>),
    /// Every byte as it comes, standard output and errors apart.
    Through(Console),
    /// Not at all: the dyno has a terminal or hsup's own output.
    Elsewhere,
}

impl Printing {
    /// How hsup prints what a dyno with this output prints. `index` chooses its colour.
    pub fn of(stdio: &Stdio, console: &Console, name: &DynoName, index: usize) -> Self {
        match stdio {
            Stdio::Pipes => Self::Lines(console.clone(), console.prefix(&name.to_string(), index)),
            Stdio::InputOnly => Self::Through(console.clone()),
            Stdio::Inherit | Stdio::Terminal(_) => Self::Elsewhere,
        }
    }
}

/// The log of one dyno. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DynoLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    logs: Logs,
    speaker: Arc<Speaker>,
    printing: Printing,
}

/// What was read at once, ready for who takes it.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// How many bytes that were.
    pub(super) length: usize,
    batches: Vec<Arc<Batch>>,
    raw: Option<(Channel, Vec<u8>)>,
}

impl Taken {
    /// The lines in it, in runs, each with its newlines.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.batches.iter().map(|batch| batch.text())
    }
}

impl DynoLog {
    /// The log of this dyno.
    pub(super) fn new(logs: Logs, name: &DynoName, printing: Printing) -> Self {
        Self(Arc::new(Shared { logs, speaker: Speaker::dyno(name), printing }))
    }

    pub(super) fn name(&self) -> &str {
        self.0.speaker.as_str()
    }

    /// Says something of the dyno, as Heroku's logs do: `State changed from starting to up`. Never waits.
    pub fn say(&self, text: &str) {
        let line = format!("{text}\n").into_bytes();
        self.0.logs.offer(&self.batch(Origin::Platform, line));
    }

    /// Begins to read what a run of the dyno prints, and looks there for what is awaited.
    pub fn follow(&self, output: Output, awaited: Option<Awaited>) -> Reading {
        let (until, told) = watch::channel(Until::Closed);
        let begin = self.0.logs.tail().mark();
        let task = tokio::spawn(read_output(output, self.clone(), awaited, told));
        let console = match &self.0.printing {
            Printing::Lines(console, _) | Printing::Through(console) => Some(console.clone()),
            Printing::Elsewhere => None,
        };
        Reading { task, until, console, log: self.clone(), begin }
    }

    /// Takes what a terminal shows, given piece by piece, until the sender is dropped or it is `enough`.
    pub fn shown(
        self,
        enough: impl Future<Output = ()> + Send,
    ) -> (mpsc::Sender<Vec<u8>>, impl Future<Output = ()> + Send) {
        let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(SHOWN);
        let take = async move {
            let (mut lines, mut read_bytes) = (Lines::default(), 0);
            let mut enough = pin!(enough);
            loop {
                let piece = tokio::select! {
                    biased;
                    () = &mut enough, if !pieces.is_closed() => {
                        pieces.close();
                        continue;
                    }
                    piece = pieces.recv() => piece,
                };
                let Some(mut bytes) = piece else { break };
                self.room(&mut read_bytes).await;
                read_bytes += bytes.len();
                // A terminal ends its lines with both.
                bytes.retain(|byte| *byte != b'\r');
                let taken = self.cut(Channel::Stdout, &bytes, &mut lines);
                self.publish(taken).await;
            }
            let rest = self.rest(Channel::Stdout, &mut lines);
            self.publish(rest).await;
        };
        (sender, take)
    }

    /// Waits until all that must not lose lines has room.
    /// `read_bytes` is what was read since there was last a wait.
    pub(super) async fn room(&self, read_bytes: &mut usize) {
        self.0.logs.room(read_bytes).await;
    }

    /// Makes lines of what was read.
    pub(super) fn cut(&self, channel: Channel, bytes: &[u8], lines: &mut Lines) -> Taken {
        let raw = match &self.0.printing {
            Printing::Through(_) => Some((channel, bytes.to_vec())),
            Printing::Lines(..) | Printing::Elsewhere => None,
        };
        let mut taken = Taken { length: bytes.len(), batches: Vec::new(), raw };
        let at = SystemTime::now();
        lines.push(bytes, |run| taken.batches.push(self.batch_at(channel.into(), run, at)));
        taken
    }

    /// What there was behind the last newline, for there will be no other.
    pub(super) fn rest(&self, channel: Channel, lines: &mut Lines) -> Taken {
        let mut taken = Taken::default();
        lines.finish(|run| taken.batches.push(self.batch(channel.into(), run)));
        taken
    }

    /// Gives it to everything that takes lines, waiting for the console. Whether somebody reads what passes through.
    pub(super) async fn publish(&self, taken: Taken) -> bool {
        for batch in &taken.batches {
            self.0.logs.offer(batch);
        }
        match (&self.0.printing, taken.raw) {
            (Printing::Through(console), Some((channel, bytes))) => console.pass(channel, bytes).await,
            (Printing::Lines(console, prefix), _) => {
                for batch in &taken.batches {
                    console.print(prefix, batch).await;
                }
                true
            }
            (Printing::Through(_) | Printing::Elsewhere, _) => true,
        }
    }

    fn batch(&self, origin: Origin, bytes: Vec<u8>) -> Arc<Batch> {
        self.batch_at(origin, bytes, SystemTime::now())
    }

    fn batch_at(&self, origin: Origin, bytes: Vec<u8>, at: SystemTime) -> Arc<Batch> {
        Arc::new(Batch::new(Arc::clone(&self.0.speaker), origin, at, bytes))
    }
}

/// The reading of what one run prints. It goes on when this is dropped.
#[derive(Debug)]
pub struct Reading {
    task: JoinHandle<()>,
    until: watch::Sender<Until>,
    console: Option<Console>,
    log: DynoLog,
    /// What was printed before belongs to other runs.
    begin: Mark,
}

impl Reading {
    /// Every process of the run is gone: waits for the last of its lines to be read. The console is waited for as long
    /// as it makes progress; what a hidden process that holds the pipes still prints is left to it. Gives the last few
    /// lines that the run has printed, as far as they are still there.
    pub async fn finish(mut self) -> Arc<[String]> {
        self.wait().await;
        let shared = &self.log.0;
        shared.logs.tail().last_lines(&shared.speaker, self.begin)
    }

    async fn wait(&mut self) {
        self.until.send_replace(Until::ClosedAtOnce);
        if timeout(LAST_LINES, &mut self.task).await.is_ok() {
            return;
        }
        if let Some(console) = &self.console
            && console.drained(&mut self.task).await
        {
            return;
        }
        self.until.send_replace(Until::Now);
        if timeout(LAST_LINES, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}
