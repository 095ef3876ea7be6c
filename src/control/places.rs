//! How many clients there may be at a time. It counts those that are there, and neither accepts nor serves any.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::{Asker, Role};

/// How many clients are served at a time; more wait to be accepted. Each may hold about 100 KiB.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// How many of them may be such that may only read.
const MAX_READERS: usize = 40;

/// How many may be such that may do nothing: each is told so, and no more. With the readers they leave sixteen places
/// to those that have control, who can so not be locked out.
const MAX_STRANGERS: usize = 8;

const _: () = assert!(MAX_READERS + MAX_STRANGERS < MAX_CONNECTIONS);

/// The places of those that do not have control.
pub(super) struct Places {
    readers: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// The place of a client, for as long as it is kept.
pub(super) struct Place(
    #[expect(dead_code, reason = "it is given back when it is dropped")] Option<OwnedSemaphorePermit>,
);

impl Places {
    /// All of them are free.
    pub(super) fn new() -> Self {
        let [readers, strangers] =
            [MAX_READERS, MAX_STRANGERS].map(|places| Arc::new(Semaphore::new(places)));
        Self { readers, strangers }
    }

    /// A place for whoever has connected. None where its like has all of theirs: it is not to wait, since those that have
    /// control would wait behind it.
    pub(super) fn take(&self, asker: &Asker) -> Option<Place> {
        if asker.may(Role::Control) {
            return Some(Place(None));
        }
        let places = if asker.may(Role::Read) { &self.readers } else { &self.strangers };
        let permit = Arc::clone(places).try_acquire_owned();
        if permit.is_err() {
            tracing::debug!("control: {asker} is turned away: too many like that are connected");
        }
        permit.ok().map(|permit| Place(Some(permit)))
    }
}
