//! The Heroku Platform API as a source: what Heroku would run, followed by polling.
//!
//! `client` asks, `wire` reads the answers, `snapshot` puts them together to one release, `source` decides
//! when to ask and what becomes of what was found.

mod client;
mod error;
mod snapshot;
mod source;
mod wire;

pub use client::{ApiUrl, Client, InvalidApiUrl, InvalidToken, Token};
pub use error::ApiError;
pub use source::HerokuApi;
