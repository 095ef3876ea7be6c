//! One dyno: its state machine, its policy, and the task that owns it.

mod executor;
mod fsm;
mod policy;
#[cfg(test)]
pub(crate) mod scripted;
mod status;

pub use executor::{Command, Dyno, DynoHandle};
pub use policy::{Policy, STOP_TIMEOUT, retry_after};
pub use status::{DynoState, DynoStatus, Ended, LastExit};
