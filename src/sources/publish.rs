//! The one place where a release is sent: never the same one twice in a row.

use std::sync::Arc;

use super::{Published, ReleaseSender};
use crate::model::Release;

/// Publishes what the source has unless it is the release in force; tells whether it was published.
pub(super) fn publish(releases: &ReleaseSender, release: Release) -> bool {
    send(releases, release, false)
}

/// Publishes what went live here last, while the source cannot be asked.
pub(super) fn publish_stale(releases: &ReleaseSender, release: Release) -> bool {
    send(releases, release, true)
}

fn send(releases: &ReleaseSender, release: Release, stale: bool) -> bool {
    releases.send_if_modified(|current| {
        if current.as_ref().is_some_and(|current| *current.release == release && current.stale == stale) {
            return false;
        }
        *current = Some(Published { release: Arc::new(release), stale });
        true
    })
}
