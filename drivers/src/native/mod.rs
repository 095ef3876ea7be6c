//! The `native` driver: each dyno in Linux namespaces and cgroups, with a user and a network of its own, and no
//! daemon.

mod attendant;
pub mod cgroup;
pub mod claims;
pub(crate) mod command;
mod copy;
pub mod doctor;
mod driver;
mod error;
mod etc;
mod exec;
mod files;
mod first_process;
mod holdings;
mod in_root;
mod inherited;
mod init;
pub mod ledger;
mod main_process;
pub mod mountinfo;
pub mod network;
mod network_users;
mod privileges;
pub(crate) mod protocol;
pub mod reconcile;
mod remount;
pub mod remove_tree;
mod root;
mod run;
mod scan;
mod seccomp;
mod start;
#[cfg(test)]
mod testing;
pub mod undo;
mod uplink;
mod watch;
mod wires;
mod zygote;
mod zygotes;

pub use driver::{Native, NativeSettings};
pub use error::NativeError;
pub use protocol::BindMount;
pub use zygotes::{Zygote, live_as_zygote};
