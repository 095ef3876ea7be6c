//! The name and version of one stack, as its directory is called.

use std::fmt;
use std::str::FromStr;

use super::version::{InvalidVersion, StackVersion};
use crate::model::{InvalidName, StackName};

/// One stack: `heroku-24-v3` is version `v3` of `heroku-24`. They sort by name, then version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId {
    /// The name.
    pub name: StackName,
    /// The version; it holds no `-`, so that the last `-` is before it.
    pub version: StackVersion,
}

/// Why a text is not the name and version of a stack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStackId {
    /// It has no `-`.
    #[error("{0:?} names no stack: write NAME-VERSION, as in heroku-24-v3")]
    NoVersion(String),
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The version is not one.
    #[error(transparent)]
    Version(#[from] InvalidVersion),
}

impl FromStr for StackId {
    type Err = InvalidStackId;

    fn from_str(given: &str) -> Result<Self, InvalidStackId> {
        let none = || InvalidStackId::NoVersion(given.chars().take(80).collect());
        let (name, version) = given.rsplit_once('-').ok_or_else(none)?;
        Ok(Self { name: name.parse()?, version: version.parse()? })
    }
}

impl fmt::Display for StackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.name, self.version)
    }
}

/// The stack that a name means: the newest of that name, else the one that is named in full.
pub(super) fn newest<'a>(
    ids: impl IntoIterator<Item = &'a StackId> + Clone,
    name: &StackName,
) -> Option<&'a StackId> {
    let of_name = ids.clone().into_iter().filter(|id| id.name == *name).max_by_key(|id| &id.version);
    of_name.or_else(|| ids.into_iter().find(|id| id.to_string() == name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> StackId {
        text.parse().unwrap()
    }

    #[test]
    fn the_version_comes_after_the_last_dash() {
        let stack = id("heroku-24-v3");
        assert_eq!((stack.name.as_str(), stack.version.as_str()), ("heroku-24", "v3"));
        assert_eq!(stack.to_string(), "heroku-24-v3");
        for bad in ["heroku", "heroku-", "-v3", "../x-1", "a/b-1", "a-1/2", "", "heroku-24-v3.img"] {
            assert!(bad.parse::<StackId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_means_the_newest_and_a_full_name_the_one() {
        let ids = ["heroku-24-v9", "heroku-24-v10", "heroku-24-v2", "heroku-22-v11", "heroku-24"].map(id);
        let find = |name: &str| newest(&ids, &name.parse().unwrap()).map(ToString::to_string);
        assert_eq!(find("heroku-24").as_deref(), Some("heroku-24-v10"));
        assert_eq!(find("heroku-24-v2").as_deref(), Some("heroku-24-v2"));
        assert_eq!(find("heroku").as_deref(), Some("heroku-24"));
        assert_eq!(find("heroku-2"), None);
        assert_eq!(find("cedar-14"), None);
    }
}
