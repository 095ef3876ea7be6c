//! Commands inside a container that runs: hsup's end of the entry that the engine starts there for each. As for a dyno,
//! what is to run comes over its input, and the end of its input is its end.

use std::sync::Arc;
use std::time::Duration;

use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::engine::Engine;
use super::entry;
use super::frames::Frame;
use super::life::{carry_output, exit_of};
use super::run::Container;
use super::start::{Reads, greet, of_engine, order, silent};
use super::stdio::{Connections, connect};
use crate::{BoxFuture, DynoSpec, Exec, Exit, MainExit, Output, StartError, Stdio};

/// How long the start of a command may take, and its end once nobody wants it any more: the stop of a dyno may have to
/// wait for both, and hsup gives up a container whose engine is away after as long.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon the engine is asked again how a command has ended, which it can only be asked: it may take note of the end of
/// a process later than of that of its output.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// A command inside a container.
pub(super) struct DockerExec {
    engine: Arc<Engine>,
    id: String,
    dyno: String,
    output: Option<Output>,
    /// Its input.
    reads: Reads,
    /// What carries its output, to the end.
    carried: JoinHandle<()>,
}

impl DockerExec {
    /// Starts a command. Where this is given up it ends by itself: its input does.
    ///
    /// # Errors
    /// If the engine or the entry cannot.
    pub(super) async fn start(container: &Container, spec: &DynoSpec) -> Result<Self, StartError> {
        match timeout(PATIENCE, Self::begin(container, spec)).await {
            Ok(begun) => begun,
            Err(_elapsed) => Err(silent(format!("nothing for {PATIENCE:?}"))),
        }
    }

    async fn begin(container: &Container, spec: &DynoSpec) -> Result<Self, StartError> {
        let Container { engine, id: container } = container;
        let connections = connect(&Stdio::Pipes);
        let operation = "connect the output of the command";
        let Connections { sinks, output, .. } =
            connections.map_err(|source| StartError::System { operation, source })?;
        let what = || format!("start a command in the container of {}", spec.name);
        let config = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(vec![entry::path(), entry::INSIDE.to_owned()]),
            ..ExecConfig::default()
        };
        let docker = engine.docker();
        let id = engine.ask(what(), docker.create_exec(container, config)).await.map_err(of_engine)?.id;
        let started = engine.ask(what(), docker.start_exec(&id, None)).await.map_err(of_engine)?;
        let StartExecResults::Attached { output: prints, input: mut reads } = started else {
            return Err(silent("that it cannot be heard".to_owned()));
        };
        // What it leaves is killed at once.
        let start = Frame::Start(order(spec, None, Duration::ZERO)).encode();
        let sent = async {
            reads.write_all(&start).await?;
            reads.flush().await
        };
        let (sent, greeted) = tokio::join!(sent, greet(prints));
        let (prints, printed) = greeted?;
        sent.map_err(|source| StartError::SetUp { what: what(), source })?;
        let (unread, _it_goes_on) = oneshot::channel();
        let carried = tokio::spawn(carry_output(prints, printed, sinks, unread));
        Ok(Self { engine: Arc::clone(engine), id, dyno: spec.name.clone(), output, reads, carried })
    }
}

/// How a command has ended, as far as the engine can tell.
async fn exit_of_exec(engine: &Engine, id: &str, dyno: &str) -> Exit {
    loop {
        let what = format!("tell how a command in the container of {dyno} ended");
        match engine.ask(what, engine.docker().inspect_exec(id)).await {
            Ok(inspected) if inspected.running == Some(true) => sleep(ASK_AGAIN).await,
            Ok(inspected) => return exit_of(inspected.exit_code.unwrap_or(-1)),
            // The container is gone, and it with that; or that the engine is has been told.
            Err(_) => return Exit::Signal(libc::SIGKILL),
        }
    }
}

impl Exec for DockerExec {
    fn take_output(&mut self) -> Option<Output> {
        self.output.take()
    }

    fn exit(&mut self) -> BoxFuture<'_, MainExit> {
        let Self { engine, id, dyno, carried, .. } = self;
        Box::pin(async {
            if !carried.is_finished() {
                let _it_has_panicked = carried.await;
            }
            // The entry has ended what it left.
            MainExit { exit: exit_of_exec(engine, id, dyno).await, alone: true }
        })
    }

    fn end(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let ended = async {
                let _it_has_ended = self.reads.shutdown().await;
                if !self.carried.is_finished() {
                    let _it_has_panicked = (&mut self.carried).await;
                }
            };
            if timeout(PATIENCE, ended).await.is_err() {
                tracing::warn!("{}: the Docker Engine does not tell of the end of a command", self.dyno);
                self.carried.abort();
            }
        })
    }
}
