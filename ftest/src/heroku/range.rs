//! The Platform API's `Range` of a list: `version ]7..; order=desc,max=10`.

/// How many entries the API gives where it is not told.
const DEFAULT_MAX: usize = 200;

/// The most that it gives.
const LARGEST_MAX: usize = 1000;

/// Which entries of a list are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) attribute: String,
    pub(super) first: Bound,
    pub(super) last: Bound,
    pub(super) descending: bool,
    pub(super) max: usize,
}

/// One end of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// No end.
    Open,
    /// This entry and those beyond.
    From(String),
    /// Those beyond this entry: `]` before the first, `[` after the last.
    Beyond(String),
}

impl Default for Range {
    fn default() -> Self {
        let attribute = "id".to_owned();
        Self { attribute, first: Bound::Open, last: Bound::Open, descending: false, max: DEFAULT_MAX }
    }
}

impl Range {
    /// Reads the header; `None` if it is malformed.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (what, options) = text.split_once(';').unwrap_or((text, ""));
        let (attribute, ends) = what.trim().split_once(' ')?;
        let (first, last) = ends.trim().split_once("..")?;
        let named =
            !attribute.is_empty() && attribute.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if !named {
            return None;
        }
        let first = bound(first.strip_prefix(']'), first)?;
        let last = bound(last.strip_suffix('['), last)?;
        let mut range = Self { attribute: attribute.to_owned(), first, last, ..Self::default() };
        for option in options.split([',', ';']).map(str::trim).filter(|option| !option.is_empty()) {
            match option.split_once('=')? {
                ("order", "desc") => range.descending = true,
                ("order", "asc") => range.descending = false,
                ("max", max) => range.max = max.parse().ok().filter(|max| (1..=LARGEST_MAX).contains(max))?,
                _ => return None,
            }
        }
        Some(range)
    }

    /// The version at which a list of releases starts, and whether it is left out itself.
    pub(super) fn start(&self) -> Option<(u64, bool)> {
        match &self.first {
            Bound::Open => None,
            Bound::From(version) => Some((version.parse().ok()?, false)),
            Bound::Beyond(version) => Some((version.parse().ok()?, true)),
        }
    }
}

fn bound(exclusive: Option<&str>, inclusive: &str) -> Option<Bound> {
    let wild = |text: &str| text.contains([' ', '[', ']', '=']);
    match (exclusive, inclusive) {
        (Some(text), _) if !text.is_empty() && !wild(text) => Some(Bound::Beyond(text.to_owned())),
        (Some(_), _) => None,
        (None, "") => Some(Bound::Open),
        (None, text) if !wild(text) => Some(Bound::From(text.to_owned())),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_api_reads_them() {
        let range = Range::parse("version ]7..; order=desc,max=10").unwrap();
        assert_eq!(range.start(), Some((7, true)));
        assert!(range.descending && range.max == 10 && range.last == Bound::Open, "{range:?}");
        let range = Range::parse("version ..; order=desc, max=1;").unwrap();
        assert_eq!((range.start(), range.max), (None, 1));
        assert_eq!(Range::parse("id a..z["), Range::parse("id a..z[;order=asc"));
        assert_eq!(Range::parse("id a..z[").map(|range| range.last), Some(Bound::Beyond("z".to_owned())));
    }

    #[test]
    fn malformed_ranges_are_none() {
        let bad = [
            "",
            "version",
            "version 7",
            "bytes=0-10",
            "version ..; max=0",
            "version ..; max=1001",
            "version ..; sort=up",
        ];
        for text in bad.into_iter().chain(["Version ..", "version ]..", "version ..; order", "version 1 2.."])
        {
            assert_eq!(Range::parse(text), None, "{text}");
        }
    }
}
