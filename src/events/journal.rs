//! The journal: the newest events, in order, for who asks and who follows. It is bounded by number and by bytes and knows
//! no clients: a follower comes with the place it has got to, and is told what it has missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::event::{Event, What};
use super::tally::Tally;

/// The most events that are kept: a restart of 300 dynos fits.
const MAX_EVENTS: usize = 1000;

/// The most memory that they take. Most have some 200 bytes; an exit has the last lines of its dyno, too, and hundreds
/// of dynos that crash with many lines each must not make hsup large.
const MAX_BYTES: usize = 512 * 1024;

/// What an event takes beside its texts: itself, its counters, its place, the name of a dyno, and what the allocator adds.
const OVERHEAD_BYTES: usize = size_of::<Event>() + 64;

/// Everything that has happened lately. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    journal: Mutex<Journal>,
    /// The id of the next event, and whether there will be no more.
    next: watch::Sender<(u64, bool)>,
}

#[derive(Debug)]
struct Journal {
    /// The id of the first event that there ever was.
    first: u64,
    next: u64,
    bytes: usize,
    kept: VecDeque<Arc<Event>>,
    tally: Tally,
}

/// How far a follower has got: the id of the next event that it is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u64);

impl Place {
    /// How many events there are from here to the one with this id.
    pub fn left_until(self, id: u64) -> u64 {
        id.saturating_sub(self.0)
    }
}

/// Events that a follower was to see and that are no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// So many.
    Events(u64),
    /// Nobody knows how many: they were events of an earlier hsup.
    OfAnEarlierHsup,
}

/// What there is to read from a place on.
#[derive(Debug, Default)]
pub struct Reading {
    /// What should have come before it.
    pub missed: Option<Missed>,
    /// The events, in order.
    pub events: Vec<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

impl Events {
    /// An empty journal. Its first event has the number of microseconds that have gone by since 1970 as its id: ids
    /// grow from one hsup to the next, and are whole numbers that JSON can hold.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self::beginning_with(u64::try_from(now.as_micros()).unwrap_or(1).max(1))
    }

    fn beginning_with(first: u64) -> Self {
        let journal =
            Journal { first, next: first, bytes: 0, kept: VecDeque::new(), tally: Tally::default() };
        Self(Arc::new(Shared { journal: Mutex::new(journal), next: watch::Sender::new((first, false)) }))
    }

    /// Tells of something that has just happened. Never waits.
    pub fn tell(&self, what: What) {
        let mut journal = self.journal();
        journal.tally.count(&what);
        let event = Arc::new(Event { id: journal.next, at: SystemTime::now(), what });
        journal.bytes += bytes(&event);
        journal.kept.push_back(event);
        journal.next += 1;
        while journal.kept.len() > MAX_EVENTS || journal.bytes > MAX_BYTES {
            let Some(oldest) = journal.kept.pop_front() else { break };
            journal.bytes -= bytes(&oldest);
        }
        let next = journal.next;
        drop(journal);
        self.0.next.send_modify(|told| told.0 = next);
    }

    /// The place behind the event with this id, and what was missed since then.
    pub fn behind(&self, id: u64) -> (Place, Option<Missed>) {
        let journal = self.journal();
        let wanted = id.saturating_add(1);
        match wanted {
            // of an hsup before this one; or of one whose clock was ahead
            _ if wanted < journal.first || wanted > journal.next => {
                (Place(journal.oldest()), Some(Missed::OfAnEarlierHsup))
            }
            _ => (Place(wanted), None),
        }
    }

    /// The place before the newest so many of those that are kept and wanted; without a number, before all.
    pub fn before(&self, newest: Option<usize>, wanted: impl Fn(&What) -> bool) -> Place {
        let journal = self.journal();
        let Some(newest) = newest else { return Place(journal.oldest()) };
        let of_them = journal.kept.iter().rev().filter(|event| wanted(&event.what)).take(newest);
        Place(of_them.last().map_or(journal.next, |event| event.id))
    }

    /// Up to `most` events from a place on; the place moves on behind them.
    pub fn read(&self, place: &mut Place, most: usize) -> Reading {
        let journal = self.journal();
        let oldest = journal.oldest();
        let missed = oldest.checked_sub(place.0).filter(|missed| *missed > 0).map(Missed::Events);
        let from = usize::try_from(place.0.saturating_sub(oldest)).unwrap_or(usize::MAX);
        let events: Vec<Arc<Event>> = journal.kept.iter().skip(from).take(most).cloned().collect();
        place.0 = place.0.max(oldest) + events.len() as u64;
        Reading { missed, events }
    }

    /// Nothing more will happen: followers read what there is and end.
    pub fn close(&self) {
        self.0.next.send_modify(|told| told.1 = true);
    }

    /// Tells of changes: the id of the next event, and whether there will be no more.
    pub fn changes(&self) -> watch::Receiver<(u64, bool)> {
        self.0.next.subscribe()
    }

    /// How much of what there has been since hsup was started.
    pub fn tally(&self) -> Tally {
        self.journal().tally.clone()
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.0.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal {
    /// The id of the oldest event that is kept; of the next one if none is.
    fn oldest(&self) -> u64 {
        self.kept.front().map_or(self.next, |event| event.id)
    }
}

fn bytes(event: &Event) -> usize {
    OVERHEAD_BYTES + event.what.text_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(why: &str) -> What {
        What::SourceFailed { why: why.to_owned() }
    }

    fn told(count: u64) -> Events {
        let events = Events::beginning_with(1000);
        (0..count).for_each(|n| events.tell(source(&n.to_string())));
        events
    }

    fn ids(reading: &Reading) -> Vec<u64> {
        reading.events.iter().map(|event| event.id).collect()
    }

    #[test]
    fn events_come_in_order_and_only_once() {
        let events = told(3);
        let mut place = events.before(None, |_| true);
        assert_eq!(ids(&events.read(&mut place, 2)), [1000, 1001]);
        assert_eq!(ids(&events.read(&mut place, 2)), [1002]);
        assert!(events.read(&mut place, 2).events.is_empty());
        events.tell(source("more"));
        let reading = events.read(&mut place, 2);
        assert_eq!((ids(&reading), reading.missed), (vec![1003], None));
    }

    #[test]
    fn the_newest_of_those_that_are_wanted_can_be_asked_for() {
        let events = told(3);
        events.tell(What::SourceRecovered { failures: 3 });
        let mut place = events.before(Some(1), |what| what.word() == "source.failed");
        assert_eq!(ids(&events.read(&mut place, 9)), [1002, 1003]);
        assert_eq!(events.before(Some(0), |_| true), Place(1004));
        assert_eq!(events.before(Some(usize::MAX), |_| true), Place(1000));
    }

    #[test]
    fn who_was_away_goes_on_where_it_was_and_is_told_what_is_gone() {
        let events = told(1500);
        assert_eq!(events.behind(2100), (Place(2101), None));
        assert_eq!(events.behind(2499), (Place(2500), None), "the newest one was seen");
        let (mut place, missed) = events.behind(1099);
        assert_eq!((place, missed), (Place(1100), None));
        let reading = events.read(&mut place, 1);
        assert_eq!((ids(&reading), reading.missed), (vec![1500], Some(Missed::Events(400))));
        for other in [0, 998, 2500, u64::MAX] {
            assert_eq!(events.behind(other), (Place(1500), Some(Missed::OfAnEarlierHsup)), "{other}");
        }
        assert_eq!(Events::beginning_with(1000).behind(5).0, Place(1000));
    }

    #[test]
    fn a_slow_follower_is_told_how_much_it_has_missed() {
        let events = told(10);
        let mut place = events.before(None, |_| true);
        events.read(&mut place, 4);
        (0..2000).for_each(|_| events.tell(source("x")));
        let reading = events.read(&mut place, usize::MAX);
        assert_eq!(reading.missed, Some(Missed::Events(1006)));
        assert_eq!((reading.events.len(), reading.events[0].id), (MAX_EVENTS, 2010));
    }

    #[test]
    fn large_events_take_no_more_memory_than_small_ones() {
        let events = Events::new();
        let large = "x".repeat(10_000);
        (0..500).for_each(|_| events.tell(source(&large)));
        let kept = events.read(&mut events.before(None, |_| true), usize::MAX).events;
        assert!(kept.len() > 10 && kept.len() * large.len() <= MAX_BYTES, "{}", kept.len());
        events.tell(source(&"x".repeat(2 * MAX_BYTES)));
        let mut place = events.before(None, |_| true);
        assert!(
            events.read(&mut place, usize::MAX).events.is_empty(),
            "one that is too large is only counted"
        );
        events.tell(source("small"));
        assert_eq!(events.read(&mut place, usize::MAX).events.len(), 1);
    }

    #[test]
    fn the_ids_of_a_later_hsup_are_higher_and_json_can_hold_them() {
        let earlier = Events::new();
        (0..10).for_each(|_| earlier.tell(source("x")));
        let last = earlier.read(&mut earlier.before(Some(1), |_| true), 1).events[0].id;
        // as many microseconds as there were events: an hsup takes longer to be started
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_micros(100) {
            std::hint::spin_loop();
        }
        assert!(Events::new().before(None, |_| true).0 > last);
        assert!(last < 1 << 53);
    }
}
