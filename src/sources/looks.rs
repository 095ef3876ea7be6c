//! How it goes with looking at a source: each look is counted, and when it turns out otherwise than the one before that is
//! told as an event. It decides nothing.

use std::sync::{Arc, Mutex, PoisonError};

use crate::events::{Events, What};

/// Where a source tells how each of its looks has gone. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Looks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    events: Events,
    state: Mutex<State>,
}

/// How many looks there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookCounts {
    /// That found what there is, be it nothing new.
    pub succeeded: u64,
    /// That found the source gone, out of order, or with something in it that is no release.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct State {
    counts: LookCounts,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Trouble {
    told: String,
    failures: u64,
}

impl Looks {
    /// Nobody has looked yet.
    pub fn new(events: Events) -> Self {
        Self(Arc::new(Shared { events, state: Mutex::default() }))
    }

    /// A look has succeeded.
    pub fn succeeded(&self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.counts.succeeded += 1;
        let recovered = state.trouble.take();
        drop(state);
        if let Some(Trouble { failures, told: _ }) = recovered {
            self.0.events.tell(What::SourceRecovered { failures });
        }
    }

    /// A look has found nothing new, while what was found last is still no release.
    pub(super) fn nothing_new(&self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).counts.succeeded += 1;
    }

    /// A look has failed; the same again is told once.
    pub fn failed(&self, why: &str) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.counts.failed += 1;
        let trouble = state.trouble.get_or_insert_with(|| Trouble { told: String::new(), failures: 0 });
        trouble.failures += 1;
        let is_news = trouble.told != why;
        why.clone_into(&mut trouble.told);
        drop(state);
        if is_news {
            self.0.events.tell(What::SourceFailed { why: why.to_owned() });
        }
    }

    /// A look has failed as the one before did.
    pub(super) fn failed_again(&self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.counts.failed += 1;
        if let Some(trouble) = &mut state.trouble {
            trouble.failures += 1;
        }
    }

    /// How many there were.
    pub fn counts(&self) -> LookCounts {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_is_an_event() {
        let events = Events::new();
        let mut place = events.before(None, |_| true);
        let looks = Looks::new(events.clone());
        looks.succeeded();
        ["down", "down", "worse"].iter().for_each(|why| looks.failed(why));
        looks.failed_again();
        looks.nothing_new();
        looks.succeeded();
        looks.succeeded();
        let told: Vec<What> =
            events.read(&mut place, 10).events.iter().map(|event| event.what.clone()).collect();
        let failed = |why: &str| What::SourceFailed { why: why.to_owned() };
        assert_eq!(told, [failed("down"), failed("worse"), What::SourceRecovered { failures: 4 }]);
        assert_eq!(looks.counts(), LookCounts { succeeded: 4, failed: 4 });
    }
}
