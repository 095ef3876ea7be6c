//! The executor: the task that owns one dyno. It feeds the state machine and does what that says.
//!
//! Each of its sources (commands, the run, the timer) becomes an input of [`step`]; each effect is performed
//! in [`Executor::perform`] and nowhere else. The task ends when the dyno is retired.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hsup_drivers::{BoxFuture, DynoDriver, DynoSpec, Exit, KillSignal, MainExit, Run, StartError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::Level;

use super::fsm::{Effect, Input, Phase, Retiring, RunId, Started, State, Timer, step};
use super::policy::{LASTED, Policy, retry_after};
use super::status::{DynoState, DynoStatus, Ended, LastExit};
use crate::explain;
use crate::logs::{DynoLog, Reading};
use crate::model::{DynoName, ReleaseVersion};

/// How many commands may wait for a dyno: more than there are kinds of them is of no use.
const MAILBOX: usize = 4;

/// A command to a dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End this run and begin another.
    Restart,
    /// End in good order, for good.
    Retire,
    /// End now, for good.
    Kill,
}

/// Everything that a dyno is made from.
pub struct Dyno {
    /// Its name.
    pub name: DynoName,
    /// The release that it runs.
    pub release: ReleaseVersion,
    /// What turns it into processes.
    pub driver: Arc<dyn DynoDriver>,
    /// What the driver starts.
    pub spec: DynoSpec,
    /// When it is started again, and how long it may take to end.
    pub policy: Policy,
    /// Where what it prints goes, and what is said of it.
    pub log: DynoLog,
}

/// A handle to a dyno. The dyno is retired when its handle is dropped.
#[derive(Debug)]
pub struct DynoHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<DynoStatus>,
}

impl DynoHandle {
    /// Gives a command. A dyno that has ended has no use for any. Restarts never fill the mailbox: the last two
    /// places are kept for `Retire` and `Kill`, each of which is given once.
    pub fn send(&self, command: Command) {
        if command != Command::Restart || self.commands.capacity() > 2 {
            let _full_or_ended = self.commands.try_send(command);
        }
    }

    /// The dyno at this moment.
    pub fn status(&self) -> DynoStatus {
        self.status.borrow().clone()
    }
}

impl Dyno {
    /// Starts the dyno: gives its handle, and what runs until the dyno is retired and then tells how its last
    /// run ended.
    pub fn start(self) -> (DynoHandle, impl Future<Output = Option<LastExit>> + Send + 'static) {
        let (commands, mailbox) = mpsc::channel(MAILBOX);
        let first = DynoStatus::never_started(self.name, self.release, self.spec.port);
        let (publish, status) = watch::channel(DynoStatus { state: DynoState::Stopped, ..first });
        let executor = Executor {
            spec: Arc::new(self.spec),
            driver: self.driver,
            policy: self.policy,
            log: self.log,
            state: State::default(),
            run: None,
            running: Running::Nothing,
            output: None,
            started: None,
            timer: None,
            publish,
        };
        (DynoHandle { commands, status }, executor.live(mailbox))
    }
}

/// What of a run is being waited for.
enum Running {
    /// There is none.
    Nothing,
    /// The driver.
    Start(BoxFuture<'static, Result<Arc<dyn Run>, StartError>>),
    /// The main process, and what happens to it before it ends.
    Main(BoxFuture<'static, News>),
    /// The rest of its processes, the main one having ended so.
    Rest(Exit, BoxFuture<'static, ()>),
}

/// A piece of news about the run that is going on.
enum News {
    Started(Result<Arc<dyn Run>, StartError>),
    MemoryFull,
    MainExited(MainExit),
    Gone(Exit),
}

/// What comes next of a run whose main process is running.
fn news_of_main(run: Arc<dyn Run>) -> BoxFuture<'static, News> {
    Box::pin(async move {
        tokio::select! {
            biased;
            exit = run.main_exit() => News::MainExited(exit),
            () = run.memory_full() => News::MemoryFull,
        }
    })
}

impl Running {
    async fn news(&mut self) -> News {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Start(start) => News::Started(start.await),
            Self::Main(news) => news.await,
            Self::Rest(exit, gone) => {
                gone.await;
                News::Gone(*exit)
            }
        }
    }
}

struct Executor {
    spec: Arc<DynoSpec>,
    driver: Arc<dyn DynoDriver>,
    policy: Policy,
    log: DynoLog,
    state: State,
    /// The run, from the moment that the driver has started it until all of it is gone.
    run: Option<Arc<dyn Run>>,
    running: Running,
    /// What reads the run's output.
    output: Option<Reading>,
    started: Option<Instant>,
    timer: Option<(Timer, Instant)>,
    publish: watch::Sender<DynoStatus>,
}

impl Executor {
    async fn live(mut self, mailbox: mpsc::Receiver<Command>) -> Option<LastExit> {
        let mut mailbox = Some(mailbox);
        self.take(Input::StayStarted);
        while self.state.phase != Phase::Retired {
            let deadline = self.timer.map_or_else(Instant::now, |(_, at)| at);
            let input = tokio::select! {
                command = next_command(&mut mailbox) => Some(match command {
                    Command::Restart => Input::Restart,
                    Command::Kill => Input::Kill,
                    Command::Retire => Input::Retire,
                }),
                news = self.running.news() => self.hear(news).await,
                () = sleep_until(deadline), if self.timer.is_some() => Some(self.fire()),
            };
            if let Some(input) = input {
                self.take(input);
            }
        }
        self.publish.borrow().last_exit.clone()
    }

    /// Takes the state machine one step further, does what it says and publishes what there is to see.
    fn take(&mut self, input: Input) {
        let before = visible(self.state);
        let next = step(self.state, input, super::fsm::Rules { one_shot: self.policy.one_shot });
        self.state = next.next;
        for effect in next.effects {
            self.perform(effect);
        }
        self.publish();
        let after = visible(self.state);
        if before != after {
            self.say(Level::INFO, &format!("State changed from {} to {}", before.word(), after.word()));
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn(_) => {
                let (driver, spec) = (Arc::clone(&self.driver), Arc::clone(&self.spec));
                self.running = Running::Start(Box::pin(async move { driver.start(&spec).await }));
            }
            Effect::Signal(_, signal) => {
                if signal == KillSignal::Kill && self.policy.stop_timeout > Duration::ZERO {
                    self.say(Level::WARN, "Stopping remaining processes with SIGKILL");
                }
                if let Some(Err(error)) = self.run.as_ref().map(|run| run.signal(signal)) {
                    tracing::warn!(cause = %error.source, "{error}");
                }
            }
            Effect::ArmTimer(timer) => {
                let wait = match timer {
                    Timer::Grace(_) => self.policy.stop_timeout,
                    Timer::Backoff(crashes) => retry_after(crashes),
                };
                self.timer = Some((timer, Instant::now() + wait));
                if let Timer::Backoff(crashes) = timer {
                    let text = format!("Crashed {crashes} times in a row; starting again in {wait:.1?}");
                    self.say(Level::WARN, &text);
                }
            }
            Effect::CancelTimer => self.timer = None,
        }
    }

    /// The timer has fired.
    fn fire(&mut self) -> Input {
        match self.timer.take() {
            Some((Timer::Grace(run), _)) => {
                let grace = self.policy.stop_timeout;
                let text = format!(
                    "Error R12 (Exit timeout) -> At least one process failed to exit within {grace:?} of SIGTERM"
                );
                self.say(Level::WARN, &text);
                Input::GraceElapsed(run)
            }
            Some((Timer::Backoff(_), _)) | None => Input::BackoffElapsed,
        }
    }

    /// There is news of the run that is going on: it becomes an input, and the next thing to be waited for.
    async fn hear(&mut self, news: News) -> Option<Input> {
        let run = self.state.run;
        Some(match news {
            News::Started(Ok(started)) => {
                self.follow(started);
                Input::Spawned(run)
            }
            News::Started(Err(error)) => {
                self.running = Running::Nothing;
                let ended = Ended::NotStarted { why: explain(&error), status: error.status() };
                self.say(Level::ERROR, &format!("Cannot start: {}", explain(&error)));
                self.ended(ended, false);
                Input::StartFailed(run)
            }
            News::MainExited(MainExit { exit, alone: false }) => {
                self.say(Level::INFO, &format!("Process exited with {exit}; others of the dyno have not"));
                self.running = match self.run.clone() {
                    Some(run) => Running::Rest(exit, Box::pin(async move { run.gone().await })),
                    None => Running::Nothing,
                };
                Input::MainExited(run)
            }
            News::MainExited(MainExit { exit, alone: true }) => self.over(run, exit).await,
            News::Gone(exit) => self.over(run, exit).await,
            News::MemoryFull => {
                self.say(Level::WARN, "Error R14 (Memory quota exceeded)");
                self.running =
                    self.run.clone().map_or(Running::Nothing, |run| Running::Main(news_of_main(run)));
                return None;
            }
        })
    }

    /// The driver has started the run.
    fn follow(&mut self, run: Arc<dyn Run>) {
        self.output = run.take_output().map(|output| self.log.follow(output));
        self.running = Running::Main(news_of_main(Arc::clone(&run)));
        self.run = Some(run);
        self.started = Some(Instant::now());
    }

    /// Every process of the run is gone.
    async fn over(&mut self, run: RunId, exit: Exit) -> Input {
        self.running = Running::Nothing;
        let out_of_memory = self.run.take().is_some_and(|run| run.out_of_memory());
        if let Some(output) = self.output.take() {
            output.finish().await;
        }
        if out_of_memory {
            self.say(Level::ERROR, "Error R15 (Memory quota vastly exceeded)");
        }
        self.say(Level::INFO, &format!("Process exited with {exit}"));
        self.ended(Ended::Exited(exit), out_of_memory);
        Input::Exited { run, lasted: self.started.take().is_some_and(|at| at.elapsed() >= LASTED) }
    }

    /// Says something of the dyno: in hsup's own log, and in the dyno's.
    fn say(&self, level: Level, text: &str) {
        let name = &self.spec.name;
        match level {
            Level::ERROR => tracing::error!("{name}: {text}"),
            Level::WARN => tracing::warn!("{name}: {text}"),
            _ => tracing::info!("{name}: {text}"),
        }
        self.log.say(text);
    }

    fn ended(&self, how: Ended, out_of_memory: bool) {
        let last_exit = LastExit { how, out_of_memory, at: SystemTime::now() };
        self.publish.send_modify(|status| status.last_exit = Some(last_exit));
    }

    /// Publishes the dyno as it is now.
    fn publish(&self) {
        let state = visible(self.state);
        let run = self.run.as_ref();
        self.publish.send_modify(|status| {
            status.state = state;
            status.pid = run.and_then(|run| run.pid());
            if let Some(run) = run {
                status.address = run.address();
                status.port = run.port().unwrap_or(self.spec.port);
            }
            status.started_at = match (run.is_some(), status.started_at) {
                (true, None) => Some(SystemTime::now()),
                (true, at) => at,
                (false, _) => None,
            };
            status.restarts = self.state.run.number().saturating_sub(1);
            status.next_retry_at = match self.timer {
                Some((Timer::Backoff(_), at)) => {
                    Some(SystemTime::now() + at.saturating_duration_since(Instant::now()))
                }
                Some((Timer::Grace(_), _)) | None => None,
            };
        });
    }
}

/// The next command. When the handle is dropped that is `Retire`, once.
async fn next_command(mailbox: &mut Option<mpsc::Receiver<Command>>) -> Command {
    match mailbox {
        Some(open) => match open.recv().await {
            Some(command) => command,
            None => {
                *mailbox = None;
                Command::Retire
            }
        },
        None => std::future::pending().await,
    }
}

/// A state as operators see it.
fn visible(state: State) -> DynoState {
    match state.phase {
        Phase::Stopped { backing_off: true } => DynoState::Crashed,
        Phase::Stopped { backing_off: false } => DynoState::Stopped,
        Phase::Started(Started::Starting) => DynoState::Starting,
        Phase::Started(Started::Up) => DynoState::Up,
        Phase::Started(Started::Ending(_) | Started::Killing(_)) => DynoState::Restarting,
        Phase::Retiring(Retiring::Starting(_) | Retiring::Ending | Retiring::Killing) => DynoState::Stopping,
        Phase::Retired => DynoState::Retired,
    }
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
