//! Reads the command line and the environment into a [`Config`] whose every value has been checked, or says
//! all that is wrong at once. It has no side effects, and only [`parse_process`] touches this process.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{CommandArgs, CommandLine, Options};
use super::logs::{self, LogFlags};
use super::rollout;
use super::settings::{Given, Problem, Reader, Setting};
use super::source_choice::{self, Running, SourceFlags};
use super::{CliCommand, CliError, Config, Invocation, MAX_SOCKET_PATH, SocketChoice, SourceChoice};
use super::{docker, native};
use crate::log::{LogConfig, LogFilter};
use crate::model::{AppName, Bind, HumanDuration, InvalidDuration, LimitSetting, LimitSettings, Quantities};
use crate::stack::StackLocation;
use crate::systemd::GivenByManager;

mod command;

use command::read_command;

const APP: Setting = Setting { flag: "--app", variable: "HSUP_APP" };
const DRIVER: Setting = Setting { flag: "--dynodriver", variable: "HSUP_DYNODRIVER" };
const SOCKET: Setting = Setting { flag: "--control-socket", variable: "HSUP_CONTROL_SOCKET" };
const CONTROL_GROUP: Setting = Setting { flag: "--control-group", variable: "HSUP_CONTROL_GROUP" };
const READ_GROUP: Setting = Setting { flag: "--read-group", variable: "HSUP_READ_GROUP" };
const ONE_SHOT: Setting = Setting { flag: "--oneshot", variable: "HSUP_ONESHOT" };
const START_NUMBER: Setting = Setting { flag: "--start-number", variable: "HSUP_START_NUMBER" };
const BIND: Setting = Setting { flag: "--bind", variable: "HSUP_BIND" };
const LIMITS: Setting = Setting { flag: "--limits", variable: "HSUP_LIMITS" };
const HEROKU_API_URL: Setting = Setting { flag: "--heroku-api-url", variable: "HSUP_HEROKU_API_URL" };
const NO_STALE: Setting = Setting { flag: "--no-stale", variable: "HSUP_NO_STALE" };
const WHOLE_FORMATION: Setting = Setting { flag: "--whole-formation", variable: "HSUP_WHOLE_FORMATION" };
const STACK_MANIFEST: Setting = Setting { flag: "--stack-manifest", variable: "HSUP_STACK_MANIFEST" };
const STATE_DIR: Setting = Setting { flag: "--state-dir", variable: "HSUP_STATE_DIR" };
const POLL_INTERVAL: Setting = Setting { flag: "--poll-interval", variable: "HSUP_POLL_INTERVAL" };
const STOP_TIMEOUT: Setting = Setting { flag: "--stop-timeout", variable: "HSUP_STOP_TIMEOUT" };
const LOG_FORMAT: Setting = Setting { flag: "--log-format", variable: "HSUP_LOG_FORMAT" };
const LOG_LEVEL: Setting = Setting { flag: "--log-level", variable: "HSUP_LOG" };

/// Where state lies for root, as the file hierarchy standard has it.
const SYSTEM_STATE_DIR: &str = "/var/lib/hsup";

/// Heroku's releases are seldom more frequent than deploys; ten seconds is what hsup users know.
const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Below a second a poll is a load, above an hour it is a mistake in the unit.
const POLL_INTERVALS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3600)];

/// The grace that Heroku gives its dynos.
const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// No grace at all is sensible for some, more than an hour for nobody.
const STOP_TIMEOUTS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(3600)];

/// The highest number of a first dyno: far above any use, and far from the end of the range.
const MAX_START_NUMBER: u32 = 1_000_000;

/// What a command line depends on beside itself.
pub struct Surroundings<'a> {
    /// Looks an environment variable up.
    pub variables: &'a dyn Fn(&str) -> Option<OsString>,
    /// The current directory.
    pub directory: PathBuf,
    /// Whether hsup runs as root.
    pub root: bool,
    /// The process that hsup is.
    pub pid: u32,
    /// Reads a credential that the service manager has put into a file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// Reads the command line and the environment of this process.
///
/// # Errors
/// See [`parse`].
pub fn parse_process() -> Result<Invocation, CliError> {
    let surroundings = Surroundings {
        variables: &|name| env::var_os(name),
        // Without a current directory only absolute paths work, and the others say so when they are opened.
        directory: env::current_dir().unwrap_or_default(),
        root: nix::unistd::geteuid().is_root(),
        pid: std::process::id(),
        read: &|path| fs::read_to_string(path),
    };
    parse(env::args_os(), &surroundings)
}

/// Reads a command line, of which the first word is the name of the program.
///
/// # Errors
/// If it cannot be taken apart (one error, since what follows it cannot be understood), or if values are
/// wrong (all of them).
pub fn parse(
    argv: impl IntoIterator<Item = OsString>,
    surroundings: &Surroundings<'_>,
) -> Result<Invocation, CliError> {
    let CommandLine { options, command } = match CommandLine::parse(argv) {
        Ok(line) => line,
        Err(error) => {
            let text = error.render().to_string().trim_end().to_owned();
            return if error.use_stderr() {
                Err(CliError::Grammar(text))
            } else {
                Ok(Invocation::Print(text))
            };
        }
    };
    if matches!(command, CommandArgs::Version) {
        return Ok(Invocation::Print(format!("hsup {}", env!("CARGO_PKG_VERSION"))));
    }
    if let CommandArgs::Completions { shell } = &command {
        return Ok(Invocation::Print(super::generate::completions(shell)));
    }
    let mut reader = Reader::new(surroundings.variables);
    let config = read(&mut reader, options, command, surroundings);
    match config {
        Some(config) if reader.problems.is_empty() => Ok(Invocation::Command(Box::new(config))),
        Some(_) | None => Err(CliError::Values(reader.problems)),
    }
}

/// Reads everything. Where the result is none, or the reader has problems, the configuration is not sound.
fn read(
    reader: &mut Reader<'_>,
    mut options: Options,
    command: CommandArgs,
    surroundings: &Surroundings<'_>,
) -> Option<Config> {
    let log_flags = LogFlags::of(&mut options);
    let app_named = options.app.is_some() || reader.variable(APP.variable).is_some();
    let app = reader.parsed(APP, options.app.take(), str::parse);
    let flags = source_flags(reader, &mut options, app_named, app.as_ref());
    let driver = reader.parsed(DRIVER, options.dynodriver, str::parse);
    let control_socket = read_socket(reader, options.control_socket);
    let control_group = reader.parsed(CONTROL_GROUP, options.control_group, read_group);
    let read_group = reader.parsed(READ_GROUP, options.read_group, read_group);
    let one_shot = reader.parsed(ONE_SHOT, options.oneshot, read_bool);
    let start_number = reader.parsed(START_NUMBER, options.start_number, read_start_number);
    let logs = logs::read(reader, log_flags, &surroundings.directory);
    let binds = read_binds(reader, options.bind);
    let limits = read_limits(reader, options.limits);
    let native = native::read(reader, options.allow);
    let docker = docker::read(reader, options.stack_image, options.docker_entry, &surroundings.directory);
    let needs_source = needs_source(&command);
    let state_dir_named = options.state_dir.is_some() || reader.variable(STATE_DIR.variable).is_some();
    let flags = or_running(flags, &command, driver.is_some(), state_dir_named);
    let source = needs_source.then(|| source_choice::choose(reader, flags, surroundings)).flatten();
    let whole_formation = reader.parsed(WHOLE_FORMATION, options.whole_formation, read_bool);
    let state_dir = read_state_dir(reader, options.state_dir, needs_state_dir(&command), surroundings);
    let stack_manifest = read_stack_manifest(reader, options.stack_manifest, surroundings);
    let poll_interval =
        reader.parsed(POLL_INTERVAL, options.poll_interval, |text| read_duration(text, POLL_INTERVALS));
    let stop_timeout =
        reader.parsed(STOP_TIMEOUT, options.stop_timeout, |text| read_duration(text, STOP_TIMEOUTS));
    let rollout = rollout::read(reader, options.rollout);
    let listens = rollout::read_listens(reader, options.listen, driver);
    let quiet = matches!(command, CommandArgs::Run { .. });
    let log = read_log(reader, options.log_format, options.log_level, quiet);
    let command = read_command(reader, command, stack_manifest.is_some(), surroundings)?;
    let command = of_this_host(reader, command, source.as_ref(), whole_formation.unwrap_or_default());
    Some(Config {
        app: app.or_else(|| source.as_ref().and_then(SourceChoice::app)),
        driver: driver.unwrap_or_default(),
        source,
        control_socket,
        control_group,
        read_group,
        runtime_dir: absolute_variable(reader, "XDG_RUNTIME_DIR"),
        one_shot: one_shot.unwrap_or_default(),
        start_number: start_number.unwrap_or(1),
        logs,
        binds,
        limits,
        native,
        docker,
        state_dir,
        stack_manifest,
        poll_interval: poll_interval.unwrap_or(DEFAULT_POLL_INTERVAL),
        stop_timeout: stop_timeout.unwrap_or(DEFAULT_STOP_TIMEOUT),
        rollout,
        listens,
        given: GivenByManager::read(surroundings.variables, surroundings.pid),
        log,
        command,
    })
}

/// What is said of the source of releases.
fn source_flags(
    reader: &mut Reader<'_>,
    options: &mut Options,
    app_named: bool,
    app: Option<&AppName>,
) -> SourceFlags {
    let heroku_api_url = reader.parsed(HEROKU_API_URL, options.heroku_api_url.take(), str::parse);
    let no_stale = reader.parsed(NO_STALE, options.no_stale.take(), read_bool);
    SourceFlags {
        control_dir: options.control_dir.take(),
        procfile: options.procfile.take(),
        app_named,
        app: app.cloned(),
        heroku_api_url: heroku_api_url.unwrap_or_default(),
        stale: !no_stale.unwrap_or_default(),
        running: None,
        live: false,
    }
}

/// A one-off dyno may also run what a running hsup runs.
fn or_running(
    flags: SourceFlags,
    command: &CommandArgs,
    driver_named: bool,
    state_dir_named: bool,
) -> SourceFlags {
    let CommandArgs::Run { live, .. } = command else { return flags };
    let running = Running { driver_named, state_dir_named, otherwise: None };
    SourceFlags { running: Some(running), live: *live, ..flags }
}

/// How hsup logs; what is `quiet` tells of warnings only.
fn read_log(
    reader: &mut Reader<'_>,
    format: Option<String>,
    level: Option<String>,
    quiet: bool,
) -> LogConfig {
    let format = reader.parsed(LOG_FORMAT, format, str::parse);
    let filter = reader.parsed(LOG_LEVEL, level, str::parse);
    let default_filter = || if quiet { LogFilter::warnings() } else { LogFilter::default() };
    LogConfig {
        format: format.unwrap_or_default(),
        filter: filter.unwrap_or_else(default_filter),
        colour: reader.variable("NO_COLOR").is_none(),
    }
}

/// Whether a command works on releases, and so needs a source and a place for its state.
fn needs_source(command: &CommandArgs) -> bool {
    match command {
        CommandArgs::Start { .. } | CommandArgs::Run { .. } | CommandArgs::Build => true,
        CommandArgs::Ps { .. }
        | CommandArgs::Stop { .. }
        | CommandArgs::Explain { .. }
        | CommandArgs::Restart { .. }
        | CommandArgs::Scale { .. }
        | CommandArgs::Releases { .. }
        | CommandArgs::Rollback { .. }
        | CommandArgs::Plan { .. }
        | CommandArgs::Config { .. }
        | CommandArgs::Logs { .. }
        | CommandArgs::Events(_)
        | CommandArgs::Check { .. }
        | CommandArgs::Completions { .. }
        | CommandArgs::Man { .. }
        | CommandArgs::Doctor { .. } => false,
        CommandArgs::Stack { .. } | CommandArgs::Version => false,
    }
}

/// Whether a command keeps something on this host, or shows what is kept.
fn needs_state_dir(command: &CommandArgs) -> bool {
    needs_source(command) || matches!(command, CommandArgs::Stack { .. } | CommandArgs::Doctor { .. })
}

fn read_stack_manifest(
    reader: &mut Reader<'_>,
    flag: Option<String>,
    surroundings: &Surroundings<'_>,
) -> Option<StackLocation> {
    let location: StackLocation = reader.parsed(STACK_MANIFEST, flag, str::parse)?;
    Some(location.below(&surroundings.directory))
}

/// The command with the quantities that this host has: those of a Heroku app describe all of its hosts.
fn of_this_host(
    reader: &mut Reader<'_>,
    command: CliCommand,
    source: Option<&SourceChoice>,
    whole_formation: bool,
) -> CliCommand {
    match (command, source) {
        (CliCommand::Start { quantities: Quantities::Explicit(_) }, _) if whole_formation => {
            let what = "TYPE=N says how many dynos run here: give only one of them";
            reader.problems.push(Problem::usage(WHOLE_FORMATION.flag, what));
            CliCommand::Start { quantities: Quantities::OfRelease }
        }
        (CliCommand::Start { quantities: Quantities::OfRelease }, Some(SourceChoice::HerokuApi { .. }))
            if !whole_formation =>
        {
            CliCommand::Start { quantities: Quantities::OneOfEach }
        }
        (command, _) => command,
    }
}

fn read_socket(reader: &mut Reader<'_>, flag: Option<OsString>) -> SocketChoice {
    let Some(Given { value: path, name }) = reader.path(SOCKET, flag) else {
        return SocketChoice::Default;
    };
    if path.as_os_str() == "none" {
        return SocketChoice::None;
    }
    let length = path.as_os_str().as_bytes().len();
    let fits = if length <= MAX_SOCKET_PATH {
        Ok(SocketChoice::Path { path, explicit: name == SOCKET.flag })
    } else {
        Err(format!(
            "the path has {length} bytes, a unix socket at most {MAX_SOCKET_PATH}: use a shorter one"
        ))
    };
    reader.keep(name, fits).unwrap_or(SocketChoice::Default)
}

/// Whether there is such a group is seen when the socket is made.
fn read_group(given: &str) -> Result<String, &'static str> {
    if given.is_empty() { Err("the group is empty: name one") } else { Ok(given.to_owned()) }
}

pub(super) fn read_bool(given: &str) -> Result<bool, String> {
    match given.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("{given:?} is neither yes nor no: write true or false")),
    }
}

fn read_start_number(given: &str) -> Result<u32, String> {
    let number = given.parse().ok().filter(|number| (1..=MAX_START_NUMBER).contains(number));
    number.ok_or_else(|| {
        format!("{given:?} is not the number of a dyno: write a whole number from 1 to {MAX_START_NUMBER}")
    })
}

/// The binds of the flags, else those of the variable.
fn read_binds(reader: &mut Reader<'_>, flags: Vec<String>) -> Vec<Bind> {
    let (given, name) = if flags.is_empty() {
        let variable = reader.text_variable(BIND.variable).unwrap_or_default();
        let given: Vec<_> =
            variable.split(',').map(str::trim).filter(|bind| !bind.is_empty()).map(str::to_owned).collect();
        (given, BIND.variable)
    } else {
        (flags, BIND.flag)
    };
    let mut insides = BTreeSet::new();
    let mut binds = Vec::new();
    for text in given {
        let Some(bind) = reader.keep(name, text.parse::<Bind>()) else { continue };
        let single = if insides.insert(bind.inside.clone()) {
            Ok(bind)
        } else {
            Err(format!("{:?} has a bind already: keep one", bind.inside))
        };
        binds.extend(reader.keep(name, single));
    }
    binds
}

/// The limits of the flags, else those of the variable.
fn read_limits(reader: &mut Reader<'_>, flags: Vec<String>) -> LimitSettings {
    let (given, name) = if flags.is_empty() {
        let variable = reader.text_variable(LIMITS.variable).unwrap_or_default();
        (variable.split_ascii_whitespace().map(str::to_owned).collect(), LIMITS.variable)
    } else {
        (flags, LIMITS.flag)
    };
    let settings: Vec<_> = given.iter().map(|text| reader.keep(name, text.parse::<LimitSetting>())).collect();
    settings.into_iter().flatten().collect()
}

pub(super) fn read_duration(given: &str, [least, most]: [Duration; 2]) -> Result<Duration, String> {
    let HumanDuration(duration) = given.parse().map_err(|error: InvalidDuration| error.to_string())?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    Err(format!("{given:?} is out of range: write {} to {}", HumanDuration(least), HumanDuration(most)))
}

/// The state directory; that it has no default matters only to commands that use it.
fn read_state_dir(
    reader: &mut Reader<'_>,
    flag: Option<OsString>,
    needed: bool,
    surroundings: &Surroundings<'_>,
) -> PathBuf {
    let problems = reader.problems.len();
    if let Some(given) = reader.path(STATE_DIR, flag) {
        return surroundings.directory.join(given.value);
    }
    let home = || absolute_variable(reader, "HOME").map(|home| home.join(".local/state"));
    let base = absolute_variable(reader, "XDG_STATE_HOME").or_else(home);
    match base {
        Some(base) if !surroundings.root => base.join("hsup"),
        None if !surroundings.root && needed && reader.problems.len() == problems => {
            let what = "there is no default, since neither XDG_STATE_HOME nor HOME is set: name a directory";
            reader.problems.push(Problem::usage(STATE_DIR.flag, what));
            PathBuf::from(SYSTEM_STATE_DIR)
        }
        Some(_) | None => PathBuf::from(SYSTEM_STATE_DIR),
    }
}

/// A variable that names a directory. A relative path does not count, as the XDG specification has it.
fn absolute_variable(reader: &Reader<'_>, name: &str) -> Option<PathBuf> {
    reader.variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests;
