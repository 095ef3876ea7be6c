//! Heroku's release phase: the command of the process type `release` runs once, before a release goes live. If it
//! fails the release does not.

use std::sync::Arc;

use tokio::task::Id;

use super::super::plan::{Desired, Generation};
use super::super::ports::one_off_port;
use super::super::prepare::Prepared;
use super::super::preparing::{Preparing, PreparingState};
use super::super::work::{Outcome, Work};
use super::Supervisor;
use super::rollout::Made;
use crate::dyno::{self, Ended, LastExit};
use crate::history::Note;
use crate::model::{DynoName, Rollout};

impl Supervisor {
    /// A release has been prepared: it goes live, after its release phase where it has one that has not been run.
    pub(super) fn before_going_live(&mut self, preparing: Preparing, prepared: Arc<Prepared>) {
        let phase = match self.settings.work {
            Work::Formation { .. } if !preparing.phase_done => preparing.release.release_phase().cloned(),
            Work::Formation { .. } | Work::OneOff { .. } | Work::Build => None,
        };
        let Some(process_type) = phase else {
            return self.go_live(preparing.release, preparing.desired, prepared);
        };
        // one migrates at a time: that of a release that has been overtaken ends first
        if self.members.values().any(|member| member.phase) {
            self.preparing = Some(Preparing { state: PreparingState::Waiting(prepared), ..preparing });
            return;
        }
        tracing::info!("release {}: running its release phase", preparing.release.version);
        let new = Desired {
            name: DynoName { process_type, number: 1 },
            port: one_off_port(&preparing.release),
            shares_port: false,
            generation: Generation::default(),
            rollout: Rollout::Replace,
        };
        let made = Made::new(Arc::clone(&preparing.release), Arc::clone(&prepared));
        if let Some(id) = self.start_dyno(&made, new, true) {
            self.preparing = Some(Preparing { state: PreparingState::Phase(id, prepared), ..preparing });
        }
    }

    /// A dyno that ran the command of a release phase has ended.
    pub(super) fn phase_ended(&mut self, id: Id, last_exit: Option<&LastExit>) {
        let Some(Preparing { release, desired, state: PreparingState::Phase(running, prepared), .. }) =
            self.preparing.take_if(|preparing| preparing.runs_phase(id))
        else {
            return self.begin_waiting_phase();
        };
        debug_assert_eq!(running, id);
        let version = release.version;
        let failure = match last_exit.map(|last| &last.how) {
            Some(Ended::Exited(exit)) if exit.status() == 0 => {
                self.notes.tell(Note::PhaseDone(Arc::clone(&release)));
                return self.go_live(release, desired, prepared);
            }
            Some(Ended::Exited(exit)) => format!("its release phase ended with {exit}"),
            Some(Ended::NotStarted { why, .. }) => format!("its release phase cannot be started: {why}"),
            None => "its release phase did not run".to_owned(),
        };
        let fallback = self.live.as_ref().map(|live| Arc::clone(&live.made.release));
        let goes_on = fallback.as_ref().map(|live| format!("; release {} runs on", live.version));
        tracing::error!("release {version} is bad: {failure}{}", goes_on.unwrap_or_default());
        self.notes.tell(Note::Bad { release, why: failure, fallback });
        self.outcome = self.runs_once().then_some(Outcome::NotPrepared);
    }

    /// The command of another release phase has ended: one that waited for that begins.
    fn begin_waiting_phase(&mut self) {
        let waits = |preparing: &mut Preparing| matches!(preparing.state, PreparingState::Waiting(_));
        if let Some(preparing) = self.preparing.take_if(waits)
            && let PreparingState::Waiting(prepared) = &preparing.state
        {
            let prepared = Arc::clone(prepared);
            self.before_going_live(preparing, prepared);
        }
    }

    /// Nothing is being prepared any more. The command of a release phase is told to end.
    pub(super) fn give_up_preparing(&mut self) {
        if let Some(Preparing { state: PreparingState::Phase(id, _), .. }) = self.preparing.take()
            && let Some(member) = self.members.get_mut(&id)
        {
            member.leave(dyno::Command::Retire);
        }
    }
}

impl Preparing {
    fn runs_phase(&self, id: Id) -> bool {
        matches!(self.state, PreparingState::Phase(running, _) if running == id)
    }
}
