//! The `docker` driver: each dyno is a container of a Docker Engine, on the app's stack image.
//!
//! # From a release to a process
//! [`DynoDriver::build`](crate::DynoDriver::build) makes an image of a release: the stack's, a user, hsup's own static
//! binary and the slug. Each start makes a container of it, whose first process is that binary: the [`entry`]. What the
//! dyno is to run, and its environment, comes to the entry over the container's standard input, and so is neither in
//! the image nor in anything that `docker inspect` shows, nor ever on a disk.
//!
//! That input stays open for as long as hsup lives. When it ends, hsup is gone, and the entry ends the dyno: dynos die
//! with hsup, though their containers are children of the engine.

mod binary;
mod container;
mod context;
mod dial;
mod driver;
mod endpoint;
mod engine;
pub mod entry;
mod error;
mod exec;
mod frames;
mod images;
mod leftovers;
mod life;
mod main_process;
mod run;
mod stack;
mod start;
mod stdio;

pub use driver::{Docker, DockerSettings};
pub use endpoint::{Endpoint, InvalidEndpoint, TlsFiles};
pub use error::DockerError;
pub use stack::{InvalidStackImage, StackImage, StackImages};
