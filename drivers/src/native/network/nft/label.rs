//! What the table of dynos says of itself in its comment, so that any hsup can tell whether it is as it was installed, be
//! it by another version.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// The comment of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// How many rules it has.
    pub(super) count: usize,
    /// What tells these rules from all others.
    pub(super) hash: u64,
    /// What questions for name servers are handed on to.
    pub(super) stub: Option<Ipv4Addr>,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules {:016x}", self.count, self.hash)?;
        self.stub.map_or(Ok(()), |stub| write!(f, ", name servers at {stub}"))
    }
}

/// A comment that is none of hsup's.
pub(super) struct NoLabel;

impl FromStr for Label {
    type Err = NoLabel;

    fn from_str(text: &str) -> Result<Self, NoLabel> {
        let (rules, stub) = match text.split_once(", name servers at ") {
            Some((rules, stub)) => (rules, Some(stub.parse().map_err(|_| NoLabel)?)),
            None => (text, None),
        };
        let (count, hash) = rules.split_once(" rules ").ok_or(NoLabel)?;
        let hash = u64::from_str_radix(hash, 16).map_err(|_| NoLabel)?;
        Ok(Self { count: count.parse().map_err(|_| NoLabel)?, hash, stub })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_as_it_was_written() {
        for stub in [None, Some(Ipv4Addr::new(127, 0, 0, 53))] {
            let label = Label { count: 7, hash: 0x12_3456, stub };
            assert_eq!(label.to_string().parse().ok(), Some(label));
        }
        for text in ["", "rules 0000000000123456", "7 rules", "7 rules x", "7 rules 1, name servers at home"]
        {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
    }
}
