//! The dynos that are there: how each is started, what is seen of it, and what follows when it has ended.

use std::sync::Arc;

use hsup_drivers::{DynoSpec, Limits, Stdio};
use tokio::task::Id;
use tokio::time::{Duration, Instant};

use super::super::handle::FormationStatus;
use super::super::plan::{Desired, Generation, Observed};
use super::super::prepare::Prepared;
use super::super::work::Work;
use super::Supervisor;
use super::rollout::Made;
use crate::dyno::{self, Dyno, DynoHandle, DynoState, DynoStatus, Ended, LastExit, Policy, Why};
use crate::logs::Printing;
use crate::model::DynoName;

/// A dyno that is there.
pub(super) struct Member {
    pub(super) name: DynoName,
    port: u16,
    generation: Generation,
    pub(super) leaving: bool,
    pub(super) handle: DynoHandle,
    /// Whether it runs the command of a release phase, and is no part of the formation.
    pub(super) phase: bool,
    /// What it was started from stays there.
    _prepared: Arc<Prepared>,
}

impl Supervisor {
    /// Starts a dyno of what has been made of a release; one that is to run `once` is no part of the formation.
    pub(super) fn start_dyno(&mut self, made: &Made, new: Desired, once: bool) -> Option<Id> {
        let Made { release, env, prepared } = made;
        let found = release.formation.find(&new.name.process_type);
        let (command, stdio, of_release) = match &self.settings.work {
            Work::OneOff { command, stdio } => (command, self.logs.stdio(stdio), Limits::default()),
            Work::Formation { .. } | Work::Build => {
                let process = found?;
                (&process.command, Stdio::Pipes, process.limits)
            }
        };
        let limits = self.settings.limits.of(&new.name.process_type).or(of_release);
        let index = release.formation.iter().position(|p| p.process_type == new.name.process_type);
        let printing = Printing::of(&stdio, &self.console, &new.name, index.unwrap_or_default());
        let log = self.logs.dyno(&new.name, printing);
        let held = self.settings.listeners.of(&new.name.process_type).filter(|_| new.shares_port);
        let spec = DynoSpec {
            name: new.name.to_string(),
            command: command.args().into(),
            built: Arc::clone(&prepared.built),
            env: Arc::clone(env),
            own_env: held.map(|_| names_of_sockets(&new.name)).into_iter().collect(),
            port: new.port,
            stdio,
            listen: held.map(|held| Arc::clone(&held.socket)),
            notify: false,
            limits,
        };
        let one_shot = once || self.runs_once();
        let checked = found.filter(|_| !one_shot);
        let [readiness, liveness] = checked.map(|process| self.checks_of(process)).unwrap_or_default();
        let dyno = Dyno {
            name: new.name.clone(),
            release: release.version,
            driver: Arc::clone(self.preparer.driver()),
            spec,
            policy: Policy { one_shot, ..self.settings.policy },
            readiness,
            liveness,
            changes: self.changes.clone(),
            log,
            events: self.notes.events().clone(),
        };
        let (handle, task) = dyno.start();
        let id = self.tasks.spawn(task).id();
        let Desired { name, port, generation, .. } = new;
        let prepared = Arc::clone(prepared);
        let (leaving, phase) = (false, once);
        let member = Member { name, port, generation, leaving, handle, phase, _prepared: prepared };
        self.members.insert(id, member);
        Some(id)
    }

    pub(super) fn status(&self) -> FormationStatus {
        let there = self.members.values().map(|member| member.handle.status());
        let replaced = |name: &DynoName| self.members.values().any(|member| member.name == *name);
        let down = self.down.iter().filter(|(name, _)| !replaced(name)).map(|(_, status)| Arc::clone(status));
        let mut dynos: Vec<_> = there.chain(down).collect();
        dynos.sort_by(|a, b| (&a.name, a.release).cmp(&(&b.name, b.release)));
        let release = self.live.as_ref().map(|live| &live.made.release);
        FormationStatus {
            app: release.map(|release| release.app.clone()),
            release: release.map(|release| release.version),
            formation: release.map(|release| self.quantities(release)).unwrap_or_default(),
            dynos,
        }
    }

    /// A dyno has been retired: all its processes are gone.
    pub(super) fn ended(&mut self, id: Id, last_exit: Option<&LastExit>) {
        let Some(member) = self.members.remove(&id) else { return };
        for stopping in &mut self.stopping {
            stopping.waiting_for.remove(&id);
        }
        self.answer_stops();
        if member.phase {
            return self.phase_ended(id, last_exit);
        }
        self.stopped_last = self.down.contains_key(&member.name);
        if self.runs_once() || self.stopped_last {
            self.down.insert(member.name, member.handle.status());
        }
        let status = match last_exit.map(|exit| &exit.how) {
            Some(Ended::Exited(exit)) => exit.status(),
            Some(Ended::NotStarted { status, .. }) => *status,
            None => 0,
        };
        self.highest_exit = self.highest_exit.max(status);
    }
}

impl Member {
    pub(super) fn leave(&mut self, command: dyno::Command) {
        self.leaving = true;
        self.handle.send(command);
    }

    /// The dyno as a plan sees it. One that has been up for `min_healthy` is healthy.
    pub(super) fn observe(&self, id: Id, now: Instant, min_healthy: Duration) -> Observed<Id> {
        let Self { name, port, generation, leaving, handle, phase: _, _prepared: _ } = self;
        let status = handle.status();
        let (up, failing) = (status.up_since.is_some(), failing(&status));
        let healthy = status.up_since.is_some_and(|since| now >= since + min_healthy);
        let (port, generation, leaving) = (*port, *generation, *leaving);
        Observed { id, name: name.clone(), port, generation, leaving, up, healthy, failing }
    }

    /// When it will have been up for `min_healthy`, if it is up and has not been for that long.
    pub(super) fn healthy_at(&self, now: Instant, min_healthy: Duration) -> Option<Instant> {
        let since = self.handle.status().up_since.filter(|_| !self.leaving)?;
        Some(since + min_healthy).filter(|at| *at > now)
    }
}

/// The names of the sockets that a dyno gets: that of its type.
fn names_of_sockets(dyno: &DynoName) -> (String, String) {
    ("LISTEN_FDNAMES".to_owned(), dyno.process_type.to_string())
}

/// What a dyno says against the release that it runs: it crashed more than once in a row, or was not ready in time.
/// With a restart that an operator asks for, it begins anew.
fn failing(status: &DynoStatus) -> Option<String> {
    let last_exit = status.last_exit.as_ref().filter(|_| status.crashes > 0)?;
    match (&last_exit.why, &last_exit.how) {
        (Why::BootTimeout { missing }, _) => Some(format!("it was not ready in time: {missing}")),
        (Why::Unwell { finding }, _) => Some(format!("it is not well: {finding}")),
        _ if status.state != DynoState::Crashed => None,
        (Why::OutOfMemory, _) => Some("it runs out of memory again and again".to_owned()),
        (_, Ended::NotStarted { why, .. }) => Some(format!("it cannot be started: {why}")),
        (_, Ended::Exited(exit)) => Some(format!("it crashes again and again, the last time with {exit}")),
    }
}
