//! A run of a dyno of the docker driver: hsup's end of its container.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::life::Ended;
use crate::{BoxFuture, DynoSpec, Exec, Exit, KillSignal, MainExit, Output, Run, SignalError, StartError};

/// A run of a dyno.
pub(super) struct DockerRun {
    dyno: String,
    pid: Option<u32>,
    address: IpAddr,
    port: Option<u16>,
    output: Mutex<Option<Output>>,
    signals: mpsc::UnboundedSender<KillSignal>,
    ended: watch::Receiver<Option<Ended>>,
}

impl fmt::Debug for DockerRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerRun").field("dyno", &self.dyno).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl DockerRun {
    pub(super) fn new(
        dyno: String,
        pid: Option<u32>,
        (address, port): (IpAddr, Option<u16>),
        output: Option<Output>,
        signals: mpsc::UnboundedSender<KillSignal>,
        ended: watch::Receiver<Option<Ended>>,
    ) -> Self {
        Self { dyno, pid, address, port, output: Mutex::new(output), signals, ended }
    }

    async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.map(|ended| *ended) {
            Ok(Some(ended)) => ended,
            // The task that lives it has panicked.
            Ok(None) | Err(_) => Ended { exit: Exit::Signal(libc::SIGKILL), out_of_memory: false },
        }
    }
}

impl Run for DockerRun {
    fn pid(&self) -> Option<u32> {
        self.pid
    }

    fn address(&self) -> IpAddr {
        self.address
    }

    fn port(&self) -> Option<u16> {
        self.port
    }

    fn take_output(&self) -> Option<Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Checks that would need it are refused where they are read.
    fn exec<'a>(&'a self, _: &'a DynoSpec) -> BoxFuture<'a, Result<Box<dyn Exec>, StartError>> {
        let source = std::io::ErrorKind::Unsupported.into();
        Box::pin(async { Err(StartError::System { operation: "start a command inside the dyno", source }) })
    }

    /// What the engine says to it comes later, and is told in the log.
    fn signal(&self, signal: KillSignal) -> Result<(), SignalError> {
        let _it_is_over = self.signals.send(signal);
        Ok(())
    }

    /// The container's end, with which every process of it is gone.
    fn main_exit(&self) -> BoxFuture<'_, MainExit> {
        Box::pin(async { MainExit { exit: self.ended().await.exit, alone: true } })
    }

    fn out_of_memory(&self) -> bool {
        self.ended.borrow().is_some_and(|ended| ended.out_of_memory)
    }

    fn gone(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.ended().await;
        })
    }
}
