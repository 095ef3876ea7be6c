//! The executor with a scripted driver behind the real trait, on a paused clock.

use hsup_drivers::{Network, Stdio};

use super::*;
use tokio::task::JoinHandle;

use crate::dyno::Health;
use crate::dyno::scripted::{Runs, Scripted, ScriptedRun};
use crate::logs::{Logs, Printing};
use crate::model::CheckText;

struct Bench {
    handle: DynoHandle,
    task: JoinHandle<Option<LastExit>>,
    runs: Runs,
    events: Events,
}

impl Bench {
    fn new(one_shot: bool, script: &[bool]) -> Self {
        Self::checked(one_shot, script, 5000, None, None)
    }

    /// On this port, with these checks.
    fn checked(
        one_shot: bool,
        script: &[bool],
        port: u16,
        readiness: Option<&str>,
        liveness: Option<&str>,
    ) -> Self {
        let check = |text: &str| text.parse::<CheckText>().unwrap().0.unwrap();
        let (driver, runs) = Scripted::new(Network::Host, &[], script);
        let events = Events::new();
        let dyno = Dyno {
            name: "web.1".parse().unwrap(),
            release: ReleaseVersion(1),
            driver,
            spec: DynoSpec {
                name: "web.1".to_owned(),
                command: Arc::from(["true".to_owned()]),
                built: Arc::default(),
                env: Arc::from([]),
                own_env: Vec::new(),
                port,
                stdio: Stdio::Pipes,
                listen: None,
                notify: false,
                limits: hsup_drivers::Limits::default(),
            },
            policy: Policy { one_shot, ..Policy::default() },
            readiness: readiness.map(check),
            liveness: liveness.map(check),
            changes: watch::Sender::default(),
            log: Logs::for_tests().dyno(&"web.1".parse().unwrap(), Printing::Elsewhere),
            events: events.clone(),
        };
        let (handle, task) = dyno.start();
        Self { handle, task: tokio::spawn(task), runs, events }
    }

    async fn next_run(&mut self) -> Arc<ScriptedRun> {
        let (_, run) = self.runs.recv().await.unwrap();
        self.reach(DynoState::Up).await;
        run
    }

    async fn reach(&mut self, state: DynoState) {
        self.handle.status.wait_for(|status| status.state == state).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_crash_restarts_at_once_and_the_next_ones_back_off() {
    let mut bench = Bench::new(false, &[]);
    let begin = Instant::now();
    bench.next_run().await.exit(Exit::Code(1), true);
    let second = bench.next_run().await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    second.exit(Exit::Signal(11), true);
    bench.reach(DynoState::Crashed).await;
    let status = bench.handle.status();
    assert!(status.next_retry_at.is_some());
    assert_eq!(status.last_exit.clone().unwrap().how, Ended::Exited(Exit::Signal(11)));
    bench.next_run().await;
    assert!((Duration::from_millis(800)..=Duration::from_millis(1201)).contains(&begin.elapsed()));
    assert_eq!(bench.handle.status().restarts, 2);
    assert_eq!(bench.handle.status().next_retry_at, None);
}

#[tokio::test(start_paused = true)]
async fn each_thing_that_happens_is_told_once_and_in_order() {
    let mut bench = Bench::new(false, &[]);
    let mut place = bench.events.before(None, |_| true);
    bench.next_run().await.exit(Exit::Code(1), true);
    bench.next_run().await;
    bench.handle.send(Command::Retire);
    bench.reach(DynoState::Stopping).await;
    let told = bench.events.read(&mut place, 100).events;
    let told: Vec<String> = told.iter().map(|event| event.what.to_string()).collect();
    let expected = [
        "State changed from stopped to starting",
        "State changed from starting to up",
        "Process exited with status 1",
        "Starting again (exited), restart 1",
        "State changed from up to starting",
        "State changed from starting to up",
        "State changed from up to stopping",
    ];
    assert_eq!(told, expected.map(|news| format!("web.1: {news}")));
    let starts = bench.events.tally().starts;
    assert_eq!(starts.values().map(|histogram| histogram.count()).sum::<u64>(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dyno_that_has_lasted_is_not_crash_looping() {
    let mut bench = Bench::new(false, &[]);
    let mut run = bench.next_run().await;
    for _ in 0..5 {
        tokio::time::advance(LASTED).await;
        let crashed = Instant::now();
        run.exit(Exit::Code(1), true);
        run = bench.runs.recv().await.unwrap().1;
        assert_eq!(crashed.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dyno_that_cannot_start_backs_off_and_says_why() {
    let mut bench = Bench::new(false, &[false, false]);
    bench.reach(DynoState::Crashed).await;
    let last_exit = bench.handle.status().last_exit.clone().unwrap();
    assert!(
        matches!(last_exit.how, Ended::NotStarted { ref why, status: 1 } if why.contains("start the process"))
    );
    bench.next_run().await;
    assert_eq!(bench.handle.status().restarts, 2);
}

#[tokio::test(start_paused = true)]
async fn retire_ends_in_good_order() {
    let mut bench = Bench::new(false, &[]);
    let run = bench.next_run().await;
    bench.handle.send(Command::Retire);
    bench.reach(DynoState::Stopping).await;
    assert_eq!(run.signals(), [KillSignal::Term]);
    run.exit(Exit::Signal(15), true);
    assert_eq!(bench.task.await.unwrap().unwrap().how, Ended::Exited(Exit::Signal(15)));
}

#[tokio::test(start_paused = true)]
async fn what_ignores_sigterm_is_killed_after_the_grace_time() {
    let mut bench = Bench::new(false, &[]);
    let run = bench.next_run().await;
    let begin = Instant::now();
    bench.handle.send(Command::Retire);
    bench.task.await.unwrap();
    assert_eq!(run.signals(), [KillSignal::Term, KillSignal::Kill]);
    assert_eq!(begin.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_exits_does_not_cancel_the_kill_of_what_it_left() {
    let mut bench = Bench::new(false, &[]);
    let run = bench.next_run().await;
    bench.handle.send(Command::Retire);
    bench.reach(DynoState::Stopping).await;
    run.exit(Exit::Code(0), false);
    bench.task.await.unwrap();
    assert_eq!(run.signals(), [KillSignal::Term, KillSignal::Kill]);
}

#[tokio::test(start_paused = true)]
async fn what_a_crashed_leader_left_is_ended_before_the_next_run() {
    let mut bench = Bench::new(false, &[]);
    let run = bench.next_run().await;
    run.exit(Exit::Code(1), false);
    bench.reach(DynoState::Restarting).await;
    assert_eq!(run.signals(), [KillSignal::Term]);
    run.gone.send_replace(true);
    bench.next_run().await;
}

#[tokio::test(start_paused = true)]
async fn kill_waits_for_nobody() {
    let mut bench = Bench::new(false, &[]);
    let run = bench.next_run().await;
    bench.handle.send(Command::Retire);
    bench.reach(DynoState::Stopping).await;
    let begin = Instant::now();
    bench.handle.send(Command::Kill);
    bench.task.await.unwrap();
    assert_eq!((run.signals(), begin.elapsed()), (vec![KillSignal::Term, KillSignal::Kill], Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_restart_ends_a_crash_loop() {
    let mut bench = Bench::new(false, &[false, false]);
    bench.reach(DynoState::Crashed).await;
    let begin = Instant::now();
    bench.handle.send(Command::Restart);
    bench.next_run().await.exit(Exit::Code(1), true);
    bench.next_run().await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn restarts_leave_room_for_the_kill() {
    let mut bench = Bench::new(false, &[]);
    bench.next_run().await;
    for _ in 0..100 {
        bench.handle.send(Command::Restart);
    }
    bench.handle.send(Command::Retire);
    bench.handle.send(Command::Kill);
    bench.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_dyno_runs_once() {
    for exit in [Exit::Code(0), Exit::Code(7)] {
        let mut bench = Bench::new(true, &[]);
        bench.next_run().await.exit(exit, true);
        assert_eq!(bench.task.await.unwrap().unwrap().how, Ended::Exited(exit));
        assert!(bench.runs.recv().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dyno_without_a_handle_is_retired() {
    let mut bench = Bench::new(false, &[]);
    let run = bench.next_run().await;
    let Bench { handle, task, .. } = bench;
    drop(handle);
    task.await.unwrap();
    assert_eq!(run.signals(), [KillSignal::Term, KillSignal::Kill]);
}

/// A port on which nothing listens.
fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Answers every request with this status, for as long as the test runs.
async fn answer(port: u16, status: &'static str) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _read = stream.read(&mut request).await;
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _closed = stream.write_all(answer.as_bytes()).await;
        }
    });
}

#[tokio::test]
async fn a_dyno_is_up_once_it_listens() {
    let port = free_port();
    let mut bench = Bench::checked(false, &[], port, Some("port"), None);
    bench.runs.recv().await.unwrap();
    let nothing = format!("nothing listens on port {port}");
    let booting = Health::Booting { missing: Some(nothing) };
    bench.handle.status.wait_for(|status| status.health == booting).await.unwrap();
    assert_eq!(bench.handle.status().state, DynoState::Starting);
    let _listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    bench.reach(DynoState::Up).await;
    assert_eq!(bench.handle.status().health, Health::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_dyno_that_never_gets_ready_is_ended_and_says_what_was_missing() {
    let port = free_port();
    let mut bench = Bench::checked(false, &[], port, Some("port"), None);
    let (_, run) = bench.runs.recv().await.unwrap();
    let begin = Instant::now();
    bench.handle.status.wait_for(|status| status.state == DynoState::Restarting).await.unwrap();
    assert_eq!((begin.elapsed().as_secs(), run.signals()), (60, vec![KillSignal::Term]));
    run.exit(Exit::Signal(15), true);
    bench.handle.status.wait_for(|status| status.last_exit.is_some()).await.unwrap();
    let missing = format!("nothing listens on port {port}");
    assert_eq!(bench.handle.status().last_exit.clone().unwrap().why, Why::BootTimeout { missing });
    let (_, run) = bench.runs.recv().await.unwrap();
    bench.handle.send(Command::Kill);
    bench.task.await.unwrap();
    assert_eq!(run.signals(), [KillSignal::Kill]);
}

#[tokio::test(start_paused = true)]
async fn a_dyno_that_never_gets_ready_is_not_tried_again_and_again_at_once() {
    let mut bench = Bench::checked(false, &[], free_port(), Some("port"), None);
    let mut starts = Vec::new();
    for _ in 0..3 {
        let (_, run) = bench.runs.recv().await.unwrap();
        starts.push(Instant::now());
        bench.handle.status.wait_for(|status| status.state == DynoState::Restarting).await.unwrap();
        run.exit(Exit::Signal(15), true);
        bench.handle.status.wait_for(|status| status.state != DynoState::Restarting).await.unwrap();
    }
    let waited = (starts[2] - starts[1]).saturating_sub(Policy::default().boot_timeout);
    assert!(waited > Duration::from_millis(100), "{waited:?}");
    assert_eq!(bench.handle.status().crashes, 3);
}

#[tokio::test]
async fn what_a_server_answers_counts() {
    for (status, good) in [("204 No Content", true), ("302 Found", true), ("503 Service Unavailable", false)]
    {
        let port = free_port();
        let mut bench = Bench::checked(false, &[], port, Some("http=/up"), None);
        bench.runs.recv().await.unwrap();
        answer(port, status).await;
        let expected = if good {
            Health::Healthy
        } else {
            Health::Booting { missing: Some(format!("GET /up was answered with {status}")) }
        };
        bench.handle.status.wait_for(|status| status.health == expected).await.unwrap();
    }
}

#[tokio::test]
async fn a_dyno_that_is_no_longer_well_is_restarted() {
    let port = free_port();
    let liveness = Some("period=10ms,failure-threshold=2,port");
    let mut bench = Bench::checked(false, &[], port, Some("port"), liveness);
    let (_, run) = bench.runs.recv().await.unwrap();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    bench.reach(DynoState::Up).await;
    drop(listener);
    bench.reach(DynoState::Restarting).await;
    assert_eq!(run.signals(), [KillSignal::Term]);
    run.exit(Exit::Code(0), true);
    bench.runs.recv().await.unwrap();
    let why = bench.handle.status().last_exit.clone().unwrap().why;
    assert_eq!(why, Why::Unwell { finding: format!("nothing listens on port {port}") });
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_for_is_the_reason_whatever_the_kernel_has_killed_before() {
    for (command, why) in [
        (Some(Command::Restart), Why::Restarted),
        (Some(Command::Retire), Why::Retired),
        (None, Why::OutOfMemory),
    ] {
        let mut bench = Bench::new(false, &[]);
        let run = bench.next_run().await;
        run.starve();
        if let Some(command) = command {
            bench.handle.send(command);
            while run.signals().is_empty() {
                tokio::task::yield_now().await;
            }
        }
        run.exit(Exit::Signal(15), true);
        bench.handle.status.wait_for(|status| status.last_exit.is_some()).await.unwrap();
        assert_eq!(bench.handle.status().last_exit.clone().unwrap().why, why);
    }
}
