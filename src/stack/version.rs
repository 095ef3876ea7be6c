//! Versions of stacks and their order: that of people, for whom 10 comes after 9.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The longest version, in bytes: with the longest name it still is a file name.
const MAX_BYTES: usize = 63;

/// The version of a stack, for instance `v3`, `1.10` or `20240815`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StackVersion(String);

/// Why a text is not the version of a stack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stack version {given:?} is not valid: {why}")]
pub struct InvalidVersion {
    given: String,
    why: &'static str,
}

impl StackVersion {
    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text in pieces, each of digits only or of anything else. A `v` before a number is no part of it.
    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let text = self.0.as_str();
        let mut rest = match text.strip_prefix(['v', 'V']) {
            Some(number) if number.starts_with(|c: char| c.is_ascii_digit()) => number,
            Some(_) | None => text,
        };
        std::iter::from_fn(move || {
            let is_number = rest.chars().next()?.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != is_number).unwrap_or(rest.len());
            let (piece, after) = rest.split_at(end);
            rest = after;
            Some(if is_number { Piece::number(piece) } else { Piece::Text(piece) })
        })
    }
}

/// A piece of a version. The order of the variants is that of the pieces.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Piece<'a> {
    Text(&'a str),
    /// A number of any length: of two without leading zeros the longer one is the larger.
    Number(usize, &'a str),
}

impl<'a> Piece<'a> {
    fn number(digits: &'a str) -> Self {
        let digits = digits.trim_start_matches('0');
        Self::Number(digits.len(), digits)
    }
}

impl Ord for StackVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        // `1.01` and `1.1` are the same number, but not the same version
        self.pieces().cmp(other.pieces()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for StackVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for StackVersion {
    type Err = InvalidVersion;

    fn from_str(given: &str) -> Result<Self, InvalidVersion> {
        let fail = |why| Err(InvalidVersion { given: given.chars().take(80).collect(), why });
        match given.as_bytes() {
            [] => fail("it is empty"),
            bytes if bytes.len() > MAX_BYTES => fail("it is longer than 63 bytes; shorten it"),
            [first, ..] if !first.is_ascii_alphanumeric() => fail("it must start with a letter or a digit"),
            bytes if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._+~".contains(b)) => {
                fail("only letters, digits and ., _, +, ~ are allowed")
            }
            bytes if bytes.ends_with(b".img") => fail("it ends as the file name of an image does"),
            _ => Ok(Self(given.to_owned())),
        }
    }
}

impl fmt::Display for StackVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> StackVersion {
        text.parse().unwrap()
    }

    #[test]
    fn versions_sort_as_people_count() {
        for (older, newer) in [
            ("9", "10"),
            ("1.9", "1.10"),
            ("v9", "v10"),
            ("v3", "4"),
            ("22.04", "24.04"),
            ("24.04", "24.10"),
            ("24", "24.04"),
            ("1.0", "1.0.1"),
            ("1.0a", "1.0b"),
            ("99999999999999999999999", "100000000000000000000000"),
            ("20240131", "20241001"),
        ] {
            assert!(version(older) < version(newer), "{older} < {newer}");
        }
    }

    #[test]
    fn what_no_directory_should_be_called_is_no_version() {
        for bad in ["", ".", "..", "1/2", "a b", "1-2", "-1", ".1", "1.img", &"1".repeat(64)] {
            assert!(bad.parse::<StackVersion>().is_err(), "{bad}");
        }
    }

    fn any_version() -> impl Strategy<Value = StackVersion> {
        "v?[0-9]{1,3}([._+~a]{1,2}[0-9]{0,3}){0,3}".prop_map(|text| version(&text))
    }

    proptest! {
        #[test]
        fn the_order_is_total(mut three in proptest::collection::vec(any_version(), 3)) {
            let [a, b, c] = &three[..] else { unreachable!() };
            prop_assert_eq!(a.cmp(b), b.cmp(a).reverse());
            prop_assert_eq!(a.cmp(b) == Ordering::Equal, a == b);
            prop_assert!(!(a <= b && b <= c) || a <= c);
            three.sort();
            prop_assert!(three.is_sorted());
        }

        #[test]
        fn numbers_are_compared_as_numbers(numbers in proptest::collection::vec(any::<(u32, u32)>(), 2)) {
            let [a, b] = &numbers[..] else { unreachable!() };
            let dotted = |(major, minor): &(u32, u32)| version(&format!("{major}.{minor}"));
            prop_assert_eq!(dotted(a).cmp(&dotted(b)), a.cmp(b));
        }
    }
}
