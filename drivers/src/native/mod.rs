//! The `native` driver: each dyno in Linux namespaces and cgroups, with a user and a network of its own, and no
//! daemon.

pub mod cgroup;
pub mod claims;
mod files;
mod finding;
pub mod ledger;
pub mod mountinfo;
pub mod network;
pub mod reconcile;
pub mod remove_tree;
mod scan;
#[cfg(test)]
mod testing;
pub mod undo;

pub use crate::owner;
