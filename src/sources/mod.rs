//! Where releases come from. A source knows nothing of dynos: it publishes releases and no more.

pub mod control_dir;
pub mod control_file;
pub mod heroku_api;
mod last_good;
mod looks;
pub mod payload;
pub mod procfile;
mod publish;
mod release_source;
mod reread;

pub use last_good::LastGood;
pub use looks::{LookCounts, Looks};
pub use release_source::{GaveUp, Link, Patience, Published, ReleaseSender, ReleaseSource};
pub use reread::{Reread, Wish};

use publish::{publish, publish_stale};
#[cfg(test)]
use release_source::link;
