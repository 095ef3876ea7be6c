//! Versions and moments as text.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::model::ReleaseVersion;

/// A release version as text: `v3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub ReleaseVersion);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let number = text.strip_prefix('v').and_then(|number| number.parse().ok());
        number
            .map(|number| Self(ReleaseVersion(number)))
            .ok_or_else(|| de::Error::custom(format!("{text:?} is not a release version such as \"v3\"")))
    }
}

/// A moment, cut to milliseconds on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub SystemTime);

/// 9999-12-31T23:59:59Z. RFC 3339 has four digits for the year.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

impl fmt::Display for Timestamp {
    /// A moment that RFC 3339 cannot say (a clock that was never set) becomes the nearest one that it can.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since_epoch = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since_epoch.min(LAST_SECOND)).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        humantime::parse_rfc3339(&String::deserialize(input)?).map(Self).map_err(de::Error::custom)
    }
}
