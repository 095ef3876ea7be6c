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
}

impl HttpClient {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        Self { client: OnceLock::new(), timeouts }
    }

    /// The client for a URL.
    ///
    /// # Errors
    /// If this host has no CA certificates and the URL needs them.
    pub(crate) async fn to(&self, url: &str) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let (plain, timeouts) = (url.starts_with("http://"), self.timeouts);
        // the CA certificates are read from disk
        let client = blocking(move |_| match build(timeouts, false) {
            // plain HTTP needs no certificates; a redirect to https fails for want of them
            Err(_) if plain => build(timeouts, true),
            outcome => outcome,
        })
        .await?;
        Ok(self.client.get_or_init(|| client))
    }
}

fn build(timeouts: Timeouts, without_certificates: bool) -> Result<Client, reqwest::Error> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // it fails only where another thread was quicker, which is as good
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("hsup/", env!("CARGO_PKG_VERSION")))
        // it would tell the target of a redirect the signature in the first URL
        .referer(false);
    let builder = match timeouts {
        Timeouts::WhileItMoves => builder.read_timeout(STALL_TIMEOUT),
        Timeouts::InAll(all) => builder.timeout(all),
    };
    if without_certificates { builder.tls_certs_only([]).build() } else { builder.build() }
}
