//! The one place where a release is sent: never the same one twice in a row.

use std::sync::Arc;

use super::ReleaseSender;
use crate::model::Release;

/// Publishes a release unless it is the one in force; tells whether it was published.
pub(super) fn publish(releases: &ReleaseSender, release: Release) -> bool {
    releases.send_if_modified(|current| {
        if current.as_deref() == Some(&release) {
            return false;
        }
        *current = Some(Arc::new(release));
        true
    })
}
