//! What should be of a release on this host: how many dynos, on which ports, checked and replaced how. What cannot be
//! had is refused, and what can be had in part only is warned of.

use std::collections::BTreeMap;

use hsup_drivers::{Limits, Network};

use super::super::handle::{CannotRun, ScaleRefused};
use super::super::plan::{Desired, Generation};
use super::super::ports::{NoPort, Shape, desired_dynos, one_off_port};
use super::super::preview::{Preview, Side, preview};
use super::super::work::Work;
use super::Supervisor;
use crate::history::Arrival;
use crate::model::{
    Check, CheckText, DynoName, InvalidCheck, Probe, Process, ProcessType, Quantities, Quantity, Release,
    Rollout, for_readiness,
};

/// Why a release cannot run here.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(transparent)]
    Port(#[from] NoPort),
    #[error("the readiness check of {process_type}: {source}")]
    Readiness { process_type: ProcessType, source: InvalidCheck },
}

/// The types whose dynos listen, whatever they are asked.
const WEB: &str = "web";

impl Supervisor {
    /// What should be of this release. Quantities of an operator that do not fit it any more are given up.
    pub(super) fn fit(&mut self, release: &Release) -> Result<Vec<Desired>, Refused> {
        let (desired, given_up) = self.fit_to(release, &self.scale)?;
        if let Some(error) = given_up {
            tracing::error!("the scale that was asked for is given up: {error}");
            self.scale.clear();
        }
        Ok(desired)
    }

    /// The same for these quantities, and why they would be given up.
    pub(super) fn fit_to(
        &self,
        release: &Release,
        scale: &BTreeMap<ProcessType, Quantity>,
    ) -> Result<(Vec<Desired>, Option<NoPort>), Refused> {
        self.refuse_checks(release)?;
        match self.desired(release, scale) {
            Err(error) if !scale.is_empty() => Ok((self.desired(release, &BTreeMap::new())?, Some(error))),
            result => Ok((result?, None)),
        }
    }

    /// What a release would change, as if it came now.
    pub(super) fn preview(&self, arrival: &Arrival) -> Result<Preview, CannotRun> {
        let Arrival { release, phase_done, scale } = arrival;
        let cannot = |error: Refused| CannotRun { release: release.version, why: error.to_string() };
        let (desired, _given_up) = self.fit_to(release, scale).map_err(cannot)?;
        let live = self.live.as_ref();
        let now = live.map(|live| Side { release: &live.made.release, desired: &live.desired });
        let stays = live.is_some_and(|live| live.made.release.needs_no_restart(release));
        let has_phase = release.release_phase().is_some();
        let down = self.down.keys().cloned().collect();
        let preview = preview(now, &down, Side { release, desired: &desired });
        Ok(Preview { release_phase: has_phase && !phase_done && !stays, ..preview })
    }

    /// Whether the newest release can be had in these quantities.
    pub(super) fn check_scale(
        &self,
        quantities: &BTreeMap<ProcessType, Quantity>,
    ) -> Result<(), ScaleRefused> {
        let preparing = self.preparing.as_ref().map(|preparing| &preparing.release);
        let live = || self.live.as_ref().map(|live| &live.made.release);
        let Some(release) = preparing.or_else(live) else { return Ok(()) };
        let mut known = release.formation.iter().map(|process| &process.process_type);
        let is_known =
            |name: &&ProcessType| known.clone().any(|known| known == *name && !name.is_release_phase());
        if let Some(asked) = quantities.keys().find(|name| !is_known(name)) {
            let known = known.by_ref().filter(|name| !name.is_release_phase()).map(ProcessType::to_string);
            return Err(ScaleRefused::Unknown {
                asked: asked.clone(),
                known: known.collect::<Vec<_>>().join(", "),
            });
        }
        let mut scale = self.scale.clone();
        scale.extend(quantities.clone());
        Ok(self.desired(release, &scale).map(drop)?)
    }

    fn desired(
        &self,
        release: &Release,
        scale: &BTreeMap<ProcessType, Quantity>,
    ) -> Result<Vec<Desired>, NoPort> {
        let number = self.settings.start_number;
        match &self.settings.work {
            Work::Formation { .. } => {
                let network = self.preparer.driver().network();
                let shape = |process: &Process| self.shape(process, scale);
                desired_dynos(release, shape, &self.settings.listeners, number, network)
            }
            Work::OneOff { .. } => {
                let name = DynoName { process_type: ProcessType::run(), number };
                let port = one_off_port(release);
                let (shares_port, generation, rollout) = (false, Generation::default(), Rollout::Replace);
                Ok(vec![Desired { name, port, shares_port, generation, rollout }])
            }
            Work::Build => Ok(Vec::new()),
        }
    }

    /// How many dynos of this type there are to be: as an operator asked, else as the command line or the release
    /// says.
    fn quantity(&self, process: &Process, scale: &BTreeMap<ProcessType, Quantity>) -> Quantity {
        let asked = scale.get(&process.process_type).copied();
        asked.unwrap_or_else(|| match &self.settings.work {
            Work::Formation { quantities } => quantities.of(process),
            Work::OneOff { .. } | Work::Build => Quantity::default(),
        })
    }

    /// What is to be of this type. Dynos that share the host's ports cannot overlap where each needs the same one.
    fn shape(&self, process: &Process, scale: &BTreeMap<ProcessType, Quantity>) -> Shape {
        let held_port = self.settings.listeners.of(&process.process_type).map(|held| held.port);
        let rollout = match self.settings.rollout.rollout_of(process) {
            Rollout::Overlap if self.cannot_overlap(process) => Rollout::Replace,
            rollout @ (Rollout::Replace | Rollout::Rolling | Rollout::Overlap) => rollout,
        };
        Shape { quantity: self.quantity(process, scale), rollout, held_port }
    }

    fn cannot_overlap(&self, process: &Process) -> bool {
        let probe = self.settings.rollout.readiness_of(process).map(|check| check.probe);
        let web = process.process_type.as_str() == WEB;
        let listens = web || matches!(probe, Some(Probe::Port | Probe::Http(_)));
        listens && !self.holds(process) && self.preparer.driver().network() == Network::Host
    }

    fn holds(&self, process: &Process) -> bool {
        self.settings.listeners.of(&process.process_type).is_some()
    }

    /// How dynos of this type show that they are ready, and that they are well. A socket that hsup holds accepts
    /// connections whether a dyno does or not, and gives them to any of its type: asking it says nothing of one.
    pub(super) fn checks_of(&self, process: &Process) -> [Option<Check>; 2] {
        let rollout = &self.settings.rollout;
        [rollout.readiness_of(process), rollout.liveness_of(process)].map(|check| {
            let asks_port = |check: &Check| matches!(check.probe, Probe::Port | Probe::Http(_));
            check.filter(|check| !(self.holds(process) && asks_port(check)))
        })
    }

    /// Checks that come too late are refused with the release.
    fn refuse_checks(&self, release: &Release) -> Result<(), Refused> {
        if !self.is_formation() {
            return Ok(());
        }
        let rollout = &self.settings.rollout;
        for process in release.formation.iter() {
            let readiness = for_readiness(CheckText(rollout.readiness_of(process)), rollout.boot_timeout);
            readiness.map_err(|source| {
                let process_type = process.process_type.clone();
                Refused::Readiness { process_type, source }
            })?;
        }
        Ok(())
    }

    fn is_formation(&self) -> bool {
        matches!(self.settings.work, Work::Formation { .. })
    }

    /// Warns of what an operator or the release asks for and cannot have.
    pub(super) fn warn_of(&self, release: &Release) {
        if !self.is_formation() {
            return;
        }
        self.warn_of_unknown_types(release);
        self.warn_of_limits(release);
        for process in release.formation.iter() {
            self.warn_of_overlap(process);
            self.warn_of_checks(process);
        }
    }

    fn warn_of_overlap(&self, process: &Process) {
        let name = &process.process_type;
        if self.settings.rollout.rollout_of(process) != Rollout::Overlap {
            return;
        }
        if self.cannot_overlap(process) {
            tracing::warn!(
                "{name}: two dynos of one name cannot listen on the same port of this host, so that they are replaced and do \
                 not overlap: have hsup hold the socket with --listen {name}=PORT"
            );
        } else if self.holds(process) && self.checks_of(process)[0].is_none() {
            tracing::warn!(
                "{name}: nothing tells that a dyno that overlaps is ready, but that it has been up for a while: add \
                 --readiness {name}:notify, log=TEXT or command=..."
            );
        }
    }

    fn warn_of_checks(&self, process: &Process) {
        let (name, rollout) = (&process.process_type, &self.settings.rollout);
        let said = [
            ("readiness", rollout.says_readiness(process).then(|| rollout.readiness_of(process)).flatten()),
            ("liveness", rollout.liveness_of(process)),
        ];
        for ((check, said), made) in said.into_iter().zip(self.checks_of(process)) {
            if said.is_some() && made.is_none() {
                tracing::warn!(
                    "{name}: the {check} check on its port is not made: hsup holds that socket, and any of its dynos would \
                     answer: use notify, command=... or, for readiness, log=TEXT"
                );
            }
        }
    }

    /// Dynos that share the host with all its programs get of it what they can.
    fn warn_of_limits(&self, release: &Release) {
        let driver = self.preparer.driver();
        let limited = release.formation.iter().filter(|process| process.limits != Limits::default());
        let limited: Vec<_> = limited.map(|process| process.process_type.as_str()).collect();
        if driver.network() == Network::Host && !limited.is_empty() {
            tracing::warn!(
                "release {}: the Limits of {} are not kept by the {} driver: use native or docker",
                release.version,
                limited.join(", "),
                driver.name()
            );
        }
    }

    fn warn_of_unknown_types(&self, release: &Release) {
        let lacks = |wanted: &&ProcessType| release.formation.find(wanted).is_none();
        let known: Vec<_> = release.formation.iter().map(|process| process.process_type.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        if let Work::Formation { quantities: Quantities::Explicit(wanted) } = &self.settings.work {
            for unknown in wanted.keys().filter(lacks) {
                tracing::warn!("release {} has no process type {unknown}; it has: {known}", release.version);
            }
        }
        for unknown in self.settings.listeners.types().filter(lacks) {
            tracing::warn!(
                "nobody accepts on the socket of --listen {unknown}: release {} has no such process type; it has: {known}",
                release.version
            );
        }
        for (flag, unknown) in self.types_of_settings().filter(|(_, name)| lacks(name)) {
            tracing::warn!(
                "--{flag} {unknown} is of no dyno: release {} has no such process type; it has: {known}",
                release.version
            );
        }
    }

    /// The types that settings name, and by which flag. Limits may be those of one-off dynos, which are of no release.
    fn types_of_settings(&self) -> impl Iterator<Item = (&'static str, &ProcessType)> {
        let (limits, rollout) = (&self.settings.limits, &self.settings.rollout);
        let limited = limits.types().filter(|name| **name != ProcessType::run());
        let of = |flag| move |name| (flag, name);
        let checked = rollout.readiness.types().map(of("readiness"));
        let checked = checked.chain(rollout.liveness.types().map(of("liveness")));
        checked.chain(rollout.rollout.types().map(of("rollout"))).chain(limited.map(of("limits")))
    }

    pub(super) fn quantities(&self, release: &Release) -> BTreeMap<ProcessType, Quantity> {
        let dynos = release.formation.iter().filter(|process| !process.process_type.is_release_phase());
        dynos.map(|process| (process.process_type.clone(), self.quantity(process, &self.scale))).collect()
    }
}
