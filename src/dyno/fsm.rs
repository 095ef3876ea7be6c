//! The state machine of one dyno: pure and total. No I/O, no clock, no randomness.
//!
//! [`step`] takes a state and an input and gives the next state and what is to be done. Its laws, each checked
//! by exhaustive exploration in the tests below:
//! - a dyno has at most one run at a time;
//! - a fact of a run that is over changes nothing;
//! - after `Retire` or `Kill` nothing is spawned, and `Retired` is always reached;
//! - whenever SIGTERM has been sent and the run is not over, the grace timer is armed or SIGKILL has been sent;
//! - a run that is to prove itself ready has the boot timer armed until it does, and does not boot for ever;
//! - a one-shot dyno never runs twice;
//! - a run that crashed, one that never started and one that never got ready all count, and from the second in a
//!   row on they back off.
//!
//! ```text
//!             StayStarted, Restart                       Retire, Kill
//!   Stopped ------------------------> Started(run) ---------------------> Retiring(run)
//!      ^  <---------------------------     |   ^                               |
//!      |    second crash: back off         +---+ crash, Restart                | all processes gone
//!      |                                  (a new run)                          v
//!      +---------------------------------------------------------------->  Retired
//! ```

use hsup_drivers::KillSignal;

/// Which run of a dyno: the first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(u64);

impl RunId {
    /// The run that follows.
    #[must_use]
    fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Its number.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// What a dyno is and has been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What it is.
    pub phase: Phase,
    /// The run that is going on or, between runs, was the last one.
    pub run: RunId,
    /// How many runs in a row have crashed or not started.
    pub crashes: u32,
}

impl Default for State {
    /// A dyno that nothing has been asked of yet.
    fn default() -> Self {
        Self { phase: Phase::Stopped { backing_off: false }, run: RunId::default(), crashes: 0 }
    }
}

/// The states of a dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No run.
    Stopped {
        /// Whether the backoff timer is armed: it will be started again by itself.
        backing_off: bool,
    },
    /// There is a run, and another one follows if it ends.
    Started(Started),
    /// There is a run, and none will follow.
    Retiring(Retiring),
    /// Over, for good.
    Retired,
}

/// How far the run of a started dyno is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Started {
    /// Asked of the driver.
    Starting,
    /// Running, and not ready yet; the boot timer is armed.
    Booting,
    /// Running, and ready where it has to say so.
    Up,
    /// Told to end; the grace timer is armed.
    Ending(Cause),
    /// Killed.
    Killing(Cause),
}

/// Why the run of a dyno that stays started is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Somebody asked for a restart: the next run follows at once.
    Restart,
    /// Its main process has ended by itself, or it was not ready in time, or its liveness check failed: what is
    /// there of it is being ended.
    Crash,
}

/// How far the last run of a dyno is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retiring {
    /// Asked of the driver; it is to be sent this signal as soon as it is there.
    Starting(KillSignal),
    /// Told to end; the grace timer is armed.
    Ending,
    /// Killed.
    Killing,
}

/// What can happen to a dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Command: run, and keep running.
    StayStarted,
    /// Command: end this run and begin another.
    Restart,
    /// Command: end in good order, for good.
    Retire,
    /// Command: end now, for good.
    Kill,
    /// Fact: the driver has started the run.
    Spawned(RunId),
    /// Fact: the driver could not start the run; nothing of it is left.
    StartFailed(RunId),
    /// Fact: the run is ready.
    Ready(RunId),
    /// Fact: the boot timer of the run has fired.
    BootElapsed(RunId),
    /// Fact: the run has failed its liveness check.
    Unhealthy(RunId),
    /// Fact: the main process has ended, and others of the run have not.
    MainExited(RunId),
    /// Fact: every process of the run is gone.
    Exited {
        /// The run.
        run: RunId,
        /// Whether it had been up for long enough not to count as one more crash in a row.
        lasted: bool,
    },
    /// Fact: the grace timer of the run has fired.
    GraceElapsed(RunId),
    /// Fact: the backoff timer has fired.
    BackoffElapsed,
}

/// Something to be done by the executor.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Ask the driver for a run.
    Spawn(RunId),
    /// Signal every process of the run.
    Signal(RunId, KillSignal),
    /// Arm the timer, in place of what it was armed for.
    ArmTimer(Timer),
    /// Disarm the timer.
    CancelTimer,
}

/// What the one timer of a dyno can be armed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// The time that a run has for getting ready.
    Boot(RunId),
    /// The time that a run has for ending after SIGTERM.
    Grace(RunId),
    /// The time before the next run, after this many crashes in a row.
    Backoff(u32),
}

/// How a dyno goes on.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state it is in now.
    pub next: State,
    /// What is to be done, in this order.
    pub effects: Vec<Effect>,
}

/// What [`step`] has to know beside the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether the dyno runs once only.
    pub one_shot: bool,
    /// Whether a run has to prove itself ready before it is up.
    pub gated: bool,
}

/// Takes a dyno one step further.
pub fn step(state: State, input: Input, rules: Rules) -> Step {
    match state.phase {
        Phase::Stopped { backing_off } => stopped(state, backing_off, input),
        Phase::Started(started) => self::started(state, started, input, rules),
        Phase::Retiring(retiring) => self::retiring(state, retiring, input),
        Phase::Retired => stay(state),
    }
}

fn stopped(state: State, backing_off: bool, input: Input) -> Step {
    let disarm = backing_off.then_some(Effect::CancelTimer);
    match input {
        Input::StayStarted if backing_off => stay(state),
        Input::StayStarted => spawn(state, state.crashes, []),
        Input::Restart => spawn(state, 0, disarm),
        Input::BackoffElapsed if backing_off => spawn(state, state.crashes, []),
        Input::Retire | Input::Kill => go(state, Phase::Retired, disarm),
        // No run is going on, so that any fact of a run is one of the past.
        Input::BackoffElapsed
        | Input::Spawned(_)
        | Input::StartFailed(_)
        | Input::Ready(_)
        | Input::BootElapsed(_)
        | Input::Unhealthy(_)
        | Input::MainExited(_)
        | Input::Exited { .. }
        | Input::GraceElapsed(_) => stay(state),
    }
}

fn started(state: State, started: Started, input: Input, rules: Rules) -> Step {
    let run = state.run;
    match input {
        Input::StayStarted | Input::BackoffElapsed => stay(state),
        Input::Restart => {
            let calm = State { crashes: 0, ..state };
            match started {
                Started::Starting => go(calm, state.phase, []),
                Started::Booting | Started::Up => {
                    go(calm, Phase::Started(Started::Ending(Cause::Restart)), end(run))
                }
                Started::Ending(_) => go(calm, Phase::Started(Started::Ending(Cause::Restart)), []),
                Started::Killing(_) => go(calm, Phase::Started(Started::Killing(Cause::Restart)), []),
            }
        }
        Input::Retire => match started {
            Started::Starting => go(state, Phase::Retiring(Retiring::Starting(KillSignal::Term)), []),
            Started::Booting | Started::Up => go(state, Phase::Retiring(Retiring::Ending), end(run)),
            Started::Ending(_) => go(state, Phase::Retiring(Retiring::Ending), []),
            Started::Killing(_) => go(state, Phase::Retiring(Retiring::Killing), []),
        },
        Input::Kill => match started {
            Started::Starting => go(state, Phase::Retiring(Retiring::Starting(KillSignal::Kill)), []),
            Started::Up => go(state, Phase::Retiring(Retiring::Killing), [kill(run)]),
            Started::Booting | Started::Ending(_) => {
                go(state, Phase::Retiring(Retiring::Killing), [Effect::CancelTimer, kill(run)])
            }
            Started::Killing(_) => go(state, Phase::Retiring(Retiring::Killing), []),
        },
        Input::Spawned(of)
        | Input::StartFailed(of)
        | Input::Ready(of)
        | Input::BootElapsed(of)
        | Input::Unhealthy(of)
        | Input::MainExited(of)
        | Input::Exited { run: of, .. }
        | Input::GraceElapsed(of) => {
            if of == run {
                started_hears(state, started, input, rules)
            } else {
                stay(state)
            }
        }
    }
}

/// A started dyno hears a fact of the run that is going on.
fn started_hears(state: State, started: Started, fact: Input, rules: Rules) -> Step {
    let run = state.run;
    let to = |started, effects: &[Effect]| go(state, Phase::Started(started), effects.iter().copied());
    match (started, fact) {
        (Started::Starting, Input::Spawned(_)) if rules.gated => {
            to(Started::Booting, &[Effect::ArmTimer(Timer::Boot(run))])
        }
        (Started::Starting, Input::Spawned(_)) => to(Started::Up, &[]),
        (Started::Starting, Input::StartFailed(_)) => crashed(state, false, [], rules),
        (Started::Booting, Input::Ready(_)) => to(Started::Up, &[Effect::CancelTimer]),
        (Started::Booting, Input::BootElapsed(_) | Input::MainExited(_))
        | (Started::Up, Input::Unhealthy(_) | Input::MainExited(_)) => {
            to(Started::Ending(Cause::Crash), &end(run))
        }
        (Started::Up | Started::Killing(Cause::Crash), Input::Exited { lasted, .. }) => {
            crashed(state, lasted, [], rules)
        }
        (Started::Booting | Started::Ending(Cause::Crash), Input::Exited { lasted, .. }) => {
            crashed(state, lasted, [Effect::CancelTimer], rules)
        }
        (Started::Ending(Cause::Restart), Input::Exited { .. }) => {
            restarted(state, [Effect::CancelTimer], rules)
        }
        (Started::Killing(Cause::Restart), Input::Exited { .. }) => restarted(state, [], rules),
        (Started::Ending(cause), Input::GraceElapsed(_)) => to(Started::Killing(cause), &[kill(run)]),
        (
            Started::Starting | Started::Booting | Started::Up | Started::Ending(_) | Started::Killing(_),
            Input::StayStarted
            | Input::Restart
            | Input::Retire
            | Input::Kill
            | Input::Spawned(_)
            | Input::StartFailed(_)
            | Input::Ready(_)
            | Input::BootElapsed(_)
            | Input::Unhealthy(_)
            | Input::MainExited(_)
            | Input::Exited { .. }
            | Input::GraceElapsed(_)
            | Input::BackoffElapsed,
        ) => stay(state),
    }
}

fn retiring(state: State, retiring: Retiring, input: Input) -> Step {
    let run = state.run;
    let to = |retiring, effects: &[Effect]| go(state, Phase::Retiring(retiring), effects.iter().copied());
    match input {
        Input::Kill => match retiring {
            Retiring::Starting(_) => to(Retiring::Starting(KillSignal::Kill), &[]),
            Retiring::Ending => to(Retiring::Killing, &[Effect::CancelTimer, kill(run)]),
            Retiring::Killing => stay(state),
        },
        Input::Spawned(of) if of == run => match retiring {
            Retiring::Starting(KillSignal::Term) => to(Retiring::Ending, &end(run)),
            Retiring::Starting(KillSignal::Kill) => to(Retiring::Killing, &[kill(run)]),
            Retiring::Ending | Retiring::Killing => stay(state),
        },
        Input::StartFailed(of) if of == run => match retiring {
            Retiring::Starting(_) => go(state, Phase::Retired, []),
            Retiring::Ending | Retiring::Killing => stay(state),
        },
        Input::Exited { run: of, .. } if of == run => match retiring {
            Retiring::Starting(_) => stay(state),
            Retiring::Ending => go(state, Phase::Retired, [Effect::CancelTimer]),
            Retiring::Killing => go(state, Phase::Retired, []),
        },
        Input::GraceElapsed(of) if of == run => match retiring {
            Retiring::Ending => to(Retiring::Killing, &[kill(run)]),
            Retiring::Starting(_) | Retiring::Killing => stay(state),
        },
        Input::StayStarted
        | Input::Restart
        | Input::Retire
        | Input::Spawned(_)
        | Input::StartFailed(_)
        | Input::Ready(_)
        | Input::BootElapsed(_)
        | Input::Unhealthy(_)
        | Input::MainExited(_)
        | Input::Exited { .. }
        | Input::GraceElapsed(_)
        | Input::BackoffElapsed => stay(state),
    }
}

/// The run has ended by itself: a one-shot dyno is done; another one is started again, the first time at once.
fn crashed<const N: usize>(state: State, lasted: bool, before: [Effect; N], rules: Rules) -> Step {
    if rules.one_shot {
        return go(state, Phase::Retired, before);
    }
    let crashes = if lasted { 1 } else { state.crashes.saturating_add(1) };
    if crashes == 1 {
        return spawn(state, crashes, before);
    }
    let back_off = Effect::ArmTimer(Timer::Backoff(crashes));
    let state = State { crashes, ..state };
    go(state, Phase::Stopped { backing_off: true }, before.into_iter().chain([back_off]))
}

/// The run has ended because a restart was asked for. A one-shot dyno has had its one run.
fn restarted<const N: usize>(state: State, before: [Effect; N], rules: Rules) -> Step {
    if rules.one_shot { go(state, Phase::Retired, before) } else { spawn(state, 0, before) }
}

fn spawn(state: State, crashes: u32, before: impl IntoIterator<Item = Effect>) -> Step {
    let next = State { phase: Phase::Started(Started::Starting), run: state.run.next(), crashes };
    Step { next, effects: before.into_iter().chain([Effect::Spawn(next.run)]).collect() }
}

fn end(run: RunId) -> [Effect; 2] {
    [Effect::ArmTimer(Timer::Grace(run)), Effect::Signal(run, KillSignal::Term)]
}

fn kill(run: RunId) -> Effect {
    Effect::Signal(run, KillSignal::Kill)
}

fn go(state: State, phase: Phase, effects: impl IntoIterator<Item = Effect>) -> Step {
    Step { next: State { phase, ..state }, effects: effects.into_iter().collect() }
}

fn stay(state: State) -> Step {
    go(state, state.phase, [])
}

#[cfg(test)]
#[path = "fsm_tests.rs"]
mod tests;
