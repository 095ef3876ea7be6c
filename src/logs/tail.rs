//! The tail buffer: the newest lines of every dyno, for who asks later, and for who follows. It is bounded by bytes
//! and knows no clients: a follower comes with the place it has got to, and is told what it has missed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::batch::{Batch, Speaker};

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
