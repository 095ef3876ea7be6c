//! Log files: the lines of each dyno in a file of its own, for hosts without a drain.

mod archive;
mod log_files;
mod names;
mod writer;

pub use log_files::FilesError;
pub(super) use log_files::{Claim, LogFiles};
