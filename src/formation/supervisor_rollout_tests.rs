//! How the supervisor goes from one release to another, and back.

use super::*;

/// Ends every run at once, until a dyno is to wait before its next one.
async fn crash(bench: &mut Bench, name: &str) {
    bench.next(name).await.exit(Exit::Code(1), true);
    bench.next(name).await.exit(Exit::Code(1), true);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_crashes_makes_way_for_the_last_good_one() {
    for rollout in ["replace", "rolling", "overlap"] {
        let mut bench = Bench::start(Network::Isolated, &[]);
        bench.release_rolling(1, &[("web", 1)], rollout);
        let good = bench.next("web.1").await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        bench.release_rolling(2, &[("web", 1)], rollout);
        crash(&mut bench, "web.1").await;
        assert_eq!(good.signals().is_empty(), rollout == "overlap", "{rollout}");
        if rollout != "overlap" {
            good.exit(Exit::Code(0), true);
            bench.next("web.1").await;
        }
        bench.nothing_starts().await;
        let status = bench.handle.status().await.unwrap();
        assert_eq!(status.release.unwrap().to_string(), "v1");
        assert_eq!(bench.live.borrow().as_ref().unwrap().version.0, 1);
        assert_eq!(bench.dynos().await, [state("web.1", DynoState::Up)], "{rollout}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_overlaps_is_retired_when_its_successor_has_been_up_for_long_enough() {
    let mut bench = Bench::start(Network::Isolated, &[]);
    bench.release_rolling(1, &[("web", 1)], "overlap");
    let old = bench.next("web.1").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    bench.release_rolling(2, &[("web", 1)], "overlap");
    bench.next("web.1").await;
    let begin = Instant::now();
    while old.signals().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_was_up_for_a_moment_is_better_than_one_that_crashes() {
    let mut bench = Bench::start(Network::Isolated, &[]);
    bench.release(1, &[("web", 1)]);
    let first = bench.next("web.1").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    bench.release(2, &[("web", 1)]);
    while first.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    first.exit(Exit::Code(0), true);
    crash(&mut bench, "web.1").await;
    bench.next("web.1").await;
    assert_eq!(bench.handle.status().await.unwrap().release.unwrap().to_string(), "v1");
}

#[tokio::test(start_paused = true)]
async fn a_first_release_that_crashes_is_tried_again() {
    let mut bench = Bench::start(Network::Isolated, &[]);
    bench.release(1, &[("web", 1)]);
    crash(&mut bench, "web.1").await;
    bench.next("web.1").await;
}

impl Bench {
    /// A release with a release phase.
    fn release_with_phase(&self, version: u64) {
        self.release(version, &[("web", 1), ("release", 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_release_phase_runs_at_a_time() {
    let mut bench = Bench::start(Network::Isolated, &[]);
    bench.release_with_phase(1);
    let first = bench.next("release.1").await;
    bench.release_with_phase(2);
    while first.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(bench.runs.try_recv().is_err(), "two migrate at once");
    first.exit(Exit::Signal(15), true);
    bench.next("release.1").await.exit(Exit::Code(0), true);
    bench.next("web.1").await;
    assert_eq!(bench.handle.status().await.unwrap().release.unwrap().to_string(), "v2");
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_release_phase_is_answered() {
    let mut bench = Bench::start(Network::Isolated, &[]);
    bench.release(1, &[("web", 1)]);
    bench.next("web.1").await;
    bench.release_with_phase(2);
    let phase = bench.next("release.1").await;
    let handle = bench.handle.clone();
    let stop =
        tokio::spawn(
            async move { handle.stop(vec!["release".parse().unwrap()]).await.unwrap().await.unwrap() },
        );
    while phase.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    phase.exit(Exit::Signal(15), true);
    assert_eq!(stop.await.unwrap(), ["release.1".parse().unwrap()]);
    assert_eq!(bench.dynos().await, [state("web.1", DynoState::Up)]);
}

#[tokio::test(start_paused = true)]
async fn a_scale_that_cannot_be_had_is_refused_and_does_not_hold_a_release_up() {
    let mut bench = Bench::start(Network::Host, &[]);
    bench.release(1, &[("web", 1)]);
    bench.next("web.1").await;
    let scale = |name: &str, n: u32| BTreeMap::from([(name.parse().unwrap(), n.try_into().unwrap())]);
    let refused = bench.handle.check_scale(scale("wbe", 1)).await.unwrap().unwrap_err().to_string();
    assert_eq!(refused, "no dyno is called wbe; there are: web");
    assert!(bench.handle.check_scale(scale("release", 1)).await.unwrap().is_err());
    assert_eq!(bench.handle.check_scale(scale("web", 10)).await.unwrap(), Ok(()));
    let json = br#"{"Version":2,"Env":{"PORT":"65535"},"Processes":[{"Type":"web","Args":["x"]}]}"#;
    let release = Arc::new(control_file::parse(json, &AppName::unnamed()).unwrap().release);
    bench.releases.send_replace(Some(Arrival { release, phase_done: false, scale: scale("web", 9) }));
    bench.live.wait_for(|live| live.as_ref().is_some_and(|live| live.version.0 == 2)).await.unwrap();
    let refused = bench.handle.check_scale(scale("web", 2)).await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("no port is left for web.2"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_release_is_not_its_own_way_back() {
    let mut bench = Bench::start(Network::Isolated, &[]);
    bench.release(1, &[("web", 1)]);
    bench.next("web.1").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    for version in [2, 1] {
        bench.release(version, &[("web", 1)]);
        bench.next("web.1").await;
    }
    // by the time it crashes it has proved nothing since, and there is nowhere to go
    let live = bench.live.borrow().clone().unwrap();
    assert_eq!(live.version.0, 1);
    bench.release(1, &[("web", 2)]);
    crash(&mut bench, "web.2").await;
    bench.next("web.2").await;
    assert_eq!(bench.live.borrow().as_ref().unwrap().version.0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_rolling_restart_is_one_time_only() {
    let mut bench = Bench::start(Network::Isolated, &[]);
    bench.release(1, &[("web", 2)]);
    bench.next("web.1").await;
    bench.next("web.2").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    bench.handle.restart(vec!["web".parse().unwrap()], true).await.unwrap();
    bench.next("web.1").await;
    let two = bench.next("web.2").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = Instant::now();
    bench.handle.restart(vec!["web.2".parse().unwrap()], false).await.unwrap();
    while two.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    two.exit(Exit::Code(0), true);
    bench.next("web.2").await;
    assert_eq!(before.elapsed(), Duration::ZERO, "it is replaced as what rolls is");
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_scaled_while_another_release_is_on_its_way_or_refused() {
    let builds = [true, false, false, false, false, false, false, false, false, false, false];
    let unprepared = r#"{"Version":2,"Processes":[{"Type":"web","Args":["y"]}]}"#;
    let refused =
        r#"{"Version":2,"Env":{"PORT":"65535"},"Processes":[{"Type":"web","Quantity":2,"Args":["x"]}]}"#;
    for next in [unprepared, refused] {
        let mut bench = Bench::start(Network::Host, &builds);
        bench.release(1, &[("web", 1)]);
        bench.next("web.1").await;
        let release = Arc::new(control_file::parse(next.as_bytes(), &AppName::unnamed()).unwrap().release);
        bench.releases.send_replace(Some(Arrival { release, phase_done: false, scale: BTreeMap::new() }));
        bench.handle.status().await.unwrap();
        bench.releases.send_modify(|arrival| {
            let three = 3.try_into().unwrap();
            arrival.as_mut().unwrap().scale = BTreeMap::from([("web".parse().unwrap(), three)]);
        });
        bench.next("web.2").await;
        bench.next("web.3").await;
        assert_eq!(bench.handle.status().await.unwrap().release.unwrap().to_string(), "v1", "{next}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_is_good_without_the_dynos_that_an_operator_has_stopped() {
    let mut bench = Bench::start(Network::Isolated, &[]);
    bench.release(1, &[("clock", 1), ("worker", 1)]);
    let old = [bench.next("clock.1").await, bench.next("worker.1").await];
    tokio::time::sleep(Duration::from_secs(6)).await;
    bench.release(2, &[("clock", 1), ("worker", 1)]);
    let clock = bench.next("clock.1").await;
    let worker = bench.next("worker.1").await;
    old.iter().for_each(|old| old.exit(Exit::Code(0), true));
    let handle = bench.handle.clone();
    let stop =
        tokio::spawn(
            async move { handle.stop(vec!["clock".parse().unwrap()]).await.unwrap().await.unwrap() },
        );
    while clock.signals().is_empty() {
        tokio::task::yield_now().await;
    }
    clock.exit(Exit::Code(0), true);
    assert_eq!(stop.await.unwrap().len(), 1);
    tokio::time::sleep(Duration::from_secs(6)).await;
    // weeks later
    worker.exit(Exit::Code(1), true);
    crash(&mut bench, "worker.1").await;
    bench.next("worker.1").await;
    assert_eq!(
        bench.live.borrow().as_ref().unwrap().version.0,
        2,
        "it has been good, and is not gone back from"
    );
}
