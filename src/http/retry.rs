//! When something that failed is tried again. It owns the arithmetic and neither waits nor knows what failed.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// How often and when something is tried again.
#[derive(Clone, Copy)]
pub(crate) struct Retry {
    pub(crate) attempts: u32,
    pub(crate) first_delay: Duration,
    /// A server's Retry-After counts up to this: a deploy should not hang for an hour by a header.
    pub(crate) longest_delay: Duration,
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
    pub(crate) fn delay(self, attempt: u32, asked: Option<Duration>) -> Duration {
        self.delay_at(attempt, asked, random_fraction())
    }

    fn delay_at(self, attempt: u32, asked: Option<Duration>, random: f64) -> Duration {
        let doubled = self.first_delay.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
        let half = doubled.min(self.longest_delay) / 2;
        (half + half.mul_f64(random)).max(asked.unwrap_or_default()).min(self.longest_delay)
    }
}

/// From 0 to 1, for jitter: the standard library's hash keys are as random as that needs.
pub(crate) fn random_fraction() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

/// How long a server that refuses asks to be left alone, in seconds or as a time: `Retry-After`; and where the rate limit
/// is used up, else its reset, which answers have at other times as well. A time is taken beside the answer's own `Date`,
/// so that this host's clock does not matter.
pub(crate) fn asked_to_wait(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let limited = status == StatusCode::TOO_MANY_REQUESTS;
    if !limited && status != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let now = text(DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
    let until = |time: SystemTime| now.map(|now| time.duration_since(now).unwrap_or_default());
    let reset = |name: &str| {
        let seconds: u64 = text(name)?.parse().ok()?;
        // whatever is larger than this is no wait of seconds but a time since 1970
        const THIRTY_YEARS: u64 = 1_000_000_000;
        let time = Duration::from_secs(seconds);
        if seconds < THIRTY_YEARS { Some(time) } else { until(UNIX_EPOCH.checked_add(time)?) }
    };
    let date = || until(httpdate::parse_http_date(text(RETRY_AFTER.as_str())?).ok()?);
    reset(RETRY_AFTER.as_str())
        .or_else(date)
        .or_else(|| reset("ratelimit-reset").filter(|_| limited))
        .or_else(|| reset("x-ratelimit-reset").filter(|_| limited))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_with_jitter_and_honour_the_server_up_to_a_cap() {
        let retry = Retry::default();
        let ms = |attempt, asked, random| retry.delay_at(attempt, asked, random).as_millis();
        assert_eq!((ms(1, None, 0.0), ms(2, None, 0.0), ms(4, None, 0.0)), (250, 500, 2000));
        assert_eq!(ms(1, None, 1.0), 500);
        assert_eq!(ms(1, Some(Duration::from_secs(7)), 0.0), 7000);
        assert_eq!(ms(1, Some(Duration::from_secs(3600)), 0.0), 60_000);
        assert_eq!(ms(99, None, 0.0), 30_000);
    }

    #[test]
    fn a_server_may_say_how_long_to_wait_in_several_ways() {
        let asked_by = |status, pairs: &[(&'static str, &str)]| {
            let headers = pairs.iter().map(|(name, value)| {
                (reqwest::header::HeaderName::from_static(name), value.parse().unwrap())
            });
            let status = StatusCode::from_u16(status).unwrap();
            asked_to_wait(status, &headers.collect()).map(|wait| wait.as_secs())
        };
        let asked = |pairs: &[(&'static str, &str)]| asked_by(429, pairs);
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(asked(&[]), None);
        assert_eq!(asked(&[("retry-after", "7"), ("ratelimit-reset", "9")]), Some(7));
        assert_eq!(asked(&[date, ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")]), Some(60));
        assert_eq!(asked(&[date, ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), Some(0));
        assert_eq!(asked(&[("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")]), None);
        assert_eq!(asked(&[("ratelimit-reset", "9")]), Some(9));
        assert_eq!(
            asked(&[("date", "Sun, 09 Sep 2001 01:46:40 GMT"), ("x-ratelimit-reset", "1000000030")]),
            Some(30)
        );
        assert_eq!(asked(&[("retry-after", "soon")]), None);
        assert_eq!(asked(&[("ratelimit-reset", "18446744073709551615"), date]), None);
        // when the limit is reset does not matter where it is not used up
        let both = [("retry-after", "7"), ("ratelimit-reset", "3500")];
        assert_eq!((asked_by(503, &both), asked_by(503, &both[1..])), (Some(7), None));
        assert_eq!((asked_by(500, &both), asked_by(403, &both)), (None, None));
    }
}
