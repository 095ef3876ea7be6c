//! When a failed download is tried again. It owns the arithmetic and neither waits nor knows what failed.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// How often and when a download is tried again.
#[derive(Clone, Copy)]
pub(super) struct Retry {
    pub(super) attempts: u32,
    pub(super) first_delay: Duration,
    /// A server's Retry-After counts up to this: a deploy should not hang for an hour by a header.
    pub(super) longest_delay: Duration,
}

impl Default for Retry {
    /// Five attempts with some 8 s between them in all: a restart of the server is outlasted, and one that is
    /// down is reported while the operator still looks.
    fn default() -> Self {
        Self { attempts: 5, first_delay: Duration::from_millis(500), longest_delay: Duration::from_secs(60) }
    }
}

impl Retry {
    /// The wait after the `attempt`th try, counted from 1: doubled each time, of which up to a half is taken
    /// off at random, so that many hosts of one app do not come back all at once. What the server asked for
    /// is the least.
    pub(super) fn delay(self, attempt: u32, asked: Option<Duration>) -> Duration {
        self.delay_at(attempt, asked, random())
    }

    fn delay_at(self, attempt: u32, asked: Option<Duration>, random: u64) -> Duration {
        let doubled = self.first_delay.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
        let half = doubled.min(self.longest_delay) / 2;
        let jitter = half.mul_f64((random % 1024) as f64 / 1024.0);
        (half + jitter).max(asked.unwrap_or_default()).min(self.longest_delay)
    }
}

/// The standard library's hash keys are random, which is all that jitter needs.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_with_jitter_and_honour_the_server_up_to_a_cap() {
        let retry = Retry::default();
        let ms = |attempt, asked, random| retry.delay_at(attempt, asked, random).as_millis();
        assert_eq!((ms(1, None, 0), ms(2, None, 0), ms(4, None, 0)), (250, 500, 2000));
        assert!((499..=500).contains(&ms(1, None, 1023)));
        assert_eq!(ms(1, Some(Duration::from_secs(7)), 0), 7000);
        assert_eq!(ms(1, Some(Duration::from_secs(3600)), 0), 60_000);
        assert_eq!(ms(99, None, 0), 30_000);
    }
}
