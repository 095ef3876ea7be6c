//! The control file: the JSON that operators write and that hsup hands to itself, to a `Release` and back.

mod error;
mod fields;
mod logplex_url;
mod parse;
mod write;

pub use error::{ControlFileError, Position};
pub use logplex_url::{InvalidLogplexUrl, check_logplex_url};
pub use parse::{MAX_BYTES, Parsed, parse};
pub use write::to_json;

pub(super) use fields::Document;
pub(super) use parse::read;
pub(super) use write::Written;
