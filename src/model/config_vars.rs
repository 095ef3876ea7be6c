//! Config vars: the environment that a release gives its dynos. Values are secrets and never shown.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Why a config var cannot be handed to a process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfigVar {
    /// The name is empty, or holds `=` or a NUL.
    #[error("config var name {name:?} is not valid: it must not be empty and must not hold '=' or a NUL")]
    Name {
        /// The name as given.
        name: String,
    },
    /// The value holds a NUL, which no environment can carry.
    #[error("the value of config var {name:?} holds a NUL byte, which no environment can carry: remove it")]
    Value {
        /// The name of the var.
        name: String,
    },
    /// `PORT` is not a TCP port.
    #[error("config var PORT is not a port: give a number from 1 to 65535")]
    Port,
}

/// The name of a config var.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct VarName(String);

impl VarName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VarName {
    type Err = InvalidConfigVar;

    fn from_str(name: &str) -> Result<Self, InvalidConfigVar> {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(InvalidConfigVar::Name { name: name.to_owned() });
        }
        Ok(Self(name.to_owned()))
    }
}

impl<'de> Deserialize<'de> for VarName {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map_err(de::Error::custom)
    }
}

/// The config vars of a release, sorted by name. `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ConfigVars(BTreeMap<VarName, String>);

impl ConfigVars {
    /// Sets a var.
    ///
    /// # Errors
    /// If the value cannot be carried by an environment, or `PORT` is not a port.
    pub fn set(&mut self, name: VarName, value: String) -> Result<(), InvalidConfigVar> {
        if value.contains('\0') {
            return Err(InvalidConfigVar::Value { name: name.0 });
        }
        if name.as_str() == "PORT" && !value.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(InvalidConfigVar::Port);
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// The value of a var.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known.as_str() == name).map(|(_, value)| value.as_str())
    }

    /// The port that the release names in `PORT`.
    pub fn port(&self) -> Option<u16> {
        self.get("PORT").and_then(|port| port.parse().ok())
    }

    /// All vars, by name.
    pub fn iter(&self) -> btree_map::Iter<'_, VarName, String> {
        self.0.iter()
    }
}

impl fmt::Debug for ConfigVars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys().map(VarName::as_str)).finish()
    }
}

impl<'de> Deserialize<'de> for ConfigVars {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Vars;
        impl<'de> de::Visitor<'de> for Vars {
            type Value = ConfigVars;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of config vars, such as {\"NAME\": \"value\"}")
            }

            fn visit_unit<E: de::Error>(self) -> Result<ConfigVars, E> {
                Ok(ConfigVars::default())
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<ConfigVars, A::Error> {
                let mut vars = ConfigVars::default();
                while let Some((name, value)) = map.next_entry::<VarName, String>()? {
                    vars.set(name, value).map_err(de::Error::custom)?;
                }
                Ok(vars)
            }
        }
        input.deserialize_any(Vars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_out_of_debug_output() {
        let vars: ConfigVars = serde_json::from_str(r#"{"TOKEN": "s3cret"}"#).unwrap();
        assert_eq!(format!("{vars:?}"), r#"{"TOKEN"}"#);
    }

    #[test]
    fn what_no_environment_can_carry_is_refused() {
        for bad in [r#"{"": "x"}"#, r#"{"A=B": "x"}"#, r#"{"A": "x\u0000"}"#, r#"{"A": 1}"#, "[]"] {
            assert!(serde_json::from_str::<ConfigVars>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn port_must_be_a_port() {
        for bad in ["http", "0", "65536", "-1", ""] {
            let json = format!(r#"{{"PORT": "{bad}"}}"#);
            let error = serde_json::from_str::<ConfigVars>(&json).unwrap_err().to_string();
            assert!(error.contains("1 to 65535"), "{error}");
        }
        let vars: ConfigVars = serde_json::from_str(r#"{"PORT": "8080"}"#).unwrap();
        assert_eq!(vars.port(), Some(8080));
    }

    #[test]
    fn null_is_no_vars() {
        assert_eq!(serde_json::from_str::<ConfigVars>("null").unwrap(), ConfigVars::default());
    }
}
