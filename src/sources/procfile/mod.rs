//! The Procfile source: `./Procfile` and the `.env` beside it, in foreman's formats.

mod dotenv;
mod error;
mod lines;
mod source;

pub use error::{LineError, ProcfileError};
pub use source::Procfile;
