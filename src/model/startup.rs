//! What one start of hsup is to do: the part of the command line that a nested hsup is handed whole.

use std::path::PathBuf;
use std::str::FromStr;

use super::{Command, Quantities, Release};

/// What this hsup does with the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keeps the dynos of the formation running.
    Start(Quantities),
    /// Runs one one-off dyno.
    Run(Command),
    /// Prepares the release and ends.
    Build,
}

/// A path of the host that dynos see at another place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The path on the host.
    pub host: PathBuf,
    /// The path inside the dyno.
    pub inside: PathBuf,
    /// Whether dynos may only read it.
    pub read_only: bool,
}

/// Why a text is not a bind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "bind {0:?} is not valid: write HOST:INSIDE or HOST:INSIDE:ro with two absolute paths, for instance \
     /srv/data:/app/data"
)]
pub struct InvalidBind(String);

impl FromStr for Bind {
    type Err = InvalidBind;

    /// `HOST:INSIDE`; one path alone stands for both. With `:ro` behind it it can only be read.
    fn from_str(given: &str) -> Result<Self, InvalidBind> {
        let (paths, read_only) = given.strip_suffix(":ro").map_or((given, false), |paths| (paths, true));
        let (host, inside) = paths.split_once(':').unwrap_or((paths, paths));
        if host.contains('\0') || !host.starts_with('/') || !inside.starts_with('/') || inside.contains(':') {
            return Err(InvalidBind(given.to_owned()));
        }
        Ok(Self { host: host.into(), inside: inside.into(), read_only })
    }
}

/// A release and what to do with it: how hsup starts itself inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The release.
    pub release: Release,
    /// What to do with it.
    pub action: Action,
    /// Whether dynos that exit stay stopped.
    pub one_shot: bool,
    /// The number of the first dyno of each type.
    pub start_number: u32,
    /// Whether the release has been prepared already.
    pub skip_build: bool,
    /// Paths of the host that dynos see.
    pub binds: Vec<Bind>,
}
