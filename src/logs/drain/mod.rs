//! Drains: log lines on their way to a receiver elsewhere, over HTTP as logplex takes them or over syslog.
//!
//! What a drain promises, in this order: lines wait in bounded memory; what waits for long, on disk, where the next start
//! of hsup finds it; and only when there is no room left are the oldest lines dropped, counted and told of (`drop`), or do
//! dynos that print wait (`block`). The lines of a dyno arrive in order; what is sent again has the id that it had.

mod frame;
mod handle;
mod http;
mod intake;
mod lane;
mod parcel;
mod segment;
mod send;
mod shipper;
mod spool;
mod syslog;
mod target;

pub(in crate::logs) use frame::rfc3339;
pub(in crate::logs) use handle::Drain;
pub use handle::{DrainError, DrainPlace, DrainStatus, spools};
pub(in crate::logs) use intake::{Intake, MUCH_BYTES};
pub use target::InvalidDrain;
