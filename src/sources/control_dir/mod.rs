//! The control dir source: an operator writes `new`, hsup makes it `loaded` or `rejected`.

mod error;
mod files;
mod judge;
mod source;
mod watch;

pub use error::ControlDirError;
pub use source::ControlDir;
