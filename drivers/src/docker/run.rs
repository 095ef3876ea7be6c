//! A run of a dyno of the docker driver: hsup's end of its container.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::engine::Engine;
use super::exec::DockerExec;
use super::life::Ended;
use crate::{
    BoxFuture, DynoSpec, Exec, Exit, KillSignal, MainExit, Notify, Output, Run, SignalError, StartError,
};

/// A container that runs.
pub(super) struct Container {
    pub(super) engine: Arc<Engine>,
    pub(super) id: String,
}

/// Where a dyno is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) address: IpAddr,
    /// The port that is published for it.
    pub(super) port: Option<u16>,
    /// Where it is asked how it is, if not there.
    pub(super) asked_at: Option<SocketAddr>,
}

/// A run of a dyno.
pub(super) struct DockerRun {
    dyno: String,
    container: Container,
    pid: Option<u32>,
    place: Place,
    output: Mutex<Option<Output>>,
    notify: Mutex<Option<OwnedFd>>,
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
        container: Container,
        pid: Option<u32>,
        place: Place,
        output: Option<Output>,
        notify: Option<OwnedFd>,
        (signals, ended): (mpsc::UnboundedSender<KillSignal>, watch::Receiver<Option<Ended>>),
    ) -> Self {
        let (output, notify) = (Mutex::new(output), Mutex::new(notify));
        Self { dyno, container, pid, place, output, notify, signals, ended }
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
        self.place.address
    }

    fn port(&self) -> Option<u16> {
        self.place.port
    }

    fn asked_at(&self) -> Option<SocketAddr> {
        self.place.asked_at
    }

    fn take_output(&self) -> Option<Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn take_notify(&self) -> Option<Notify> {
        let socket = self.notify.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Notify { socket, sender: None })
    }

    fn exec<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Box<dyn Exec>, StartError>> {
        Box::pin(async { Ok(Box::new(DockerExec::start(&self.container, spec).await?) as Box<dyn Exec>) })
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
