//! The `native` driver: each dyno in Linux namespaces, with a user and a network of its own, and no daemon.

pub mod network;
