//! Where releases come from. A source knows nothing of dynos: it publishes releases and no more.

pub mod control_dir;
pub mod control_file;
pub mod payload;
pub mod procfile;
mod publish;

use std::sync::Arc;

use hsup_drivers::BoxFuture;
use tokio::sync::{Notify, watch};

use crate::model::Release;

use publish::publish;

/// Where a source publishes: whoever reads sees the newest release; one that was overtaken is never seen.
pub type ReleaseSender = watch::Sender<Option<Arc<Release>>>;

/// A source of releases.
///
/// A source publishes a release when it is new, never the same one twice in a row, and deals with its own
/// faults: it logs each one, retries, and goes on. What it published stays in force meanwhile.
pub trait ReleaseSource: Send {
    /// Follows the source until the future is dropped. `reread` asks for a look right now (SIGHUP). A source
    /// that can give no further releases returns.
    fn follow(self: Box<Self>, releases: ReleaseSender, reread: Arc<Notify>) -> BoxFuture<'static, ()>;
}
