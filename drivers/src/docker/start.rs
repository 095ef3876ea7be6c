//! The start of a run: a container is made, attached to, told what to run, and watched from then on.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{AttachContainerOptionsBuilder, CreateContainerOptionsBuilder};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::container::{Ownership, describe, name};
use super::engine::Engine;
use super::error::DockerError;
use super::frames::{FAILED, Frame, STARTED, Start};
use super::leftovers::{REMOVAL, remove_in_time};
use super::life::{self, Begun};
use super::run::{Container, DockerRun, Place};
use super::stdio::{Connections, Printed, connect};
use crate::command::shell_line;
use crate::native::BindMount;
use crate::native::protocol::Failure;
use crate::simple::said_by_hsup;
use crate::{DynoSpec, Image, StartError, Stdio, notify, process};

/// How long the first process of a container may take to be there: the engine starts it on a busy host too.
const FIRST_WORD: Duration = Duration::from_secs(60);

/// What the container prints, and what it reads.
pub(super) type Prints = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;
pub(super) type Reads = Pin<Box<dyn AsyncWrite + Send>>;

/// What runs are started with.
pub(super) struct Starter {
    pub(super) engine: Arc<Engine>,
    pub(super) ownership: Ownership,
    pub(super) binds: Vec<BindMount>,
    pub(super) grace: Duration,
    /// What the engine has warned of.
    pub(super) told: Mutex<BTreeSet<String>>,
}

impl Starter {
    /// Starts a run of a dyno.
    ///
    /// # Errors
    /// If the engine or the entry of the container cannot; nothing is left of it then.
    pub(super) async fn start(&self, spec: &DynoSpec) -> Result<DockerRun, StartError> {
        let image = spec.built.image.as_ref().ok_or_else(|| StartError::SetUp {
            what: "find the image of the release".to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        let connections = connect(&spec.stdio).map_err(|source| StartError::System {
            operation: "connect the dyno's input and output",
            source,
        })?;
        let id = self.create(image, spec).await.map_err(of_engine)?;
        let begun = self.begin(&id, spec, connections).await;
        if begun.is_err() {
            let _goes_on = timeout(REMOVAL, remove_in_time(&self.engine, &id)).await;
        }
        begun
    }

    async fn create(&self, image: &Image, spec: &DynoSpec) -> Result<String, DockerError> {
        let n = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros());
        let name = name(image, spec, u64::try_from(n).unwrap_or_default());
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let body = describe(&self.engine, image, spec, &self.ownership, &self.binds);
        let what = format!("make the container {name}");
        let made = self.engine.ask(what, self.engine.docker().create_container(Some(options), body)).await?;
        for warning in made.warnings {
            self.warn_once(warning);
        }
        Ok(made.id)
    }

    /// Hands on what the engine has to say of a container, which it says of each.
    fn warn_once(&self, warning: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.contains(&warning) {
            tracing::warn!("the Docker Engine says: {warning}");
            told.insert(warning);
        }
    }

    /// Attaches, says what to run, and starts.
    async fn begin(
        &self,
        id: &str,
        spec: &DynoSpec,
        connections: Connections,
    ) -> Result<DockerRun, StartError> {
        let Connections { sinks, output, input, window } = connections;
        let docker = self.engine.docker();
        let options = AttachContainerOptionsBuilder::default();
        let options = options.stream(true).stdin(true).stdout(true).stderr(true).build();
        let what = || format!("start the container of {}", spec.name);
        let attached = self.engine.ask(what(), docker.attach_container(id, Some(options))).await;
        let AttachContainerResults { output: prints, input: mut reads } = attached.map_err(of_engine)?;
        let (hears, heard) = oneshot::channel::<()>();
        let start = Frame::Start(order(spec, window, self.grace)).encode();
        let sent = async {
            // It waits in the engine until the container is there to read it; a dyno that speaks at once is not started
            // before hsup hears it.
            if spec.notify {
                let _failed_or_there = heard.await;
            }
            reads.write_all(&start).await?;
            reads.flush().await
        };
        let started = async {
            self.engine.ask(what(), docker.start_container(id, None)).await.map_err(of_engine)?;
            let notify = if spec.notify { Some(self.notify(id, what()).await?) } else { None };
            drop(hears);
            match timeout(FIRST_WORD, greet(prints)).await {
                Ok(greeted) => greeted.map(|(prints, printed)| (prints, printed, notify)),
                Err(_elapsed) => Err(silent(format!("nothing for {FIRST_WORD:?}"))),
            }
        };
        let (sent, started) = tokio::join!(sent, started);
        let (prints, printed, notify) = started?;
        sent.map_err(|source| StartError::SetUp { what: what(), source })?;
        let inspected = self.inspect(id, what()).await?;
        let place = self.place(id, &inspected, spec);
        let pid = self.engine.is_local.then(|| main_process(id, &inspected)).flatten();
        let begun = Begun {
            engine: Arc::clone(&self.engine),
            id: id.to_owned(),
            dyno: spec.name.clone(),
            prints,
            reads,
            printed,
            sinks,
            input,
            follows_window: window.is_some(),
        };
        let life = life::spawn(begun);
        let container = Container { engine: Arc::clone(&self.engine), id: id.to_owned() };
        Ok(DockerRun::new(spec.name.clone(), container, pid, place, output, notify, life))
    }

    async fn inspect(&self, id: &str, what: String) -> Result<ContainerInspectResponse, StartError> {
        let inspected = self.engine.ask(what, self.engine.docker().inspect_container(id, None));
        inspected.await.map_err(of_engine)
    }

    /// The socket on which the dyno speaks by sd_notify, in the network of its container, where nothing runs yet but the
    /// entry.
    async fn notify(&self, id: &str, what: String) -> Result<OwnedFd, StartError> {
        let inspected = self.inspect(id, what).await?;
        let elsewhere = || io::Error::new(io::ErrorKind::NotFound, "its processes are not this host's");
        let entry = entry_process(id, &inspected).filter(|_| self.engine.is_local).ok_or_else(elsewhere);
        let enter = move || notify::inside(File::open(format!("/proc/{}/ns/net", entry?))?.as_fd());
        let made = tokio::task::spawn_blocking(enter).await;
        let made = made.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        made.map_err(|source| {
            let what = "enter the network of a container, to hear the dyno's sd_notify there: for a notify check hsup has \
                        to be root on the host of the engine, any other check needs neither";
            StartError::SetUp { what: what.to_owned(), source }
        })
    }

    /// Where the dyno is to be reached: at the port that is published for it, else in its own network. There it is asked
    /// in any case, if this host has a route to it: at a published port the engine itself accepts connections.
    fn place(&self, id: &str, inspected: &ContainerInspectResponse, spec: &DynoSpec) -> Place {
        let network = inspected.network_settings.as_ref();
        let ports = network.and_then(|network| network.ports.as_ref());
        let published = ports.and_then(|ports| ports.get(&format!("{}/tcp", spec.port))?.as_ref());
        let port = published
            .and_then(|bindings| bindings.iter().find_map(|one| one.host_port.as_ref()?.parse().ok()));
        let own = network.and_then(|network| network.networks.as_ref());
        let own: Option<IpAddr> =
            own.and_then(|networks| networks.values().find_map(|one| one.ip_address.as_ref()?.parse().ok()));
        let has_route = self.engine.has_routes && entry_process(id, inspected).is_some();
        let asked_at = own.filter(|_| has_route).map(|own| SocketAddr::new(own, spec.port));
        let address = own.filter(|_| port.is_none()).unwrap_or(self.engine.reached_at());
        Place { address, port, asked_at }
    }
}

/// What the entry is told.
pub(super) fn order(spec: &DynoSpec, window: Option<[u16; 2]>, grace: Duration) -> Start {
    let own = said_by_hsup(spec, spec.notify.then_some(notify::INSIDE));
    let is_own = |name: &str| own.iter().any(|(other, _)| other == name);
    let mut env: Vec<_> = spec.env.iter().filter(|(name, _)| !is_own(name)).cloned().collect();
    if let (Stdio::Terminal(_), Ok(term)) = (&spec.stdio, std::env::var("TERM"))
        && !env.iter().any(|(name, _)| name == "TERM")
    {
        env.push(("TERM".to_owned(), term));
    }
    env.extend(own);
    Start {
        line: shell_line(&spec.command),
        env,
        input: matches!(spec.stdio, Stdio::Inherit | Stdio::InputOnly),
        terminal: window,
        grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
    }
}

pub(super) fn of_engine(error: DockerError) -> StartError {
    match error {
        DockerError::Talk { .. }
        | DockerError::Unreachable { .. }
        | DockerError::Slow { .. }
        | DockerError::Refused { .. }
        | DockerError::Certificate { .. }
        | DockerError::Entry { .. }
        | DockerError::Io { .. } => {
            StartError::SetUp { what: "start a container".to_owned(), source: error.into_io() }
        }
    }
}

/// The entry has not said what it has to say.
pub(super) fn silent(what: String) -> StartError {
    StartError::SetUp {
        what: "hear from the first process of the container".to_owned(),
        source: io::Error::other(what),
    }
}

/// Waits for the first word of the entry. What has come along with it is the dyno's.
pub(super) async fn greet(mut prints: Prints) -> Result<(Prints, Vec<(Printed, Bytes)>), StartError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(piece) = prints.next().await {
        match piece {
            Ok(LogOutput::StdOut { message }) => stdout.extend(message),
            Ok(LogOutput::StdErr { message } | LogOutput::Console { message }) => stderr.extend(message),
            Ok(LogOutput::StdIn { .. }) => {}
            Err(error) => return Err(silent(error.to_string())),
        }
        if stdout.first() == Some(&STARTED) {
            stdout.remove(0);
            let printed = [(Printed::Stdout, stdout.into()), (Printed::Stderr, stderr.into())];
            let printed = printed.into_iter().filter(|(_, piece): &(_, Bytes)| !piece.is_empty()).collect();
            return Ok((prints, printed));
        }
    }
    let failure =
        stdout.strip_prefix(&[FAILED]).and_then(|json| serde_json::from_slice::<Failure>(json).ok());
    match failure {
        Some(failure) => Err(failure.into()),
        None => {
            let said = [stdout, stderr].concat();
            Err(silent(format!("it ended, saying {:?}", String::from_utf8_lossy(&said).trim())))
        }
    }
}

/// The entry of a container, if the container's processes are this host's.
fn entry_process(id: &str, inspected: &ContainerInspectResponse) -> Option<u32> {
    let entry =
        inspected.state.as_ref()?.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0)?;
    let cgroup = std::fs::read_to_string(format!("/proc/{entry}/cgroup")).ok()?;
    cgroup.contains(id).then_some(entry)
}

/// The dyno's main process, if the container's processes are this host's: the first child of the entry.
fn main_process(id: &str, inspected: &ContainerInspectResponse) -> Option<u32> {
    let entry = entry_process(id, inspected)?;
    process::children(entry).into_iter().min().or(Some(entry))
}
