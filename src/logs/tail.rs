//! The tail buffer: the newest lines of every dyno, for who asks later, and for who follows. It is bounded by bytes
//! and knows no clients: a follower comes with the place it has got to, and is told what it has missed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

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

/// How far a reader has got.
#[derive(Debug, Default)]
pub struct Place {
    next: u64,
    /// The lines of each speaker that are before it.
    lines: HashMap<String, u64>,
    /// The lines of each speaker behind which nothing is read, for who does not follow.
    ends: Option<HashMap<String, u64>>,
}

impl Place {
    fn end_of(&self, name: &str) -> u64 {
        self.ends.as_ref().map_or(u64::MAX, |ends| ends.get(name).copied().unwrap_or_default())
    }

    /// Moves behind so many lines of a speaker; gives how many there were before it.
    fn pass(&mut self, name: &str, lines: u64) -> u64 {
        match self.lines.get_mut(name) {
            Some(before) => std::mem::replace(before, lines.max(*before)),
            None => {
                self.lines.insert(name.to_owned(), lines);
                0
            }
        }
    }
}

/// Where a reader begins.
#[derive(Debug, Default)]
pub struct Start {
    /// The batch that has the first of the lines, and how many of its lines are before that.
    pub first: Option<(Arc<Batch>, u64)>,
    /// Where it goes on behind that batch.
    pub place: Place,
}

/// Which of the lines that are there a reader begins with.
#[derive(Clone, Copy, Debug)]
pub struct Newest {
    /// How many there are at most.
    pub lines: u64,
    /// From when on.
    pub since: Option<SystemTime>,
    /// Whether what comes later is read, too.
    pub follow: bool,
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

    /// Where who is to see the newest lines of those speakers that are wanted begins.
    pub fn begin(&self, newest: Newest, wanted: impl Fn(&Speaker) -> bool) -> Start {
        let buffer = self.buffer();
        let kept = || buffer.entries(0, &wanted);
        let total: u64 = kept().map(|entry| entry.batch.len()).sum();
        let (mut old, mut too_early) = (total.saturating_sub(newest.lines), true);
        let first = kept().find(|entry| {
            too_early = too_early && newest.since.is_some_and(|since| entry.batch.at < since);
            let is_first = !too_early && old < entry.batch.len();
            old = if is_first { old } else { old.saturating_sub(entry.batch.len()) };
            is_first
        });
        let next = first.map_or(buffer.next, |entry| entry.number + 1);
        let before =
            |kept: &Kept| kept.batches.get(kept.index(next)).map_or(kept.lines, |entry| entry.lines_before);
        let lines = buffer.speakers.iter().map(|(name, kept)| (name.clone(), before(kept))).collect();
        let ends = || buffer.speakers.iter().map(|(name, kept)| (name.clone(), kept.lines)).collect();
        let ends = (!newest.follow).then(ends);
        let first = first.map(|entry| (Arc::clone(&entry.batch), old));
        Start { first, place: Place { next, lines, ends } }
    }

    /// What has come since a place, of those speakers that are wanted, as whole batches until there are so many bytes;
    /// the place moves on behind it.
    pub fn read(&self, place: &mut Place, enough_bytes: usize, wanted: impl Fn(&Speaker) -> bool) -> Reading {
        let buffer = self.buffer();
        let (mut reading, mut bytes) = (Reading::default(), 0);
        for (name, kept) in &buffer.speakers {
            let first = kept.batches.get(kept.index(place.next));
            if let Some(first) = first.filter(|first| wanted(&first.batch.speaker)) {
                let gone = first.lines_before.min(place.end_of(name));
                reading.missed += gone.saturating_sub(place.pass(name, gone));
            }
        }
        let from = std::mem::replace(&mut place.next, buffer.next);
        for entry in buffer.entries(from, &wanted) {
            let name = entry.batch.speaker.as_str();
            if entry.lines_before >= place.end_of(name) {
                continue;
            }
            if bytes >= enough_bytes {
                place.next = entry.number;
                break;
            }
            bytes += entry.batch.size();
            place.pass(name, entry.lines_before + entry.batch.len());
            reading.batches.push(Arc::clone(&entry.batch));
        }
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

impl Kept {
    /// Where the batches from a number on begin.
    fn index(&self, number: u64) -> usize {
        self.batches.partition_point(|entry| entry.number < number)
    }
}

impl Buffer {
    /// What is kept of those speakers that are wanted from a number on, in order.
    fn entries(&self, from: u64, wanted: impl Fn(&Speaker) -> bool) -> impl Iterator<Item = &Entry> {
        let mut nexts = BTreeMap::new();
        for kept in self.speakers.values() {
            let mut rest = kept.batches.range(kept.index(from)..);
            if let Some(next) = rest.next().filter(|next| wanted(&next.batch.speaker)) {
                nexts.insert(next.number, (next, rest));
            }
        }
        std::iter::from_fn(move || {
            let (_, (entry, mut rest)) = nexts.pop_first()?;
            if let Some(next) = rest.next() {
                nexts.insert(next.number, (next, rest));
            }
            Some(entry)
        })
    }

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
    use super::*;
    use crate::logs::Origin;

    fn batch(dyno: &str, text: &str) -> Arc<Batch> {
        let speaker = Speaker::dyno(&dyno.parse().unwrap());
        Arc::new(Batch::new(speaker, Origin::Stdout, SystemTime::UNIX_EPOCH, text.as_bytes().to_vec()))
    }

    const ALL: Newest = Newest { lines: u64::MAX, since: None, follow: true };

    fn texts(reading: &Reading) -> Vec<String> {
        let lines = reading.batches.iter().flat_map(|batch| batch.lines());
        lines.map(|line| String::from_utf8_lossy(line.bytes).into_owned()).collect()
    }

    #[test]
    fn lines_come_in_order_and_only_once() {
        let tail = Tail::new(1 << 20);
        let mut place = tail.begin(ALL, |_| true).place;
        tail.push(&batch("web.1", "a\nb\n"));
        tail.push(&batch("worker.1", "c\n"));
        tail.push(&batch("web.1", "d\n"));
        assert_eq!(texts(&tail.read(&mut place, usize::MAX, |_| true)), ["a", "b", "c", "d"]);
        assert!(tail.read(&mut place, usize::MAX, |_| true).batches.is_empty());
        tail.push(&batch("web.1", "e\n"));
        let reading = tail.read(&mut place, usize::MAX, |speaker| speaker.as_str() == "web.1");
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
    fn who_reads_piece_by_piece_gets_every_line_once_and_is_told_of_those_that_went_meanwhile() {
        let tail = Tail::new(20_000);
        let print = |from: u64, to| {
            (from..to).for_each(|n| tail.push(&batch(["web.1", "web.2"][n as usize % 2], &format!("{n}\n"))));
        };
        print(0, 40);
        let Start { first, mut place } = tail.begin(Newest { lines: 30, follow: false, ..ALL }, |_| true);
        assert_eq!(first.unwrap().0.text(), b"10\n");
        let piece = |place: &mut Place| tail.read(place, 1000, |_| true);
        let read = piece(&mut place);
        assert_eq!((texts(&read).first().map(String::as_str), read.missed), (Some("11"), 0));
        let mut count = read.batches.len();
        print(40, 1000);
        let read = piece(&mut place);
        assert_eq!((texts(&read), count as u64 + read.missed), (vec![], 29), "nothing that came later");
        let mut place = tail.begin(ALL, |_| true).place;
        count = 1;
        while let read = piece(&mut place)
            && !read.batches.is_empty()
        {
            assert!(read.batches.len() < 10 && read.missed == 0, "{read:?}");
            count += read.batches.len();
        }
        assert_eq!(count, 20_000 / batch("web.1", "100\n").size());
    }

    #[test]
    fn a_chatty_dyno_pushes_out_its_own_lines_and_a_slow_follower_is_told() {
        let tail = Tail::new(10_000);
        let mut place = tail.begin(ALL, |_| true).place;
        tail.push(&batch("worker.1", "quiet\n"));
        tail.push(&batch("web.1", "first\n"));
        tail.read(&mut place, usize::MAX, |_| true);
        for n in 0..1000 {
            tail.push(&batch("web.1", &format!("{n}\n")));
        }
        let reading = tail.read(&mut place, usize::MAX, |_| true);
        assert_eq!(reading.missed as usize + reading.batches.len(), 1000);
        assert!(reading.missed > 900);
        let Start { first, place: mut behind } = tail.begin(ALL, |_| true);
        let everything = tail.read(&mut behind, usize::MAX, |_| true);
        let (first, skipped) = first.unwrap();
        assert_eq!((first.text(), skipped), (b"quiet\n".as_slice(), 0));
        assert_eq!(everything.missed, 0, "who has just come has missed nothing");
        assert!(everything.batches.iter().map(|batch| batch.size()).sum::<usize>() <= 10_000);
    }
}
