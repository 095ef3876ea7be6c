//! When a dyno is started again, and how long it may take to end: Heroku's rules as numbers.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::model::BOOT_TIMEOUT;

/// How long a dyno has for ending after SIGTERM before it is killed: Heroku's 30 s.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A run that has lasted this long was a good one: its end is not one more crash in a row.
pub const LASTED: Duration = Duration::from_secs(60);

/// The wait after the second crash in a row; it doubles with each further one. Long enough not to burn a
/// processor on a dyno that cannot start, short enough to go unnoticed when a database is restarted.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// The longest wait: an operator who has mended the cause should not need to wait for long.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// The part of a wait that is left to chance, so that dynos that crashed together do not start together.
const JITTER: f64 = 0.2;

/// What holds for the dynos of a formation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether dynos run once only.
    pub one_shot: bool,
    /// How long a dyno has for ending after SIGTERM.
    pub stop_timeout: Duration,
    /// How long a dyno has for getting ready, where it is asked.
    pub boot_timeout: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { one_shot: false, stop_timeout: STOP_TIMEOUT, boot_timeout: BOOT_TIMEOUT }
    }
}

/// How long to wait before the next run, after that many crashes in a row. `chance` is from 0 to 1 and spreads
/// the wait around its middle.
fn backoff(crashes: u32, chance: f64) -> Duration {
    let doublings = crashes.saturating_sub(2).min(16);
    let middle = FIRST_BACKOFF.saturating_mul(1 << doublings).min(LONGEST_BACKOFF);
    middle.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance.clamp(0.0, 1.0))
}

/// How long to wait before the next try, after that many failures in a row, chance included.
pub fn retry_after(failures: u32) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or(u32::MAX);
    backoff(failures, f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let middle = |crashes| backoff(crashes, 0.5).as_secs();
        assert_eq!([2, 3, 4, 10, 11, u32::MAX].map(middle), [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn chance_spreads_a_wait_by_a_fifth() {
        assert_eq!(backoff(2, 0.0), Duration::from_millis(800));
        assert_eq!(backoff(2, 1.0), Duration::from_millis(1200));
        assert_eq!(backoff(2, f64::INFINITY), Duration::from_millis(1200));
    }
}
