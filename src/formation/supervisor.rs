//! The supervisor: the task that owns the formation. Releases and commands come in; it keeps the dynos that
//! should be, by making a plan whenever anything has changed and doing what the plan says.
//!
//! It must not wait for anything but its next input: preparing is a future beside the others, and dynos are
//! told, not awaited.

mod members;
mod release_phase;
mod restart;
mod rollout;
mod shape;
mod stop;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::arrivals::{next_release, next_shutdown};
use super::handle::{Command, FormationHandle, Question};
use super::plan::{Desired, Generation};
use super::prepare::{PrepareError, Prepared, Preparer};
use super::preparing::{Preparing, PreparingState};
use super::work::{Outcome, Settings, Shutdown, Work};
use crate::dyno::{self, DynoStatus, LastExit, retry_after};
use crate::events::ReleaseNews;
use crate::explain;
use crate::history::{Arrival, Note, Notes};
use crate::logs::{Console, Logs};
use crate::model::{DynoName, ProcessType, Quantity, Release, Target};
use members::Member;
use rollout::{Live, Made};
use stop::Stopping;

/// What counts as the exit status of a dyno whose executor has failed: that of a fault of hsup itself.
const EXECUTOR_FAILED: u8 = 70;

/// The owner of the formation.
pub struct Supervisor {
    settings: Settings,
    preparer: Preparer,
    console: Console,
    logs: Logs,
    /// Where it is told what becomes of releases.
    notes: Notes,
    /// The quantities that an operator has asked for.
    scale: BTreeMap<ProcessType, Quantity>,
    /// The release that came last.
    considered: Option<Arc<Release>>,
    live: Option<Live>,
    /// The last release that was good, until the one that is live is.
    fallback: Option<Live>,
    /// The newest generation that there has been.
    generation: Generation,
    /// Executors tell here that the state of their dyno has changed.
    changes: watch::Sender<()>,
    /// When time alone will have changed something: a dyno has been up for long enough.
    look_at: Option<Instant>,
    /// Where others see which release is live.
    announced: watch::Sender<Option<Arc<Release>>>,
    preparing: Option<Preparing>,
    members: HashMap<Id, Member>,
    tasks: JoinSet<Option<LastExit>>,
    /// The dynos that should be by the release and are not to be started: an operator has stopped them, or they
    /// run once and have run. Each as it was last seen.
    down: BTreeMap<DynoName, Arc<DynoStatus>>,
    stopping: Vec<Stopping>,
    /// Whether what ended last is what an operator has stopped: only then may it be over because nothing is left.
    stopped_last: bool,
    shutdown: Shutdown,
    outcome: Option<Outcome>,
    highest_exit: u8,
}

/// One thing that has happened.
enum Event {
    Release(Arrival),
    Prepared(Option<Result<Prepared, PrepareError>>),
    Stop(Vec<Target>, oneshot::Sender<Vec<DynoName>>),
    Restart {
        targets: Vec<Target>,
        rolling: bool,
        reply: oneshot::Sender<Vec<DynoName>>,
    },
    /// A dyno may be another than it was when the last plan was made.
    Changed,
    Ended(Result<(Id, Option<LastExit>), JoinError>),
    Shutdown(Shutdown),
}

impl Supervisor {
    /// A supervisor. What dynos print goes to the logs and, unless they have hsup's own output, to the console; what
    /// becomes of releases is told to `notes`.
    pub fn new(settings: Settings, preparer: Preparer, console: Console, logs: Logs, notes: Notes) -> Self {
        Self {
            settings,
            preparer,
            console,
            logs,
            notes,
            scale: BTreeMap::new(),
            considered: None,
            live: None,
            fallback: None,
            generation: Generation::default(),
            changes: watch::Sender::default(),
            look_at: None,
            announced: watch::Sender::new(None),
            preparing: None,
            members: HashMap::new(),
            tasks: JoinSet::new(),
            down: BTreeMap::new(),
            stopping: Vec::new(),
            stopped_last: false,
            shutdown: Shutdown::No,
            outcome: None,
            highest_exit: 0,
        }
    }

    /// The release that is live: the newest that has been prepared, at its newest scale.
    pub fn live(&self) -> watch::Receiver<Option<Arc<Release>>> {
        self.announced.subscribe()
    }

    /// Tells whenever the state of a dyno has changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The handle for others, and what runs until everything has ended.
    pub fn start(
        self,
        releases: watch::Receiver<Option<Arrival>>,
        shutdown: watch::Receiver<Shutdown>,
    ) -> (FormationHandle, impl Future<Output = Outcome> + Send) {
        let (handle, commands) = FormationHandle::new();
        (handle, self.run(releases, shutdown, commands))
    }

    async fn run(
        mut self,
        mut releases: watch::Receiver<Option<Arrival>>,
        mut shutdown: watch::Receiver<Shutdown>,
        mut commands: mpsc::Receiver<Command>,
    ) -> Outcome {
        let mut changes = self.changes.subscribe();
        loop {
            let look_at = self.look_at.unwrap_or_else(Instant::now);
            let event = tokio::select! {
                biased;
                next = next_shutdown(&mut shutdown) => Event::Shutdown(next),
                Some(ended) = self.tasks.join_next_with_id() => Event::Ended(ended),
                prepared = Preparing::next(&mut self.preparing) => Event::Prepared(prepared),
                release = next_release(&mut releases), if self.takes_releases() => Event::Release(release),
                Some(command) = commands.recv() => match command {
                    // of a thousand dynos it would take longer to make a plan than to answer
                    Command::Ask(question) => {
                        self.answer(question);
                        continue;
                    }
                    Command::Stop { targets, reply } => Event::Stop(targets, reply),
                    Command::Restart { targets, rolling, reply } => Event::Restart { targets, rolling, reply },
                },
                Ok(()) = changes.changed(), if self.is_rolling_out() => Event::Changed,
                () = sleep_until(look_at), if self.look_at.is_some() => Event::Changed,
            };
            self.handle(event);
            self.reconcile();
            if let Some(outcome) = self.finished() {
                if outcome == Outcome::Stopped && self.shutdown == Shutdown::No {
                    tracing::info!("ending: an operator has stopped everything");
                }
                return outcome;
            }
        }
    }

    /// Answers; who has asked may have gone meanwhile.
    fn answer(&self, question: Question) {
        let _answered = match question {
            Question::Status(reply) => reply.send(self.status()).is_ok(),
            Question::CheckScale { quantities, reply } => reply.send(self.check_scale(&quantities)).is_ok(),
            Question::Preview { arrival, reply } => reply.send(self.preview(&arrival)).is_ok(),
        };
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Release(release) => self.consider(release),
            Event::Prepared(result) => self.prepared(result),
            Event::Stop(targets, reply) => self.stop(&targets, reply),
            Event::Restart { targets, rolling, reply } => {
                let _nobody_asks_any_more = reply.send(self.restart(&targets, rolling));
            }
            Event::Changed => {}
            Event::Ended(Ok((id, last_exit))) => self.ended(id, last_exit.as_ref()),
            Event::Ended(Err(error)) => {
                tracing::error!(%error, "a dyno's executor has failed; this is a defect of hsup");
                self.highest_exit = self.highest_exit.max(EXECUTOR_FAILED);
                self.ended(error.id(), None);
            }
            Event::Shutdown(shutdown) => self.shut_down(shutdown),
        }
    }

    /// Whether dynos run once only, so that only one release counts.
    fn runs_once(&self) -> bool {
        match self.settings.work {
            Work::Formation { .. } => self.settings.policy.one_shot,
            Work::OneOff { .. } | Work::Build => true,
        }
    }

    fn takes_releases(&self) -> bool {
        let first = self.live.is_none() && self.preparing.is_none();
        self.shutdown == Shutdown::No && self.outcome.is_none() && (first || !self.runs_once())
    }

    /// A release has come: it is live at once if only its scale or its drain is new, else it is prepared.
    fn consider(&mut self, Arrival { release, phase_done, scale }: Arrival) {
        self.scale = scale;
        let fitted = self.fit(&release);
        let last = self.considered.replace(Arc::clone(&release));
        if last.is_some_and(|last| Arc::ptr_eq(&last, &release)) {
            self.rescale_live();
        }
        let desired = match fitted {
            Ok(desired) => desired,
            Err(error) => {
                tracing::error!("release {} is refused: {error}; what runs goes on", release.version);
                self.notes.tell(Note::Failed { release, why: error.to_string() });
                self.outcome = self.runs_once().then_some(Outcome::NotPrepared);
                return;
            }
        };
        self.warn_of(&release);
        let is_being_prepared = self.is_preparing(&release);
        match &mut self.live {
            Some(live) if live.made.release.needs_no_restart(&release) => {
                tracing::info!(
                    "release {}: {}",
                    release.version,
                    live.made.release.change_without_restart(&release)
                );
                self.logs.set_release_drain(release.logplex_url.as_deref());
                self.announced.send_replace(Some(Arc::clone(&release)));
                self.down.retain(|name, _| desired.iter().any(|dyno| dyno.name == *name));
                live.rescale(release, desired);
                self.give_up_preparing();
            }
            Some(_) | None if self.settings.skip_build => self.go_live(release, desired, Arc::default()),
            Some(_) | None if is_being_prepared => self.rescale_preparing(release, desired),
            Some(_) | None => {
                tracing::info!("release {} of {}: preparing", release.version, release.app);
                self.notes.tell_others(&release, ReleaseNews::Preparing);
                self.give_up_preparing();
                let state = PreparingState::Working(self.preparer.prepare(Arc::clone(&release)));
                self.preparing = Some(Preparing { release, desired, phase_done, failures: 0, state });
            }
        }
    }

    /// An operator has asked for another scale: what runs has it at once, whatever else is on its way.
    fn rescale_live(&mut self) {
        let Some(release) = self.live.as_ref().map(|live| Arc::clone(&live.made.release)) else { return };
        let Ok((desired, None)) = self.fit_to(&release, &self.scale) else { return };
        self.down.retain(|name, _| desired.iter().any(|dyno| dyno.name == *name));
        if let Some(live) = &mut self.live {
            live.rescale(release, desired);
        }
    }

    /// Whether this release, but for its scale, is being prepared.
    fn is_preparing(&self, release: &Release) -> bool {
        self.preparing.as_ref().is_some_and(|preparing| preparing.release.needs_no_restart(release))
    }

    /// A change of scale neither begins a download again nor shortens the wait for the next attempt.
    fn rescale_preparing(&mut self, release: Arc<Release>, desired: Vec<Desired>) {
        if let Some(preparing) = &mut self.preparing {
            (preparing.release, preparing.desired) = (release, desired);
        }
    }

    /// An attempt at preparing has ended, or it is time for the next one.
    fn prepared(&mut self, result: Option<Result<Prepared, PrepareError>>) {
        let Some(mut preparing) = self.preparing.take() else { return };
        match result {
            Some(Ok(prepared)) => {
                if let Some(slug) = prepared.slug.clone() {
                    self.notes.tell(Note::Unpacked { release: Arc::clone(&preparing.release), slug });
                }
                self.before_going_live(preparing, prepared.into());
            }
            Some(Err(error)) if self.runs_once() => {
                tracing::error!("{}", explain(&error));
                self.notes
                    .tell(Note::Failed { release: Arc::clone(&preparing.release), why: explain(&error) });
                self.outcome = Some(Outcome::NotPrepared);
            }
            Some(Err(error)) => {
                preparing.failures += 1;
                let wait = retry_after(preparing.failures + 1);
                let running =
                    self.live.as_ref().map(|live| format!("; release {} runs on", live.made.release.version));
                let running = running.unwrap_or_default();
                tracing::error!("{}{running}; trying again in {wait:.0?}", explain(&error));
                self.notes
                    .tell(Note::Failed { release: Arc::clone(&preparing.release), why: explain(&error) });
                preparing.state = PreparingState::RetryAt(Instant::now() + wait);
                self.preparing = Some(preparing);
            }
            None => {
                let work = self.preparer.prepare(Arc::clone(&preparing.release));
                preparing.state = PreparingState::Working(work);
                self.preparing = Some(preparing);
            }
        }
    }

    /// A release has been prepared: from now on its dynos are the ones that should be.
    fn go_live(&mut self, release: Arc<Release>, desired: Vec<Desired>, prepared: Arc<Prepared>) {
        tracing::info!("release {} of {} is live", release.version, release.app);
        self.logs.set_release_drain(release.logplex_url.as_deref());
        match self.settings.work {
            Work::Build => self.outcome = Some(Outcome::Finished(0)),
            Work::Formation { .. } if desired.is_empty() => {
                tracing::warn!("release {} asks for no dyno: every quantity is 0", release.version);
                self.outcome = self.runs_once().then_some(Outcome::Finished(0));
            }
            Work::Formation { .. } | Work::OneOff { .. } => {}
        }
        self.announced.send_replace(Some(Arc::clone(&release)));
        self.notes.tell(Note::Live(Arc::clone(&release)));
        let live = Live::new(Made::new(release, prepared), self.next_generation(), desired);
        self.replace_live(live);
        self.down.clear();
    }

    fn shut_down(&mut self, shutdown: Shutdown) {
        self.shutdown = self.shutdown.max(shutdown);
        self.give_up_preparing();
        match self.shutdown {
            Shutdown::No => {}
            Shutdown::Graceful => {
                tracing::info!("stopping {} dynos", self.members.len());
                for member in self.members.values_mut().filter(|member| !member.leaving) {
                    member.leave(dyno::Command::Retire);
                }
            }
            Shutdown::Now => {
                tracing::warn!("killing {} dynos", self.members.len());
                self.members.values_mut().for_each(|member| member.leave(dyno::Command::Kill));
            }
        }
    }

    /// How it ended, once it has: nothing runs, and nothing will be started.
    fn finished(&self) -> Option<Outcome> {
        if !self.members.is_empty() {
            return None;
        }
        if self.shutdown != Shutdown::No {
            return Some(match self.settings.work {
                Work::OneOff { .. } if !self.down.is_empty() || self.highest_exit > 0 => {
                    Outcome::Finished(self.highest_exit)
                }
                Work::OneOff { .. } | Work::Build => Outcome::Interrupted,
                Work::Formation { .. } => Outcome::Stopped,
            });
        }
        if self.outcome.is_some() {
            return self.outcome;
        }
        let live = self.live.as_ref()?;
        let all_down = live.desired.iter().all(|dyno| self.down.contains_key(&dyno.name));
        if !all_down || live.desired.is_empty() || self.preparing.is_some() {
            return None;
        }
        if self.runs_once() {
            return Some(Outcome::Finished(self.highest_exit));
        }
        self.stopped_last.then_some(Outcome::Stopped)
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
