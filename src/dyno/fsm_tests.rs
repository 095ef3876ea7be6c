//! The laws of the state machine: as a table, on random traces, and by visiting every state that a dyno and
//! its driver can reach together.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write;

use hsup_drivers::KillSignal;
use proptest::prelude::*;

use super::*;

const RUN: RunId = RunId(1);
const NO_RUN: RunId = RunId(99);

fn phases() -> Vec<Phase> {
    use Cause::{Crash, Restart};
    let stopped = [false, true].map(|backing_off| Phase::Stopped { backing_off });
    let started = [
        Started::Starting,
        Started::Booting,
        Started::Up,
        Started::Ending(Restart),
        Started::Ending(Crash),
        Started::Killing(Restart),
        Started::Killing(Crash),
    ];
    let retiring = [
        Retiring::Starting(KillSignal::Term),
        Retiring::Starting(KillSignal::Kill),
        Retiring::Ending,
        Retiring::Killing,
    ];
    let started = started.map(Phase::Started);
    stopped.into_iter().chain(started).chain(retiring.map(Phase::Retiring)).chain([Phase::Retired]).collect()
}

fn inputs(run: RunId) -> Vec<Input> {
    let exited = [false, true].map(|lasted| Input::Exited { run, lasted });
    [Input::StayStarted, Input::Restart, Input::Retire, Input::Kill]
        .into_iter()
        .chain([Input::Spawned(run), Input::StartFailed(run), Input::Ready(run), Input::BootElapsed(run)])
        .chain([Input::Unhealthy(run), Input::MainExited(run)])
        .chain(exited)
        .chain([Input::GraceElapsed(run), Input::BackoffElapsed])
        .collect()
}

/// Every state with every input, one line each: a change of the machine shows as a change of this table.
#[test]
fn every_state_with_every_input_is_as_in_the_table() {
    let mut table = String::new();
    for (phase, input) in
        phases().into_iter().flat_map(|phase| inputs(RUN).into_iter().map(move |i| (phase, i)))
    {
        let state = State { phase, run: RUN, crashes: 1 };
        let steps = [false, true].map(|gated| step(state, input, Rules { one_shot: false, gated }));
        for (n, Step { next, effects }) in steps.iter().enumerate() {
            if (*next == state && effects.is_empty()) || (n == 1 && steps[0] == steps[1]) {
                continue;
            }
            let State { phase: to, run, crashes } = next;
            let gated = if n == 1 { " (gated)" } else { "" };
            writeln!(table, "{phase:?} + {input:?}{gated}").unwrap();
            writeln!(table, "  -> {to:?} run {} crashes {crashes} {effects:?}", run.0).unwrap();
        }
    }
    assert_eq!(table, include_str!("fsm_table.txt"), "the new table:\n{table}");
}

#[test]
fn a_fact_of_another_run_changes_nothing() {
    for (phase, rules) in phases().into_iter().flat_map(|phase| all_rules().map(|rules| (phase, rules))) {
        let state = State { phase, run: RUN, crashes: 3 };
        for input in inputs(NO_RUN).into_iter().filter(is_run_fact) {
            let Step { next, effects } = step(state, input, rules);
            assert_eq!((next, effects), (state, vec![]), "{phase:?} + {input:?}");
        }
    }
}

fn all_rules() -> [Rules; 4] {
    [(false, false), (true, false), (false, true), (true, true)]
        .map(|(one_shot, gated)| Rules { one_shot, gated })
}

fn is_run_fact(input: &Input) -> bool {
    match input {
        Input::Spawned(_)
        | Input::StartFailed(_)
        | Input::Ready(_)
        | Input::BootElapsed(_)
        | Input::Unhealthy(_)
        | Input::MainExited(_)
        | Input::Exited { .. }
        | Input::GraceElapsed(_) => true,
        Input::StayStarted | Input::Restart | Input::Retire | Input::Kill | Input::BackoffElapsed => false,
    }
}

/// What there is of a run, as far as the machine is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Processes {
    None,
    Starting,
    /// `main` has not ended; `told` is the last signal.
    Running {
        main: bool,
        told: Option<KillSignal>,
    },
}

/// A dyno, its driver, its timer and its operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    dyno: State,
    processes: Processes,
    timer: Option<Timer>,
    given_up: bool,
}

impl World {
    /// What can happen next. A process may end at any moment or ignore SIGTERM; a killed one can only end.
    fn inputs(&self) -> Vec<Input> {
        let run = self.dyno.run;
        let exits = [false, true].map(|lasted| Input::Exited { run, lasted });
        let mut inputs = vec![Input::StayStarted, Input::Restart, Input::Retire, Input::Kill];
        inputs.extend(self.fact());
        match self.processes {
            Processes::None => {}
            Processes::Starting => inputs.extend([Input::Spawned(run), Input::StartFailed(run)]),
            Processes::Running { main, told: _ } => {
                inputs.extend(exits);
                inputs.extend(main.then_some(Input::MainExited(run)));
                inputs.extend([Input::Ready(run), Input::Unhealthy(run)]);
            }
        }
        inputs
    }

    /// What the timer will say.
    fn fact(&self) -> Option<Input> {
        self.timer.map(|timer| match timer {
            Timer::Boot(run) => Input::BootElapsed(run),
            Timer::Grace(run) => Input::GraceElapsed(run),
            Timer::Backoff(_) => Input::BackoffElapsed,
        })
    }

    /// What must happen at last even if every process ignores SIGTERM and none ends by itself.
    fn inevitable(&self) -> Option<Input> {
        let run = self.dyno.run;
        match self.processes {
            Processes::Starting => Some(Input::Spawned(run)),
            Processes::Running { told: Some(KillSignal::Kill), .. } => {
                Some(Input::Exited { run, lasted: false })
            }
            Processes::None | Processes::Running { .. } => self.fact(),
        }
    }

    fn after(mut self, input: Input, rules: Rules) -> Self {
        if Some(input) == self.fact() {
            self.timer = None;
        }
        let run = self.dyno.run;
        self.processes = match (input, self.processes) {
            (Input::Spawned(_), _) => Processes::Running { main: true, told: None },
            (Input::StartFailed(_) | Input::Exited { .. }, _) => Processes::None,
            (Input::MainExited(_), Processes::Running { told, .. }) => {
                Processes::Running { main: false, told }
            }
            (_, processes) => processes,
        };
        self.given_up |= matches!(input, Input::Retire | Input::Kill);
        let Step { next, effects } = step(self.dyno, input, rules);
        self.dyno = next;
        for effect in effects {
            self.perform(effect, run);
        }
        self.check(input, rules);
        self
    }

    fn perform(&mut self, effect: Effect, run: RunId) {
        match effect {
            Effect::Spawn(new) => {
                assert_eq!(self.processes, Processes::None, "two runs at a time: {self:?}");
                assert_eq!(new, run.next());
                assert!(!self.given_up, "spawned after it was given up: {self:?}");
                self.processes = Processes::Starting;
            }
            Effect::Signal(of, signal) => {
                let Processes::Running { main, .. } = self.processes else {
                    panic!("nothing there to be signalled: {self:?}");
                };
                assert_eq!(of, run);
                self.processes = Processes::Running { main, told: Some(signal) };
            }
            Effect::ArmTimer(timer) => {
                let free = matches!(self.timer, None | Some(Timer::Boot(_)));
                assert!(free, "the timer was armed already: {self:?}");
                self.timer = Some(timer);
            }
            Effect::CancelTimer => {
                assert!(self.timer.is_some(), "no timer to be cancelled: {self:?}");
                self.timer = None;
            }
        }
    }

    fn check(&self, input: Input, rules: Rules) {
        let told = match self.processes {
            Processes::Running { told, .. } => told,
            Processes::None | Processes::Starting => None,
        };
        match told {
            Some(KillSignal::Term) => {
                assert_eq!(
                    self.timer,
                    Some(Timer::Grace(self.dyno.run)),
                    "no grace timer after {input:?}: {self:?}"
                );
            }
            Some(KillSignal::Kill) => assert_eq!(self.timer, None),
            None => {}
        }
        let booting = self.dyno.phase == Phase::Started(Started::Booting);
        assert_eq!(booting, self.timer == Some(Timer::Boot(self.dyno.run)), "boots for ever: {self:?}");
        assert_eq!(
            self.processes == Processes::None,
            matches!(self.dyno.phase, Phase::Stopped { .. } | Phase::Retired),
            "{self:?}"
        );
        if self.dyno.phase == Phase::Retired {
            assert_eq!(self.timer, None, "{self:?}");
        }
        if let (Phase::Stopped { backing_off }, true) = (self.dyno.phase, self.dyno.run.0 > 0) {
            assert!(backing_off && self.dyno.crashes >= 2, "stopped for good without being asked: {self:?}");
        }
        assert!(!rules.one_shot || self.dyno.run.0 <= 1, "a one-shot dyno ran twice: {self:?}");
    }

    /// Whoever has been given up is retired, whatever its processes do.
    fn check_retires(mut self, rules: Rules) {
        for _ in 0..6 {
            if self.dyno.phase == Phase::Retired {
                return;
            }
            let Some(input) = self.inevitable() else { panic!("stuck: {self:?}") };
            self = self.after(input, rules);
        }
        panic!("never retired: {self:?}");
    }
}

const START: World = World {
    dyno: State { phase: Phase::Stopped { backing_off: false }, run: RunId(0), crashes: 0 },
    processes: Processes::None,
    timer: None,
    given_up: false,
};

/// Visits every state that can be reached within so many runs: more runs differ in numbers only.
fn explore(rules: Rules, runs: u64) -> usize {
    let mut seen = HashSet::from([START]);
    let mut queue = VecDeque::from([START]);
    while let Some(world) = queue.pop_front() {
        if world.given_up {
            world.check_retires(rules);
        }
        for input in world.inputs() {
            let next = world.after(input, rules);
            if next.dyno.run.0 <= runs && seen.insert(next) {
                queue.push_back(next);
            }
        }
    }
    seen.len()
}

#[test]
fn the_laws_hold_in_every_state_that_can_be_reached() {
    for rules in all_rules() {
        let states = explore(rules, 5);
        assert!(states > if rules.one_shot { 12 } else { 200 }, "{rules:?}: {states}");
    }
}

proptest! {
    #[test]
    fn the_laws_hold_on_long_random_traces(choices in prop::collection::vec(any::<prop::sample::Index>(), 0..400), one_shot: bool, gated: bool) {
        let rules = Rules { one_shot, gated };
        let mut world = START;
        for choice in choices {
            let inputs = world.inputs();
            world = world.after(*choice.get(&inputs), rules);
        }
        world.after(Input::Retire, rules).check_retires(rules);
    }

    #[test]
    fn no_input_in_any_order_makes_it_panic(choices in prop::collection::vec((any::<prop::sample::Index>(), 0..3_u64), 0..200), one_shot: bool, gated: bool) {
        let mut state = State::default();
        for (choice, run) in choices {
            let inputs = inputs(RunId(run));
            state = step(state, *choice.get(&inputs), Rules { one_shot, gated }).next;
        }
    }
}
