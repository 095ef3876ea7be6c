//! The commands of checks: each is run by a task of its own, which ends it, and all that it has started, whatever
//! becomes of the check. Nobody who gives up a check has to wait for that; who ends the dyno has.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hsup_drivers::{DynoSpec, Exec, Exit, Output, Run, StartError, Stdio};
use tokio::io;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::prober::Failed;
use crate::explain;

/// What runs the commands of the checks of a run.
pub(super) struct CommandProbes {
    /// The run.
    pub(super) run: Arc<dyn Run>,
    /// What it was started from.
    pub(super) spec: Arc<DynoSpec>,
    /// The commands that are not gone, of all runs of the dyno.
    pub(super) tasks: TaskTracker,
}

impl CommandProbes {
    /// Runs a command inside the run, and ends it when it is given up. What is wrong, unless it ends with 0 in time.
    pub(super) async fn ask(&self, command: &str, patience: Duration) -> Result<(), Failed> {
        let spec = DynoSpec {
            command: Arc::from([command.to_owned()]),
            stdio: Stdio::Pipes,
            // what is the dyno's own is not for those who ask it
            listen: None,
            own_env: Vec::new(),
            notify: false,
            ..DynoSpec::clone(&self.spec)
        };
        let (run, command) = (Arc::clone(&self.run), command.to_owned());
        let (mut reply, answer) = oneshot::channel();
        self.tasks.spawn(async move {
            let result = match run.exec(&spec).await {
                Ok(mut running) => {
                    let end = tokio::select! {
                        biased;
                        () = reply.closed() => End::GivenUp,
                        end = end_of(&mut *running, patience) => end,
                    };
                    if !matches!(end, End::Alone(_)) {
                        running.end().await;
                    }
                    end.finding(&command, patience).map_err(Failed::Unwell)
                }
                // what is to be executed is the dyno's, all else hsup's or the engine's
                Err(error @ (StartError::NotFound { .. } | StartError::NotExecutable { .. })) => {
                    Err(Failed::Unwell(explain(&error)))
                }
                Err(error @ (StartError::System { .. } | StartError::SetUp { .. })) => {
                    Err(Failed::Unasked(explain(&error)))
                }
            };
            let _given_up = reply.send(result);
        });
        answer.await.unwrap_or_else(|_| Err(Failed::Unasked("its command has failed".to_owned())))
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

async fn end_of(running: &mut dyn Exec, patience: Duration) -> End {
    let output = running.take_output();
    let discard = async {
        if let Some(output) = output {
            discard(output).await;
        }
        std::future::pending().await
    };
    let ended = async {
        tokio::select! {
            exit = running.exit() => exit,
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use hsup_drivers::{DynoDriver, KillSignal, Limits, Network};

    use super::*;
    use crate::dyno::prober::Prober;
    use crate::dyno::scripted::{Runs, Scripted, ScriptedRun, UNSTARTABLE};
    use crate::dyno::signs::Signs;
    use crate::model::CheckText;

    const PATIENCE: Duration = Duration::from_secs(3);

    async fn probes() -> (CommandProbes, Runs) {
        let (driver, mut runs) = Scripted::new(Network::Isolated, &[], &[]);
        let spec = DynoSpec {
            name: "web.1".to_owned(),
            command: Arc::from(["serve".to_owned()]),
            built: Arc::default(),
            env: Arc::from([]),
            own_env: vec![("WATCHDOG_USEC".to_owned(), "1".to_owned())],
            port: 5000,
            stdio: Stdio::Inherit,
            listen: None,
            notify: true,
            limits: Limits::default(),
        };
        let run = driver.start(&spec).await.unwrap();
        runs.recv().await.unwrap();
        (CommandProbes { run, spec: Arc::new(spec), tasks: TaskTracker::new() }, runs)
    }

    /// What is found of a command that this is done to, and the signals that it was sent.
    async fn asked(act: impl FnOnce(&ScriptedRun)) -> (Result<(), Failed>, Vec<KillSignal>) {
        let (probes, mut runs) = probes().await;
        let command = async {
            let (line, command) = runs.recv().await.unwrap();
            assert_eq!(line, "look");
            act(&command);
            command
        };
        let (found, command) = tokio::join!(probes.ask("look", PATIENCE), command);
        (found, command.signals())
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_has_ended_is_what_its_status_says() {
        assert_eq!(asked(|command| command.exit(Exit::Code(0), true)).await, (Ok(()), vec![]));
        let failed = Err(Failed::Unwell("\"look\" ended with exit status 1".to_owned()));
        assert_eq!(asked(|command| command.exit(Exit::Code(1), true)).await, (failed, vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_command_leaves_is_killed() {
        let left = asked(|command| command.exit(Exit::Code(0), false)).await;
        assert_eq!(left, (Ok(()), vec![KillSignal::Kill]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_does_not_end_is_killed() {
        let late = Err(Failed::Unwell("\"look\" did not end within 3s".to_owned()));
        assert_eq!(asked(|_| {}).await, (late, vec![KillSignal::Kill]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_is_given_up_is_killed() {
        let (probes, mut runs) = probes().await;
        let command = {
            let mut asked = std::pin::pin!(probes.ask("look", PATIENCE));
            tokio::select! {
                found = &mut asked => unreachable!("{found:?}"),
                command = runs.recv() => command.unwrap().1,
            }
        };
        probes.tasks.close();
        probes.tasks.wait().await;
        assert_eq!(command.signals(), [KillSignal::Kill]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_cannot_be_started_says_nothing_of_the_dyno() {
        let unwell = async |check: &str| {
            let (commands, mut runs) = probes().await;
            let (address, taken) = (([127, 0, 0, 1], 5000).into(), AtomicBool::new(false));
            let prober = Prober { address, commands, signs: Signs::new(), taken };
            let check = check.parse::<CheckText>().unwrap().0.unwrap();
            let fails = async {
                while let Some((_, command)) = runs.recv().await {
                    command.exit(Exit::Code(1), true);
                }
            };
            tokio::select! {
                unwell = timeout(Duration::from_secs(3600), prober.until_unwell(check)) => unwell.ok(),
                () = fails => unreachable!("there is always one more"),
            }
        };
        assert_eq!(unwell(&format!("failure-threshold=1,command={UNSTARTABLE}")).await, None);
        let failed = Some("\"look\" ended with exit status 1".to_owned());
        assert_eq!(unwell("failure-threshold=3,command=look").await, failed);
    }
}
