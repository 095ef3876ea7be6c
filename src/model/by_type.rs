//! Settings of every dyno, or of those of one process type, as `[TYPE:]VALUE` says them.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::names::{InvalidName, ProcessType};

/// Something of every dyno, or of those of a type: what stands behind a flag such as `--readiness [TYPE:]...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfType<T> {
    /// The type; `None` is every dyno.
    pub process_type: Option<ProcessType>,
    /// What is set.
    pub value: T,
}

/// Why a text is no such setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOfType<E> {
    /// What stands before the colon.
    #[error(transparent)]
    Type(#[from] InvalidName),
    /// What stands behind it.
    #[error("{0}")]
    Value(E),
}

impl<T: FromStr> FromStr for OfType<T> {
    type Err = InvalidOfType<T::Err>;

    /// What stands before the first colon is a type, unless an `=` stands before it.
    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let (process_type, value) = match given.split_once(':') {
            Some((name, value)) if !name.contains('=') => (Some(name.parse()?), value),
            Some(_) | None => (None, given),
        };
        Ok(Self { process_type, value: value.parse().map_err(InvalidOfType::Value)? })
    }
}

/// Settings of every dyno and of those of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByType<T> {
    all: Option<T>,
    types: BTreeMap<ProcessType, T>,
}

impl<T> Default for ByType<T> {
    fn default() -> Self {
        Self { all: None, types: BTreeMap::new() }
    }
}

impl<T> ByType<T> {
    /// What is set for dynos of this type: their own, else what is set for all.
    pub fn of(&self, process_type: &ProcessType) -> Option<&T> {
        self.types.get(process_type).or(self.all.as_ref())
    }

    /// The types that have something of their own.
    pub fn types(&self) -> impl Iterator<Item = &ProcessType> {
        self.types.keys()
    }
}

impl<T> FromIterator<OfType<T>> for ByType<T> {
    /// Of two for the same dynos the later one counts.
    fn from_iter<I: IntoIterator<Item = OfType<T>>>(settings: I) -> Self {
        let mut by_type = Self::default();
        for OfType { process_type, value } in settings {
            match process_type {
                Some(process_type) => drop(by_type.types.insert(process_type, value)),
                None => by_type.all = Some(value),
            }
        }
        by_type
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CheckText;

    #[test]
    fn a_type_stands_before_a_colon_that_no_equals_sign_precedes() {
        let of = |text: &str| text.parse::<OfType<CheckText>>().unwrap();
        assert_eq!(of("web:port").process_type, Some("web".parse().unwrap()));
        assert_eq!(of("log=ready: now").process_type, None);
        assert!("we b:port".parse::<OfType<CheckText>>().is_err());
        let settings: ByType<CheckText> =
            [of("port"), of("web:none"), of("web:notify")].into_iter().collect();
        assert_eq!(settings.of(&"web".parse().unwrap()).unwrap().to_string(), "notify");
        assert_eq!(settings.of(&"worker".parse().unwrap()).unwrap().to_string(), "port");
    }
}
