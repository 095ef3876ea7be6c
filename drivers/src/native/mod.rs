//! The `native` driver: each dyno in Linux namespaces and cgroups, with a user and a network of its own, and no
//! daemon.

pub mod cgroup;
pub mod network;
