//! What dynos use, as it was a second ago at most: to look costs a file a process of the host, and programs that watch many
//! dynos ask more often than that changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hsup_drivers::process::{self, Usage};

/// How long what was seen is good for.
const FRESH: Duration = Duration::from_secs(1);

/// What was seen of which processes, by their pids; nothing of those that had ended.
type Seen = Arc<HashMap<u32, Option<Usage>>>;

/// What was seen last. Cheap to clone; all clones have one memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Usages(Arc<Mutex<Option<(Instant, Seen)>>>);

impl Usages {
    /// What the dynos with these main processes use. It may block: whoever asks while somebody else looks waits for what
    /// that one sees.
    pub(super) fn of(&self, mains: &[u32]) -> Seen {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, seen)) = last.as_ref()
            && at.elapsed() < FRESH
            && mains.iter().all(|main| seen.contains_key(main))
        {
            return Arc::clone(seen);
        }
        let usages = process::usages(mains);
        let seen: Seen = Arc::new(mains.iter().map(|main| (*main, usages.get(main).copied())).collect());
        *last = Some((Instant::now(), Arc::clone(&seen)));
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_seen_is_not_looked_at_again_and_what_is_new_is() {
        let (usages, me) = (Usages::default(), std::process::id());
        let first = usages.of(&[me]);
        assert!(first[&me].is_some_and(|usage| usage.memory_bytes > 0));
        assert!(Arc::ptr_eq(&first, &usages.of(&[me])));
        let second = usages.of(&[me, 0]);
        assert_eq!((second.len(), second[&0]), (2, None));
        assert!(Arc::ptr_eq(&second, &usages.clone().of(&[me])));
    }
}
