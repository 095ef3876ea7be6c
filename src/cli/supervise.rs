//! `hsup start`, `run` and `build`: everything is built, run, drained and taken down in one place.

use std::env;
use std::future::pending;
use std::io::{self, IsTerminal};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use hsup_drivers::guardian::{self, Guardian, Relay};
use hsup_drivers::native::Zygote;
use hsup_drivers::{Stdio, ledger, sys};
use nix::sys::prctl::set_dumpable;
use nix::unistd::gethostname;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::Level;

mod ending;
mod holdings;
mod slugs;

use super::driver::{driver, folder_of_procfile, fork_zygote};
use super::fatal::Fatal;
use super::inherited::inherited_vars;
use super::manager::{Manager, control_socket};
use super::obedience::{Diagnostics, Never, Obedience};
use super::running::with_live_release;
use super::terminal::Terminal;
use super::{CliCommand, Config, DriverKind, ExitCode, SourceChoice};
use crate::control::{self, Api, ControlSocket, Here};
use crate::dyno::Policy;
use crate::events::Events;
use crate::formation::{Preparer, Settings, Shutdown, Supervisor, Work};
use crate::history::Keeper;
use crate::listen::Listeners;
use crate::logs::{Console, DrainError, DrainPlace, Logs, LogsError, Printing, spools};
use crate::model::{Action, AppName, Bind, ConfigVars, DynoName, ProcessType, Release, Startup};
use crate::slug::SlugUrls;
use crate::sources::control_dir::ControlDir;
use crate::sources::heroku_api::{Client, HerokuApi};
use crate::sources::payload::{self, PayloadError, PayloadSource};
use crate::sources::procfile::{Procfile, ProcfileError};
use crate::sources::{GaveUp, LastGood, Link, Looks, Patience, ReleaseSource, Reread};
use crate::stack::Stacks;
use crate::stderr::Stderr;
use crate::systemd::{self, Watched};
use ending::{close_logs, exit_status, write_down};
use holdings::{histories, history_of, listeners};
use slugs::{slugs, tidy};

/// How long answers of the control API and the last lines of dynos may take once every dyno has ended.
const DRAIN: Duration = Duration::from_secs(2);

/// How long after a release has become live hsup lets go of the memory that it took to get there. No event tells that
/// all is calm; what is needed again comes back by itself, so that the time does not matter much.
const CALM: Duration = Duration::from_secs(1);

/// The longest of these times: dynos that take a minute to boot have been asked often by then.
const LONGEST_CALM: Duration = Duration::from_secs(64);

/// Supervises dynos until they, or a signal, end it; gives the exit code of the process.
pub fn supervise(config: Config) -> process::ExitCode {
    // Whatever hsup knows, the token and every config var, must not be in a core, nor in /proc for a dyno of the
    // same user to read. Dynos have their own setting, which begins anew when they are executed.
    if let Err(error) = set_dumpable(false).map_err(io::Error::from) {
        return Fatal::system("keep memory out of cores")(error).report();
    }
    let config = match with_live_release(config) {
        Ok(config) => config,
        Err(fatal) => return fatal.report(),
    };
    sys::share_allocator();
    let (manager, relay) = Manager::open(&config.given);
    let (_entry, guardian, signals, zygote) = match divide(&config, relay) {
        Ok(parts) => parts,
        Err(fatal) => return fatal.report(),
    };
    let stderr = Stderr::new();
    let diagnostics =
        Diagnostics { ring: crate::log::init(&config.log, stderr.clone()), stderr: stderr.clone() };
    let ended = run(&config, &manager, Arc::new(guardian), zygote, signals, diagnostics);
    stderr.flush(DRAIN);
    match ended {
        Ok(code) => process::ExitCode::from(code),
        Err(fatal) => fatal.report(),
    }
}

/// Becomes the processes that hsup is, all before there is a thread: they fork, which a process with threads cannot.
/// Each holds the entry in the ledger, which is made first and removed last.
fn divide(
    config: &Config,
    relay: Option<Relay>,
) -> Result<(ledger::Entry, Guardian, guardian::Signals, Option<Zygote>), Fatal> {
    let mut entry = ledger::enter(&config.state_dir).map_err(Fatal::state_dir)?;
    let (guardian, signals) = if relay.is_none() && leaves_nothing(config) {
        Guardian::do_without().map_err(Fatal::system("have signals heard"))?
    } else {
        let guardian = Guardian::enter(relay, systemd::prefix(io::stderr(), Level::ERROR));
        let parts = guardian.map_err(Fatal::system("divide into guardian and supervisor"))?;
        entry.join().map_err(Fatal::state_dir)?;
        parts
    };
    let zygote = fork_zygote(config)?;
    Ok((entry, guardian, signals, zygote))
}

/// Whether an hsup that is killed leaves nothing behind that only a guardian ends or mends: no process but those that its
/// dyno's init ends, and no terminal. What it held of the host the next hsup takes away, as it does where both are
/// killed. As PID 1 of a container hsup is to reap whatever ends there.
fn leaves_nothing(config: &Config) -> bool {
    config.driver == DriverKind::Native
        && matches!(config.command, CliCommand::Run { .. })
        && process::id() != 1
        && !io::stdin().is_terminal()
}

fn run(
    config: &Config,
    manager: &Manager,
    guardian: Arc<Guardian>,
    zygote: Option<Zygote>,
    signals: guardian::Signals,
    diagnostics: Diagnostics,
) -> Result<u8, Fatal> {
    // One thread supervises: a crash is heard, judged and answered without waking another one. What takes
    // long (fetching, unpacking, file work of sources) goes to the blocking threads.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .map_err(Fatal::system("start the runtime"))?;
    let result = runtime.block_on(supervise_all(config, manager, guardian, zygote, signals, diagnostics));
    // A read of the keyboard or a look-up of a host name may still be going on, and nobody waits for it.
    runtime.shutdown_background();
    result
}

/// Build, run, drain.
async fn supervise_all(
    config: &Config,
    manager: &Manager,
    guardian: Arc<Guardian>,
    zygote: Option<Zygote>,
    signals: guardian::Signals,
    diagnostics: Diagnostics,
) -> Result<u8, Fatal> {
    let signals = signals.listen().map_err(Fatal::system("receive signals"))?;
    let source = Source::open(config)?;
    let driver = driver(config, &source.binds, &guardian, zygote).await?;
    let (name, binds_of_all) = (driver.name(), source.binds.clone());
    let killed = ledger::kill_left(&config.state_dir).map_err(Fatal::state_dir)?;
    if killed > 0 {
        tracing::warn!("killed {killed} processes that an hsup which was killed had left behind");
    }
    let socket = control_socket(config).await?;
    let at_terminal = io::stdin().is_terminal();
    let mut obedience = Obedience { signals, guardian, diagnostics, at_terminal };

    let logs = start_logs(config, &source.action)?;
    let (terminal, shown) = open_terminal(&source, &logs)?;
    let (console, written) = Console::of_process();
    let stacks = Stacks::new(config.state_dir.join("stacks"), config.stack_manifest.clone())
        .in_place(matches!(config.command, CliCommand::Run { .. }));
    let preparer = Preparer::new(driver, slugs(config, source.slug_urls.clone()), stacks);
    let settings = source.settings(config, terminal.as_ref(), listeners(config, &source.action)?);
    let (releases, newest) = watch::channel(None);
    let events = Events::new();
    let looks = Looks::new(events.clone());
    let (arrivals, notes, history, keeping) =
        Keeper::start(history_of(config, &settings), newest, events.clone());
    let supervisor = Supervisor::new(settings, preparer, console, logs.clone(), notes);

    let (shutdown, shutdowns) = watch::channel(Shutdown::No);
    let reread = Reread::default();
    let mut tasks = JoinSet::new();
    let (live, changes) = (supervisor.live(), supervisor.changes());
    let (formation, supervising) = supervisor.start(arrivals, shutdowns.clone());
    let keeping = tokio::spawn(keeping);
    tasks.spawn(slim(live.clone()));
    tasks.spawn(tidy(config.state_dir.clone(), histories(config), history.good()));
    let link = Link { releases, live: live.clone(), reread: reread.clone(), looks: looks.clone() };
    let given_up = follow(&mut tasks, source.releases, link);
    let here = Here {
        live: live.clone(),
        driver: name,
        state_dir: config.state_dir.clone(),
        directory: env::current_dir().unwrap_or_default(),
        folder: folder_of_procfile(config),
        binds: binds_of_all,
    };
    let api = Api::new(formation.clone(), history, here, logs.clone(), events.clone(), looks);
    let (close_socket, served) = serve(&mut tasks, socket, api);
    let watched = Watched { formation, changes, live, shutdown: shutdowns, reread: reread.clone() };
    manager.begin(&mut tasks, watched, config);

    let outcome = tokio::select! {
        outcome = supervising => Ok(outcome),
        gave_up = given_up => Err(gave_up),
        never = obedience.obey(&shutdown, &reread) => match never {},
        never = follow_window(terminal.as_ref()) => match never {},
    };

    manager.stopping();
    if let Some(terminal) = terminal {
        terminal.close(DRAIN).await;
        let _held_on_to = timeout(DRAIN, shown).await;
    }
    logs.tail().close();
    events.close();
    drop(close_socket);
    let _closed = timeout(DRAIN, served).await;
    tasks.shutdown().await;
    write_down(keeping).await;
    close_logs(&logs, written, obedience.obey(&shutdown, &reread), shutdown.subscribe()).await;
    exit_status(outcome)
}

/// Keeps hsup small: after each release it lets go of what only the way there has needed, and again, less and less
/// often, while dynos of it may still boot.
async fn slim(mut live: watch::Receiver<Option<Arc<Release>>>) {
    let mut calm = LONGEST_CALM;
    loop {
        tokio::select! {
            changed = live.changed() => match changed {
                Ok(()) => calm = CALM,
                Err(_) => return,
            },
            () = tokio::time::sleep(calm), if calm < LONGEST_CALM => {
                sys::release_free_memory();
                sys::forget_code();
                calm *= 2;
            }
        }
    }
}

/// Starts what takes the dynos' log lines.
fn start_logs(config: &Config, action: &Action) -> Result<Logs, Fatal> {
    let place = DrainPlace {
        spools: spools(&config.state_dir),
        adopts: match action {
            Action::Start(_) => true,
            Action::Run(_) | Action::Build => false,
        },
        host: gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    Logs::start(config.logs.clone(), place).map_err(|error| match error {
        LogsError::Drain(DrainError::Url(_)) => Fatal::new(ExitCode::Usage, &error),
        LogsError::Drain(DrainError::Thread { .. }) | LogsError::Files(_) => {
            Fatal::new(ExitCode::System, &error)
        }
    })
}

/// The terminal of a one-off dyno, where hsup is used at one, and what takes what it shows into the log.
fn open_terminal(
    source: &Source,
    logs: &Logs,
) -> Result<(Option<Terminal>, impl Future<Output = ()> + use<>), Fatal> {
    let name = DynoName { process_type: ProcessType::run(), number: source.start_number };
    // A daemon that holds on to the terminal after its dyno has ended is not waited for.
    let (open, closed) = oneshot::channel::<()>();
    let enough = async {
        let _it_is_closed = closed.await;
    };
    let (sender, shown) = logs.dyno(&name, Printing::Elsewhere).shown(enough);
    let shown = tokio::spawn(shown);
    let terminal = match &source.action {
        Action::Run(_) => Terminal::open(sender).map_err(Fatal::system("open a terminal for the dyno"))?,
        Action::Start(_) | Action::Build => None,
    };
    let shown = async move {
        drop(open);
        let _panicked = shown.await;
    };
    Ok((terminal, shown))
}

/// Follows a source; the future ends only when it gives up, which it does before any dyno has been started.
fn follow(
    tasks: &mut JoinSet<()>,
    source: Box<dyn ReleaseSource>,
    link: Link,
) -> impl Future<Output = GaveUp> + use<> {
    let (give_up, given_up) = oneshot::channel();
    tasks.spawn(async move {
        let reread = link.reread.clone();
        match source.follow(link).await {
            Ok(()) => reread.end(),
            Err(gave_up) => drop(give_up.send(gave_up)),
        }
    });
    async {
        match given_up.await {
            Ok(gave_up) => gave_up,
            Err(_has_no_more) => pending().await,
        }
    }
}

/// A source that has been opened, and what is to be done with its releases.
struct Source {
    releases: Box<dyn ReleaseSource>,
    slug_urls: Option<Arc<dyn SlugUrls>>,
    action: Action,
    one_shot: bool,
    start_number: u32,
    skip_build: bool,
    binds: Vec<Bind>,
}

impl Source {
    fn open(config: &Config) -> Result<Self, Fatal> {
        let app = config.app.clone().unwrap_or_else(AppName::unnamed);
        let mut slug_urls = None;
        let releases: Box<dyn ReleaseSource> = match &config.source {
            // that of a running hsup has become a payload by now
            None | Some(SourceChoice::Running(_)) => return Err(Fatal::no_source()),
            Some(SourceChoice::Payload { text, folder: _ }) => {
                return payload::decode(text.expose()).map(Self::of_startup).map_err(payload_fatal);
            }
            Some(SourceChoice::PayloadFile { path }) => {
                return payload::read_file(path).map(Self::of_startup).map_err(payload_fatal);
            }
            Some(SourceChoice::HerokuApi { url, token, app, stale }) => {
                if url.is_unencrypted() {
                    tracing::warn!("HEROKU_ACCESS_TOKEN goes unencrypted to {}: use https", url.as_str());
                }
                let client = Arc::new(Client::new(url.clone(), token.clone(), app.clone()));
                slug_urls = Some(Arc::clone(&client) as Arc<dyn SlugUrls>);
                let last_good = LastGood::new(config.state_dir.join("last-good"), app.clone());
                let patience = patience(config);
                Box::new(HerokuApi::new(client, config.poll_interval, patience, last_good, *stale))
            }
            Some(SourceChoice::ControlDir { dir }) => {
                let opened = ControlDir::open(dir.clone(), app, config.poll_interval, patience(config));
                Box::new(opened.map_err(Fatal::source)?)
            }
            Some(SourceChoice::Procfile { path, explicit: _ }) => {
                // In a root of its own nothing is where the variables of this one say.
                let inherited = match config.driver {
                    DriverKind::Simple | DriverKind::Abspath => inherited_vars(),
                    DriverKind::Docker | DriverKind::Native => ConfigVars::default(),
                };
                Box::new(Procfile::open(path.clone(), app, inherited).map_err(procfile_fatal)?)
            }
        };
        let action = match &config.command {
            CliCommand::Start { quantities } => Action::Start(quantities.clone()),
            CliCommand::Run { command } => Action::Run(command.clone()),
            CliCommand::Build
            | CliCommand::Client { .. }
            | CliCommand::Logs(_)
            | CliCommand::Events { .. }
            | CliCommand::Stack(_)
            | CliCommand::Check { .. }
            | CliCommand::Man { .. }
            | CliCommand::Doctor { .. } => Action::Build,
        };
        let (one_shot, start_number) = (config.one_shot, config.start_number);
        let binds = config.binds.clone();
        Ok(Self { releases, slug_urls, action, one_shot, start_number, skip_build: false, binds })
    }

    /// A payload says everything by itself.
    fn of_startup(startup: Startup) -> Self {
        let Startup { release, action, one_shot, start_number, skip_build, binds } = startup;
        let releases = Box::new(PayloadSource::new(release));
        Self { releases, slug_urls: None, action, one_shot, start_number, skip_build, binds }
    }

    fn settings(&self, config: &Config, terminal: Option<&Terminal>, listeners: Listeners) -> Settings {
        let work = match &self.action {
            Action::Start(quantities) => Work::Formation { quantities: quantities.clone() },
            Action::Run(command) => Work::OneOff {
                command: command.clone(),
                stdio: terminal.map_or(Stdio::Inherit, |terminal| Stdio::Terminal(terminal.path())),
            },
            Action::Build => Work::Build,
        };
        let (stop_timeout, boot_timeout) = (config.stop_timeout, config.rollout.boot_timeout);
        let policy = Policy { one_shot: self.one_shot, stop_timeout, boot_timeout };
        Settings {
            work,
            start_number: self.start_number,
            policy,
            limits: config.limits.clone(),
            rollout: config.rollout.clone(),
            listeners,
            skip_build: self.skip_build,
        }
    }
}

/// Whether hsup goes on for as long as there is no release. Somebody waits for a one-off dyno or a build.
fn patience(config: &Config) -> Patience {
    match config.command {
        CliCommand::Start { .. } if !config.one_shot => Patience::Forever,
        CliCommand::Start { .. }
        | CliCommand::Run { .. }
        | CliCommand::Build
        | CliCommand::Client { .. }
        | CliCommand::Logs(_)
        | CliCommand::Events { .. }
        | CliCommand::Stack(_)
        | CliCommand::Check { .. }
        | CliCommand::Man { .. }
        | CliCommand::Doctor { .. } => Patience::ForOne,
    }
}

/// A payload that cannot be read is another thing than one that is wrong.
fn payload_fatal(error: PayloadError) -> Fatal {
    match error {
        PayloadError::NotBase64
        | PayloadError::Content(_)
        | PayloadError::NoName
        | PayloadError::Invalid(_) => Fatal::invalid(error),
        PayloadError::NotAFile { .. }
        | PayloadError::TooLarge { .. }
        | PayloadError::Read { .. }
        | PayloadError::Remove { .. } => Fatal::source(error),
    }
}

/// So for a Procfile.
fn procfile_fatal(error: ProcfileError) -> Fatal {
    match error {
        ProcfileError::Lines(_) => Fatal::invalid(error),
        ProcfileError::Missing { .. } | ProcfileError::Read { .. } => Fatal::source(error),
    }
}

/// Serves the control API until the first value is dropped; the second one then tells that it is closed.
fn serve(
    tasks: &mut JoinSet<()>,
    socket: Option<ControlSocket>,
    api: Api,
) -> (oneshot::Sender<()>, impl Future<Output = ()> + use<>) {
    let (close, closing) = oneshot::channel::<()>();
    let (closed, served) = oneshot::channel::<()>();
    tasks.spawn(async move {
        if let Some(socket) = socket {
            let closing = async {
                let _dropped = closing.await;
            };
            control::serve(socket, api, closing).await;
        }
        drop(closed);
    });
    let served = async {
        let _dropped = served.await;
    };
    (close, served)
}

/// Keeps the size of a dyno's terminal that of hsup's own.
async fn follow_window(terminal: Option<&Terminal>) -> Never {
    if let Some(Err(error)) = async { Some(terminal?.follow_window_size().await) }.await {
        tracing::warn!(%error, "cannot hand on the size of the terminal");
    }
    pending().await
}
