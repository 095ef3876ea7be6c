//! The keeper: the task that owns the history of the app. Releases of the source come in, and what is to run goes
//! on to the supervisor: that release, or one that it was gone back to. What becomes of it is noted on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};

use super::file::{self, FileError};
use super::handle::{Command, HistoryHandle, RollbackError};
use super::record::{History, Verdict};
use crate::blocking::blocking;
use crate::events::{Events, ReleaseNews, What};
use crate::explain;
use crate::model::{AppName, ProcessType, Quantity, Release, ReleaseVersion};
use crate::slug::Slug;
use crate::sources::Published;

/// How many commands may wait before a caller waits with them.
const MAILBOX: usize = 16;

/// A release on its way to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The release.
    pub release: Arc<Release>,
    /// Whether the command of its release phase has succeeded before.
    pub phase_done: bool,
    /// The quantities that an operator has asked for.
    pub scale: BTreeMap<ProcessType, Quantity>,
}

/// What the supervisor tells of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The command of its release phase has succeeded.
    PhaseDone(Arc<Release>),
    /// It has been prepared.
    Unpacked {
        /// Which one.
        release: Arc<Release>,
        /// Its code.
        slug: Slug,
    },
    /// Its dynos are those that should be.
    Live(Arc<Release>),
    /// It cannot run on this host, or cannot be prepared so far.
    Failed {
        /// Which one.
        release: Arc<Release>,
        /// Why.
        why: String,
    },
    /// All its dynos are healthy.
    Good(Arc<Release>),
    /// It has made way for another one, or never had its turn.
    Bad {
        /// Which one.
        release: Arc<Release>,
        /// Why.
        why: String,
        /// What runs in its place.
        fallback: Option<Arc<Release>>,
    },
}

/// Where the supervisor tells. Nobody waits for what is done about it.
#[derive(Clone, Debug)]
pub struct Notes {
    keeper: mpsc::UnboundedSender<Note>,
    events: Events,
}

impl Notes {
    /// Tells the history and, by an event, everybody else.
    pub fn tell(&self, note: Note) {
        match &note {
            Note::PhaseDone(_) | Note::Unpacked { .. } => {}
            Note::Live(release) => self.tell_others(release, ReleaseNews::Live),
            Note::Failed { release, why } => {
                self.tell_others(release, ReleaseNews::Failed { why: why.clone() });
            }
            Note::Good(release) => self.tell_others(release, ReleaseNews::Good),
            Note::Bad { release, why, fallback: _ } => {
                self.tell_others(release, ReleaseNews::Bad { why: why.clone() });
            }
        }
        let _gone_at_shutdown = self.keeper.send(note);
    }

    /// Tells what is nothing for the history.
    pub fn tell_others(&self, release: &Release, news: ReleaseNews) {
        self.events.tell(What::Release { release: release.version, news });
    }

    /// Where everybody else hears of what happens.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Where nobody listens.
    pub fn to_nobody() -> Self {
        Self { keeper: mpsc::unbounded_channel().0, events: Events::new() }
    }
}

/// Where histories are.
#[derive(Clone, Debug)]
pub enum Place {
    /// In memory only.
    Memory,
    /// In this directory, which is only read: what runs once beside a formation changes nothing.
    Read(PathBuf),
    /// In this directory, which is made when it is first needed.
    Keep(PathBuf),
}

/// How a history is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub place: Place,
    /// Whether the quantities that were asked for before count no longer: the command line says how many dynos there are
    /// to be.
    pub forget_scale: bool,
    /// Whether no release may stand in for the newest one: dynos run once only.
    pub newest_only: bool,
}

/// The owner of the history.
pub struct Keeper {
    settings: Settings,
    history: History,
    /// The app whose history it is; known with the first release.
    loaded: bool,
    newest: Option<Arc<Release>>,
    live: Option<Arc<Release>>,
    /// What is to run as soon as the good release that stands in for it is live, or has turned out not to be.
    next: Option<Arc<Release>>,
    /// Whether a good release has ever been asked to stand in.
    stood_in: bool,
    /// The slugs of its releases that have been unpacked. An hsup with the same state dir cannot know of a history in
    /// memory, and is not to remove them.
    slugs: Vec<Slug>,
    arrivals: watch::Sender<Option<Arrival>>,
    good: watch::Sender<()>,
    events: Events,
}

impl Keeper {
    /// A keeper of the history of one app; what the supervisor is given, where it tells, and how others ask; and what
    /// runs for as long as there is a source. The history of an app without a name is in memory only: all such apps would
    /// share one on disk.
    pub fn start(
        settings: Settings,
        releases: watch::Receiver<Option<Published>>,
        events: Events,
    ) -> (watch::Receiver<Option<Arrival>>, Notes, HistoryHandle, impl Future<Output = ()> + Send) {
        let (arrivals, arriving) = watch::channel(None);
        let (notes, noted) = mpsc::unbounded_channel();
        let (commands, mailbox) = mpsc::channel(MAILBOX);
        let (good, has_good) = watch::channel(());
        let keeper = Self {
            settings,
            history: History::default(),
            loaded: false,
            newest: None,
            live: None,
            next: None,
            stood_in: false,
            slugs: Vec::new(),
            arrivals,
            good,
            events: events.clone(),
        };
        let notes = Notes { keeper: notes, events };
        let handle = HistoryHandle { commands, good: has_good };
        (arriving, notes, handle, keeper.keep(releases, noted, mailbox))
    }

    async fn keep(
        mut self,
        mut releases: watch::Receiver<Option<Published>>,
        mut notes: mpsc::UnboundedReceiver<Note>,
        mut commands: mpsc::Receiver<Command>,
    ) {
        let mut source_is_open = true;
        loop {
            tokio::select! {
                biased;
                Some(note) = notes.recv() => self.note(note).await,
                changed = releases.changed(), if source_is_open => match changed {
                    Ok(()) => {
                        let published = releases.borrow_and_update().clone();
                        if let Some(published) = published {
                            self.take(published).await;
                        }
                    }
                    Err(_) => source_is_open = false,
                },
                Some(command) = commands.recv() => self.obey(command).await,
                else => return,
            }
        }
    }

    /// The source has a release, or cannot be asked whether it has another one by now.
    async fn take(&mut self, Published { release, stale }: Published) {
        let was_loaded = self.loaded;
        if !was_loaded {
            self.load(&release).await;
        }
        let newest = if stale { self.history.last_known(release) } else { release };
        // a source that can be asked again may have what it had before
        if was_loaded && self.newest.as_ref() == Some(&newest) {
            return;
        }
        let chosen = self.history.choose(&newest);
        if !chosen.needs_no_restart(&newest) {
            let (chosen, newest) = (chosen.version, newest.version);
            tracing::warn!(
                "release {newest} was rolled back, and release {chosen} runs in its place until there is a newer one"
            );
        }
        let is_first = self.newest.replace(newest).is_none();
        // a release phase may take long, and what ran beside it before hsup ended is to run beside it now
        let goes_on = is_first && self.history.is_in_release_phase(&chosen);
        if self.next.is_some() {
            self.next = Some(chosen);
        } else if !(goes_on && self.stand_in(&chosen)) {
            self.publish(chosen);
        }
        self.save().await;
    }

    /// The good release that stands in is live, or will not be: it is the turn of what waits for that, if anything does.
    fn go_on(&mut self) -> bool {
        let Some(next) = self.next.take() else { return false };
        self.publish(next);
        true
    }

    /// A release cannot be live so far. Where nothing is, since hsup has just been started, the last good one stands in:
    /// it ran before, and the other one is tried from there. Once, for it may fail as well.
    fn stand_in(&mut self, next: &Arc<Release>) -> bool {
        if self.live.is_some() || self.settings.newest_only || std::mem::replace(&mut self.stood_in, true) {
            return false;
        }
        let Some(good) = self.history.stand_in_for(next) else { return false };
        tracing::warn!("release {}, which was good, runs until release {} can", good.version, next.version);
        self.publish(good);
        self.next = Some(Arc::clone(next));
        true
    }

    fn publish(&mut self, release: Arc<Release>) {
        self.next = None;
        self.history.begin(&release, self.live.as_deref(), SystemTime::now());
        let phase_done = self.history.phase_done(&release);
        let scale = self.newest.as_ref().map(|newest| self.history.scale_of(newest)).unwrap_or_default();
        self.arrivals.send_replace(Some(Arrival { release, phase_done, scale }));
    }

    async fn note(&mut self, note: Note) {
        match note {
            Note::PhaseDone(release) => self.history.finish_phase(&release),
            Note::Unpacked { release, slug } => {
                if !self.unpacked(&release, slug) {
                    return;
                }
            }
            Note::Live(release) => {
                self.live = Some(release);
                if !self.go_on() {
                    return;
                }
            }
            Note::Failed { release, .. } => {
                if !self.go_on() && !self.stand_in(&release) {
                    return;
                }
            }
            Note::Good(release) => {
                self.history.judge(&release, Verdict::Good);
                self.save().await;
                self.good.send_replace(());
                return;
            }
            Note::Bad { release, why, fallback } => {
                self.note_bad(&release, why, fallback);
                self.go_on();
            }
        }
        self.save().await;
    }

    /// A release has been unpacked; says whether that is news. What the releases of the history were unpacked to stays, and
    /// nothing else.
    fn unpacked(&mut self, release: &Release, slug: Slug) -> bool {
        let is_news = self.history.unpack(release, slug.digest);
        self.slugs.retain(|held| *held != slug && self.history.slugs().any(|digest| digest == held.digest));
        self.slugs.push(slug);
        is_news
    }

    /// A release is bad. Unless there is a newer one by now, what runs in its place does so until there is; where
    /// nothing does, that is the last good one, if the bad one never was.
    fn note_bad(&mut self, bad: &Arc<Release>, why: String, fallback: Option<Arc<Release>>) {
        let never_good = !self.history.was_good(bad);
        // one that was good, and with nothing better at hand, is tried on: what is wrong is not known to be its own fault
        if never_good || fallback.is_some() {
            self.history.judge(bad, Verdict::Bad { why });
        }
        if let Some(fallback) = &fallback {
            self.live = Some(Arc::clone(fallback));
        }
        let published = self.arrivals.borrow().as_ref().map(|arrival| Arc::clone(&arrival.release));
        let Some(newest) = self.newest.clone() else { return };
        if !published.is_some_and(|published| published.needs_no_restart(bad)) {
            return;
        }
        // all else that is known may be as bad where something of the host is wrong: one step back, not a cascade
        let of_the_source = bad.needs_no_restart(&newest) && never_good;
        let from_history = || {
            let target = self.history.find_target(None, Some(bad)).filter(|_| of_the_source)?;
            let to = target.release.version;
            tracing::error!("going back from release {} to release {to}", bad.version);
            let news = ReleaseNews::RolledBack { to };
            self.events.tell(What::Release { release: bad.version, news });
            Some(Arc::clone(&target.release))
        };
        if let Some(release) = fallback.or_else(from_history) {
            let release = self.history.pin(&release, &newest);
            self.publish(release);
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::List(reply) => {
                let _nobody_asks = reply.send((self.history.entries().to_vec(), self.live.clone()));
            }
            Command::Preview { newest, reply } => {
                let mut history = self.history.clone();
                let release = history.choose(&newest);
                let phase_done = history.phase_done(&release);
                let scale = history.scale_of(&newest);
                let _nobody_asks = reply.send(Arrival { release, phase_done, scale });
            }
            Command::Scale { quantities, reply } => {
                let result = self.scale(quantities);
                if result.is_ok() {
                    self.save().await;
                }
                let _nobody_asks = reply.send(result);
            }
            Command::Rollback { to, reply } => {
                let result = self.roll_back(to);
                if result.is_ok() {
                    self.save().await;
                }
                let _nobody_asks = reply.send(result);
            }
        }
    }

    fn scale(&mut self, quantities: BTreeMap<ProcessType, Quantity>) -> Result<(), RollbackError> {
        let newest = self.newest.clone().ok_or(RollbackError::Nothing)?;
        self.history.scale(quantities, &newest);
        let scale = self.history.scale_of(&newest);
        self.arrivals.send_if_modified(|arrival| match arrival {
            Some(arrival) => {
                arrival.scale = scale;
                true
            }
            None => false,
        });
        Ok(())
    }

    fn roll_back(&mut self, to: Option<ReleaseVersion>) -> Result<Arc<Release>, RollbackError> {
        let newest = self.newest.clone().ok_or(RollbackError::Nothing)?;
        let Some(target) = self.history.find_target(to, self.live.as_deref()) else {
            return Err(match to {
                None => RollbackError::NoneGood,
                Some(asked) => {
                    let known = self.history.entries().iter().map(|entry| entry.release.version.to_string());
                    RollbackError::Unknown { asked, known: known.collect::<Vec<_>>().join(", ") }
                }
            });
        };
        let target = Arc::clone(&target.release);
        let release = self.history.pin(&target, &newest);
        tracing::warn!("rolling back to release {}, as an operator asked", release.version);
        self.publish(Arc::clone(&release));
        Ok(release)
    }

    async fn load(&mut self, release: &Release) {
        let app = release.app.clone();
        if app == AppName::unnamed() {
            self.settings.place = Place::Memory;
        }
        let loaded = match self.settings.place.clone() {
            Place::Memory => Ok(History::default()),
            // what runs once has nothing else to do meanwhile, and a thread would take longer than the read
            Place::Read(dir) => file::load(&dir, &app),
            Place::Keep(dir) => {
                blocking(move |_| {
                    file::clean(&dir, &app);
                    file::load(&dir, &app)
                })
                .await
            }
        };
        match loaded {
            Ok(mut history) => {
                if self.settings.forget_scale {
                    history.scale.clear();
                }
                (self.history, self.loaded) = (history, true);
            }
            Err(error) => {
                // one that is damaged is in the way of nothing, and is overwritten
                self.loaded = matches!(error, FileError::Content { .. });
                tracing::error!("the history of releases is not known: {}", explain(&error));
            }
        }
    }

    async fn save(&mut self) {
        let app = self.newest.as_ref().map(|release| release.app.clone());
        let Some(app) = app.filter(|_| self.loaded) else { return };
        let Place::Keep(dir) = self.settings.place.clone() else { return };
        let history = self.history.clone();
        if let Err(error) = blocking(move |_| file::save(&dir, &app, &history)).await {
            tracing::error!("the history of releases cannot be kept: {}", explain(&error));
        }
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
