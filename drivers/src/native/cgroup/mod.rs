//! The cgroups of dynos: where they are, what they limit, who is in them.

mod controller;
mod cpu;
mod dirs;
mod error;
mod group;
mod hierarchies;
mod io;
mod kill;
mod memory;
mod mounts;
mod oom;
mod pids;
mod prepare;
#[cfg(test)]
mod tests;
mod usage;

pub use error::{CgroupError, Unkept, Warning};
pub use group::Cgroup;
pub use hierarchies::{Hierarchies, Host, Kind};
pub use oom::{MemoryEvents, OomWatch};
pub use usage::Usage;
