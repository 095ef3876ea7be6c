//! How hsup is launched: arguments, environment, and a `/app` of its own where the driver uses that.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::answer::get;
use crate::binary::{Driver, driver, hsup_binary};
use crate::engine::shared_engine;
use crate::hsup::{Ended, Hsup};
use crate::room::Room;
use crate::wait::eventually;

/// Makes an empty `/app` that only this process and its descendants see, and becomes what it is given. Each of
/// the programs executes the next one, so that the pid stays the same.
const OWN_APP: &str = r#"mount -t tmpfs ftest-app /app && exec "$@""#;

/// An hsup to be.
#[derive(Debug)]
pub struct Launch<'a> {
    room: &'a Room,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: std::path::PathBuf,
    input: Option<Vec<u8>>,
    through: Vec<OsString>,
    own_app: bool,
}

impl<'a> Launch<'a> {
    pub(crate) fn new(room: &'a Room) -> Self {
        let env = [
            ("PATH", OsString::from("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
            ("HOME", room.path("work").into()),
            ("HSUP_STATE_DIR", room.path("state").into()),
            ("XDG_RUNTIME_DIR", room.path("runtime").into()),
            // What most tests run as web does not listen on its port.
            ("HSUP_READINESS", "none".into()),
            // The events that tests wait for are told in the log, one-off dynos included.
            ("HSUP_LOG", "info".into()),
        ];
        let engine = (driver() == Driver::Docker).then(|| ("DOCKER_HOST", OsString::from(shared_engine())));
        let env = env.into_iter().chain(engine).map(|(name, value)| (name.into(), value)).collect();
        Self {
            room,
            args: Vec::new(),
            env,
            dir: room.path("work"),
            input: None,
            through: Vec::new(),
            own_app: driver() == Driver::Abspath,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<const N: usize>(self, args: [&str; N]) -> Self {
        args.iter().fold(self, Self::arg)
    }

    /// One more variable of hsup's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.retain(|(other, _)| other != name);
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// One variable of hsup's environment less.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.retain(|(other, _)| other != name);
        self
    }

    /// Another working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = dir.as_ref().to_owned();
        self
    }

    /// What hsup reads from its standard input, which is else empty.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// A program that is to execute hsup: its name and its arguments.
    #[must_use]
    pub fn through<const N: usize>(mut self, program: [&str; N]) -> Self {
        self.through = program.iter().map(OsString::from).collect();
        self
    }

    /// `/app` is as it is found, since the test has taken care of that.
    #[must_use]
    pub fn with_the_app_that_is_there(mut self) -> Self {
        self.own_app = false;
        self
    }

    /// The whole command line.
    pub fn words(&self) -> Vec<OsString> {
        // First, since what it goes through may change the mounts that hsup is to have.
        let mut words = self.room.namespaces().map(|own| own.enter(&self.dir)).unwrap_or_default();
        words.extend(self.through.iter().cloned());
        if self.own_app {
            // An empty directory of the host that nothing is ever put into: each test mounts its own over it.
            let _is_there = fs::create_dir("/app");
            let own = ["unshare", "--mount", "--propagation", "private", "sh", "-c", OWN_APP, "sh"];
            words.extend(own.iter().map(OsString::from));
        }
        words.push(hsup_binary().into());
        words.extend(self.args.iter().cloned());
        words
    }

    /// The command with its environment.
    ///
    /// # Panics
    /// Never: there is always a program.
    pub fn command(&self) -> Command {
        let words = self.words();
        let (program, args) = words.split_first().expect("there is at least hsup itself");
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.dir).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        command
    }

    /// Starts it.
    pub fn spawn(self) -> Hsup {
        Hsup::spawn(self.command(), self.input, self.room)
    }

    /// Starts it and waits for its control socket.
    pub fn up(self) -> Hsup {
        let hsup = self.spawn();
        hsup.wait_line("control socket: ");
        hsup
    }

    /// Starts it and waits for its control socket to answer, which needs no log.
    pub fn up_at_once(self) -> Hsup {
        let socket = self.room.socket();
        let hsup = self.spawn();
        let answers = || get(&socket, "/health").filter(|answer| answer.status == 200);
        eventually("the control API answers", || hsup.printed(), answers);
        hsup
    }

    /// Starts it and waits for its end.
    pub fn end(self) -> Ended {
        self.spawn().end()
    }
}
