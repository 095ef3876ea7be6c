//! The tail buffer: the newest lines of every dyno, for who asks later, and for who follows. It is bounded by bytes
//! and knows no clients: a follower comes with the place it has got to, and is told what it has missed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::batch::{Batch, Origin, Speaker};
use super::console::CUT_MARK;

/// How many of the last lines of a run are told with its end: enough for the message of an error and where it comes from.
const LAST_LINES: usize = 10;

/// The most bytes that they have: each dyno and each event of an end holds on to them.
const LAST_BYTES: usize = 4096;

/// The newest lines. Cheap to clone; all clones are the same buffer.
#[derive(Clone, Debug)]
pub struct Tail(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit_bytes: usize,
    buffer: Mutex<Buffer>,
    /// The number of the newest batch, and whether it is the last one ever.
    newest: watch::Sender<(u64, bool)>,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: usize,
    next: u64,
    /// By the text of the speaker.
    speakers: HashMap<String, Kept>,
}

/// What is kept of one speaker.
#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    batches: VecDeque<Entry>,
    /// The lines that it has ever printed.
    lines: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Batches of all speakers are numbered in the order in which they came.
    number: u64,
    /// The lines of this speaker before this batch.
    lines_before: u64,
    batch: Arc<Batch>,
}

/// How far a follower has got.
#[derive(Debug, Default)]
pub struct Place {
    next: u64,
    lines: HashMap<String, u64>,
}

/// A moment in the order of all lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(u64);

/// What there is to read from a place on.
#[derive(Debug, Default)]
pub struct Reading {
    /// The batches, in order.
    pub batches: Vec<Arc<Batch>>,
    /// How many lines there were before them that are no longer kept.
    pub missed: u64,
}

impl Tail {
    /// A buffer that holds so many bytes.
    pub fn new(limit_bytes: usize) -> Self {
        let newest = watch::Sender::new((0, false));
        Self(Arc::new(Shared { limit_bytes, buffer: Mutex::default(), newest }))
    }

    /// Adds a batch; what is too old goes. A dyno that prints a lot pushes out its own lines before those of others:
    /// it is the one with the most that loses its oldest.
    pub fn push(&self, batch: &Arc<Batch>) {
        let mut guard = self.buffer();
        let buffer = &mut *guard;
        let name = batch.speaker.as_str();
        if !buffer.speakers.contains_key(name) {
            buffer.speakers.insert(name.to_owned(), Kept::default());
        }
        let Some(kept) = buffer.speakers.get_mut(name) else { return };
        let entry = Entry { number: buffer.next, lines_before: kept.lines, batch: Arc::clone(batch) };
        buffer.next += 1;
        kept.lines += batch.len();
        kept.bytes += batch.size();
        buffer.bytes += batch.size();
        kept.batches.push_back(entry);
        while buffer.bytes > self.0.limit_bytes && buffer.evict(name) {}
        let number = buffer.next;
        drop(guard);
        self.0.newest.send_modify(|newest| newest.0 = number);
    }

    /// What has come since a place, of those speakers that are wanted; the place moves on behind it.
    pub fn read(&self, place: &mut Place, wanted: impl Fn(&Speaker) -> bool) -> Reading {
        let buffer = self.buffer();
        let (mut reading, mut found) = (Reading::default(), Vec::new());
        for (name, kept) in &buffer.speakers {
            let from = kept.batches.partition_point(|entry| entry.number < place.next);
            let (Some(first), Some(last)) = (kept.batches.get(from), kept.batches.back()) else { continue };
            if !wanted(&last.batch.speaker) {
                continue;
            }
            let before = place.lines.insert(name.clone(), kept.lines);
            // Who has just come has missed nothing; of a dyno that came later it is to see every line.
            let before = before.or((place.next > 0).then_some(0)).unwrap_or(first.lines_before);
            reading.missed += first.lines_before.saturating_sub(before);
            found.extend(kept.batches.range(from..).cloned());
        }
        place.next = buffer.next;
        drop(buffer);
        found.sort_by_key(|entry| entry.number);
        reading.batches = found.into_iter().map(|entry| entry.batch).collect();
        reading
    }

    /// A mark: what is pushed from now on is behind it.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.buffer().next)
    }

    /// The last lines that a dyno has printed behind a mark, the oldest first: up to [`LAST_LINES`], and of these up to
    /// [`LAST_BYTES`]. Bytes that are not UTF-8 are replaced.
    pub(super) fn last_lines(&self, speaker: &Arc<Speaker>, Mark(mark): Mark) -> Arc<[String]> {
        let buffer = self.buffer();
        let kept = buffer.speakers.get(speaker.as_str()).map(|kept| kept.batches.iter().rev());
        // another dyno may have the same name while one takes the place of the other
        let own = |entry: &&Entry| {
            Arc::ptr_eq(&entry.batch.speaker, speaker) && entry.batch.origin != Origin::Platform
        };
        let own = kept.into_iter().flatten().take_while(|entry| entry.number >= mark).filter(own);
        let (mut lines, mut room) = (Vec::new(), LAST_BYTES);
        for line in own.flat_map(|entry| entry.batch.lines_backwards()).take(LAST_LINES) {
            if line.len() <= room {
                lines.push(String::from_utf8_lossy(line).into_owned());
                room -= line.len();
                continue;
            }
            // one that is too long is told from only if it is the last one
            if let (true, Some(beginning)) = (lines.is_empty(), line.get(..room)) {
                lines.push(String::from_utf8_lossy(beginning).into_owned() + CUT_MARK);
            }
            break;
        }
        lines.into_iter().rev().collect()
    }

    /// Nothing more will come: followers read what there is and end.
    pub fn close(&self) {
        self.0.newest.send_modify(|newest| newest.1 = true);
    }

    /// Tells of changes: how many batches there have been, and whether that was all.
    pub fn changes(&self) -> watch::Receiver<(u64, bool)> {
        self.0.newest.subscribe()
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// Lets the oldest batch of the one with the most go: of `printing` where it has more than its share. Whether there
    /// was one.
    fn evict(&mut self, printing: &str) -> bool {
        let share = self.bytes / self.speakers.len().max(1);
        let own = self.speakers.get(printing).is_some_and(|kept| kept.bytes >= share);
        let kept = match own {
            true => self.speakers.get_mut(printing),
            false => self.speakers.values_mut().max_by_key(|kept| kept.bytes),
        };
        let Some((kept, entry)) = kept.and_then(|kept| kept.batches.pop_front().map(|entry| (kept, entry)))
        else {
            return false;
        };
        kept.bytes -= entry.batch.size();
        self.bytes -= entry.batch.size();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::logs::Origin;

    fn batch(dyno: &str, text: &str) -> Arc<Batch> {
        let speaker = Speaker::dyno(&dyno.parse().unwrap());
        Arc::new(Batch::new(speaker, Origin::Stdout, SystemTime::UNIX_EPOCH, text.as_bytes().to_vec()))
    }

    fn texts(reading: &Reading) -> Vec<String> {
        let lines = reading.batches.iter().flat_map(|batch| batch.lines());
        lines.map(|line| String::from_utf8_lossy(line.bytes).into_owned()).collect()
    }

    #[test]
    fn lines_come_in_order_and_only_once() {
        let tail = Tail::new(1 << 20);
        let mut place = Place::default();
        tail.push(&batch("web.1", "a\nb\n"));
        tail.push(&batch("worker.1", "c\n"));
        tail.push(&batch("web.1", "d\n"));
        assert_eq!(texts(&tail.read(&mut place, |_| true)), ["a", "b", "c", "d"]);
        assert!(tail.read(&mut place, |_| true).batches.is_empty());
        tail.push(&batch("web.1", "e\n"));
        let reading = tail.read(&mut place, |speaker| speaker.as_str() == "web.1");
        assert_eq!((texts(&reading), reading.missed), (vec!["e".to_owned()], 0));
    }

    #[test]
    fn the_last_lines_of_a_run_are_its_own_and_few() {
        let (tail, web) = (Tail::new(1 << 20), Speaker::dyno(&"web.1".parse().unwrap()));
        let print = |speaker: &Arc<Speaker>, origin, text: &str| {
            let (speaker, bytes) = (Arc::clone(speaker), text.as_bytes().to_vec());
            tail.push(&Arc::new(Batch::new(speaker, origin, SystemTime::UNIX_EPOCH, bytes)));
        };
        print(&web, Origin::Stdout, "of the run before\n");
        let mark = tail.mark();
        assert!(tail.last_lines(&web, mark).is_empty());
        print(&web, Origin::Stdout, "a\nb\n\n");
        tail.push(&batch("web.1", "of its successor\n"));
        print(&web, Origin::Platform, "State changed\n");
        print(&web, Origin::Stderr, "oops \u{fc}\n");
        print(&web, Origin::Stdout, "without an end");
        assert_eq!(*tail.last_lines(&web, mark), ["a", "b", "", "oops \u{fc}", "without an end"]);
        let many: String = (0..100).map(|n| format!("{n}\n")).collect();
        print(&web, Origin::Stdout, &many);
        let ten: Vec<String> = (90..100).map(|n| n.to_string()).collect();
        assert_eq!(*tail.last_lines(&web, mark), ten);
        print(&web, Origin::Stdout, &format!("{}\n{}\nend\n", "x".repeat(3000), "y".repeat(3000)));
        let last = tail.last_lines(&web, mark);
        assert_eq!(last.iter().map(String::len).collect::<Vec<_>>(), [3000, 3]);
        print(&web, Origin::Stdout, &format!("{}\n", "z".repeat(9000)));
        let last = tail.last_lines(&web, mark);
        assert_eq!((last.len(), last[0].len()), (1, LAST_BYTES + CUT_MARK.len()));
        assert!(tail.last_lines(&web, tail.mark()).is_empty());
    }

    #[test]
    fn a_chatty_dyno_pushes_out_its_own_lines_and_a_slow_follower_is_told() {
        let tail = Tail::new(10_000);
        let mut place = Place::default();
        tail.push(&batch("worker.1", "quiet\n"));
        tail.push(&batch("web.1", "first\n"));
        tail.read(&mut place, |_| true);
        for n in 0..1000 {
            tail.push(&batch("web.1", &format!("{n}\n")));
        }
        let reading = tail.read(&mut place, |_| true);
        assert_eq!(reading.missed as usize + reading.batches.len(), 1000);
        assert!(reading.missed > 900);
        let mut all = Place::default();
        let everything = tail.read(&mut all, |_| true);
        assert_eq!(texts(&everything)[0], "quiet");
        assert_eq!(everything.missed, 0, "who has just come has missed nothing");
        assert!(everything.batches.iter().map(|batch| batch.size()).sum::<usize>() <= 10_000);
    }
}
