//! How one release takes the place of another: what is live, what it is judged by, and the way back.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::Id;
use tokio::time::{Duration, Instant};

use super::super::plan::{Desired, Generation, Observed, Verdict, judge, plan};
use super::super::prepare::Prepared;
use super::super::work::Shutdown;
use super::Supervisor;
use super::members::Member;
use crate::dyno;
use crate::events::ReleaseNews;
use crate::history::Note;
use crate::model::{DynoName, Release, Rollout, VarName};

/// How long after a dyno has become healthy that is looked at. Hundreds of them come up within it.
const LOOK: Duration = Duration::from_millis(50);

/// What dynos of a release are made from.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) release: Arc<Release>,
    pub(super) env: Arc<[(String, String)]>,
    pub(super) prepared: Arc<Prepared>,
}

impl Made {
    pub(super) fn new(release: Arc<Release>, prepared: Arc<Prepared>) -> Self {
        let var = |(name, value): (&VarName, &String)| (name.as_str().to_owned(), value.clone());
        let env = release.config.iter().map(var).collect();
        Self { release, env, prepared }
    }
}

/// A release whose dynos are those that should be.
pub(super) struct Live {
    pub(super) made: Made,
    pub(super) desired: Vec<Desired>,
    /// What its dynos are made from, where no restart has been asked for.
    generation: Generation,
    /// Whether all its dynos have been healthy at one time.
    good: bool,
    /// Whether one of its dynos has spoken against it.
    bad: bool,
    /// Whether all its dynos were what they should be when that was last looked at.
    pub(super) settled: bool,
    /// The dynos that roll until then, and are else replaced at once.
    pub(super) rolled: Vec<DynoName>,
}

impl Live {
    /// A release that has been prepared.
    pub(super) fn new(made: Made, generation: Generation, desired: Vec<Desired>) -> Self {
        let desired = desired.into_iter().map(|dyno| Desired { generation, ..dyno }).collect();
        Self { made, desired, generation, good: false, bad: false, settled: false, rolled: Vec::new() }
    }

    /// The same release with other quantities: what is there stays.
    pub(super) fn rescale(&mut self, release: Arc<Release>, desired: Vec<Desired>) {
        let before = self.desired.drain(..).map(|dyno| (dyno.name, (dyno.generation, dyno.rollout)));
        let before: HashMap<DynoName, (Generation, Rollout)> = before.collect();
        let as_before = |dyno: Desired| {
            let new = (self.generation, dyno.rollout);
            let (generation, rollout) = before.get(&dyno.name).copied().unwrap_or(new);
            Desired { generation, rollout, ..dyno }
        };
        self.desired = desired.into_iter().map(as_before).collect();
        self.made.release = release;
    }
}

impl Supervisor {
    pub(super) fn next_generation(&mut self) -> Generation {
        self.generation.0 += 1;
        self.generation
    }

    /// From now on the dynos of this release are those that should be. The last good one is kept until this one is
    /// good as well; where there is none, the one that runs, if all of it does.
    pub(super) fn replace_live(&mut self, live: Live) {
        let ran = self.fallback.is_none() && self.live.as_ref().is_some_and(|before| self.runs(before));
        if let Some(before) = self.live.replace(live)
            && (before.good || ran)
        {
            self.fallback = Some(before);
        }
        let live = self.live.as_ref().map(|live| &live.made.release);
        self.fallback.take_if(|good| live.is_some_and(|live| live.needs_no_restart(&good.made.release)));
    }

    /// Whether all dynos of a release are up, for however short a time, and none has spoken against it.
    fn runs(&self, live: &Live) -> bool {
        let now = Instant::now();
        let observed: Vec<Observed<Id>> =
            self.formation().map(|(id, member)| member.observe(*id, now, Duration::ZERO)).collect();
        !live.bad && matches!(judge(&self.not_down(live), &observed), Verdict::Good)
    }

    /// Whether it matters what becomes of single dynos: not all of them are what they should be.
    pub(super) fn is_rolling_out(&self) -> bool {
        self.shutdown == Shutdown::No && self.live.as_ref().is_some_and(|live| !live.settled)
    }

    /// Makes a plan and does what it says. A release that turns out to be bad makes way for the last good one.
    pub(super) fn reconcile(&mut self) {
        self.look_at = None;
        if self.shutdown != Shutdown::No {
            return;
        }
        let Some(live) = &self.live else { return };
        let (now, min_healthy) = (Instant::now(), self.settings.rollout.min_healthy);
        let desired = self.not_down(live);
        let observed: Vec<Observed<Id>> =
            self.formation().map(|(id, member)| member.observe(*id, now, min_healthy)).collect();
        if self.is_rolling_out() && !self.runs_once() {
            match judge(&desired, &observed) {
                Verdict::Good => self.is_good(),
                Verdict::Bad { dyno, why } if self.fallback.is_some() => {
                    self.roll_back(&dyno, &why);
                    return self.reconcile();
                }
                Verdict::Bad { dyno, why } => self.is_bad(&dyno, &why),
                Verdict::Pending => {}
            }
        }
        let plan = plan(&desired, &observed, self.preparer.driver().network());
        let Some(live) = &self.live else { return };
        let made = live.made.clone();
        for id in plan.retire {
            if let Some(member) = self.members.get_mut(&id) {
                member.leave(dyno::Command::Retire);
            }
        }
        for new in plan.start {
            self.start_dyno(&made, new, false);
        }
        if self.is_rolling_out() {
            let times = self.members.values().filter_map(|member| member.healthy_at(now, min_healthy));
            // those that came up together are looked at together
            self.look_at = times.min().map(|at| at + LOOK);
        }
    }

    /// The dynos that should be of a release and that nobody has stopped.
    fn not_down(&self, live: &Live) -> Vec<Desired> {
        live.desired.iter().filter(|dyno| !self.down.contains_key(&dyno.name)).cloned().collect()
    }

    /// The dynos that are part of the formation.
    fn formation(&self) -> impl Iterator<Item = (&Id, &Member)> {
        self.members.iter().filter(|(_, member)| !member.phase)
    }

    /// All dynos of the live release are healthy.
    fn is_good(&mut self) {
        if let Some(live) = &mut self.live {
            live.settled = true;
            for name in live.rolled.drain(..) {
                for dyno in live.desired.iter_mut().filter(|dyno| dyno.name == name) {
                    dyno.rollout = Rollout::Replace;
                }
            }
            if !std::mem::replace(&mut live.good, true) {
                tracing::info!("release {} is good: all its dynos are healthy", live.made.release.version);
                self.notes.tell(Note::Good(Arc::clone(&live.made.release)));
            }
        }
        self.fallback = None;
    }

    /// The live release is bad, and there is none that ran before it. It is tried on.
    fn is_bad(&mut self, dyno: &DynoName, why: &str) {
        let Some(live) = self.live.as_mut().filter(|live| !live.good && !live.bad) else { return };
        live.bad = true;
        let release = Arc::clone(&live.made.release);
        tracing::error!("release {} is bad: {dyno}: {why}", release.version);
        self.notes.tell(Note::Bad { release, why: format!("{dyno}: {why}"), fallback: None });
    }

    /// The live release is bad: the last good one takes its place again. Dynos of it that still run go on.
    fn roll_back(&mut self, dyno: &DynoName, why: &str) {
        let Some(mut fallback) = self.fallback.take() else { return };
        fallback.settled = false;
        let good = Arc::clone(&fallback.made.release);
        self.announced.send_replace(Some(Arc::clone(&good)));
        if let Some(bad) = self.live.replace(fallback) {
            let release = bad.made.release;
            let (bad, good_version) = (release.version, good.version);
            tracing::error!("release {bad} is bad: {dyno}: {why}; rolling back to release {good_version}");
            let (why, fallback) = (format!("{dyno}: {why}"), Some(good));
            self.notes.tell(Note::Bad { release: Arc::clone(&release), why, fallback });
            self.notes.tell_others(&release, ReleaseNews::RolledBack { to: good_version });
        }
    }
}
