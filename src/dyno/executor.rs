//! The executor: the task that owns one dyno. It feeds the state machine and does what that says.
//!
//! Each of its sources (commands, the run, the timer) becomes an input of [`step`]; each effect is performed
//! in [`Executor::perform`] and nowhere else. The task ends when the dyno is retired.

mod checking;
mod publish;
mod timers;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hsup_drivers::{BoxFuture, DynoDriver, DynoSpec, Exit, KillSignal, MainExit, Run, StartError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;
use tracing::Level;

use super::fsm::{Effect, Input, Phase, Rules, RunId, Started, State, Timer, step};
use super::notify_socket::NotifySocket;
use super::policy::{LASTED, Policy};
use super::signs::Signs;
use super::status::{DynoState, DynoStatus, Ended, LastExit, Why};
use crate::events::{DynoNews, Events};
use crate::explain;
use crate::logs::{DynoLog, Reading};
use crate::model::{Check, DynoName, ReleaseVersion};
use checking::{Verdict, ask_to_notify, awaited_line, hear, next_verdict, notify_socket};
use publish::visible;

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
    /// How it shows that it is ready; without it is up as soon as it has been started.
    pub readiness: Option<Check>,
    /// How it shows that it is still well.
    pub liveness: Option<Check>,
    /// Is told whenever the state of the dyno has changed.
    pub changes: watch::Sender<()>,
    /// Where what it prints goes, and what is said of it.
    pub log: DynoLog,
    /// Where it is told what happens to it.
    pub events: Events,
}

/// A handle to a dyno. The dyno is retired when its handle is dropped.
#[derive(Debug)]
pub struct DynoHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Arc<DynoStatus>>,
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
    pub fn status(&self) -> Arc<DynoStatus> {
        Arc::clone(&self.status.borrow())
    }
}

impl Dyno {
    /// Starts the dyno: gives its handle, and what runs until the dyno is retired and then tells how its last
    /// run ended.
    pub fn start(self) -> (DynoHandle, impl Future<Output = Option<LastExit>> + Send + 'static) {
        let (commands, mailbox) = mpsc::channel(MAILBOX);
        let first = DynoStatus::never_started(self.name, self.release, self.spec.port);
        let mut spec = self.spec;
        ask_to_notify(&mut spec, [&self.readiness, &self.liveness]);
        let (publish, status) = watch::channel(Arc::new(DynoStatus { state: DynoState::Stopped, ..first }));
        let executor = Executor {
            spec: Arc::new(spec),
            commands: TaskTracker::new(),
            driver: self.driver,
            policy: self.policy,
            readiness: self.readiness,
            liveness: self.liveness,
            changes: self.changes,
            checking: None,
            port_taken: false,
            signs: Signs::new(),
            notify: None,
            doom: None,
            log: self.log,
            events: self.events,
            spawned: None,
            state: State::default(),
            run: None,
            running: Running::Nothing,
            output: None,
            up: None,
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
    readiness: Option<Check>,
    liveness: Option<Check>,
    changes: watch::Sender<()>,
    /// The commands of checks that are not gone.
    commands: TaskTracker,
    /// The check of the run, while it boots or is up.
    checking: Option<BoxFuture<'static, Verdict>>,
    /// Whether another process of the host had the port of the run before that was started.
    port_taken: bool,
    /// What the run says of itself.
    signs: Signs,
    /// Where it says so.
    notify: Option<NotifySocket>,
    /// Why hsup ends the run, once it does.
    doom: Option<Why>,
    log: DynoLog,
    events: Events,
    /// When the newest run was begun to be started, and how long the driver took for it.
    spawned: Option<(Instant, Duration)>,
    state: State,
    /// The run, from the moment that the driver has started it until all of it is gone.
    run: Option<Arc<dyn Run>>,
    running: Running,
    /// What reads the run's output.
    output: Option<Reading>,
    /// Since when the run has been up.
    up: Option<Instant>,
    timer: Option<(Timer, Instant)>,
    publish: watch::Sender<Arc<DynoStatus>>,
}

impl Executor {
    async fn live(mut self, mailbox: mpsc::Receiver<Command>) -> Option<LastExit> {
        let mut mailbox = Some(mailbox);
        self.take(Input::StayStarted);
        while self.state.phase != Phase::Retired {
            let deadline = self.timer.map_or_else(Instant::now, |(_, at)| at);
            let input = tokio::select! {
                command = next_command(&mut mailbox) => Some(self.obey(command)),
                news = self.running.news() => self.hear(news).await,
                verdict = next_verdict(&mut self.checking) => Some(self.judge(verdict)),
                () = hear(self.notify.as_ref(), &self.signs) => None,
                () = sleep_until(deadline), if self.timer.is_some() => Some(self.fire()),
            };
            if let Some(input) = input {
                self.take(input);
            }
        }
        let last_exit = self.publish.borrow().last_exit.clone();
        // with the checks their commands are given up, and are ended
        let commands = self.commands.clone();
        drop(self);
        commands.close();
        commands.wait().await;
        last_exit
    }

    /// Takes the state machine one step further, does what it says and publishes what there is to see.
    fn take(&mut self, input: Input) {
        let before = self.state;
        let rules = Rules { one_shot: self.policy.one_shot, gated: self.readiness.is_some() };
        let next = step(before, input, rules);
        self.state = next.next;
        for effect in next.effects {
            self.perform(effect);
        }
        if before.phase != self.state.phase {
            if self.state.phase == Phase::Started(Started::Up) {
                self.up = Some(Instant::now());
            }
            self.check();
        }
        self.publish();
        let (before, after) = (visible(before), visible(self.state));
        if before != after {
            self.say(Level::INFO, &format!("State changed from {} to {}", before.word(), after.word()));
            self.tell(self.state_news(before, after));
            self.changes.send_replace(());
        }
    }

    fn obey(&mut self, command: Command) -> Input {
        let (input, doom) = match command {
            Command::Restart => (Input::Restart, Why::Restarted),
            Command::Kill => (Input::Kill, Why::Retired),
            Command::Retire => (Input::Retire, Why::Retired),
        };
        // a run that is still being started is not ended by a restart, and one that is not there cannot be
        if command != Command::Restart || self.run.is_some() {
            self.doom.get_or_insert(doom);
        }
        input
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn(run) => {
                self.doom = None;
                self.spawned = Some((Instant::now(), Duration::ZERO));
                self.tell_restart(run);
                self.look_at_port();
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
            Effect::ArmTimer(timer) => self.arm(timer),
            Effect::CancelTimer => self.timer = None,
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
                self.ended(ended, Why::NotStarted, Arc::default());
                Input::StartFailed(run)
            }
            News::MainExited(MainExit { exit, alone: false }) => {
                self.say(Level::INFO, &format!("{}; others of the dyno have not", exit.told()));
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
                self.tell(DynoNews::Memory);
                self.running =
                    self.run.clone().map_or(Running::Nothing, |run| Running::Main(news_of_main(run)));
                return None;
            }
        })
    }

    /// The driver has started the run.
    fn follow(&mut self, run: Arc<dyn Run>) {
        self.signs = Signs::new();
        let awaited = awaited_line(self.readiness.as_ref(), &self.signs);
        self.output = run.take_output().map(|output| self.log.follow(output, awaited));
        self.running = Running::Main(news_of_main(Arc::clone(&run)));
        self.notify = notify_socket(&*run, &self.spec.name);
        self.run = Some(run);
        self.up = None;
        if let Some((spawned, took)) = &mut self.spawned {
            *took = spawned.elapsed();
        }
    }

    /// Every process of the run is gone.
    async fn over(&mut self, run: RunId, exit: Exit) -> Input {
        self.running = Running::Nothing;
        self.notify = None;
        let out_of_memory = self.run.take().is_some_and(|run| run.out_of_memory());
        let last_lines = match self.output.take() {
            Some(output) => output.finish().await,
            None => Arc::default(),
        };
        if out_of_memory {
            self.say(Level::ERROR, "Error R15 (Memory quota vastly exceeded)");
        }
        self.say(Level::INFO, &exit.told());
        let why = match self.doom.take() {
            // it was to end whatever its memory, and what the kernel has killed may be a child of long ago
            Some(asked @ (Why::Restarted | Why::Retired | Why::ExitTimeout)) => asked,
            _ if out_of_memory => Why::OutOfMemory,
            Some(why) => why,
            None => Why::ByItself,
        };
        self.ended(Ended::Exited(exit), why, last_lines);
        Input::Exited { run, lasted: self.up.take().is_some_and(|at| at.elapsed() >= LASTED) }
    }

    fn ended(&self, how: Ended, why: Why, last_lines: Arc<[String]>) {
        let last_exit = LastExit { how, why, at: SystemTime::now(), last_lines };
        self.tell(DynoNews::Exit(last_exit.clone()));
        self.publish.send_modify(|status| Arc::make_mut(status).last_exit = Some(last_exit));
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

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
