//! The HTTP client: TLS, timeouts, proxies (those of the environment, as curl takes them) and hsup's name. It owns
//! how a client is made; what it asks for is its users' business.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::Client;

use crate::blocking::blocking;

/// A host that is up accepts within milliseconds; 10 s leave room for a lost SYN or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A transfer that stands still for this long does not go on by itself.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeouts {
    /// As long as it moves: for large bodies.
    WhileItMoves,
    /// This long in all: for small ones.
    InAll(Duration),
}

/// A client that is made when it is first needed: a host that asks nobody need not have CA certificates.
pub(crate) struct HttpClient {
    client: OnceLock<Client>,
    timeouts: Timeouts,
    redirects: Redirects,
}

/// What is done where a server sends one elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redirects {
    /// One goes there.
    Followed,
    /// It is an answer like any other: most redirects would make a `GET` of a `POST`.
    Answers,
}

impl HttpClient {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        Self { client: OnceLock::new(), timeouts, redirects: Redirects::Followed }
    }

    /// The same, with another way with redirects.
    pub(crate) fn redirects(self, redirects: Redirects) -> Self {
        Self { redirects, ..self }
    }

    /// The client for a URL.
    ///
    /// # Errors
    /// If this host has no CA certificates and the URL needs them.
    pub(crate) async fn to(&self, url: &str) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let (plain, timeouts, redirects) = (url.starts_with("http://"), self.timeouts, self.redirects);
        // the CA certificates are read from disk
        let client = blocking(move |_| match build(timeouts, redirects, false) {
            // plain HTTP needs no certificates; a redirect to https fails for want of them
            Err(_) if plain => build(timeouts, redirects, true),
            outcome => outcome,
        })
        .await?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// Chooses what TLS computes with, for the whole process.
pub(crate) fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // it fails only where another thread was quicker, which is as good
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

fn build(
    timeouts: Timeouts,
    redirects: Redirects,
    without_certificates: bool,
) -> Result<Client, reqwest::Error> {
    install_crypto();
    let builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("hsup/", env!("CARGO_PKG_VERSION")))
        // it would tell the target of a redirect the signature in the first URL
        .referer(false);
    let builder = match timeouts {
        Timeouts::WhileItMoves => builder.read_timeout(STALL_TIMEOUT),
        Timeouts::InAll(all) => builder.timeout(all),
    };
    let builder = match redirects {
        Redirects::Followed => builder,
        Redirects::Answers => builder.redirect(reqwest::redirect::Policy::none()),
    };
    if without_certificates { builder.tls_certs_only([]).build() } else { builder.build() }
}
