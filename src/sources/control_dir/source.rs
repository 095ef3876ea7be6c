//! The control dir as a source: looks when inotify says so, when asked, and every poll interval.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hsup_drivers::BoxFuture;

use super::error::{ControlDirError, Fault, NoRelease};
use super::files;
use super::judge::{Judge, Outcome};
use super::watch::{Bell, DirWatch};
use crate::blocking::blocking;
use crate::model::AppName;
use crate::sources::{GaveUp, Link, Looks, Patience, ReleaseSender, ReleaseSource, publish};

/// A directory into which an operator writes releases.
///
/// A file put there as `new` is judged: a good one becomes `loaded` and is published, another becomes
/// `rejected` and `last_error` says why. `loaded` is what a start of hsup begins with.
pub struct ControlDir {
    judge: Judge,
    poll_interval: Duration,
    patience: Patience,
}

impl ControlDir {
    /// Opens a control dir. `app` is the name of the app where a release gives none; `poll_interval` is how
    /// often the dir is read in case an event was lost.
    ///
    /// # Errors
    /// If there is no such directory or no file can be written in it.
    pub fn open(
        dir: PathBuf,
        app: AppName,
        poll_interval: Duration,
        patience: Patience,
    ) -> Result<Self, ControlDirError> {
        match fs::metadata(&dir) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(ControlDirError::NotADirectory { path: dir }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ControlDirError::Missing { path: dir });
            }
            Err(error) => return Err(ControlDirError::Io { path: dir, error }),
        }
        if let Err(source) = files::probe(&dir) {
            use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
            // a full disk passes: `loaded` can be used meanwhile
            if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem) {
                return Err(ControlDirError::NotWritable { path: dir, source });
            }
            if !matches!(source.kind(), StorageFull | QuotaExceeded) {
                return Err(ControlDirError::Io { path: dir, error: source });
            }
        }
        Ok(Self { judge: Judge::new(dir, app), poll_interval, patience })
    }

    async fn run(self, Link { releases, reread, looks, live: _ }: Link) -> Result<(), GaveUp> {
        let Self { judge, poll_interval, patience } = self;
        let mut teller = Teller { releases, looks, poll_interval, refused: false, waits: false };
        let bell = Arc::new(Bell::default());
        let mut watch = DirWatch::new(judge.dir(), Arc::clone(&bell));
        let mut state = blocking(move |_| {
            judge.start();
            watch.ensure();
            (judge, watch)
        })
        .await;
        if patience == Patience::ForOne {
            state.0 = teller.give_one(state.0).await?;
        }
        loop {
            let asked = reread.newest();
            let closed = bell.take_closed();
            let (loaded, new);
            (state, loaded, new) = blocking(move |_| {
                let (mut judge, mut watch) = state;
                watch.ensure();
                let loaded = judge.look_at_loaded();
                let new = judge.look(closed, SystemTime::now());
                ((judge, watch), loaded, new)
            })
            .await;
            let wait = teller.act_on_both(loaded, new, state.0.has_trouble());
            teller.say_that_it_waits(state.0.dir());
            reread.looked(asked);
            tokio::select! {
                () = bell.heard() => {}
                _ = reread.newer_than(asked) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// Publishes and tells what looks have found.
struct Teller {
    releases: ReleaseSender,
    looks: Looks,
    poll_interval: Duration,
    /// Whether what was put there last is no release.
    refused: bool,
    /// Whether it was said that there is no release yet.
    waits: bool,
}

impl Teller {
    /// Publishes the newest release, or gives up: nobody waits for another one. Only a file that is being written is
    /// waited for.
    async fn give_one(&mut self, mut judge: Judge) -> Result<Judge, GaveUp> {
        loop {
            let outcome;
            (judge, outcome) = blocking(move |_| {
                let outcome = judge.look_for_one(SystemTime::now());
                (judge, outcome)
            })
            .await;
            match outcome {
                Outcome::Unfinished { again_in } => tokio::time::sleep(again_in).await,
                Outcome::Quiet => {
                    let nothing = NoRelease::Nothing { dir: judge.dir().to_owned() };
                    return Err(GaveUp::Unreadable(nothing.into()));
                }
                Outcome::Fault(fault) => {
                    let is_of_a_release = fault.is_of_a_release();
                    let why = Box::new(NoRelease::from(fault));
                    return Err(if is_of_a_release { GaveUp::Invalid(why) } else { GaveUp::Unreadable(why) });
                }
                release @ Outcome::Release { .. } => {
                    let _there_is_one = self.act(release, false);
                    return Ok(judge);
                }
            }
        }
    }

    /// Says once that hsup waits for the first release, and where.
    fn say_that_it_waits(&mut self, dir: &Path) {
        if !self.waits && self.releases.borrow().is_none() {
            self.waits = true;
            tracing::warn!("waiting for a release: put one at {}/new", dir.display());
        }
    }

    /// Publishes or tells an outcome; returns how long to wait before the next look. `has_trouble`: nothing to do may
    /// mean that a fault is still there.
    fn act(&mut self, outcome: Outcome, has_trouble: bool) -> Duration {
        match outcome {
            Outcome::Quiet if has_trouble => self.looks.failed_again(),
            Outcome::Quiet if self.refused => self.looks.nothing_new(),
            Outcome::Quiet => self.looks.succeeded(),
            Outcome::Unfinished { again_in } => return again_in.min(self.poll_interval),
            Outcome::Fault(fault) => self.tell(&fault),
            Outcome::Release { release, warnings, fault } => {
                for warning in warnings {
                    tracing::warn!("release {}: {warning}", release.version);
                }
                publish(&self.releases, *release);
                self.refused = false;
                match fault {
                    Some(fault) => self.tell(&fault),
                    None => self.looks.succeeded(),
                }
            }
        }
        self.poll_interval
    }

    /// Does the same with what one look has found of `loaded` and of `new`; where both are releases only the newest is
    /// published.
    fn act_on_both(&mut self, loaded: Outcome, new: Outcome, has_trouble: bool) -> Duration {
        match (loaded, new) {
            (Outcome::Release { .. } | Outcome::Quiet, new @ Outcome::Release { .. }) => {
                self.act(new, has_trouble)
            }
            (loaded, Outcome::Quiet) => self.act(loaded, has_trouble),
            (Outcome::Quiet, new) => self.act(new, has_trouble),
            (loaded, new) => {
                let _not_yet = self.act(loaded, has_trouble);
                self.act(new, has_trouble)
            }
        }
    }

    fn tell(&mut self, fault: &Fault) {
        tracing::error!("{fault}");
        self.refused |= fault.is_of_a_release();
        self.looks.failed(&fault.to_string());
    }
}

impl ReleaseSource for ControlDir {
    fn follow(self: Box<Self>, link: Link) -> BoxFuture<'static, Result<(), GaveUp>> {
        Box::pin(self.run(link))
    }
}

#[cfg(test)]
mod tests;
