//! The diagnostic ring: the most recent records of hsup's own log, kept in memory even where they are not
//! printed, to be looked at when something is odd (SIGUSR1, `/diag`).
//!
//! The ring is bounded twice: in records and in bytes a record. Slots are allocated as they are first used, so
//! a quiet hsup pays little; from then on they are only overwritten. Records are formatted before the lock is
//! taken and copied under it, so that no foreign code runs while the ring is locked: a `Debug` that panics or
//! logs itself can neither poison nor block it.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::log;

/// How many records the ring holds: enough for some restarts of every dyno of a small formation.
const RECORDS: usize = 128;

/// How many bytes of a record are kept. With [`RECORDS`] this bounds the ring at 64 KiB.
const RECORD_BYTES: usize = 512;

/// What stands at the end of a record that was cut.
const CUT: &str = "…";

/// The most recent log records of hsup.
pub struct Ring {
    slots: Mutex<Slots>,
    records: usize,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("records", &self.records).finish_non_exhaustive()
    }
}

/// The slots, and how many records have been pushed into them ever. Record `n` is in slot `n % records`.
struct Slots {
    slots: Vec<Line>,
    pushed: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Self::with_records(RECORDS)
    }
}

impl Ring {
    /// A ring for so many records (at least one). Nothing is allocated yet.
    fn with_records(records: usize) -> Self {
        Self { slots: Mutex::new(Slots { slots: Vec::new(), pushed: 0 }), records: records.max(1) }
    }

    /// Writes the records, oldest first, one a line. Records that come in meanwhile are written too as long
    /// as they fit; nobody who logs waits for `out`.
    ///
    /// # Errors
    /// If `out` fails.
    pub fn dump(&self, mut out: impl io::Write) -> io::Result<()> {
        let mut next = 0;
        // A dump ends even if records come in faster than they are written.
        let end = self.lock().pushed;
        while next < end {
            let line = {
                let slots = self.lock();
                next = next.max(slots.pushed.saturating_sub(self.records));
                if next >= end {
                    break;
                }
                slots.slots[next % self.records]
            };
            next += 1;
            out.write_all(line.as_str().as_bytes())?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// Keeps a record, instead of the oldest if the ring is full.
    fn push(&self, line: &Line) {
        let mut slots = self.lock();
        let slot = slots.pushed % self.records;
        match slots.slots.get_mut(slot) {
            Some(used) => *used = *line,
            None => slots.slots.push(*line),
        }
        slots.pushed += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Under the lock lines are copied and no more, so that the slots are sound whatever panicked.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line of bounded length. What does not fit is cut between two characters.
#[derive(Clone, Copy)]
struct Line {
    bytes: [u8; RECORD_BYTES],
    length: u16,
    cut: bool,
}

impl Line {
    fn new() -> Self {
        Self { bytes: [0; RECORD_BYTES], length: 0, cut: false }
    }

    fn as_str(&self) -> &str {
        let text = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        // Only whole characters are ever written.
        std::str::from_utf8(text).unwrap_or_default()
    }

    fn append(&mut self, text: &str) {
        let start = usize::from(self.length);
        let end = start + text.len();
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(text.as_bytes());
            self.length = u16::try_from(end).expect("a record is shorter than 64 KiB");
        }
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.cut {
            return Ok(());
        }
        // Room for the mark of a cut is kept, so that it always fits.
        let room = RECORD_BYTES - CUT.len() - usize::from(self.length);
        if text.len() <= room {
            self.append(text);
        } else {
            let end = (0..=room).rev().find(|n| text.is_char_boundary(*n)).unwrap_or_default();
            self.append(&text[..end]);
            self.append(CUT);
            self.cut = true;
        }
        Ok(())
    }
}

/// Feeds a ring with every record that it is given; which ones those are is a filter's business.
#[derive(Debug)]
pub struct RingLayer(Arc<Ring>);

impl RingLayer {
    /// A layer that feeds this ring.
    pub fn new(ring: Arc<Ring>) -> Self {
        Self(ring)
    }
}

impl<S: Subscriber> Layer<S> for RingLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line::new();
        let metadata = event.metadata();
        // A `Debug` that gives an error leaves the record as far as it came.
        let _ = log::write_time(&mut line)
            .and_then(|()| write!(line, " {:>5} {}: ", metadata.level(), metadata.target()))
            .and_then(|()| log::write_fields(&mut line, event));
        self.0.push(&line);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn line(text: &str) -> Line {
        let mut line = Line::new();
        line.write_str(text).unwrap();
        line
    }

    fn dump(ring: &Ring) -> String {
        let mut out = Vec::new();
        ring.dump(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// What the ring holds after `log`, without the times.
    fn logged(log: impl FnOnce()) -> Vec<String> {
        let ring = Arc::new(Ring::default());
        let subscriber = tracing_subscriber::registry().with(RingLayer::new(ring.clone()));
        tracing::subscriber::with_default(subscriber, log);
        dump(&ring).lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn the_oldest_records_give_way() {
        let ring = Ring::with_records(3);
        assert_eq!(dump(&ring), "");
        for n in 0..5 {
            ring.push(&line(&n.to_string()));
        }
        assert_eq!(dump(&ring), "2\n3\n4\n");
    }

    #[test]
    fn slots_are_made_when_first_used_and_then_kept() {
        let ring = Ring::with_records(4);
        assert_eq!(ring.lock().slots.capacity(), 0);
        ring.push(&line("x"));
        assert_eq!(ring.lock().slots.len(), 1);
        (0..4).for_each(|_| ring.push(&line("x")));
        let place = |ring: &Ring| {
            let slots = ring.lock();
            (slots.slots.as_ptr(), slots.slots.capacity())
        };
        let warm = place(&ring);
        (0..100).for_each(|_| ring.push(&line("y")));
        assert_eq!(place(&ring), warm);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        for offset in 0..4 {
            let text = format!("{}{}", "x".repeat(offset), "🦀".repeat(RECORD_BYTES));
            let mut cut = line(&text);
            cut.write_str("more").unwrap();
            let kept = cut.as_str().strip_suffix(CUT).unwrap();
            assert!(text.starts_with(kept));
            assert!(kept.len() > RECORD_BYTES - CUT.len() - 4, "{}", kept.len());
        }
        let fits = "x".repeat(RECORD_BYTES - CUT.len());
        assert_eq!(line(&fits).as_str(), fits);
    }

    #[test]
    fn a_record_is_one_line_with_its_fields() {
        let records = logged(|| tracing::info!(dyno = "web.1", why = ?"a\nb", "it is\nup"));
        let target = module_path!();
        assert_eq!(records, [format!(" INFO {target}: it is\\nup dyno=web.1 why=\"a\\nb\"")]);
    }

    #[test]
    fn a_panic_in_a_record_does_not_end_the_ring() {
        struct Bad;
        impl fmt::Debug for Bad {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("bad Debug")
            }
        }
        struct Chatty;
        impl fmt::Debug for Chatty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                tracing::info!("from within");
                f.write_str("chatty")
            }
        }
        let records = logged(|| {
            let panicked = std::panic::catch_unwind(|| tracing::info!(bad = ?Bad, "lost"));
            assert!(panicked.is_err());
            tracing::info!(chatty = ?Chatty, "kept");
        });
        assert!(records.last().unwrap().ends_with("kept chatty=chatty"), "{records:?}");
    }

    #[test]
    fn a_panic_under_the_lock_does_not_poison_the_ring() {
        let ring = Arc::new(Ring::with_records(2));
        let locked = ring.clone();
        let panicked = thread::spawn(move || {
            let _guard = locked.slots.lock().unwrap();
            panic!("under the lock");
        });
        assert!(panicked.join().is_err());
        ring.push(&line("after"));
        assert_eq!(dump(&ring), "after\n");
    }

    #[test]
    fn a_dump_ends_while_records_come_in() {
        struct Busy<'a>(&'a Ring, usize);
        impl io::Write for Busy<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1 += bytes.iter().filter(|b| **b == b'\n').count();
                (0..2).for_each(|_| self.0.push(&line("more")));
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let ring = Ring::with_records(8);
        (0..8).for_each(|_| ring.push(&line("x")));
        let mut out = Busy(&ring, 0);
        ring.dump(&mut out).unwrap();
        assert!((1..=8).contains(&out.1), "{}", out.1);
    }
}
