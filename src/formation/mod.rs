//! The formation: which dynos run, from which release, and how one release becomes the next.

mod handle;

pub use handle::{FormationHandle, FormationStatus, ShuttingDown};
