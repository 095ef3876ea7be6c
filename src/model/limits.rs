//! What dynos may use of the host, as an operator says: for all of them, or for those of a process type.

use std::collections::BTreeMap;
use std::str::FromStr;

use hsup_drivers::{LimitError, Limits};

use super::names::{InvalidName, ProcessType};

/// The limits that an operator has set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitSettings {
    all: Limits,
    types: BTreeMap<ProcessType, Limits>,
}

impl LimitSettings {
    /// The limits of dynos of this type: its own, else those of all.
    pub fn of(&self, process_type: &ProcessType) -> Limits {
        self.types.get(process_type).copied().unwrap_or_default().or(self.all)
    }

    /// The types that have limits of their own.
    pub fn types(&self) -> impl Iterator<Item = &ProcessType> {
        self.types.keys()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().all(|limits| *limits == Limits::default())
    }

    /// Each set of limits that there is.
    pub fn iter(&self) -> impl Iterator<Item = &Limits> {
        std::iter::once(&self.all).chain(self.types.values())
    }
}

/// One setting: `memory=512MiB,cpu=0.5` for all dynos, `web:memory=1GiB` for those of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSetting {
    process_type: Option<ProcessType>,
    limits: Limits,
}

/// Why a text is no such setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLimitSetting {
    /// What stands before the colon.
    #[error(transparent)]
    Type(#[from] InvalidName),
    /// What stands behind it.
    #[error(transparent)]
    Limits(#[from] LimitError),
}

impl FromStr for LimitSetting {
    type Err = InvalidLimitSetting;

    fn from_str(given: &str) -> Result<Self, InvalidLimitSetting> {
        let (process_type, limits) = match given.split_once(':') {
            Some((name, limits)) => (Some(name.parse()?), limits),
            None => (None, given),
        };
        Ok(Self { process_type, limits: limits.parse()? })
    }
}

impl FromIterator<LimitSetting> for LimitSettings {
    /// Of two for the same dynos the later one counts, limit by limit.
    fn from_iter<I: IntoIterator<Item = LimitSetting>>(settings: I) -> Self {
        let mut all = Self::default();
        for LimitSetting { process_type, limits } in settings {
            let place = match process_type {
                Some(process_type) => all.types.entry(process_type).or_default(),
                None => &mut all.all,
            };
            *place = limits.or(*place);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_has_its_own_limits_and_else_those_of_all() {
        let settings: LimitSettings = ["memory=512MiB,pids=64", "web:memory=1GiB", "web:cpu=0.5"]
            .iter()
            .map(|text| text.parse::<LimitSetting>().unwrap())
            .collect();
        let web = settings.of(&"web".parse().unwrap());
        assert_eq!((web.memory_bytes, web.pids, web.cpu_millis), (Some(1 << 30), Some(64), Some(500)));
        let worker = settings.of(&"worker".parse().unwrap());
        assert_eq!((worker.memory_bytes, worker.cpu_millis), (Some(512 << 20), None));
        for bad in ["memory", "we/b:pids=1", "memory=1", "speed=9", "web:pids"] {
            assert!(bad.parse::<LimitSetting>().is_err(), "{bad}");
        }
    }
}
