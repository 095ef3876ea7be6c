//! What hsup has of the service manager that has started it: whom it tells how it is, and the control socket, where
//! the manager has made that. How they speak is `systemd`'s business.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hsup_drivers::guardian::Relay;
use hsup_drivers::sys;
use tokio::task::JoinSet;

use super::fatal::Fatal;
use super::{CliCommand, Config, ExitCode, SocketChoice, default_socket};
use crate::control::{self, ControlSocket, SocketError};
use crate::systemd::{GivenByManager, Notifier, Reporter, Watched};
use crate::users;

/// The name by which the control socket is known among several sockets (`FileDescriptorName=` of its unit).
const CONTROL: &str = "control";

/// How long the end of hsup may take when no dyno is left.
const LAST_STEPS: Duration = Duration::from_secs(10);

/// The service manager, where there is one that wants to be told.
pub(super) struct Manager {
    notifier: Option<Arc<Notifier>>,
    /// Why it cannot be told, though it wants to.
    complaint: Option<String>,
}

impl Manager {
    /// Finds the manager. What is given back belongs to the guardian.
    pub(super) fn open(given: &GivenByManager) -> (Self, Option<Relay>) {
        let Some(address) = &given.notify_socket else {
            return (Self { notifier: None, complaint: None }, None);
        };
        match Notifier::open(address) {
            Ok((notifier, relay)) => {
                (Self { notifier: Some(Arc::new(notifier)), complaint: None }, Some(relay))
            }
            Err(error) => {
                let complaint = format!("NOTIFY_SOCKET={}: {error}", address.display());
                (Self { notifier: None, complaint: Some(complaint) }, None)
            }
        }
    }

    /// Everything that could keep hsup from running is behind it, and its control socket answers: that is when whoever
    /// has waited for hsup may go on. A release may be long in coming, be large, or be bad, and another one may follow;
    /// a manager that waited for it would give hsup up in the middle of it. So that is told as the status.
    pub(super) fn begin(&self, tasks: &mut JoinSet<()>, watched: Watched, config: &Config) {
        if let Some(complaint) = &self.complaint {
            tracing::warn!("cannot tell the service manager how hsup is: {complaint}");
        }
        let Some(notifier) = &self.notifier else { return };
        notifier.ready();
        let reporter = Reporter {
            notifier: Arc::clone(notifier),
            watched,
            stop_timeout: config.stop_timeout,
            watchdog: config.given.watchdog,
        };
        tasks.spawn(reporter.report());
    }

    /// No dyno is left, and hsup ends.
    pub(super) fn stopping(&self) {
        if let Some(notifier) = &self.notifier {
            notifier.stopping(LAST_STEPS);
        }
    }
}

/// Takes the control socket: that of the service manager, if it has made one, else one of hsup's own. A one-off dyno
/// or a build has one of its own only if a flag asks for it, so that neither is in the way of the hsup that runs the
/// formation.
pub(super) async fn control_socket(config: &Config) -> Result<Option<ControlSocket>, Fatal> {
    let given = given_socket(&config.given)?;
    let path = match (&config.control_socket, &config.command) {
        (SocketChoice::None, _) => return Ok(None),
        (SocketChoice::Path { .. } | SocketChoice::Default, _) if given.is_some() => None,
        (SocketChoice::Path { path, explicit: true }, _)
        | (SocketChoice::Path { path, explicit: false }, CliCommand::Start { .. }) => Some(path.clone()),
        (SocketChoice::Default, CliCommand::Start { .. }) => {
            Some(default_socket(config.app.as_ref(), config.runtime_dir.as_deref()))
        }
        (SocketChoice::Path { .. } | SocketChoice::Default, _) => return Ok(None),
    };
    let (socket, whose) = match (path, given) {
        (Some(path), _) => (control::bind(&path).await, ""),
        (None, Some(given)) => (control::adopt(given), ", from the service manager"),
        (None, None) => return Ok(None),
    };
    let mut socket = socket.map_err(|error| refused(error, &config.command))?;
    let named = |name: &Option<String>| name.as_deref().map(users::group).transpose();
    let group = |name: &Option<String>| named(name).map_err(|error| Fatal::new(ExitCode::Usage, &error));
    socket.restrict(group(&config.control_group)?, group(&config.read_group)?).map_err(Fatal::socket)?;
    tracing::info!("control socket: {}{whose}", socket.path().display());
    Ok(Some(socket))
}

/// The control socket cannot be made. Who runs a one-off dyno at the socket of a running hsup may mean that one's release.
fn refused(error: SocketError, command: &CliCommand) -> Fatal {
    let is_in_use = matches!(error, SocketError::InUse { .. });
    let fatal = Fatal::socket(error);
    if is_in_use && matches!(command, CliCommand::Run { .. }) {
        fatal.advising("or run the command inside what that hsup runs, with --live")
    } else {
        fatal
    }
}

/// The control socket among those that the manager has handed over: the one of that name, or the only one.
fn given_socket(given: &GivenByManager) -> Result<Option<OwnedFd>, Fatal> {
    let named = given.sockets.iter().find(|socket| socket.name.as_deref() == Some(CONTROL));
    let Some(socket) = named.or(given.sockets.first().filter(|_| given.sockets.len() == 1)) else {
        if !given.sockets.is_empty() {
            tracing::warn!(
                "no socket that the service manager has handed over is called {CONTROL}, so none is used: write \
                 FileDescriptorName={CONTROL} into the unit of the control socket"
            );
        }
        return Ok(None);
    };
    let duplicated = sys::duplicate(socket.descriptor);
    duplicated.map(Some).map_err(Fatal::system("take the socket that LISTEN_FDS promises"))
}
