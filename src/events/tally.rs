//! How much of what there has been: counts of events, which outlive what the journal keeps. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::{DynoNews, ReleaseNews, What};
use crate::model::ProcessType;

/// The upper bounds of the buckets of durations, in seconds: a subprocess starts within a millisecond, a container in
/// some hundred, and an app has a minute to get ready.
pub const START_SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// How often durations were how long.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// How many were up to each bound of [`START_SECONDS`], and over the one before.
    pub counts: [u64; START_SECONDS.len()],
    /// How many were longer than all bounds.
    pub longer: u64,
    /// Their sum, in seconds.
    pub sum: f64,
}

impl Histogram {
    fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = START_SECONDS.partition_point(|bound| *bound < seconds);
        *self.counts.get_mut(bucket).unwrap_or(&mut self.longer) += 1;
        self.sum += seconds;
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.longer
    }
}

/// Counts since hsup was started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// How often dynos of a type were started again, by the reason.
    pub restarts: BTreeMap<(ProcessType, &'static str), u64>,
    /// How long the driver took to start the runs of a type that came up.
    pub starts: BTreeMap<ProcessType, Histogram>,
    /// How long they took from then until they were ready, where that is asked.
    pub readiness: BTreeMap<ProcessType, Histogram>,
    /// How many releases turned out to be how.
    pub releases: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Counts an event.
    pub(super) fn count(&mut self, what: &What) {
        match what {
            What::Dyno { dyno, news, release: _ } => self.count_dyno(&dyno.process_type, news),
            What::Release { news, release: _ } => {
                let verdict = match news {
                    ReleaseNews::Preparing | ReleaseNews::Live => return,
                    ReleaseNews::Failed { .. } => "failed",
                    ReleaseNews::Good => "good",
                    ReleaseNews::Bad { .. } => "bad",
                    ReleaseNews::RolledBack { .. } => "rolled-back",
                };
                *self.releases.entry(verdict).or_default() += 1;
            }
            What::SourceFailed { .. } | What::SourceRecovered { .. } | What::Command { .. } => {}
        }
    }

    fn count_dyno(&mut self, process_type: &ProcessType, news: &DynoNews) {
        match news {
            DynoNews::State { started_in, ready_in, from: _, to: _ } => {
                for (durations, duration) in [(&mut self.starts, started_in), (&mut self.readiness, ready_in)]
                {
                    if let Some(duration) = duration {
                        durations.entry(process_type.clone()).or_default().observe(*duration);
                    }
                }
            }
            DynoNews::Restart { reason, restarts: _ } => {
                *self.restarts.entry((process_type.clone(), reason)).or_default() += 1;
            }
            DynoNews::Exit(_) | DynoNews::Memory => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dyno::DynoState;
    use crate::model::ReleaseVersion;

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        [0, 500, 501, 60_000_000, 60_000_001]
            .into_iter()
            .for_each(|us| histogram.observe(Duration::from_micros(us)));
        assert_eq!(histogram.counts[..2], [2, 1]);
        assert_eq!((histogram.counts[15], histogram.longer, histogram.count()), (1, 1, 5));
        assert!((histogram.sum - 120.001_002).abs() < 1e-9);
    }

    #[test]
    fn restarts_count_by_type_and_reason() {
        let mut tally = Tally::default();
        let mut tell = |dyno: &str, news| {
            let dyno = dyno.parse().unwrap();
            tally.count(&What::Dyno { dyno, release: ReleaseVersion(1), news });
        };
        tell("web.1", DynoNews::Restart { reason: "exited", restarts: 1 });
        tell("web.2", DynoNews::Restart { reason: "exited", restarts: 1 });
        tell("web.2", DynoNews::Restart { reason: "liveness", restarts: 2 });
        tell(
            "web.2",
            DynoNews::State {
                from: DynoState::Starting,
                to: DynoState::Up,
                started_in: Some(Duration::from_millis(2)),
                ready_in: None,
            },
        );
        let web: ProcessType = "web".parse().unwrap();
        assert_eq!(
            tally.restarts,
            BTreeMap::from([((web.clone(), "exited"), 2), ((web.clone(), "liveness"), 1)])
        );
        assert_eq!((tally.starts[&web].count(), tally.readiness.len()), (1, 0));
    }
}
