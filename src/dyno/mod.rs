//! One dyno: its state machine, its policy, and the task that owns it.

mod status;

pub use status::{DynoState, DynoStatus, Ended, LastExit};
