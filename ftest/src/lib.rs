//! Functional tests of hsup: the built binary over real sockets, files and processes.
//!
//! The tests stand in `tests/`, one file a theme; this library is what they share. Which binary and which
//! driver is told by the environment, so that one set of tests holds for all:
//! - `FTEST_BIN`: the binary; without it the `hsup` that cargo has built beside the tests;
//! - `FTEST_DRIVER`: `simple` (default), `abspath`, `docker` or `native`;
//! - `DOCKER_HOST`: with `docker`, the engine that the tests share; `engine COMMAND` runs a command with one;
//! - `FTEST_STACK`: the root file system of native dynos and docker ones; without it the one that `make stack` has made;
//! - `FTEST_REQUIRE=1`: a test that skips itself for want of something on this host fails instead.
//!
//! Every test has a [`Room`] of its own: directories, a control dir, a control socket, and a mark by which all
//! processes of its dynos are found, wherever they went. No test sleeps: it waits for a line of hsup's output,
//! or for a condition by [`eventually`]. Nothing here knows how hsup works inside.

mod answer;
mod app;
mod at_once;
mod binary;
pub mod containers;
pub mod engine;
mod files;
mod frames;
mod gateway;
mod heroku;
mod hsup;
mod launch;
mod leftovers;
mod manager;
mod namespaces;
pub mod procs;
mod room;
mod runtime;
mod sink;
pub mod slug;
mod stream;
mod wait;

pub use answer::{Answer, get, post, request};
pub use app::App;
pub use at_once::at_once;
pub use binary::{
    Driver, driver, hsup_binary, is_about, isolated_network, min_healthy, missing, runs_slugs, stack,
};
pub use engine::Engine;
pub use files::{FileServer, Served};
pub use frames::Frame;
pub use gateway::gateway;
pub use heroku::{Checksum, Endpoint, FakeHeroku, Fault, HerokuApp, Request};
pub use hsup::{Ended, Hsup};
pub use launch::Launch;
pub use manager::Manager;
pub use namespaces::Namespaces;
pub use room::Room;
pub use sink::{Got, Mood, Sink};
pub use stream::EventStream;
pub use wait::{PATIENCE, eventually};
