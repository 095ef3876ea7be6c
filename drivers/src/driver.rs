//! The contract of a dyno driver.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use crate::docker::DockerError;
use crate::{Exit, Limits};

/// A boxed future, for the traits of this crate to be used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whose network a dyno lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The host's: each dyno needs a port of its own.
    Host,
    /// Its own: all dynos may listen on the same port.
    Isolated,
}

/// What a driver prepares a release from.
#[derive(Clone, Debug)]
pub struct BuildSpec {
    /// The release, for messages: `v3 of myapp`.
    pub release: String,
    /// The app.
    pub app: String,
    /// The version of the release: `v3`.
    pub version: String,
    /// The name of the stack that the release asks for.
    pub stack: Option<String>,
    /// The digest of the slug, where the release has one.
    pub slug_digest: Option<String>,
    /// The unpacked slug (the folder that is to be `/app`), where the release has one.
    pub slug_dir: Option<PathBuf>,
    /// The root of the stack image, where the driver needs one.
    pub stack_dir: Option<PathBuf>,
}

/// What a driver has made of a release: plain data, which goes with every start of one of its dynos.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// The folder whose files are at `/app`, which all dynos share.
    pub app_dir: Option<PathBuf>,
    /// The root of the stack image, which all dynos share.
    pub root: Option<PathBuf>,
    /// The image that containers are made from.
    pub image: Option<Image>,
}

/// An image of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What it is known by.
    pub id: String,
    /// The app.
    pub app: String,
    /// The version of the release.
    pub version: String,
}

/// What a driver starts a run of a dyno from.
#[derive(Clone, Debug)]
pub struct DynoSpec {
    /// The name of the dyno, `web.1`.
    pub name: String,
    /// The command: one shell command line, or words that are joined to one.
    pub command: Arc<[String]>,
    /// What the driver has made of the release.
    pub built: Arc<Built>,
    /// The environment that the release and hsup give the dyno; the driver adds its own defaults below it.
    pub env: Arc<[(String, String)]>,
    /// What hsup says to this dyno alone, in its environment.
    pub own_env: Vec<(String, String)>,
    /// The port that the dyno is to listen on, handed over as `PORT`.
    pub port: u16,
    /// Where its input and output are connected.
    pub stdio: Stdio,
    /// A listening socket that it gets as its descriptor 3, as systemd passes them (sd_listen_fds(3)); only drivers
    /// whose dynos share the host's network pass it.
    pub listen: Option<Arc<OwnedFd>>,
    /// Whether it is to speak by sd_notify(3), on the socket that [`Run::take_notify`] gives.
    pub notify: bool,
    /// What it may use of the host.
    pub limits: Limits,
}

/// Where a dyno's input and output are connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// No input; output and errors to pipes, handed out by [`Run::take_output`].
    Pipes,
    /// hsup's own input; output and errors to pipes, handed out by [`Run::take_output`].
    InputOnly,
    /// hsup's own input, output and errors.
    Inherit,
    /// A terminal, by the path of its device, which becomes the dyno's controlling terminal.
    Terminal(PathBuf),
}

impl Stdio {
    /// The same, but with output that hsup can read. That of a terminal it reads at the terminal's other end.
    #[must_use]
    pub fn readable(self) -> Self {
        match self {
            Self::Inherit => Self::InputOnly,
            other @ (Self::Pipes | Self::InputOnly | Self::Terminal(_)) => other,
        }
    }
}

/// The read ends of a dyno's pipes.
#[derive(Debug)]
pub struct Output {
    /// What it prints.
    pub stdout: OwnedFd,
    /// What it prints to standard error.
    pub stderr: OwnedFd,
}

/// The socket on which a run speaks by sd_notify(3): datagrams, each with the credentials of its sender.
#[derive(Debug)]
pub struct Notify {
    /// The socket.
    pub socket: OwnedFd,
    /// The user whose words count; none where nobody but the run reaches the socket.
    pub sender: Option<u32>,
}

/// The signals that end a dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KillSignal {
    /// SIGTERM: end in your own way.
    Term,
    /// SIGKILL: end now.
    Kill,
}

impl fmt::Display for KillSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Term => "SIGTERM",
            Self::Kill => "SIGKILL",
        })
    }
}

/// The main process of a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainExit {
    /// How.
    pub exit: Exit,
    /// Whether it was the last process of the run. If not, [`Run::gone`] waits for the others.
    pub alone: bool,
}

/// A release cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The driver runs code from a slug and the release has none.
    #[error(
        "the release has no slug, and the {driver} driver runs an app's code from one: give the release a Slug"
    )]
    NoSlug {
        /// The driver.
        driver: &'static str,
    },
    /// The driver runs dynos on a stack image and there is none.
    #[error(
        "there is no stack image, and the {driver} driver runs dynos on one: add one with `hsup stack add`"
    )]
    NoStack {
        /// The driver.
        driver: &'static str,
    },
    /// A file operation failed.
    #[error("failed to {operation} {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The Docker Engine did not do its part.
    #[error(transparent)]
    Docker(#[from] Box<DockerError>),
}

/// A dyno cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program is not there.
    #[error("command not found: {program:?} is not {place}")]
    NotFound {
        /// The program as the command names it.
        program: String,
        /// Where it was looked for.
        place: String,
    },
    /// The program is there and cannot be executed.
    #[error("cannot execute {}", path.display())]
    NotExecutable {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused.
    #[error("failed to {operation}")]
    System {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A step of setting up the dyno's surroundings failed.
    #[error("failed to {what}")]
    SetUp {
        /// What was being done, and where.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl StartError {
    /// The exit status that a shell gives for it: 127 not found, 126 not executable, else 1.
    pub fn status(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::System { .. } | Self::SetUp { .. } => 1,
        }
    }
}

/// The processes of a run could not all be signalled.
#[derive(Debug, thiserror::Error)]
#[error("failed to send {signal} to process {pid} of {dyno}")]
pub struct SignalError {
    /// The signal.
    pub signal: KillSignal,
    /// The process.
    pub pid: u32,
    /// The dyno.
    pub dyno: String,
    /// Why it failed.
    pub source: io::Error,
}

/// One run of a dyno, and the owner of its processes. Dropping it neither signals nor reaps anything: a run is
/// ended by [`Run::signal`] and is over when [`Run::gone`] returns.
pub trait Run: Send + Sync {
    /// The main process, where the dyno has one on this host.
    fn pid(&self) -> Option<u32>;

    /// The address at which the dyno's port is to be reached.
    fn address(&self) -> IpAddr;

    /// The port at which it is to be reached there, where that is not the one that the dyno listens on.
    fn port(&self) -> Option<u16> {
        None
    }

    /// Where the dyno itself is asked how it is, where that is another place: whoever publishes its port may accept what
    /// the dyno does not.
    fn asked_at(&self) -> Option<SocketAddr> {
        None
    }

    /// The read ends of the dyno's pipes, once; `None` when it was not started with any.
    fn take_output(&self) -> Option<Output>;

    /// The socket on which the run speaks by sd_notify(3), once; `None` when it was not started to.
    fn take_notify(&self) -> Option<Notify> {
        None
    }

    /// Starts a command inside the run: in its namespaces and its cgroup, as its user, with its environment but for what
    /// hsup says to the dyno alone. The spec is the run's with another command, and with [`Stdio::Pipes`]. The command ends
    /// with the run and is otherwise no part of it. Bounded in time; not to be cancelled.
    fn exec<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Box<dyn Exec>, StartError>>;

    /// Signals every process of the run. To signal a run that is over does nothing.
    ///
    /// # Errors
    /// If a process could not be signalled; all others have been.
    fn signal(&self, signal: KillSignal) -> Result<(), SignalError>;

    /// Waits for the main process to end. Cancel safe.
    fn main_exit(&self) -> BoxFuture<'_, MainExit>;

    /// Waits until the dyno has used up the memory that it may use: the kernel takes pages from it, or kills. Never
    /// where it has no such limit. Cancel safe.
    fn memory_full(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Whether the kernel has killed processes of the run for want of memory.
    fn out_of_memory(&self) -> bool {
        false
    }

    /// Waits for every process of the run to be gone; to be called after [`Run::main_exit`] has returned.
    /// Cancel safe. Processes that turn up after SIGKILL was sent are sent it as well.
    fn gone(&self) -> BoxFuture<'_, ()>;
}

/// A command inside a run, and the owner of its processes: it is to be waited for or ended, since dropping it reaps nothing.
pub trait Exec: Send {
    /// The read ends of its pipes, once.
    fn take_output(&mut self) -> Option<Output>;

    /// Waits for the command to end. If it was the last process of its own, nothing is left of it then; if not,
    /// [`Exec::end`] is to be called. Cancel safe.
    fn exit(&mut self) -> BoxFuture<'_, MainExit>;

    /// Kills the command and all that it has started, and waits until nothing of it is left.
    fn end(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// What turns a dyno into processes.
pub trait DynoDriver: Send + Sync {
    /// Its name: `simple`.
    fn name(&self) -> &'static str;

    /// Whose network its dynos live in.
    fn network(&self) -> Network;

    /// Whether it runs an app's code from the slug; if not, slugs are not even fetched.
    fn needs_slug(&self) -> bool;

    /// Whether its dynos run on a stack image; if not, none is even looked for.
    fn needs_stack(&self) -> bool {
        false
    }

    /// Prepares a release, once, before its first dyno starts and while dynos of the release before still run.
    fn build<'a>(&'a self, spec: &'a BuildSpec) -> BoxFuture<'a, Result<Built, BuildError>>;

    /// Starts a run of a dyno. Bounded in time; not to be cancelled.
    fn start<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Arc<dyn Run>, StartError>>;
}
