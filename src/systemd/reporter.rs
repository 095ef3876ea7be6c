//! Tells the service manager what goes on, for as long as hsup runs: one line on the dynos whenever it has changed, and
//! that hsup is alive. It must not decide anything.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::Notifier;
use crate::dyno::DynoState;
use crate::formation::{FormationHandle, FormationStatus, Shutdown};
use crate::model::Release;
use crate::sources::{Reread, Wish};

/// How long changes are gathered before they are told. Nobody reads faster, and 300 dynos that start are one change.
const GATHER: Duration = Duration::from_millis(250);

/// How hsup takes longer to end than the grace of its dynos: answers and lines that are on their way.
const AFTER_DYNOS: Duration = Duration::from_secs(15);

/// What there is to tell of.
pub struct Reporter {
    /// Where it is told.
    pub notifier: Arc<Notifier>,
    /// What it is told of.
    pub watched: Watched,
    /// How long dynos have to end.
    pub stop_timeout: Duration,
    /// How long hsup may be silent.
    pub watchdog: Option<Duration>,
}

/// What a reporter looks at.
pub struct Watched {
    /// Asked for the dynos, and for whether it answers at all.
    pub formation: FormationHandle,
    /// Tells when the state of a dyno has changed.
    pub changes: watch::Receiver<()>,
    /// The release that is live.
    pub live: watch::Receiver<Option<Arc<Release>>>,
    /// Whether hsup is to end.
    pub shutdown: watch::Receiver<Shutdown>,
    /// Whether the source is being looked at because somebody has asked for that.
    pub reread: Reread,
}

enum Heard {
    Changed,
    Beat,
    Reload(Wish),
    Reloaded,
    Shutdown,
}

impl Reporter {
    /// Reports until it is dropped.
    pub async fn report(self) {
        let Self { notifier, mut watched, stop_timeout, watchdog } = self;
        // Twice as often as need be, as sd_watchdog_enabled(3) advises.
        let mut beats = watchdog.map(|silence| every(silence / 2));
        let (mut told, mut shutting_down) = (String::new(), false);
        let (mut wish, mut reloading) = (watched.reread.newest(), false);
        watched.changes.mark_changed();
        loop {
            let heard = watched.next(&mut beats, wish, reloading, shutting_down).await;
            match heard {
                Heard::Shutdown => {
                    shutting_down = true;
                    notifier.stopping(stop_timeout + AFTER_DYNOS);
                    watched.changes.mark_changed();
                }
                // The supervisor answers, or has ended in good order: neither it nor what drives it is hung.
                Heard::Beat => {
                    let _answered = watched.formation.status().await;
                    notifier.alive();
                }
                Heard::Reload(newest) => {
                    (wish, reloading) = (newest, true);
                    notifier.reloading();
                }
                Heard::Reloaded => {
                    reloading = false;
                    notifier.ready();
                }
                Heard::Changed => {
                    sleep(GATHER).await;
                    watched.changes.mark_unchanged();
                    watched.live.mark_unchanged();
                    let Ok(status) = watched.formation.status().await else { continue };
                    let line = line(&status, shutting_down);
                    if line != told {
                        notifier.status(&line);
                        told = line;
                    }
                }
            }
        }
    }
}

impl Watched {
    async fn next(
        &mut self,
        beats: &mut Option<Interval>,
        wish: Wish,
        reloading: bool,
        shutting_down: bool,
    ) -> Heard {
        let Self { formation: _, changes, live, shutdown, reread } = self;
        tokio::select! {
            Ok(()) = shutdown.changed(), if !shutting_down => Heard::Shutdown,
            () = beat(beats) => Heard::Beat,
            newest = reread.newer_than(wish), if !shutting_down => Heard::Reload(newest),
            () = reread.fulfilled(wish), if reloading && !shutting_down => Heard::Reloaded,
            () = changed(changes, live) => Heard::Changed,
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn beat(beats: &mut Option<Interval>) {
    match beats {
        Some(beats) => drop(beats.tick().await),
        None => std::future::pending().await,
    }
}

/// Waits for either to change; for ever once there is nothing left that could.
async fn changed(changes: &mut watch::Receiver<()>, live: &mut watch::Receiver<Option<Arc<Release>>>) {
    let changed = tokio::select! {
        changed = changes.changed() => changed,
        changed = live.changed() => changed,
    };
    if changed.is_err() {
        std::future::pending().await
    }
}

/// Each state that dynos may be in while they are there, in the order in which it is told, and the word for it.
const STATES: [DynoState; 6] = [
    DynoState::Up,
    DynoState::Starting,
    DynoState::Restarting,
    DynoState::Crashed,
    DynoState::Stopping,
    DynoState::Stopped,
];

/// The formation in one line: `release v3 of myapp: 4 dynos up, 1 starting`.
fn line(status: &FormationStatus, shutting_down: bool) -> String {
    let mut line = match (&status.release, &status.app) {
        (Some(release), Some(app)) => format!("release {release} of {app}: "),
        _ => "no release yet: ".to_owned(),
    };
    if shutting_down {
        line.insert_str(0, "stopping: ");
    }
    let counts = STATES.map(|state| (state, status.dynos.iter().filter(|dyno| dyno.state == state).count()));
    let mut separator = "";
    for (state, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        let noun = match (separator, count) {
            ("", 1) => " dyno",
            ("", _) => " dynos",
            _ => "",
        };
        let _cannot_fail = write!(line, "{separator}{count}{noun} {}", state.word());
        separator = ", ";
    }
    if separator.is_empty() {
        line.push_str("no dyno runs");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dyno::DynoStatus;
    use crate::model::ReleaseVersion;

    fn status(release: Option<u64>, states: &[DynoState]) -> FormationStatus {
        let version = ReleaseVersion(release.unwrap_or(1));
        let dyno = |(state, n): (&DynoState, usize)| DynoStatus {
            state: *state,
            ..DynoStatus::never_started(format!("web.{n}").parse().unwrap(), version, 5000)
        };
        FormationStatus {
            app: release.map(|_| "myapp".parse().unwrap()),
            release: release.map(|_| version),
            formation: std::collections::BTreeMap::default(),
            dynos: states.iter().zip(1..).map(dyno).map(Arc::new).collect(),
        }
    }

    #[test]
    fn the_line_counts_the_dynos_of_each_state() {
        use DynoState::{Crashed, Retired, Starting, Stopping, Up};
        let line = |release, states: &[DynoState], shutting_down| {
            super::line(&status(release, states), shutting_down)
        };
        assert_eq!(
            line(Some(3), &[Starting, Up, Up, Up, Up], false),
            "release v3 of myapp: 4 dynos up, 1 starting"
        );
        assert_eq!(line(Some(3), &[Crashed, Retired], false), "release v3 of myapp: 1 dyno crashed");
        assert_eq!(
            line(Some(3), &[Stopping, Up], true),
            "stopping: release v3 of myapp: 1 dyno up, 1 stopping"
        );
        assert_eq!(line(Some(3), &[Retired], false), "release v3 of myapp: no dyno runs");
        assert_eq!(line(None, &[], false), "no release yet: no dyno runs");
    }
}
