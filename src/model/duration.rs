//! Durations as operators write them: whole numbers with a unit, `30s`, `500ms`, `1h30m`. A bare number is
//! refused, since nobody can tell seconds from milliseconds by looking at it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The units, from long to short, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration that is read and written with units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// A number alone.
    #[error("{0:?} has no unit: give a unit, for instance {0}s (the units are ms, s, m and h)")]
    NoUnit(String),
    /// Something else.
    #[error("{0:?} is not a duration: write a whole number with a unit (ms, s, m or h), for instance 30s")]
    Malformed(String),
}

impl FromStr for HumanDuration {
    type Err = InvalidDuration;

    fn from_str(given: &str) -> Result<Self, InvalidDuration> {
        let malformed = || InvalidDuration::Malformed(given.chars().take(40).collect());
        let (mut millis, mut rest) = (0_u64, given);
        loop {
            let (number, after) = rest.split_at(digits(rest));
            let number: u64 = number.parse().map_err(|_| malformed())?;
            if after.is_empty() && rest == given {
                return Err(InvalidDuration::NoUnit(number.to_string()));
            }
            let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(unit);
            let (_, size) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
            millis = number.checked_mul(size).and_then(|n| millis.checked_add(n)).ok_or_else(malformed)?;
            rest = after;
            if rest.is_empty() {
                return Ok(Self(Duration::from_millis(millis)));
            }
        }
    }
}

/// How many digits the text starts with.
fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

impl fmt::Display for HumanDuration {
    /// The shortest way of writing it that [`FromStr`] reads back; below a millisecond nothing is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (name, size) in UNITS {
            let size = u128::from(size);
            if millis >= size {
                write!(f, "{}{name}", millis / size)?;
                millis %= size;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_durations() {
        for (given, millis) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("0s", 0),
            ("1h30m", 5_400_000),
            ("1s5ms", 1_005),
        ] {
            let HumanDuration(duration) = given.parse().unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{given}");
        }
    }

    #[test]
    fn a_bare_number_is_told_to_take_a_unit() {
        let error = "30".parse::<HumanDuration>().unwrap_err().to_string();
        assert_eq!(error, "\"30\" has no unit: give a unit, for instance 30s (the units are ms, s, m and h)");
        assert!("0".parse::<HumanDuration>().unwrap_err().to_string().contains("give a unit"));
    }

    #[test]
    fn anything_else_is_refused() {
        let huge = "9".repeat(30);
        let too_long = format!("{}h", u64::MAX);
        for bad in
            ["", "s", "-1s", "1.5s", "30 s", " 30s", "30S", "1d", "1h30", "é", "1é", "+1s", &huge, &too_long]
        {
            let error = bad.parse::<HumanDuration>().unwrap_err();
            assert!(matches!(error, InvalidDuration::Malformed(_)), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for given in ["30s", "500ms", "2m", "1h", "0s", "1h30m", "1m1s1ms"] {
            assert_eq!(given.parse::<HumanDuration>().unwrap().to_string(), given);
        }
    }
}
