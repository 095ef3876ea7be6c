//! The Docker Engine: what it answers, and that it does not. What it is asked for is its users' business.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::dial::Dialer;
use super::endpoint::Endpoint;
use super::error::DockerError;
use crate::explain;

/// How long the engine may take to begin an answer. To make a container it may have to wait for a busy disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// The Docker Engine.
pub(super) struct Engine {
    docker: Docker,
    name: String,
    /// Where its ports are published, and at which address they are to be reached from here.
    published_at: Option<IpAddr>,
    reached_at: IpAddr,
    /// Whether its processes are this host's.
    pub(super) is_local: bool,
    /// Whether this host has routes to its containers. Those of an engine without root are in a network of its own.
    pub(super) has_routes: bool,
    /// The version of the cgroups that it uses.
    pub(super) cgroup_v2: bool,
    /// Whether it did not answer when it was last asked.
    is_down: AtomicBool,
}

impl Engine {
    /// Connects, and agrees upon a version of the API.
    ///
    /// # Errors
    /// If nobody answers, or what answers is no engine.
    pub(super) async fn connect(endpoint: Endpoint) -> Result<Self, DockerError> {
        let name = endpoint.to_string();
        let (is_local, reached_at) = match &endpoint {
            Endpoint::Unix(_) => (true, Ipv4Addr::LOCALHOST.into()),
            Endpoint::Tcp { host, port, tls: _ } => (false, address_of(host, *port).await),
        };
        let dialer = Dialer::new(endpoint)?;
        let failed = |source| failure(&name, "say who it is", source);
        let docker = Docker::connect_with_custom_transport(
            move |request| Box::pin(dialer.clone().ask(request)),
            Some("http://docker"),
            ANSWER_TIMEOUT.as_secs(),
            API_DEFAULT_VERSION,
        );
        let hello = async {
            let docker = docker?.negotiate_version().await?;
            let info = docker.info().await?;
            Ok((docker, info))
        };
        let (docker, info) = match timeout(HELLO_TIMEOUT, hello).await {
            Ok(answer) => answer.map_err(failed)?,
            Err(_elapsed) => return Err(failed(Error::RequestTimeoutError)),
        };
        let cgroup_v2 = info
            .cgroup_version
            .is_some_and(|version| version == bollard::models::SystemInfoCgroupVersionEnum::_2);
        let is_rootless = info.security_options.iter().flatten().any(|option| option == "name=rootless");
        let has_routes = is_local && !is_rootless;
        let published_at = is_local.then_some(reached_at);
        let is_down = AtomicBool::new(false);
        Ok(Self { docker, name, published_at, reached_at, is_local, has_routes, cgroup_v2, is_down })
    }

    /// Its client.
    pub(super) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The address of the engine's host at which ports are published; all of them where none is given.
    pub(super) fn published_at(&self) -> Option<IpAddr> {
        self.published_at
    }

    /// The address at which published ports are to be reached.
    pub(super) fn reached_at(&self) -> IpAddr {
        self.reached_at
    }

    /// Asks, and tells once when the engine has gone and when it is back.
    ///
    /// # Errors
    /// What the engine says, or that it says nothing.
    pub(super) async fn ask<T>(
        &self,
        what: impl Into<String>,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, DockerError> {
        match answer.await {
            Ok(answer) => {
                self.answered();
                Ok(answer)
            }
            Err(error) => Err(self.failed(what, error)),
        }
    }

    /// An error of the engine, told once where the engine itself is the matter.
    pub(super) fn failed(&self, what: impl Into<String>, error: Error) -> DockerError {
        let error = failure(&self.name, what, error);
        if !error.is_of_the_engine() {
            self.answered();
        } else if !self.is_down.swap(true, Ordering::Relaxed) {
            tracing::error!("{}; trying again until it does", explain(&error));
        }
        error
    }

    fn answered(&self) {
        if self.is_down.swap(false, Ordering::Relaxed) {
            tracing::info!("the Docker Engine at {} answers again", self.name);
        }
    }
}

/// The address of a host, for others to reach what it publishes.
async fn address_of(host: &str, port: u16) -> IpAddr {
    let found = timeout(HELLO_TIMEOUT, lookup_host((host, port))).await;
    let first = found.ok().and_then(Result::ok).and_then(|mut addresses| addresses.next());
    first.map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip())
}

/// What an error of the client means.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the client's own errors, most of which cannot happen here"
)]
fn failure(engine: &str, what: impl Into<String>, error: Error) -> DockerError {
    let (engine, what) = (engine.to_owned(), what.into());
    match error {
        Error::DockerResponseServerError { status_code: status, message } => {
            DockerError::Refused { what, status, message: message.trim().to_owned() }
        }
        Error::DockerStreamError { error: message } => {
            DockerError::Refused { what, status: 0, message: message.trim().to_owned() }
        }
        Error::IOError { err: source } => DockerError::Unreachable { engine, source },
        Error::RequestTimeoutError => DockerError::Slow { engine, what },
        Error::HyperResponseError { err } if err.is_closed() || err.is_incomplete_message() => {
            DockerError::Unreachable { engine, source: io::Error::other(err) }
        }
        other => DockerError::Talk { what, source: Box::new(other) },
    }
}
