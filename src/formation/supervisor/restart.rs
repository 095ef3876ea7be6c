//! Restarting dynos, as an operator asks: in place, or as a rollout of the same release.

use super::Supervisor;
use crate::dyno;
use crate::model::{DynoName, Rollout, Target};

impl Supervisor {
    /// Restarts dynos, and starts those that were stopped; their names, in order. What rolls or overlaps is replaced
    /// as by a new release; with `rolling` everything is, one dyno of each type at a time.
    pub(super) fn restart(&mut self, targets: &[Target], rolling: bool) -> Vec<DynoName> {
        let generation = self.next_generation();
        let Some(live) = &mut self.live else { return Vec::new() };
        let mut names = Vec::new();
        for new in live.desired.iter_mut().filter(|new| targets.iter().any(|target| target.covers(&new.name)))
        {
            names.push(new.name.clone());
            if self.down.remove(&new.name).is_some() {
                continue;
            }
            if rolling && new.rollout == Rollout::Replace {
                new.rollout = Rollout::Rolling;
                live.rolled.push(new.name.clone());
            }
            match new.rollout {
                Rollout::Rolling | Rollout::Overlap => new.generation = generation,
                Rollout::Replace => {
                    for member in self.members.values_mut().filter(|member| member.name == new.name) {
                        tracing::info!("{}: Restarting, as an operator asked", member.name);
                        member.handle.send(dyno::Command::Restart);
                    }
                }
            }
        }
        live.settled = false;
        names
    }
}
