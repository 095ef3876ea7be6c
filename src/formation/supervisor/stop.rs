//! Stopping dynos, as an operator asks.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::Id;

use super::Supervisor;
use crate::dyno::{self, DynoStatus};
use crate::model::{DynoName, Target};

/// A `stop` that has not been answered yet.
pub(super) struct Stopping {
    pub(super) waiting_for: BTreeSet<Id>,
    names: Vec<DynoName>,
    reply: oneshot::Sender<Vec<DynoName>>,
}

impl Supervisor {
    pub(super) fn stop(&mut self, targets: &[Target], reply: oneshot::Sender<Vec<DynoName>>) {
        let covered = |name: &DynoName| targets.iter().any(|target| target.covers(name));
        let mut stopping = Stopping { waiting_for: BTreeSet::new(), names: Vec::new(), reply };
        self.stop_waiting(covered, &mut stopping.names);
        for (id, member) in self.members.iter_mut().filter(|(_, member)| covered(&member.name)) {
            stopping.waiting_for.insert(*id);
            if !member.leaving {
                tracing::info!("{}: Stopping, as an operator asked", member.name);
                stopping.names.push(member.name.clone());
                if !member.phase {
                    self.down.insert(member.name.clone(), member.handle.status());
                }
                member.leave(dyno::Command::Retire);
            }
        }
        stopping.names.sort();
        stopping.names.dedup();
        self.stopped_last |= !stopping.names.is_empty();
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
            .map(|dyno| DynoStatus::never_started(dyno.name.clone(), live.made.release.version, dyno.port))
            .collect();
        for status in waiting {
            names.push(status.name.clone());
            self.down.insert(status.name.clone(), Arc::new(status));
        }
    }

    pub(super) fn answer_stops(&mut self) {
        for stopping in std::mem::take(&mut self.stopping) {
            if stopping.waiting_for.is_empty() {
                let _nobody_waits_any_more = stopping.reply.send(stopping.names);
            } else {
                self.stopping.push(stopping);
            }
        }
    }
}
