//! The supervisor: the task that owns the formation. Releases and commands come in; it keeps the dynos that
//! should be, by making a plan whenever anything has changed and doing what the plan says.
//!
//! It must not wait for anything but its next input: preparing is a future beside the others, and dynos are
//! told, not awaited.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hsup_drivers::{DynoSpec, Limits, Stdio};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::arrivals::{next_release, next_shutdown};
use super::handle::{Command, FormationHandle, FormationStatus};
use super::plan::{Desired, Generation, Observed, plan};
use super::ports::{desired_dynos, one_off_port};
use super::prepare::{PrepareError, Prepared, Preparer};
use super::preparing::{Preparing, PreparingState};
use super::work::{Outcome, Settings, Shutdown, Work};
use crate::dyno::{self, Dyno, DynoHandle, DynoStatus, Ended, LastExit, Policy, retry_after};
use crate::explain;
use crate::logs::{Console, Logs, Printing};
use crate::model::{DynoName, ProcessType, Quantities, Release, Target};

/// What counts as the exit status of a dyno whose executor has failed: that of a fault of hsup itself.
const EXECUTOR_FAILED: u8 = 70;

/// A release that dynos are made from.
struct Live {
    release: Arc<Release>,
    generation: Generation,
    desired: Vec<Desired>,
    env: Arc<[(String, String)]>,
    prepared: Arc<Prepared>,
}

struct Member {
    name: DynoName,
    port: u16,
    generation: Generation,
    leaving: bool,
    handle: DynoHandle,
    /// What it was started from stays there.
    _prepared: Arc<Prepared>,
}

/// A `stop` that has not been answered yet.
struct Stopping {
    waiting_for: BTreeSet<Id>,
    names: Vec<DynoName>,
    reply: oneshot::Sender<Vec<DynoName>>,
}

/// The owner of the formation.
pub struct Supervisor {
    settings: Settings,
    preparer: Preparer,
    console: Console,
    logs: Logs,
    live: Option<Live>,
    /// Where others see which release is live.
    announced: watch::Sender<Option<Arc<Release>>>,
    preparing: Option<Preparing>,
    members: HashMap<Id, Member>,
    tasks: JoinSet<Option<LastExit>>,
    /// The dynos that should be by the release and are not to be started: an operator has stopped them, or they
    /// run once and have run. Each as it was last seen.
    down: BTreeMap<DynoName, DynoStatus>,
    stopping: Vec<Stopping>,
    /// Whether an operator has ever stopped a dyno: only then may it be over because none is left.
    stopped_by_operator: bool,
    shutdown: Shutdown,
    outcome: Option<Outcome>,
    highest_exit: u8,
}

/// One thing that has happened.
enum Event {
    Release(Arc<Release>),
    Prepared(Option<Result<Prepared, PrepareError>>),
    Command(Command),
    Ended(Result<(Id, Option<LastExit>), JoinError>),
    Shutdown(Shutdown),
}

impl Supervisor {
    /// A supervisor. What dynos print goes to the logs and, unless they have hsup's own output, to the console.
    pub fn new(settings: Settings, preparer: Preparer, console: Console, logs: Logs) -> Self {
        Self {
            settings,
            preparer,
            console,
            logs,
            live: None,
            announced: watch::Sender::new(None),
            preparing: None,
            members: HashMap::new(),
            tasks: JoinSet::new(),
            down: BTreeMap::new(),
            stopping: Vec::new(),
            stopped_by_operator: false,
            shutdown: Shutdown::No,
            outcome: None,
            highest_exit: 0,
        }
    }

    /// The release that is live: the newest that has been prepared, at its newest scale.
    pub fn live(&self) -> watch::Receiver<Option<Arc<Release>>> {
        self.announced.subscribe()
    }

    /// The handle for others, and what runs until everything has ended.
    pub fn start(
        self,
        releases: watch::Receiver<Option<Arc<Release>>>,
        shutdown: watch::Receiver<Shutdown>,
    ) -> (FormationHandle, impl Future<Output = Outcome> + Send) {
        let (handle, commands) = FormationHandle::new();
        (handle, self.run(releases, shutdown, commands))
    }

    async fn run(
        mut self,
        mut releases: watch::Receiver<Option<Arc<Release>>>,
        mut shutdown: watch::Receiver<Shutdown>,
        mut commands: mpsc::Receiver<Command>,
    ) -> Outcome {
        loop {
            let event = tokio::select! {
                biased;
                next = next_shutdown(&mut shutdown) => Event::Shutdown(next),
                Some(ended) = self.tasks.join_next_with_id() => Event::Ended(ended),
                prepared = Preparing::next(&mut self.preparing) => Event::Prepared(prepared),
                release = next_release(&mut releases), if self.takes_releases() => Event::Release(release),
                Some(command) = commands.recv() => Event::Command(command),
            };
            self.handle(event);
            self.reconcile();
            if let Some(outcome) = self.finished() {
                return outcome;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Release(release) => self.consider(release),
            Event::Prepared(result) => self.prepared(result),
            Event::Command(Command::Status(reply)) => {
                let _nobody_asks_any_more = reply.send(self.status());
            }
            Event::Command(Command::Stop { targets, reply }) => self.stop(&targets, reply),
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
    fn consider(&mut self, release: Arc<Release>) {
        let desired = match self.desired(&release) {
            Ok(desired) => desired,
            Err(error) => {
                tracing::error!("release {} is refused: {error}; what runs goes on", release.version);
                self.outcome = self.runs_once().then_some(Outcome::NotPrepared);
                return;
            }
        };
        self.warn_of_unknown_types(&release);
        let is_being_prepared = self.is_preparing(&release);
        match &mut self.live {
            Some(live) if live.release.needs_no_restart(&release) => {
                tracing::info!(
                    "release {}: {}",
                    release.version,
                    live.release.change_without_restart(&release)
                );
                self.logs.set_release_drain(release.logplex_url.as_deref());
                self.announced.send_replace(Some(Arc::clone(&release)));
                live.release = release;
                self.down.retain(|name, _| desired.iter().any(|dyno| dyno.name == *name));
                live.desired = desired;
                self.preparing = None;
            }
            Some(_) | None if self.settings.skip_build => self.go_live(release, desired, Prepared::default()),
            Some(_) | None if is_being_prepared => self.rescale_preparing(release, desired),
            Some(_) | None => {
                tracing::info!("release {} of {}: preparing", release.version, release.app);
                let state = PreparingState::Working(self.preparer.prepare(Arc::clone(&release)));
                self.preparing = Some(Preparing { release, desired, failures: 0, state });
            }
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

    fn desired(&self, release: &Release) -> Result<Vec<Desired>, super::ports::NoPortLeft> {
        let number = self.settings.start_number;
        match &self.settings.work {
            Work::Formation { quantities } => {
                desired_dynos(release, quantities, number, self.preparer.driver().network())
            }
            Work::OneOff { .. } => {
                let name = DynoName { process_type: ProcessType::run(), number };
                Ok(vec![Desired { name, port: one_off_port(release) }])
            }
            Work::Build => Ok(Vec::new()),
        }
    }

    fn warn_of_unknown_types(&self, release: &Release) {
        let Work::Formation { quantities: Quantities::Explicit(wanted) } = &self.settings.work else {
            return;
        };
        for unknown in wanted.keys().filter(|wanted| release.formation.find(wanted).is_none()) {
            let known: Vec<_> =
                release.formation.iter().map(|process| process.process_type.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            tracing::warn!("release {} has no process type {unknown}; it has: {known}", release.version);
        }
    }

    /// An attempt at preparing has ended, or it is time for the next one.
    fn prepared(&mut self, result: Option<Result<Prepared, PrepareError>>) {
        let Some(mut preparing) = self.preparing.take() else { return };
        match result {
            Some(Ok(prepared)) => self.go_live(preparing.release, preparing.desired, prepared),
            Some(Err(error)) if self.runs_once() => {
                tracing::error!("{}", explain(&error));
                self.outcome = Some(Outcome::NotPrepared);
            }
            Some(Err(error)) => {
                preparing.failures += 1;
                let wait = retry_after(preparing.failures + 1);
                let running =
                    self.live.as_ref().map(|live| format!("; release {} runs on", live.release.version));
                let running = running.unwrap_or_default();
                tracing::error!("{}{running}; trying again in {wait:.0?}", explain(&error));
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
    fn go_live(&mut self, release: Arc<Release>, desired: Vec<Desired>, prepared: Prepared) {
        let generation = Generation(self.live.as_ref().map_or(0, |live| live.generation.0) + 1);
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
        let env =
            release.config.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect();
        self.announced.send_replace(Some(Arc::clone(&release)));
        self.live = Some(Live { release, generation, desired, env, prepared: prepared.into() });
        self.down.clear();
    }

    fn stop(&mut self, targets: &[Target], reply: oneshot::Sender<Vec<DynoName>>) {
        let covered = |name: &DynoName| targets.iter().any(|target| target.covers(name));
        let mut stopping = Stopping { waiting_for: BTreeSet::new(), names: Vec::new(), reply };
        self.stop_waiting(covered, &mut stopping.names);
        for (id, member) in self.members.iter_mut().filter(|(_, member)| covered(&member.name)) {
            stopping.waiting_for.insert(*id);
            if !member.leaving {
                tracing::info!("{}: Stopping, as an operator asked", member.name);
                stopping.names.push(member.name.clone());
                self.down.insert(member.name.clone(), member.handle.status());
                member.leave(dyno::Command::Retire);
            }
        }
        stopping.names.sort();
        stopping.names.dedup();
        self.stopped_by_operator |= !stopping.names.is_empty();
        self.stopping.push(stopping);
        self.answer_stops();
    }

    /// Dynos that are still to be started, since their port or their predecessor's is taken, are stopped as well.
    fn stop_waiting(&mut self, covered: impl Fn(&DynoName) -> bool, names: &mut Vec<DynoName>) {
        let Some(live) = &self.live else { return };
        let there = |name: &DynoName| {
            self.down.contains_key(name)
                || self.members.values().any(|member| !member.leaving && member.name == *name)
        };
        let waiting = live.desired.iter().filter(|dyno| covered(&dyno.name) && !there(&dyno.name));
        let waiting: Vec<DynoStatus> = waiting
            .map(|dyno| DynoStatus::never_started(dyno.name.clone(), live.release.version, dyno.port))
            .collect();
        for status in waiting {
            names.push(status.name.clone());
            self.down.insert(status.name.clone(), status);
        }
    }

    fn answer_stops(&mut self) {
        for stopping in std::mem::take(&mut self.stopping) {
            if stopping.waiting_for.is_empty() {
                let _nobody_waits_any_more = stopping.reply.send(stopping.names);
            } else {
                self.stopping.push(stopping);
            }
        }
    }

    /// A dyno has been retired: all its processes are gone.
    fn ended(&mut self, id: Id, last_exit: Option<&LastExit>) {
        let Some(member) = self.members.remove(&id) else { return };
        if self.runs_once() || self.down.contains_key(&member.name) {
            self.down.insert(member.name, member.handle.status());
        }
        let status = match last_exit.map(|exit| &exit.how) {
            Some(Ended::Exited(exit)) => exit.status(),
            Some(Ended::NotStarted { status, .. }) => *status,
            None => 0,
        };
        self.highest_exit = self.highest_exit.max(status);
        for stopping in &mut self.stopping {
            stopping.waiting_for.remove(&id);
        }
        self.answer_stops();
    }

    fn shut_down(&mut self, shutdown: Shutdown) {
        self.shutdown = self.shutdown.max(shutdown);
        self.preparing = None;
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

    /// Makes a plan and does what it says.
    fn reconcile(&mut self) {
        if self.shutdown != Shutdown::No {
            return;
        }
        let Some(live) = &self.live else { return };
        let desired: Vec<Desired> =
            live.desired.iter().filter(|dyno| !self.down.contains_key(&dyno.name)).cloned().collect();
        let observed: Vec<Observed<Id>> =
            self.members.iter().map(|(id, member)| member.observe(*id)).collect();
        let plan = plan(&desired, live.generation, &observed, self.preparer.driver().network());
        for id in plan.retire {
            if let Some(member) = self.members.get_mut(&id) {
                member.leave(dyno::Command::Retire);
            }
        }
        for new in plan.start {
            self.start_dyno(new);
        }
    }

    fn start_dyno(&mut self, new: Desired) {
        let Some(live) = &self.live else { return };
        let (command, stdio, of_release) = match &self.settings.work {
            Work::OneOff { command, stdio } => (command, self.logs.stdio(stdio), Limits::default()),
            Work::Formation { .. } | Work::Build => {
                let Some(process) = live.release.formation.find(&new.name.process_type) else { return };
                (&process.command, Stdio::Pipes, process.limits)
            }
        };
        let limits = self.settings.limits.of(&new.name.process_type).or(of_release);
        let index = live.release.formation.iter().position(|p| p.process_type == new.name.process_type);
        let printing = Printing::of(&stdio, &self.console, &new.name, index.unwrap_or_default());
        let log = self.logs.dyno(&new.name, printing);
        let spec = DynoSpec {
            name: new.name.to_string(),
            command: command.args().into(),
            built: Arc::clone(&live.prepared.built),
            env: Arc::clone(&live.env),
            port: new.port,
            stdio,
            limits,
        };
        let dyno = Dyno {
            name: new.name.clone(),
            release: live.release.version,
            driver: Arc::clone(self.preparer.driver()),
            spec,
            policy: Policy { one_shot: self.runs_once(), ..self.settings.policy },
            log,
        };
        let (handle, task) = dyno.start();
        let id = self.tasks.spawn(task).id();
        let Desired { name, port } = new;
        let (generation, prepared) = (live.generation, Arc::clone(&live.prepared));
        let member = Member { name, port, generation, leaving: false, handle, _prepared: prepared };
        self.members.insert(id, member);
    }

    fn status(&self) -> FormationStatus {
        let there = self.members.values().map(|member| member.handle.status());
        let replaced = |name: &DynoName| self.members.values().any(|member| member.name == *name);
        let down = self.down.iter().filter(|(name, _)| !replaced(name)).map(|(_, status)| status.clone());
        let mut dynos: Vec<DynoStatus> = there.chain(down).collect();
        dynos.sort_by(|a, b| (&a.name, a.release).cmp(&(&b.name, b.release)));
        let release = self.live.as_ref().map(|live| &live.release);
        FormationStatus {
            app: release.map(|release| release.app.clone()),
            release: release.map(|release| release.version),
            dynos,
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
        self.stopped_by_operator.then_some(Outcome::Stopped)
    }
}

impl Member {
    fn leave(&mut self, command: dyno::Command) {
        self.leaving = true;
        self.handle.send(command);
    }

    fn observe(&self, id: Id) -> Observed<Id> {
        let Self { name, port, generation, leaving, handle: _, _prepared: _ } = self;
        Observed { id, name: name.clone(), port: *port, generation: *generation, leaving: *leaving }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
