//! The Heroku Platform API as far as a source of releases needs it, as a real HTTP server on loopback: strict
//! with its client, changed by the tests while hsup runs, and failing on demand.

mod answers;
mod app;
mod fake;
mod faults;
mod range;
mod reply;
mod requests;
mod rules;
mod server;
mod state;

pub use app::{Checksum, HerokuApp};
pub use fake::FakeHeroku;
pub use faults::Fault;
pub use requests::{Endpoint, Request};
