//! One dyno: its state machine, its policy, and the task that owns it.

mod command_probe;
mod executor;
mod fsm;
mod notify_socket;
mod policy;
mod prober;
#[cfg(test)]
pub(crate) mod scripted;
mod signs;
mod status;

pub use executor::{Command, Dyno, DynoHandle};
pub use policy::{Policy, STOP_TIMEOUT, retry_after};
pub use status::{DynoState, DynoStatus, Ended, Health, LastExit, Why};
