//! What the command line and the environment say, as values that have been checked, and what is said when they
//! cannot be. How they are read is `parse.rs`'s business.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::settings::Problem;
use super::{DockerConfig, ExitCode, NativeConfig, SocketChoice, SourceChoice};
use crate::control::{EventsQuery, LogsQuery};
use crate::listen::Listen;
use crate::log::LogConfig;
use crate::logs::LogSettings;
use crate::model::{
    AppName, Bind, Command, DynoName, LimitSettings, Quantities, ReleaseVersion, RolloutSettings,
    ScaleChange, StackName, Target,
};
use crate::stack::{Checksum, StackId, StackLocation};
use crate::systemd::GivenByManager;

/// A dyno driver of this build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverKind {
    /// Dynos are subprocesses in the directory of the app.
    #[default]
    Simple,
    /// Dynos are subprocesses in `/app`, for use inside a container.
    Abspath,
    /// Each dyno is a container of a Docker Engine.
    Docker,
    /// Dynos are in namespaces and cgroups of their own.
    Native,
}

impl DriverKind {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Abspath => "abspath",
            Self::Docker => "docker",
            Self::Native => "native",
        }
    }

    /// Whether its dynos have a root and a network of their own, and limits.
    pub fn is_isolated(self) -> bool {
        match self {
            Self::Simple | Self::Abspath => false,
            Self::Docker | Self::Native => true,
        }
    }
}

/// No dyno driver was named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a dyno driver: use simple, abspath, docker or native")]
pub struct UnknownDriver(String);

impl FromStr for DriverKind {
    type Err = UnknownDriver;

    fn from_str(given: &str) -> Result<Self, UnknownDriver> {
        match given {
            "simple" => Ok(Self::Simple),
            "abspath" => Ok(Self::Abspath),
            "docker" => Ok(Self::Docker),
            "native" | "libcontainer" => Ok(Self::Native),
            other => Err(UnknownDriver(other.to_owned())),
        }
    }
}

/// What a running hsup is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRequest {
    /// Show the dynos.
    Ps {
        /// Again and again.
        watch: bool,
    },
    /// Show what a control file would change.
    Plan(PathBuf),
    /// Show the config vars.
    Config {
        /// With their values.
        show: bool,
    },
    /// Explain how a dyno is.
    Explain(DynoName),
    /// Stop dynos, until something starts them again.
    Stop(DynoTargets),
    /// Restart dynos.
    Restart(DynoTargets),
    /// Run other numbers of dynos; none to show how many there are.
    Scale(Vec<ScaleChange>),
    /// Show the history of releases.
    Releases,
    /// Go back to this release, or to the last good one.
    Rollback(Option<ReleaseVersion>),
}

/// Which dynos are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DynoTargets {
    /// Every dyno.
    All,
    /// These; never none.
    Named(Vec<Target>),
}

/// What to do with the stacks of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StackCommand {
    /// Shows them.
    List {
        /// As JSON.
        json: bool,
    },
    /// Adds one from a file or URL.
    Add {
        /// Its name and version.
        id: StackId,
        /// Where it is.
        from: StackLocation,
        /// The digest that it must have.
        checksum: Option<Checksum>,
    },
    /// Adds one that the manifest has.
    AddFromManifest {
        /// Its name.
        name: StackName,
    },
    /// Removes one.
    Remove {
        /// Its name and version.
        id: StackId,
    },
}

/// A command and what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CliCommand {
    /// Keeps the dynos of the formation running.
    Start {
        /// How many of each type.
        quantities: Quantities,
    },
    /// Runs a one-off dyno.
    Run {
        /// What it runs.
        command: Command,
    },
    /// Prepares the release and ends.
    Build,
    /// Asks a running hsup for something.
    Client {
        /// What.
        request: ClientRequest,
        /// Whether to write JSON.
        json: bool,
    },
    /// Shows log lines of a running hsup.
    Logs(LogsQuery),
    /// Shows what happens in a running hsup.
    Events {
        /// Which events.
        query: EventsQuery,
        /// As JSON.
        json: bool,
    },
    /// Shows what hsups that were killed have left on this host.
    Doctor {
        /// Whether to remove it.
        fix: bool,
        /// As JSON.
        json: bool,
    },
    /// Works on the stacks of this host.
    Stack(StackCommand),
    /// Writes the man pages.
    Man {
        /// The directory.
        dir: PathBuf,
    },
    /// Checks a control file.
    Check {
        /// The file, as it was named.
        file: PathBuf,
        /// Whether to print JSON.
        json: bool,
    },
}

/// Everything that the command line and the environment say. Paths are absolute, except for those of the
/// socket (of which few bytes are allowed) and of `check` (which is shown as it was named).
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The app: as it was named, or for a Procfile the name of its directory. Without one, the release's
    /// name counts.
    pub app: Option<AppName>,
    /// What turns dynos into processes.
    pub driver: DriverKind,
    /// Where releases come from. There is one for `start`, `run` and `build`, and none for other commands.
    pub source: Option<SourceChoice>,
    /// Where the control API listens or is to be found.
    pub control_socket: SocketChoice,
    /// Whose members may do everything over the control socket, where a group is named.
    pub control_group: Option<String>,
    /// Whose members may look.
    pub read_group: Option<String>,
    /// `XDG_RUNTIME_DIR`, where it is set; for the default socket.
    pub runtime_dir: Option<PathBuf>,
    /// Whether dynos that exit stay stopped.
    pub one_shot: bool,
    /// The number of the first dyno of each type.
    pub start_number: u32,
    /// How dynos' log lines are kept and shipped.
    pub logs: LogSettings,
    /// Paths of the host that dynos see.
    pub binds: Vec<Bind>,
    /// What dynos may use of the host, where the command line says so.
    pub limits: LimitSettings,
    /// How native dynos are connected, and as whom they run.
    pub native: NativeConfig,
    /// Where the Docker Engine is, and what it makes dynos from.
    pub docker: DockerConfig,
    /// Where hsup keeps what must outlive it.
    pub state_dir: PathBuf,
    /// Where stacks that are not on this host come from.
    pub stack_manifest: Option<StackLocation>,
    /// How often a source is looked at.
    pub poll_interval: Duration,
    /// How long dynos have between SIGTERM and SIGKILL.
    pub stop_timeout: Duration,
    /// The sockets that hsup holds for dynos.
    pub listens: Vec<Listen>,
    /// How dynos show that they are well, and how they are replaced.
    pub rollout: RolloutSettings,
    /// What the service manager says that has started hsup.
    pub given: GivenByManager,
    /// hsup's own log.
    pub log: LogConfig,
    /// What to do.
    pub command: CliCommand,
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// A command.
    Command(Box<Config>),
    /// A text on stdout, and nothing else: the help or the version.
    Print(String),
}

/// Why a command line cannot be carried out. It is written to stderr as it is, without anything before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CliError {
    /// It cannot be taken apart. This is clap's own text, or the help where nothing was asked for.
    Grammar(String),
    /// Values are wrong: everything that is, in a line each.
    Values(Vec<Problem>),
}

impl CliError {
    /// The code that hsup ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Grammar(_) => ExitCode::Usage,
            Self::Values(problems) => problems.iter().map(Problem::code).min().unwrap_or(ExitCode::Usage),
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grammar(text) => f.write_str(text),
            Self::Values(problems) => problems.iter().enumerate().try_for_each(|(n, problem)| {
                let separator = if n == 0 { "" } else { "\n" };
                write!(f, "{separator}{problem}")
            }),
        }
    }
}

impl std::error::Error for CliError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_known_by_name() {
        let error = "podman".parse::<DriverKind>().unwrap_err().to_string();
        assert_eq!(error, "\"podman\" is not a dyno driver: use simple, abspath, docker or native");
        assert_eq!("libcontainer".parse(), Ok(DriverKind::Native));
        assert_eq!("docker".parse(), Ok(DriverKind::Docker));
        assert_eq!("abspath".parse(), Ok(DriverKind::Abspath));
    }
}
