//! The supervisor with a scripted driver behind the real trait, on a paused clock.

use hsup_drivers::{Exit, KillSignal, Network, Stdio};
use tokio::task::JoinHandle;
use tokio::time::Duration;

use super::*;
use crate::archive::Limits;
use crate::dyno::scripted::{Runs, Scripted, ScriptedRun};
use crate::dyno::{DynoState, Policy};
use crate::model::{AppName, CheckText, OfType, Quantities, RolloutSettings};
use crate::slug::Slugs;
use crate::sources::control_file;
use crate::stack::Stacks;

struct Bench {
    releases: watch::Sender<Option<Arrival>>,
    shutdown: watch::Sender<Shutdown>,
    handle: FormationHandle,
    live: watch::Receiver<Option<Arc<Release>>>,
    task: JoinHandle<Outcome>,
    runs: Runs,
}

impl Bench {
    fn new(work: Work, one_shot: bool, network: Network, builds: &[bool]) -> Self {
        let (driver, runs) = Scripted::new(network, builds, &[]);
        let policy = Policy { one_shot, ..Policy::default() };
        // the scripted driver starts nothing that could listen
        let readiness: OfType<CheckText> = "none".parse().unwrap();
        let readiness = [readiness].into_iter().collect();
        let rollout = RolloutSettings { readiness, ..RolloutSettings::default() };
        let settings = Settings {
            work,
            start_number: 1,
            policy,
            limits: Default::default(),
            rollout,
            listeners: Default::default(),
            skip_build: false,
        };
        let stacks = Stacks::new("/nonexistent".into(), None);
        let preparer =
            Preparer::new(driver, Slugs::new("/nonexistent".into(), Limits::default(), None), stacks);
        let (console, _written) = Console::of_process();
        let (releases, newest) = watch::channel(None);
        let (shutdown, shutdowns) = watch::channel(Shutdown::No);
        let supervisor = Supervisor::new(settings, preparer, console, Logs::for_tests(), Notes::to_nobody());
        let live = supervisor.live();
        let (handle, task) = supervisor.start(newest, shutdowns);
        Self { releases, shutdown, handle, live, task: tokio::spawn(task), runs }
    }

    fn start(network: Network, builds: &[bool]) -> Self {
        Self::new(Work::Formation { quantities: Quantities::OfRelease }, false, network, builds)
    }

    fn release(&self, version: u64, processes: &[(&str, u32)]) {
        self.release_rolling(version, processes, "replace");
    }

    fn release_rolling(&self, version: u64, processes: &[(&str, u32)], rollout: &str) {
        let processes: Vec<String> = processes
            .iter()
            .map(|(name, n)| {
                format!(r#"{{"Type":"{name}","Quantity":{n},"Args":["x"],"Rollout":"{rollout}"}}"#)
            })
            .collect();
        let json = format!(r#"{{"Version":{version},"Processes":[{}]}}"#, processes.join(","));
        let parsed = control_file::parse(json.as_bytes(), &AppName::unnamed()).unwrap();
        let (release, phase_done, scale) = (Arc::new(parsed.release), false, BTreeMap::new());
        self.releases.send_replace(Some(Arrival { release, phase_done, scale }));
    }

    async fn next(&mut self, name: &str) -> Arc<ScriptedRun> {
        let (started, run) = self.runs.recv().await.unwrap();
        assert_eq!(started, name);
        self.settle().await;
        run
    }

    /// Until every dyno that is being started is up.
    async fn settle(&self) {
        while self.handle.status().await.unwrap().dynos.iter().any(|dyno| dyno.state == DynoState::Starting) {
            tokio::task::yield_now().await;
        }
    }

    async fn dynos(&self) -> Vec<(String, DynoState)> {
        let status = self.handle.status().await.unwrap();
        status.dynos.iter().map(|dyno| (dyno.name.to_string(), dyno.state)).collect()
    }

    /// That no dyno is started in all the time that tests can have.
    async fn nothing_starts(&mut self) {
        let hour = tokio::time::Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, self.runs.recv()).await.is_err());
    }
}

fn state(name: &str, state: DynoState) -> (String, DynoState) {
    (name.to_owned(), state)
}

#[tokio::test(start_paused = true)]
async fn another_scale_restarts_nothing() {
    let mut bench = Bench::start(Network::Host, &[]);
    bench.release(1, &[("web", 2)]);
    let (one, two) = (bench.next("web.1").await, bench.next("web.2").await);
    bench.release(1, &[("web", 3)]);
    let three = bench.next("web.3").await;
    bench.release(1, &[("web", 1)]);
    while three.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!((one.signals(), two.signals()), (vec![], vec![KillSignal::Term]));
    two.exit(Exit::Code(0), true);
    three.exit(Exit::Code(0), true);
    bench.nothing_starts().await;
    assert_eq!(bench.dynos().await, [state("web.1", DynoState::Up)]);
}

#[tokio::test(start_paused = true)]
async fn another_scale_of_what_is_being_prepared_waits_with_it() {
    let mut bench = Bench::start(Network::Host, &[false, true]);
    bench.release(1, &[("web", 1)]);
    bench.handle.status().await.unwrap();
    bench.release(1, &[("web", 2)]);
    bench.next("web.1").await;
    bench.next("web.2").await;
    let live = bench.live.borrow().clone().unwrap();
    assert_eq!(live.formation.iter().next().unwrap().quantity.get(), 2);
    bench.nothing_starts().await;
}

#[tokio::test(start_paused = true)]
async fn on_the_hosts_network_a_successor_waits_until_its_predecessor_is_gone() {
    let mut bench = Bench::start(Network::Host, &[]);
    bench.release(1, &[("web", 1)]);
    let old = bench.next("web.1").await;
    bench.release(2, &[("web", 1)]);
    while old.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(bench.runs.try_recv().is_err());
    old.exit(Exit::Code(0), true);
    bench.next("web.1").await;
    assert_eq!(bench.handle.status().await.unwrap().release.unwrap().to_string(), "v2");
}

#[tokio::test(start_paused = true)]
async fn in_isolation_a_successor_starts_as_soon_as_its_predecessor_is_told_to_end() {
    let mut bench = Bench::start(Network::Isolated, &[]);
    bench.release(1, &[("web", 1)]);
    let old = bench.next("web.1").await;
    bench.release(2, &[("web", 1)]);
    bench.next("web.1").await;
    assert_eq!(old.signals(), [KillSignal::Term]);
    assert_eq!(bench.dynos().await, [state("web.1", DynoState::Stopping), state("web.1", DynoState::Up)]);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_cannot_be_prepared_touches_nothing_and_is_tried_again() {
    let mut bench = Bench::start(Network::Host, &[true, false, false]);
    bench.release(1, &[("web", 1)]);
    let old = bench.next("web.1").await;
    bench.release(2, &[("web", 1)]);
    let begin = Instant::now();
    while old.signals().is_empty() {
        assert_eq!(bench.dynos().await, [state("web.1", DynoState::Up)]);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!((2..=4).contains(&begin.elapsed().as_secs()), "two failures: a second and two, more or less");
    old.exit(Exit::Code(0), true);
    bench.next("web.1").await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_release_overtakes_one_that_cannot_be_prepared() {
    let mut bench = Bench::start(Network::Isolated, &[false]);
    bench.release(1, &[("web", 1)]);
    while bench.handle.status().await.is_ok_and(|status| status.release.is_none()) {
        tokio::task::yield_now().await;
        bench.release(2, &[("web", 1)]);
    }
    bench.next("web.1").await;
    assert_eq!(bench.handle.status().await.unwrap().release.unwrap().to_string(), "v2");
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_stops_stays_stopped_until_a_new_release() {
    let mut bench = Bench::start(Network::Host, &[]);
    bench.release(1, &[("web", 2), ("worker", 1)]);
    let web = [bench.next("web.1").await, bench.next("web.2").await];
    let worker = bench.next("worker.1").await;
    let handle = bench.handle.clone();
    let stop = tokio::spawn(async move {
        handle.stop(vec!["web.2".parse().unwrap(), "worker".parse().unwrap()]).await.unwrap().await.unwrap()
    });
    while worker.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    worker.exit(Exit::Code(0), true);
    assert!(!stop.is_finished(), "answered before web.2 was gone");
    let [one, two] = web;
    two.exit(Exit::Code(0), true);
    let stopped: Vec<String> = stop.await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(stopped, ["web.2", "worker.1"]);
    bench.nothing_starts().await;
    let down = [("web.1", DynoState::Up), ("web.2", DynoState::Retired), ("worker.1", DynoState::Retired)];
    assert_eq!(bench.dynos().await, down.map(|(name, is)| state(name, is)));

    bench.release(2, &[("web", 1), ("worker", 1)]);
    bench.next("worker.1").await;
    one.exit(Exit::Code(0), true);
    bench.next("web.1").await;
}

#[tokio::test(start_paused = true)]
async fn when_an_operator_has_stopped_everything_it_is_over() {
    let mut bench = Bench::start(Network::Host, &[]);
    bench.release(1, &[("web", 1)]);
    let web = bench.next("web.1").await;
    let handle = bench.handle.clone();
    let stop = tokio::spawn(async move { handle.stop(vec!["web".parse().unwrap()]).await.unwrap().await });
    while web.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    web.exit(Exit::Signal(15), true);
    assert_eq!(bench.task.await.unwrap(), Outcome::Stopped);
    assert_eq!(stop.await.unwrap().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn to_stop_what_is_not_there_is_answered_at_once() {
    let mut bench = Bench::start(Network::Host, &[]);
    assert_eq!(bench.handle.stop(vec!["web".parse().unwrap()]).await.unwrap().await.unwrap(), []);
    bench.release(1, &[("web", 1)]);
    bench.next("web.1").await;
    assert_eq!(bench.handle.stop(vec!["worker".parse().unwrap()]).await.unwrap().await.unwrap(), []);
    assert!(!bench.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn one_shot_dynos_give_the_highest_exit_status() {
    let work = Work::Formation { quantities: Quantities::OfRelease };
    let mut bench = Bench::new(work, true, Network::Host, &[]);
    bench.release(1, &[("a", 1), ("b", 1), ("c", 1)]);
    for (name, exit) in [("a.1", Exit::Code(0)), ("b.1", Exit::Code(3)), ("c.1", Exit::Code(1))] {
        bench.next(name).await.exit(exit, true);
    }
    assert_eq!(bench.task.await.unwrap(), Outcome::Finished(3));
}

#[tokio::test(start_paused = true)]
async fn a_one_off_dyno_gives_its_exit_status_even_when_it_is_told_to_end() {
    let command = vec!["x".to_owned()].try_into().unwrap();
    let mut bench = Bench::new(Work::OneOff { command, stdio: Stdio::Inherit }, false, Network::Host, &[]);
    bench.release(1, &[("web", 1)]);
    let run = bench.next("run.1").await;
    bench.shutdown.send_replace(Shutdown::Graceful);
    while run.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    run.exit(Exit::Code(5), true);
    assert_eq!(bench.task.await.unwrap(), Outcome::Finished(5));
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_start_ends_when_its_release_cannot_be_prepared() {
    let work = Work::Formation { quantities: Quantities::OfRelease };
    let bench = Bench::new(work, true, Network::Host, &[false]);
    bench.release(1, &[("web", 1)]);
    assert_eq!(bench.task.await.unwrap(), Outcome::NotPrepared);
    let bench = Bench::new(Work::Build, false, Network::Host, &[]);
    bench.release(1, &[("web", 1)]);
    assert_eq!(bench.task.await.unwrap(), Outcome::Finished(0));
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_graceful_first_and_then_at_once() {
    let mut bench = Bench::start(Network::Host, &[]);
    bench.release(1, &[("web", 2)]);
    let runs = [bench.next("web.1").await, bench.next("web.2").await];
    bench.shutdown.send_replace(Shutdown::Graceful);
    while runs.iter().any(|run| run.signals() != [KillSignal::Term]) {
        tokio::task::yield_now().await;
    }
    assert!(!bench.task.is_finished());
    let begin = Instant::now();
    bench.shutdown.send_replace(Shutdown::Now);
    assert_eq!(bench.task.await.unwrap(), Outcome::Stopped);
    assert_eq!(begin.elapsed(), std::time::Duration::ZERO);
    assert!(runs.iter().all(|run| run.signals() == [KillSignal::Term, KillSignal::Kill]));
}

#[tokio::test(start_paused = true)]
async fn scaling_to_nothing_is_not_the_end_even_where_something_was_stopped() {
    let mut bench = Bench::start(Network::Isolated, &[]);
    bench.release(1, &[("web", 1), ("worker", 1)]);
    let (web, worker) = (bench.next("web.1").await, bench.next("worker.1").await);
    bench.release(1, &[("web", 1), ("worker", 0)]);
    while worker.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    worker.exit(Exit::Code(0), true);
    bench.release(1, &[("web", 0), ("worker", 0)]);
    while web.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    web.exit(Exit::Code(0), true);
    bench.nothing_starts().await;
    assert!(!bench.task.is_finished());
    bench.release(1, &[("web", 1)]);
    bench.next("web.1").await;
}

#[tokio::test(start_paused = true)]
async fn a_scaling_to_what_an_operator_has_stopped_is_not_the_end() {
    let mut bench = Bench::start(Network::Isolated, &[]);
    bench.release(1, &[("clock", 1), ("worker", 1)]);
    let (clock, worker) = (bench.next("clock.1").await, bench.next("worker.1").await);
    let handle = bench.handle.clone();
    let stop = tokio::spawn(async move { handle.stop(vec!["clock".parse().unwrap()]).await.unwrap().await });
    while clock.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    clock.exit(Exit::Code(0), true);
    assert_eq!(stop.await.unwrap().unwrap().len(), 1);
    bench.release(1, &[("clock", 1), ("worker", 0)]);
    while worker.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    worker.exit(Exit::Code(0), true);
    bench.nothing_starts().await;
    assert!(!bench.task.is_finished());
    bench.release(1, &[("clock", 1), ("worker", 2)]);
    bench.next("worker.1").await;
}

#[tokio::test(start_paused = true)]
async fn a_dyno_that_waits_for_its_predecessor_can_be_stopped() {
    let mut bench = Bench::start(Network::Host, &[]);
    bench.release(1, &[("web", 1), ("worker", 1)]);
    let web = bench.next("web.1").await;
    let worker = bench.next("worker.1").await;
    bench.release(2, &[("web", 1), ("worker", 1)]);
    while web.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    let handle = bench.handle.clone();
    let stop =
        tokio::spawn(async move { handle.stop(vec!["web".parse().unwrap()]).await.unwrap().await.unwrap() });
    tokio::task::yield_now().await;
    web.exit(Exit::Code(0), true);
    assert_eq!(stop.await.unwrap(), ["web.1".parse().unwrap()]);
    worker.exit(Exit::Code(0), true);
    bench.next("worker.1").await;
    bench.nothing_starts().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_shut_down_before_it_has_run_is_no_success() {
    for work in [
        Work::Build,
        Work::OneOff { command: vec!["x".to_owned()].try_into().unwrap(), stdio: Stdio::Inherit },
    ] {
        let bench = Bench::new(work, false, Network::Host, &[]);
        bench.shutdown.send_replace(Shutdown::Graceful);
        assert_eq!(bench.task.await.unwrap(), Outcome::Interrupted);
    }
}

#[path = "supervisor_rollout_tests.rs"]
mod rollouts;
