//! The formation: which dynos run, from which release, and how one release becomes the next.

mod arrivals;
mod handle;
mod plan;
mod ports;
mod prepare;
mod preparing;
mod preview;
mod supervisor;
mod work;

pub use handle::{CannotRun, FormationHandle, FormationStatus, ScaleRefused, ShuttingDown};
#[cfg(test)]
pub(crate) use handle::{Command, Question};
pub use prepare::{PrepareError, Prepared, Preparer};
pub use preview::{Change, DynoChange, Preview, VarChanges};
pub use supervisor::Supervisor;
pub use work::{Outcome, Settings, Shutdown, Work};
