//! The history of releases: which there were on this host, what became of each, and which one an operator or a bad
//! rollout has gone back to. It stands between the source and the supervisor.

mod file;
mod handle;
mod keeper;
mod record;

pub(crate) use file::slugs_of_all;
pub use handle::{HistoryHandle, RollbackError};
pub use keeper::{Arrival, Keeper, Note, Notes, Place, Settings};
pub use record::{Entry, History, Verdict};
