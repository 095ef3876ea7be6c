//! What hsup supervises, as values that cannot be wrong: names and releases are parsed once, at the edge.
//!
//! Nothing here does I/O; every room may use these types.

mod config_vars;
mod formation;
mod limits;
mod names;
mod release;
mod startup;

pub use config_vars::{ConfigVars, InvalidConfigVar, VarName};
pub use formation::{Command, Formation, FormationError, Process, Quantities, Quantity, QuantityOverride};
pub use limits::{InvalidLimitSetting, LimitSetting, LimitSettings};
pub use names::{AppName, DynoName, InvalidName, ProcessType, ReleaseVersion, StackName, Target};
pub(crate) use release::without_secrets;
pub use release::{InvalidDigest, Release, Sha256Digest, SlugId, SlugLocation};
pub use startup::{Action, Bind, Startup};
