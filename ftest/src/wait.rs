//! Waiting for what has no event.

use std::thread;
use std::time::{Duration, Instant};

/// How long to wait for anything that is to happen: far longer than it takes where builds go on beside.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at. This is not a sleep that a test relies on: it only yields.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until `look` finds something.
///
/// # Panics
/// If it has not within [`PATIENCE`]: with `what` was waited for and what `context` tells.
pub fn eventually<T>(what: &str, context: impl Fn() -> String, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        if Instant::now() > deadline {
            panic!("waited {PATIENCE:?} in vain for this: {what}\n{}", context());
        }
        thread::sleep(LOOK_EVERY);
    }
}
