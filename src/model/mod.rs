//! What hsup supervises, as values that cannot be wrong: names and releases are parsed once, at the edge.
//!
//! Nothing here does I/O; every room may use these types.

mod by_type;
mod checks;
mod config_vars;
mod duration;
mod formation;
mod limits;
mod names;
mod release;
mod rollout;
mod startup;

pub use by_type::{ByType, InvalidOfType, OfType};
pub use checks::{
    Check, CheckText, Checks, InvalidCheck, LIVENESS_PERIOD, Probe, for_liveness, for_readiness,
};
pub use config_vars::{ConfigVars, InvalidConfigVar, VarName};
pub use duration::{HumanDuration, InvalidDuration};
pub use formation::{
    Command, Formation, FormationError, MAX_QUANTITY, Process, Quantities, Quantity, QuantityOverride,
    ScaleChange,
};
pub use limits::{InvalidLimitSetting, LimitSetting, LimitSettings};
pub use names::{AppName, DynoName, InvalidName, ProcessType, ReleaseVersion, StackName, Target};
pub(crate) use release::without_secrets;
pub use release::{InvalidDigest, Release, Sha256Digest, SlugId, SlugLocation};
pub use rollout::{BOOT_TIMEOUT, InvalidRollout, Rollout, RolloutSettings};
pub use startup::{Action, Bind, Startup};
