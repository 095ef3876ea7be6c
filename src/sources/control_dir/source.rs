//! The control dir as a source: looks when inotify says so, when asked, and every poll interval.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hsup_drivers::BoxFuture;

use super::error::ControlDirError;
use super::files;
use super::judge::{Judge, Outcome};
use super::watch::{Bell, DirWatch};
use crate::blocking::blocking;
use crate::model::AppName;
use crate::sources::{GaveUp, Link, ReleaseSender, ReleaseSource, Reread, publish};

/// A directory into which an operator writes releases.
///
/// A file put there as `new` is judged: a good one becomes `loaded` and is published, another becomes
/// `rejected` and `last_error` says why. `loaded` is what a start of hsup begins with.
pub struct ControlDir {
    judge: Judge,
    poll_interval: Duration,
}

impl ControlDir {
    /// Opens a control dir. `app` is the name of the app where a release gives none; `poll_interval` is how
    /// often the dir is read in case an event was lost.
    ///
    /// # Errors
    /// If there is no such directory or no file can be written in it.
    pub fn open(dir: PathBuf, app: AppName, poll_interval: Duration) -> Result<Self, ControlDirError> {
        match fs::metadata(&dir) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(ControlDirError::NotADirectory { path: dir }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ControlDirError::Missing { path: dir });
            }
            Err(source) => return Err(ControlDirError::Io { path: dir, source }),
        }
        if let Err(source) = files::probe(&dir) {
            use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
            // a full disk passes: `loaded` can be used meanwhile
            if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem) {
                return Err(ControlDirError::NotWritable { path: dir, source });
            }
            if !matches!(source.kind(), StorageFull | QuotaExceeded) {
                return Err(ControlDirError::Io { path: dir, source });
            }
        }
        Ok(Self { judge: Judge::new(dir, app), poll_interval })
    }

    async fn run(self, releases: ReleaseSender, reread: Reread) -> Infallible {
        let Self { mut judge, poll_interval } = self;
        let bell = Arc::new(Bell::default());
        let mut watch = DirWatch::new(judge.dir(), Arc::clone(&bell));
        let (mut state, loaded) = blocking(move |_| {
            let loaded = judge.start();
            watch.ensure();
            ((judge, watch), loaded)
        })
        .await;
        let mut cold = Some(loaded);
        loop {
            let asked = reread.newest();
            let closed = bell.take_closed();
            let outcome;
            (state, outcome) = blocking(move |_| {
                let (mut judge, mut watch) = state;
                watch.ensure();
                let outcome = judge.look(closed, SystemTime::now());
                ((judge, watch), outcome)
            })
            .await;
            // at the start only the newest is published: `loaded` where `new` gave no release
            if let Some(loaded) = cold.take()
                && !(matches!(outcome, Outcome::Release { .. }) && matches!(loaded, Outcome::Release { .. }))
            {
                let _ = act(loaded, &releases, poll_interval);
            }
            let wait = act(outcome, &releases, poll_interval);
            reread.looked(asked);
            tokio::select! {
                () = bell.heard() => {}
                _ = reread.newer_than(asked) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// Publishes or tells an outcome; returns how long to wait before the next look.
fn act(outcome: Outcome, releases: &ReleaseSender, poll_interval: Duration) -> Duration {
    match outcome {
        Outcome::Quiet => poll_interval,
        Outcome::Unfinished { again_in } => again_in.min(poll_interval),
        Outcome::Fault(fault) => {
            tracing::error!("{fault}");
            poll_interval
        }
        Outcome::Release { release, warnings, fault } => {
            for warning in warnings {
                tracing::warn!("release {}: {warning}", release.version);
            }
            publish(releases, *release);
            if let Some(fault) = fault {
                tracing::error!("{fault}");
            }
            poll_interval
        }
    }
}

impl ReleaseSource for ControlDir {
    fn follow(self: Box<Self>, link: Link) -> BoxFuture<'static, Result<(), GaveUp>> {
        Box::pin(async move { match self.run(link.releases, link.reread).await {} })
    }
}

#[cfg(test)]
mod tests;
