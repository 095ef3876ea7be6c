//! One look at a control dir: what `new` is, and what becomes of it. Blocking, without a clock of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::{Fault, Unfit};
use super::files::{self, Found, Stamp};
use crate::durable::{self, sync_dir};
use crate::model::{AppName, Release};
use crate::sources::control_file::{self, Parsed};

/// How long a file that ends too early may stand still before it counts as finished. Writers of such a file
/// that were seen to close it get no such time.
const SETTLE: Duration = Duration::from_secs(2);

/// What `new` is called while it is removed, or while it is found out that it is another one by then.
const ASIDE: &str = ".hsup-new";

/// The mode of `loaded`: it holds secrets.
const LOADED_MODE: u32 = 0o600;
/// The mode of `last_error`: it describes what holds secrets.
const LAST_ERROR_MODE: u32 = 0o400;

/// What a look found.
#[derive(Debug)]
#[must_use]
pub(super) enum Outcome {
    /// Nothing to do, or a fault that was told before.
    Quiet,
    /// `new` is being written: look again then, or when it is closed.
    Unfinished { again_in: Duration },
    /// A release, in force from now on; `fault` is what went wrong afterwards.
    Release { release: Box<Release>, warnings: Vec<String>, fault: Option<Fault> },
    /// Something is wrong that was not told before.
    Fault(Fault),
}

/// Judges what is put into a control dir.
pub(super) struct Judge {
    dir: PathBuf,
    app: AppName,
    /// What was told last of a `loaded` that is still to be read; nothing once it was, or a `new` is in force.
    unread: Option<String>,
    /// The last fault told, and of which `new`: the same again is not told.
    told: Option<(Option<Stamp>, String)>,
    /// A `new` whose release is in force but which cannot be removed: it is left alone.
    stuck: Option<Stamp>,
}

impl Judge {
    pub(super) fn new(dir: PathBuf, app: AppName) -> Self {
        Self { dir, app, unread: Some(String::new()), told: None, stuck: None }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the last look has found a fault that was told before.
    pub(super) fn has_trouble(&self) -> bool {
        self.told.is_some() || self.unread.as_ref().is_some_and(|told| !told.is_empty())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Cleans up after a crash.
    pub(super) fn start(&self) {
        durable::remove_leftovers(&self.dir);
    }

    /// Reads `loaded`, with which hsup begins, until that has succeeded. A look at `new` is to follow.
    pub(super) fn look_at_loaded(&mut self) -> Outcome {
        let Some(told) = &self.unread else { return Outcome::Quiet };
        let path = self.path("loaded");
        let found = match files::read(&path) {
            Ok(found) => found,
            Err(source) => {
                let fault = Fault::Read { path, source };
                let text = fault.to_string();
                if *told == text {
                    return Outcome::Quiet;
                }
                self.unread = Some(text);
                return Outcome::Fault(fault);
            }
        };
        self.unread = None;
        let unfit = match found {
            Found::Nothing => return Outcome::Quiet,
            Found::Bytes { bytes, .. } => match control_file::parse(&bytes, &self.app) {
                Ok(Parsed { release, warnings }) => {
                    return Outcome::Release { release: release.into(), warnings, fault: None };
                }
                Err(error) => error.into(),
            },
            Found::Unfit(unfit) => unfit,
        };
        Outcome::Fault(Fault::Unfit { path, unfit })
    }

    /// What somebody finds who is to have one release, the newest: that of `new`; else what became of the `new` before,
    /// which is `rejected` or `loaded`. In this order, since another hsup may judge `new` meanwhile.
    pub(super) fn look_for_one(&mut self, now: SystemTime) -> Outcome {
        let new = self.look(false, now);
        let Outcome::Quiet = new else { return new };
        match self.look_at_rejected() {
            Some(fault) => Outcome::Fault(fault),
            None => self.look_at_loaded(),
        }
    }

    /// What is wrong with `rejected`, where one is there. It goes with the next good release, and is the newest until then.
    fn look_at_rejected(&self) -> Option<Fault> {
        let path = self.path("rejected");
        let unfit = match files::read(&path) {
            Ok(Found::Nothing) => return None,
            Ok(Found::Unfit(unfit)) => unfit,
            Ok(Found::Bytes { bytes, .. }) => control_file::parse(&bytes, &self.app).err()?.into(),
            Err(source) => return Some(Fault::Read { path, source }),
        };
        Some(Fault::Unfit { path, unfit })
    }

    /// Looks at `new`. `closed`: its writer was seen to be done with it.
    pub(super) fn look(&mut self, closed: bool, now: SystemTime) -> Outcome {
        let fault = self.put_back();
        let stamp = Stamp::of_name(&self.path("new"));
        let outcome = match (self.judge(stamp, closed, now), fault) {
            (Outcome::Quiet, Some(fault)) => Outcome::Fault(fault),
            (outcome, _) => outcome,
        };
        self.told_once(stamp, outcome)
    }

    /// Puts back what a crash or a fault has left aside; gives why it cannot be.
    fn put_back(&self) -> Option<Fault> {
        let path = self.path(ASIDE);
        Stamp::of_name(&path)?;
        let put_back = files::put_back(&path, &self.path("new"));
        put_back.err().map(|source| Fault::Read { path, source })
    }

    fn told_once(&mut self, stamp: Option<Stamp>, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Fault(fault) => {
                let telling = Some((stamp, fault.to_string()));
                if self.told == telling {
                    return Outcome::Quiet;
                }
                self.told = telling;
                self.note(&fault);
                Outcome::Fault(fault)
            }
            Outcome::Quiet | Outcome::Unfinished { .. } | Outcome::Release { .. } => {
                self.told = None;
                outcome
            }
        }
    }

    /// Writes `last_error`, where the fault is one of `new` itself; if it cannot be written the log has it.
    fn note(&self, fault: &Fault) {
        match fault {
            Fault::Rejected { .. } | Fault::NotRejectable { .. } | Fault::Read { .. } => {
                let _ = durable::replace(
                    &self.dir,
                    "last_error",
                    format!("{fault}\n").as_bytes(),
                    LAST_ERROR_MODE,
                );
            }
            Fault::Unfit { .. } | Fault::Persist { .. } | Fault::Remove { .. } | Fault::Gone { .. } => {}
        }
    }

    fn judge(&mut self, stamp: Option<Stamp>, closed: bool, now: SystemTime) -> Outcome {
        let path = self.path("new");
        if stamp.is_some() && stamp == self.stuck {
            return Outcome::Quiet;
        }
        match files::read(&path) {
            Ok(Found::Nothing) if self.dir.is_dir() => Outcome::Quiet,
            Ok(Found::Nothing) => Outcome::Fault(Fault::Gone { path: self.dir.clone() }),
            Ok(Found::Unfit(unfit)) => self.reject(stamp, unfit),
            Err(source) => Outcome::Fault(Fault::Read { path, source }),
            Ok(Found::Bytes { bytes, modified }) => match control_file::parse(&bytes, &self.app) {
                Ok(parsed) => self.accept(stamp, &bytes, parsed),
                Err(error) => {
                    // a time in the future says nothing, so such a file is judged as it is
                    let age = now.duration_since(modified).unwrap_or(SETTLE);
                    match SETTLE.checked_sub(age) {
                        Some(again_in) if !closed && error.is_unfinished() && !again_in.is_zero() => {
                            Outcome::Unfinished { again_in }
                        }
                        Some(_) | None => self.reject(stamp, error.into()),
                    }
                }
            },
        }
    }

    fn accept(&mut self, stamp: Option<Stamp>, bytes: &[u8], parsed: Parsed) -> Outcome {
        if let Err(fault) = durable::replace(&self.dir, "loaded", bytes, LOADED_MODE) {
            return Outcome::Fault(fault.into());
        }
        self.unread = None;
        // before `new`, so that nobody who finds no `new` takes an old `rejected` for the newest
        for stale in ["rejected", "last_error"] {
            let _ = fs::remove_file(self.path(stale));
        }
        let new = self.path("new");
        // a `new` that came meanwhile has not been read: it stays
        let removed = stamp.map_or(Ok(()), |stamp| files::remove_read(&new, &self.path(ASIDE), stamp));
        let fault = match removed.and_then(|()| sync_dir(&self.dir)) {
            Ok(()) => {
                self.stuck = None;
                None
            }
            Err(source) => {
                self.stuck = stamp;
                Some(Fault::Remove { path: new, source })
            }
        };
        Outcome::Release { release: parsed.release.into(), warnings: parsed.warnings, fault }
    }

    fn reject(&self, stamp: Option<Stamp>, unfit: Unfit) -> Outcome {
        let (new, rejected) = (self.path("new"), self.path("rejected"));
        if stamp != Stamp::of_name(&new) {
            // another `new` came meanwhile: that one is to be judged, not renamed
            return Outcome::Unfinished { again_in: Duration::ZERO };
        }
        let mut renamed = files::rename_over(&new, &rejected);
        // or it came at the last moment
        if renamed.is_ok() && stamp != Stamp::of_name(&rejected) {
            renamed = files::put_back(&rejected, &new);
            if renamed.is_ok() {
                return Outcome::Unfinished { again_in: Duration::ZERO };
            }
        }
        let renamed = renamed.and_then(|()| sync_dir(&self.dir));
        let dir = self.dir.clone();
        Outcome::Fault(match renamed {
            Ok(()) => Fault::Rejected { dir, unfit },
            Err(source) => Fault::NotRejectable { dir, unfit, source },
        })
    }
}

#[cfg(test)]
mod tests;
