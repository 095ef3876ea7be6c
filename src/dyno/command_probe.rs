//! The commands of checks: each is run by a task of its own, which ends it, and all that it has started, whatever
//! becomes of the check. Nobody who gives up a check has to wait for that; who ends the dyno has.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hsup_drivers::{DynoDriver, DynoSpec, Exit, KillSignal, Output, Run, Stdio};
use tokio::io;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::explain;

/// What runs the commands of a dyno's checks. Cheap to clone.
#[derive(Clone)]
pub(super) struct CommandProbes {
    driver: Arc<dyn DynoDriver>,
    spec: Arc<DynoSpec>,
    tasks: TaskTracker,
}

impl CommandProbes {
    /// For a dyno that this driver starts from this.
    pub(super) fn new(driver: &Arc<dyn DynoDriver>, spec: &Arc<DynoSpec>) -> Self {
        Self { driver: Arc::clone(driver), spec: Arc::clone(spec), tasks: TaskTracker::new() }
    }

    /// Waits until every command is gone, once nobody runs any more.
    pub(super) async fn gone(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Runs a command as the dyno is run, and ends it when it is given up. What is wrong, unless it ends with 0 in
    /// time.
    pub(super) async fn run(&self, command: &str, patience: Duration) -> Result<(), String> {
        let spec = DynoSpec {
            command: Arc::from([command.to_owned()]),
            stdio: Stdio::Pipes,
            // what is the dyno's own is not for those who ask it
            listen: None,
            own_env: Vec::new(),
            ..DynoSpec::clone(&self.spec)
        };
        let (driver, command) = (Arc::clone(&self.driver), command.to_owned());
        let (mut reply, answer) = oneshot::channel();
        self.tasks.spawn(async move {
            let result = match driver.start(&spec).await {
                Ok(run) => {
                    let end = tokio::select! {
                        biased;
                        () = reply.closed() => End::GivenUp,
                        end = end_of(&*run, patience) => end,
                    };
                    if !matches!(end, End::Alone(_)) {
                        let _nothing_more_can_be_done = run.signal(KillSignal::Kill);
                        run.main_exit().await;
                        run.gone().await;
                    }
                    end.finding(&command, patience)
                }
                Err(error) => Err(explain(&error)),
            };
            let _given_up = reply.send(result);
        });
        answer.await.unwrap_or_else(|_| Err("its check could not be made".to_owned()))
    }
}

/// How a command came to its end.
enum End {
    /// By itself, and nothing of it is left.
    Alone(Exit),
    /// By itself, and others of it have not.
    Leaving(Exit),
    TooLate,
    GivenUp,
}

impl End {
    fn finding(&self, command: &str, patience: Duration) -> Result<(), String> {
        match self {
            Self::Alone(Exit::Code(0)) | Self::Leaving(Exit::Code(0)) => Ok(()),
            Self::Alone(exit) | Self::Leaving(exit) => Err(format!("{command:?} ended with {exit}")),
            Self::TooLate | Self::GivenUp => Err(format!("{command:?} did not end within {patience:?}")),
        }
    }
}

async fn end_of(run: &dyn Run, patience: Duration) -> End {
    let discard = async {
        if let Some(output) = run.take_output() {
            discard(output).await;
        }
        std::future::pending().await
    };
    let ended = async {
        tokio::select! {
            exit = run.main_exit() => exit,
            never = discard => never,
        }
    };
    match timeout(patience, ended).await {
        Ok(main) if main.alone => End::Alone(main.exit),
        Ok(main) => End::Leaving(main.exit),
        Err(_) => End::TooLate,
    }
}

/// Reads what a command prints, which is for nobody: a full pipe would hold it up, and a closed one end it.
async fn discard(Output { stdout, stderr }: Output) {
    let read = async |pipe: OwnedFd| {
        if let Ok(mut pipe) = pipe::Receiver::from_owned_fd(pipe) {
            let _nobody_wants_to_know = io::copy(&mut pipe, &mut io::sink()).await;
        }
    };
    tokio::join!(read(stdout), read(stderr));
}
