//! Heroku's names as newtypes: a value of one of these has been checked, and is cheap to clone.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest process type or app name, in bytes. Names become file, host and cgroup names, which the
/// kernel bounds at 64 (host name) and 255 (file name).
pub const MAX_NAME_BYTES: usize = 63;

/// The process type of one-off dynos, which no formation may use.
pub const RUN: &str = "run";

/// The process type of the release phase.
const RELEASE_PHASE: &str = "release";

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: {why}")]
pub struct InvalidName {
    what: &'static str,
    given: String,
    why: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, given: &str, why: &'static str) -> Self {
        Self { what, given: given.chars().take(80).collect(), why }
    }
}

fn check(what: &'static str, given: &str, extra: &[u8]) -> Result<(), InvalidName> {
    let fail = |why| Err(InvalidName::new(what, given, why));
    match given.as_bytes() {
        [] => fail("it is empty; give it a name such as \"web\""),
        bytes if bytes.len() > MAX_NAME_BYTES => fail("it is longer than 63 bytes; shorten it"),
        [first, ..] if !first.is_ascii_alphanumeric() => fail("it must start with a letter or a digit"),
        bytes if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || extra.contains(b)) => {
            fail("only letters, digits and -, _ are allowed (in stack and app names also .)")
        }
        _ => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(given: &str) -> Result<Self, InvalidName> {
                check($what, given, $extra)?;
                Ok(Self(given.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                String::deserialize(input)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

name! {
    /// The name of an app, for instance `myapp`.
    AppName, "app name", b"-_."
}
name! {
    /// A process type, for instance `web`. Letters, digits, `-` and `_`; at most 63 bytes.
    ProcessType, "process type", b"-_"
}
name! {
    /// The name of a stack (the base image), for instance `heroku-24`.
    StackName, "stack name", b"-_."
}

impl AppName {
    /// The name of an app that nothing names: `app`.
    pub fn unnamed() -> Self {
        Self("app".into())
    }
}

impl ProcessType {
    /// The process type of one-off dynos: `run`.
    pub fn run() -> Self {
        Self(RUN.into())
    }

    /// Whether it is that of Heroku's release phase, which runs once before a rollout and never as one of the dynos.
    pub fn is_release_phase(&self) -> bool {
        *self.0 == *RELEASE_PHASE
    }
}

/// The version of a release: `v7` is the seventh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseVersion(pub u64);

impl fmt::Display for ReleaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl FromStr for ReleaseVersion {
    type Err = InvalidName;

    /// `v3`, or the number alone.
    fn from_str(given: &str) -> Result<Self, InvalidName> {
        let number = given.strip_prefix('v').unwrap_or(given);
        let number = Some(number).filter(|number| number.bytes().all(|b| b.is_ascii_digit()));
        let invalid = || InvalidName::new("release", given, "it must be v and a number, for instance v3");
        number.and_then(|number| number.parse().ok()).map(Self).ok_or_else(invalid)
    }
}

/// The name of a dyno: a process type and a number, `web.1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DynoName {
    /// The type of process that the dyno runs.
    pub process_type: ProcessType,
    /// Which of the dynos of that type, from `--start-number` (1 by default).
    pub number: u32,
}

impl fmt::Display for DynoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.process_type, self.number)
    }
}

impl FromStr for DynoName {
    type Err = InvalidName;

    fn from_str(given: &str) -> Result<Self, InvalidName> {
        let invalid =
            || InvalidName::new("dyno name", given, "it must be a process type, a dot and a number");
        let (process_type, number) = given.rsplit_once('.').ok_or_else(invalid)?;
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        Ok(Self { process_type: process_type.parse()?, number: number.parse().map_err(|_| invalid())? })
    }
}

impl Serialize for DynoName {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DynoName {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map_err(de::Error::custom)
    }
}

/// What an operator's command names: every dyno of a type (`web`) or one dyno (`web.1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All dynos of a process type.
    Type(ProcessType),
    /// One dyno.
    Dyno(DynoName),
}

impl Target {
    /// Whether the command means this dyno.
    pub fn covers(&self, dyno: &DynoName) -> bool {
        match self {
            Self::Type(process_type) => dyno.process_type == *process_type,
            Self::Dyno(name) => dyno == name,
        }
    }
}

impl FromStr for Target {
    type Err = InvalidName;

    fn from_str(given: &str) -> Result<Self, InvalidName> {
        if given.contains('.') { given.parse().map(Self::Dyno) } else { given.parse().map(Self::Type) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(process_type) => process_type.fmt(f),
            Self::Dyno(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_types_are_safe_as_file_and_host_names() {
        for good in ["web", "a", "9lives", "worker-2", "log_drain", &"x".repeat(63)] {
            assert!(good.parse::<ProcessType>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "web/../x", "-x", "_x", "we b", "wéb", "web.1", "web\n", &"x".repeat(64)]
        {
            let error = bad.parse::<ProcessType>().unwrap_err().to_string();
            assert!(error.starts_with("process type"), "{error}");
        }
    }

    #[test]
    fn dyno_names_round_trip() {
        let name: DynoName = "web.12".parse().unwrap();
        assert_eq!((name.process_type.as_str(), name.number), ("web", 12));
        assert_eq!(name.to_string(), "web.12");
        for bad in ["web", "web.", ".1", "web.x", "web.+1", "web.99999999999", "we b.1"] {
            assert!(bad.parse::<DynoName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_target_covers_its_type_or_its_dyno() {
        let dyno: DynoName = "web.2".parse().unwrap();
        assert!("web".parse::<Target>().unwrap().covers(&dyno));
        assert!("web.2".parse::<Target>().unwrap().covers(&dyno));
        assert!(!"web.1".parse::<Target>().unwrap().covers(&dyno));
        assert!(!"worker".parse::<Target>().unwrap().covers(&dyno));
    }
}
