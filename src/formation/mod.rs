//! The formation: which dynos run, from which release, and how one release becomes the next.

mod handle;
mod plan;
mod ports;
mod prepare;
mod supervisor;

pub use handle::{FormationHandle, FormationStatus, ShuttingDown};
pub use prepare::{PrepareError, Preparer};
pub use supervisor::{Outcome, Settings, Shutdown, Supervisor, Work};
