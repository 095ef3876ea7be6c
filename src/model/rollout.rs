//! How the dynos of one release take the place of those of another.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ByType, Check, CheckText, Probe, Process};

/// How long a dyno has for getting ready: Heroku's 60 s for a `web` dyno to listen on its port.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a new dyno has to be up before it counts as good: what is broken mostly shows within seconds.
const MIN_HEALTHY: Duration = Duration::from_secs(5);

/// The process type whose dynos are to listen on their port, as on Heroku.
const WEB: &str = "web";

/// How the dynos of a process type are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rollout {
    /// All at once: each new dyno starts as soon as nothing of the old one is in its way.
    #[default]
    Replace,
    /// One after the other: the next dyno is replaced when the last one has been healthy for a while.
    Rolling,
    /// The old dyno goes on until the new one, beside it, has been healthy for a while: Heroku's preboot.
    Overlap,
}

/// Why a text is no way of replacing dynos.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no rollout: write replace, rolling or overlap")]
pub struct InvalidRollout(String);

impl FromStr for Rollout {
    type Err = InvalidRollout;

    fn from_str(given: &str) -> Result<Self, InvalidRollout> {
        match given {
            "replace" => Ok(Self::Replace),
            "rolling" => Ok(Self::Rolling),
            "overlap" => Ok(Self::Overlap),
            _ => Err(InvalidRollout(given.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for Rollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replace => "replace",
            Self::Rolling => "rolling",
            Self::Overlap => "overlap",
        })
    }
}

impl Serialize for Rollout {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rollout {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map_err(de::Error::custom)
    }
}

/// What an operator says of health and rollouts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutSettings {
    /// How dynos show that they are ready.
    pub readiness: ByType<CheckText>,
    /// How dynos show that they are still well.
    pub liveness: ByType<CheckText>,
    /// How dynos are replaced.
    pub rollout: ByType<Rollout>,
    /// How long dynos have for getting ready.
    pub boot_timeout: Duration,
    /// How long a new dyno has to be up before it counts as good.
    pub min_healthy: Duration,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self {
            readiness: ByType::default(),
            liveness: ByType::default(),
            rollout: ByType::default(),
            boot_timeout: BOOT_TIMEOUT,
            min_healthy: MIN_HEALTHY,
        }
    }
}

impl RolloutSettings {
    /// How dynos of this type show that they are ready: as the operator says, else as the release does, else a `web`
    /// dyno by listening on its port.
    pub fn readiness_of(&self, process: &Process) -> Option<Check> {
        let said = self.readiness.of(&process.process_type).or(process.checks.readiness.as_ref());
        match said {
            Some(CheckText(check)) => check.clone(),
            None => (process.process_type.as_str() == WEB).then(|| Check::new(Probe::Port)),
        }
    }

    /// Whether the operator or the release says how dynos of this type show that they are ready.
    pub fn says_readiness(&self, process: &Process) -> bool {
        self.readiness.of(&process.process_type).is_some() || process.checks.readiness.is_some()
    }

    /// How dynos of this type show that they are still well.
    pub fn liveness_of(&self, process: &Process) -> Option<Check> {
        let said = self.liveness.of(&process.process_type).or(process.checks.liveness.as_ref());
        said.and_then(|CheckText(check)| check.clone())
    }

    /// How dynos of this type are replaced.
    pub fn rollout_of(&self, process: &Process) -> Rollout {
        self.rollout.of(&process.process_type).copied().or(process.rollout).unwrap_or_default()
    }
}
