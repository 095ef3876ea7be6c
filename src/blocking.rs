//! Blocking work beside the async world. It owns the rule that work whose future was dropped stops soon; it
//! must not know what the work is.

use std::io;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::spawn_blocking;

/// Tells blocking work that nobody waits for it any longer. A runtime that shuts down waits for its blocking
/// threads, so without it the unpacking of a large slug would hold up the end of hsup.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// When nobody waits for the work any longer.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_set() { Err(io::Error::other("the work was given up")) } else { Ok(()) }
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Starts the work at once on a thread that may block. Dropping the future sets the work's [`Stop`].
pub(crate) fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Stop) -> T + Send + 'static,
) -> impl Future<Output = T> + Send {
    let stop = Stop::default();
    let guard = StopOnDrop(stop.clone());
    let task = spawn_blocking(move || work(&stop));
    async move {
        let outcome = task.await;
        drop(guard);
        match outcome {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(payload) => panic::resume_unwind(payload),
                // the runtime is going down and with it the task that waits here
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropping_the_future_stops_the_work() {
        let (stopped, was_stopped) = tokio::sync::oneshot::channel();
        drop(blocking(move |stop| {
            while !stop.is_set() {
                std::thread::yield_now();
            }
            stopped.send(stop.check().is_err()).unwrap();
        }));
        assert!(was_stopped.await.unwrap());
    }
}
