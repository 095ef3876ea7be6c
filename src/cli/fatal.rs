//! What ends hsup: an error, what it means for the exit code, and one place that says it.

use std::error::Error;
use std::io;
use std::process;

use hsup_drivers::docker::DockerError;
use hsup_drivers::native::NativeError;

use super::{DriverKind, ExitCode};
use crate::explain;
use crate::listen::Listen;
use crate::model::Bind;
use crate::systemd;

/// An error that hsup cannot go on with.
#[derive(Debug)]
pub(super) struct Fatal {
    code: ExitCode,
    text: String,
}

impl Fatal {
    /// An error, and the exit code that stands for it.
    pub(super) fn new(code: ExitCode, error: &dyn Error) -> Self {
        Self { code, text: explain(error) }
    }

    /// The system refused something.
    pub(super) fn system(operation: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self { code: ExitCode::System, text: format!("failed to {operation}: {error}") }
    }

    /// What was asked for cannot be printed.
    pub(super) fn output(error: &io::Error) -> Self {
        Self { code: ExitCode::Output, text: format!("cannot write standard output: {error}") }
    }

    /// The state dir cannot be used.
    pub(super) fn state_dir(error: impl Error) -> Self {
        let text = format!("{}: choose a directory that hsup can write to with --state-dir", explain(&error));
        Self { code: ExitCode::System, text }
    }

    /// The source of releases can be opened, and what it holds is not valid.
    pub(super) fn invalid(error: impl Error) -> Self {
        Self::new(ExitCode::ReleaseInvalid, &error)
    }

    /// What a command was to read cannot be read.
    pub(super) fn unreadable(text: String) -> Self {
        Self { code: ExitCode::NoSource, text }
    }

    /// The source of releases cannot be opened.
    pub(super) fn source(error: impl Error) -> Self {
        Self::new(ExitCode::NoSource, &error)
    }

    /// A socket for dynos cannot be bound.
    pub(super) fn listen((place, error): (Listen, io::Error)) -> Self {
        let text = format!("cannot listen for {place}: {error}: choose another port with --listen");
        Self { code: ExitCode::System, text }
    }

    /// The driver cannot show a path of the host at another one.
    pub(super) fn bind(bind: &Bind, driver: &str) -> Self {
        let (host, inside) = (bind.host.display(), bind.inside.display());
        let what = if bind.read_only {
            format!(
                "{host}:{inside}:ro: dynos of the {driver} driver write what the host lets them: use another driver"
            )
        } else {
            format!(
                "{host}:{inside}: dynos of the {driver} driver see the host's own paths: use {host} in the app, or another driver"
            )
        };
        Self { code: ExitCode::Usage, text: format!("--bind {what}") }
    }

    /// The driver cannot keep dynos within limits.
    pub(super) fn limits(driver: DriverKind) -> Self {
        let name = driver.name();
        Self::usage(format!("--limits, HSUP_LIMITS: the {name} driver keeps no limits: use native or docker"))
    }

    /// The driver does not part dynos from what they would have to be allowed.
    pub(super) fn allow(driver: DriverKind) -> Self {
        let name = driver.name();
        Self::usage(format!("--allow: the {name} driver keeps dynos from nothing of that: use native"))
    }

    /// A Procfile has no slug.
    pub(super) fn procfile_without_slug() -> Self {
        Self::usage(
            "the abspath driver runs slugs, and a Procfile has none: use another driver (-d simple), or a source of \
             releases that have slugs (--control-dir, --app)"
                .to_owned(),
        )
    }

    /// The native driver cannot be used.
    pub(super) fn native(error: NativeError) -> Self {
        Self::new(ExitCode::System, &error)
    }

    /// The docker driver cannot be used.
    pub(super) fn docker(error: DockerError) -> Self {
        Self::new(ExitCode::System, &error)
    }

    /// The native driver is root's.
    pub(super) fn not_root() -> Self {
        Self::native(NativeError::NotRoot)
    }

    /// What was asked for makes no sense.
    pub(super) fn usage(text: String) -> Self {
        Self { code: ExitCode::Usage, text }
    }

    /// The control socket cannot be made.
    pub(super) fn socket(error: impl Error) -> Self {
        Self::new(ExitCode::Socket, &error)
    }

    /// The same with one more thing that can be done.
    pub(super) fn advising(mut self, advice: &str) -> Self {
        self.text.push_str("; ");
        self.text.push_str(advice);
        self
    }

    /// No source was chosen, which the command line has made sure of already.
    pub(super) fn no_source() -> Self {
        Self { code: ExitCode::NoSource, text: "no source of releases was chosen".to_owned() }
    }

    /// Says it on stderr; gives the exit code of the process.
    pub(super) fn report(self) -> process::ExitCode {
        systemd::say(&format!("hsup: {}", self.text));
        self.code.into()
    }
}
