//! What every source is: the trait, and what connects a source with the supervisor.

use std::error::Error;
use std::sync::Arc;

use hsup_drivers::BoxFuture;
use tokio::sync::watch;

use super::{Looks, Reread};
use crate::model::Release;

/// A release that a source has published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The release.
    pub release: Arc<Release>,
    /// Whether it is what went live on this host last, and the source cannot be asked what it has by now.
    pub stale: bool,
}

/// Where a source publishes: whoever reads sees the newest release; one that was overtaken is never seen.
pub type ReleaseSender = watch::Sender<Option<Published>>;

/// What a source and the supervisor have in common.
pub struct Link {
    /// Where the source publishes.
    pub releases: ReleaseSender,
    /// The release that is live: one that has been prepared and whose dynos run.
    pub live: watch::Receiver<Option<Arc<Release>>>,
    /// Asks for a look right now (SIGHUP).
    pub reread: Reread,
    /// Where the source tells how each of its looks has gone.
    pub looks: Looks,
}

/// How long to go on when there is no release to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For ever: hsup follows the app.
    Forever,
    /// For a few tries at most: somebody waits for one release, the newest.
    ForOne,
}

/// A source has no release and will have none.
#[derive(Debug)]
pub enum GaveUp {
    /// It cannot be read.
    Unreadable(Box<dyn Error + Send + Sync>),
    /// Its release cannot be run by hsup.
    Invalid(Box<dyn Error + Send + Sync>),
}

/// A source of releases.
///
/// A source publishes a release when it is new, never the same one twice in a row, and deals with its own
/// faults: it logs each one, retries, and goes on. What it published stays in force meanwhile.
pub trait ReleaseSource: Send {
    /// Follows the source until the future is dropped. A source that can give no further releases returns; one
    /// that was to give a single release, and cannot, gives up before it has published any.
    fn follow(self: Box<Self>, link: Link) -> BoxFuture<'static, Result<(), GaveUp>>;
}

#[cfg(test)]
/// A link at whose other end nobody is.
pub(super) fn link(releases: ReleaseSender, reread: &Reread) -> Link {
    let looks = Looks::new(crate::events::Events::new());
    Link { releases, live: watch::Sender::new(None).subscribe(), reread: reread.clone(), looks }
}
