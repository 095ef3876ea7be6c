//! The timers of an executor: how long each of them waits, and what is said when it fires.

use tokio::time::Instant;
use tracing::Level;

use super::super::fsm::{Input, Timer};
use super::super::policy::retry_after;
use super::super::status::{Health, Why};
use super::Executor;

impl Executor {
    /// Arms the timer; there is never more than one.
    pub(super) fn arm(&mut self, timer: Timer) {
        let wait = match timer {
            Timer::Boot(_) => self.policy.boot_timeout,
            Timer::Grace(_) => self.policy.stop_timeout,
            Timer::Backoff(crashes) => retry_after(crashes),
        };
        self.timer = Some((timer, Instant::now() + wait));
        if let Timer::Backoff(crashes) = timer {
            let text = format!("Crashed {crashes} times in a row; starting again in {wait:.1?}");
            self.say(Level::WARN, &text);
        }
    }

    /// The timer has fired.
    pub(super) fn fire(&mut self) -> Input {
        match self.timer.take() {
            Some((Timer::Grace(run), _)) => {
                let grace = self.policy.stop_timeout;
                let text = format!(
                    "Error R12 (Exit timeout) -> At least one process failed to exit within {grace:?} of SIGTERM"
                );
                self.say(Level::WARN, &text);
                // what else it was to end for, or has ended with by itself, says more
                if matches!(self.doom, Some(Why::Restarted | Why::Retired)) {
                    self.doom = Some(Why::ExitTimeout);
                }
                Input::GraceElapsed(run)
            }
            Some((Timer::Boot(run), _)) => {
                let missing = match &self.publish.borrow().health {
                    Health::Booting { missing: Some(missing) } => missing.clone(),
                    Health::Booting { missing: None } | Health::Unknown | Health::Healthy => {
                        "it has not said that it is ready".to_owned()
                    }
                };
                let time = self.policy.boot_timeout;
                let text =
                    format!("Error R10 (Boot timeout) -> Not ready within {time:?} of launch: {missing}");
                self.say(Level::ERROR, &text);
                self.doom.get_or_insert(Why::BootTimeout { missing });
                Input::BootElapsed(run)
            }
            Some((Timer::Backoff(_), _)) | None => Input::BackoffElapsed,
        }
    }
}
