//! The grammar of the command line: which words, options and commands there are. It owns the help text, and
//! takes every value as raw text: what a value means, and what is wrong with it, is `config.rs`'s business,
//! which also looks at the environment.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use clap::{Args as _, CommandFactory as _, FromArgMatches as _};

use super::rollout::RolloutFlags;

mod commands;

pub(super) use commands::{CommandArgs, StackArgs};

/// The command line, taken apart.
pub(super) struct CommandLine {
    pub options: Options,
    pub command: CommandArgs,
}

impl CommandLine {
    /// Takes a command line apart; the first word is the name of the program.
    ///
    /// Every command takes every option, and so does `hsup` itself: `hsup -a x start` and `hsup start -a x`
    /// are the same. (clap's own `global` would forget the values before the command where a repeatable
    /// option stands on both sides of it.)
    ///
    /// # Errors
    /// What clap says, which may also be the help text or the version.
    pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let line: Vec<OsString> = argv.into_iter().collect();
        let mut grammar = command_of(&line);
        let matches = grammar.try_get_matches_from_mut(&line).or_else(|_| {
            // What is said of a mistake, and the help, are of the whole grammar.
            grammar = command();
            grammar.try_get_matches_from_mut(&line)
        })?;
        let mut options = Options::of(&grammar, &matches)?;
        let (mut taken, mut before) = (&grammar, &matches);
        while let Some((name, after)) = before.subcommand() {
            taken = taken.find_subcommand(name).expect("clap finds none but those that there are");
            options = Options::of(taken, after)?.or(options);
            before = after;
        }
        Ok(Self { options, command: Hsup::from_arg_matches(&matches)?.command })
    }
}

/// The whole grammar, as clap has it.
pub fn command() -> clap::Command {
    let hsup = Options::augment_args(Hsup::command()).mut_args(with_variable_on_its_own_line);
    hsup.mut_subcommands(with_options)
}

/// What of the grammar a line can be taken apart with. Options take longer to make than most of what follows, and only
/// a command that is one of the words can be meant, and has options only where a word behind it looks like one.
fn command_of(line: &[OsString]) -> clap::Command {
    fn looks_like_option(word: &OsString) -> bool {
        word.as_bytes().starts_with(b"-")
    }
    fn with_options_if_said(command: clap::Command, line: &[OsString]) -> clap::Command {
        let is_name = |word: &OsString| {
            word == command.get_name() || command.get_all_aliases().any(|alias| word == alias)
        };
        let Some(at) = line.iter().position(is_name) else { return command };
        let command = match line.iter().skip(at).any(looks_like_option) {
            true => Options::augment_args(command).args_override_self(true),
            false => command,
        };
        command.mut_subcommands(|command| with_options_if_said(command, line))
    }
    let hsup = Hsup::command();
    let hsup = match line.get(1).is_some_and(looks_like_option) {
        true => Options::augment_args(hsup),
        false => hsup,
    };
    hsup.mut_subcommands(|command| with_options_if_said(command, line))
}

/// A command, and the commands below it, with the options that every command takes.
fn with_options(command: clap::Command) -> clap::Command {
    let command = Options::augment_args(command).args_override_self(true);
    command.mut_args(with_variable_on_its_own_line).mut_subcommands(with_options)
}

/// Starts a line of the help with the variable, for wrapping not to tear it apart.
fn with_variable_on_its_own_line(arg: clap::Arg) -> clap::Arg {
    match arg.get_help().map(ToString::to_string) {
        Some(help) => arg.help(help.replace(" [env: ", "\n[env: ")),
        None => arg,
    }
}

/// Keeps the dynos of an app running on this host, the way a Heroku dyno host does
#[derive(clap::Parser)]
#[command(
    name = "hsup",
    version,
    args_override_self = true,
    arg_required_else_help = true,
    subcommand_required = true,
    override_usage = "hsup [OPTIONS] COMMAND [OPTIONS] [ARGS]",
    after_help = "Options stand before or after the command. A flag beats its variable, and an empty variable \
                  counts as unset."
)]
struct Hsup {
    #[command(subcommand)]
    command: CommandArgs,
}

// The options that every command takes, as they were given. They have no `Debug`, since one is a secret.
// (A doc comment would become the description of every command.)
#[derive(clap::Args, Default)]
pub(super) struct Options {
    /// The app [env: HSUP_APP]
    #[arg(short, long, value_name = "APP")]
    pub app: Option<String>,

    /// What turns dynos into processes: simple, abspath, docker or native [env: HSUP_DYNODRIVER] [default:
    /// simple]
    #[arg(short, long, value_name = "DRIVER")]
    pub dynodriver: Option<String>,

    /// Where the control API listens, or "none" [env: HSUP_CONTROL_SOCKET] [default:
    /// $XDG_RUNTIME_DIR/hsup/APP.sock, else /run/hsup/APP.sock]
    #[arg(short = 's', long, value_name = "PATH")]
    pub control_socket: Option<OsString>,

    /// The group, by name or number, whose members may do everything over the control socket [env:
    /// HSUP_CONTROL_GROUP] [default: that of the socket's file, which is hsup's own]
    #[arg(long, value_name = "GROUP")]
    pub control_group: Option<String>,

    /// The group whose members may look (ps, logs, ...) and change nothing [env: HSUP_READ_GROUP] [default: none]
    #[arg(long, value_name = "GROUP")]
    pub read_group: Option<String>,

    /// Leave dynos that exit stopped, and end when all have exited [env: HSUP_ONESHOT]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub oneshot: Option<String>,

    /// The number of the first dyno of each type [env: HSUP_START_NUMBER] [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub start_number: Option<String>,

    /// Where log lines are sent, over http, https, syslog or syslog+tls; may be repeated [env: HSUP_LOGPLEX_URL,
    /// separated by blanks] [default: what the release says]
    #[arg(long, value_name = "URL")]
    pub logplex_url: Vec<String>,

    /// What happens to log lines that a drain has no room for: drop the oldest, or block the dynos that print [env:
    /// HSUP_LOG_OVERFLOW] [default: drop]
    #[arg(long, value_name = "drop|block")]
    pub log_overflow: Option<String>,

    /// How much waits in memory for each drain [env: HSUP_LOG_BUFFER] [default: 8MiB]
    #[arg(long, value_name = "SIZE")]
    pub log_buffer: Option<String>,

    /// How much waits on disk for each drain, or 0 [env: HSUP_LOG_SPOOL] [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub log_spool: Option<String>,

    /// Compress what is sent to drains [env: HSUP_LOG_GZIP]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub log_gzip: Option<String>,

    /// How long to send the last log lines when hsup ends [env: HSUP_LOG_FLUSH_TIMEOUT] [default: 10s]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub log_flush_timeout: Option<String>,

    /// How much of the newest log lines is kept for hsup logs [env: HSUP_LOG_TAIL] [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    pub log_tail: Option<String>,

    /// Write the log lines of each dyno to a file in this directory, one for each hsup [env: HSUP_LOG_DIR]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<OsString>,

    /// The size from which on a log file is put aside and compressed [env: HSUP_LOG_DIR_SIZE] [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub log_dir_size: Option<String>,

    /// The age from which on a log file is put aside and compressed [env: HSUP_LOG_DIR_AGE] [default: 24h]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub log_dir_age: Option<String>,

    /// How many log files that were put aside are kept of each dyno [env: HSUP_LOG_DIR_KEEP] [default: 7]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub log_dir_keep: Option<String>,

    /// A path of the host that dynos see, with :ro only to read; may be repeated [env: HSUP_BIND, separated by
    /// commas]
    #[arg(long, value_name = "HOST:INSIDE[:ro]")]
    pub bind: Vec<String>,

    /// What each dyno of a type, or of all, may use of the host, as in web:memory=512MiB,swap=0,cpu=0.5,pids=256,io=100,
    /// with the native or the docker driver; may be repeated [env: HSUP_LIMITS, separated by blanks]
    #[arg(long, value_name = "[TYPE:]LIMITS")]
    pub limits: Vec<String>,

    /// What native dynos may reach besides the world outside: dynos, metadata; may be repeated [env: HSUP_ALLOW,
    /// separated by commas]
    #[arg(long, value_name = "WHAT")]
    pub allow: Vec<String>,

    /// The image of a stack, for the docker driver; may be repeated [env: HSUP_STACK_IMAGE, separated by commas]
    /// [default: heroku/heroku:24 for heroku-24, and so on]
    #[arg(long, value_name = "STACK=IMAGE")]
    pub stack_image: Vec<String>,

    /// The static hsup that is the first process of containers [env: HSUP_DOCKER_ENTRY] [default: this one]
    #[arg(long, value_name = "PATH")]
    pub docker_entry: Option<OsString>,

    /// The directory that releases are taken from [env: HSUP_CONTROL_DIR]
    #[arg(long, value_name = "DIR")]
    pub control_dir: Option<OsString>,

    /// The Procfile that the release is made from [env: HSUP_PROCFILE] [default: ./Procfile where no other
    /// source is chosen]
    #[arg(long, value_name = "PATH")]
    pub procfile: Option<OsString>,

    /// The Platform API that releases of the app are taken from where HEROKU_ACCESS_TOKEN is set [env:
    /// HSUP_HEROKU_API_URL] [default: https://api.heroku.com]
    #[arg(long, value_name = "URL")]
    pub heroku_api_url: Option<String>,

    /// Run as many dynos as the formation of the Heroku app says, and not one of each type [env:
    /// HSUP_WHOLE_FORMATION]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub whole_formation: Option<String>,

    /// Do not run the last good release while the Heroku API cannot be asked [env: HSUP_NO_STALE]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub no_stale: Option<String>,

    /// Where hsup keeps what must outlive it [env: HSUP_STATE_DIR] [default: /var/lib/hsup for root, else
    /// $XDG_STATE_HOME/hsup or ~/.local/state/hsup]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<OsString>,

    /// The manifest that stacks which are not on this host are downloaded from [env: HSUP_STACK_MANIFEST]
    #[arg(long, value_name = "URL|PATH")]
    pub stack_manifest: Option<String>,

    /// How often a source is looked at [env: HSUP_POLL_INTERVAL] [default: 10s]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub poll_interval: Option<String>,

    /// How long dynos have between SIGTERM and SIGKILL [env: HSUP_STOP_TIMEOUT] [default: 30s]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub stop_timeout: Option<String>,

    /// A socket that hsup holds for the dynos of a type and passes to each (LISTEN_FDS), for no connection to be lost
    /// when they are replaced; simple and abspath only; may be repeated [env: HSUP_LISTEN, separated by blanks]
    #[arg(long, value_name = "TYPE=[ADDRESS:]PORT")]
    pub listen: Vec<String>,
    #[command(flatten)]
    pub rollout: RolloutFlags,
    /// How hsup writes its own log: text or json [env: HSUP_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// What hsup logs: a level (error, warn, info, debug, trace) or TARGET=LEVEL,... [env: HSUP_LOG]
    /// [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
}

impl Options {
    /// The options that a command was given, where it takes any.
    fn of(command: &clap::Command, matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let takes_any = command.get_arguments().any(|arg| arg.get_id() == "app");
        if takes_any { Self::from_arg_matches(matches) } else { Ok(Self::default()) }
    }

    /// These options, and for those that are missing the others; repeatable ones add up, the others' first.
    fn or(self, others: Self) -> Self {
        Self {
            app: self.app.or(others.app),
            dynodriver: self.dynodriver.or(others.dynodriver),
            control_socket: self.control_socket.or(others.control_socket),
            control_group: self.control_group.or(others.control_group),
            read_group: self.read_group.or(others.read_group),
            oneshot: self.oneshot.or(others.oneshot),
            start_number: self.start_number.or(others.start_number),
            logplex_url: others.logplex_url.into_iter().chain(self.logplex_url).collect(),
            log_overflow: self.log_overflow.or(others.log_overflow),
            log_buffer: self.log_buffer.or(others.log_buffer),
            log_spool: self.log_spool.or(others.log_spool),
            log_gzip: self.log_gzip.or(others.log_gzip),
            log_flush_timeout: self.log_flush_timeout.or(others.log_flush_timeout),
            log_tail: self.log_tail.or(others.log_tail),
            log_dir: self.log_dir.or(others.log_dir),
            log_dir_size: self.log_dir_size.or(others.log_dir_size),
            log_dir_age: self.log_dir_age.or(others.log_dir_age),
            log_dir_keep: self.log_dir_keep.or(others.log_dir_keep),
            bind: others.bind.into_iter().chain(self.bind).collect(),
            limits: others.limits.into_iter().chain(self.limits).collect(),
            allow: others.allow.into_iter().chain(self.allow).collect(),
            stack_image: others.stack_image.into_iter().chain(self.stack_image).collect(),
            docker_entry: self.docker_entry.or(others.docker_entry),
            control_dir: self.control_dir.or(others.control_dir),
            procfile: self.procfile.or(others.procfile),
            heroku_api_url: self.heroku_api_url.or(others.heroku_api_url),
            whole_formation: self.whole_formation.or(others.whole_formation),
            no_stale: self.no_stale.or(others.no_stale),
            state_dir: self.state_dir.or(others.state_dir),
            stack_manifest: self.stack_manifest.or(others.stack_manifest),
            poll_interval: self.poll_interval.or(others.poll_interval),
            stop_timeout: self.stop_timeout.or(others.stop_timeout),
            listen: others.listen.into_iter().chain(self.listen).collect(),
            rollout: self.rollout.or(others.rollout),
            log_format: self.log_format.or(others.log_format),
            log_level: self.log_level.or(others.log_level),
        }
    }
}

#[cfg(test)]
mod tests;
