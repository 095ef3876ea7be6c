//! Gets an archive, from wherever it is. It owns HTTP and what is tried again; it must not look into the archive. A
//! URL may hold a password or a signature, so only what the [`Item`] calls itself is ever shown.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hsup_drivers::BoxFuture;

use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;

use super::item::Item;
use super::local::{Archive, Intake, copy};
use super::progress::Progress;
use crate::blocking::blocking;
use crate::http::{HttpClient, Retry, Timeouts, asked_to_wait};

/// Chunks on their way from the network to the disk: enough to keep both busy, some 256 KiB of memory.
const CHUNKS_IN_FLIGHT: usize = 16;

/// Why an archive cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The file cannot be opened.
    #[error("cannot open {what}; it must be there and readable for the user that hsup runs as")]
    Open {
        /// The file.
        what: Item,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is there is no regular file.
    #[error("{what} is {kind}; name {}", what.kind().form)]
    NotAFile {
        /// The path.
        what: Item,
        /// What it is.
        kind: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read {what}")]
    Read {
        /// The file.
        what: Item,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no room for it.
    #[error("cannot write a temp file in {dir:?}")]
    Write {
        /// Where the temp file was to be.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is larger than it may be.
    #[error("{what} is larger than {}, the most that a {} may have", indicatif::HumanBytes(*limit_bytes), what.kind().noun)]
    TooLarge {
        /// What was fetched.
        what: Item,
        /// The limit.
        limit_bytes: u64,
    },
    /// This host cannot do HTTP.
    #[error(
        "cannot download {what}: no HTTP client; TLS needs the host's CA certificates (package ca-certificates)"
    )]
    Client {
        /// What was fetched.
        what: Item,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// There is no URL for it.
    #[error("cannot download {what}: there is no URL for it")]
    NoUrl {
        /// What was fetched.
        what: Item,
        /// Whether asking again can help.
        passes: bool,
        /// When the API wants to be asked again.
        retry_after: Option<Duration>,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The URL is not one, or its server redirects in a circle.
    #[error("cannot download {what}: its URL leads nowhere")]
    Url {
        /// What was fetched.
        what: Item,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The server cannot be reached.
    #[error("cannot download {what}: its server does not answer")]
    Unreachable {
        /// What was fetched.
        what: Item,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The transfer broke off.
    #[error("the download of {what} broke off after {bytes} bytes")]
    BrokeOff {
        /// What was fetched.
        what: Item,
        /// What had arrived.
        bytes: u64,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The body is shorter or longer than announced.
    #[error("the download of {what} has {bytes} bytes, but the server announced {announced}")]
    Length {
        /// What was fetched.
        what: Item,
        /// What arrived.
        bytes: u64,
        /// What was announced.
        announced: u64,
    },
    /// The server refuses.
    #[error("cannot download {what}: the server answers {status}{}", what.kind().advice(*status))]
    Status {
        /// What was fetched.
        what: Item,
        /// Its answer.
        status: StatusCode,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
}

impl FetchError {
    /// Whether another try can help: a fault of the network or of a busy server, not of what was asked for.
    fn passes(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::BrokeOff { .. } | Self::Length { .. } => true,
            Self::NoUrl { passes, .. } => *passes,
            // a URL that has expired is replaced by a fresh one
            Self::Status { status: StatusCode::FORBIDDEN, what, .. } if what.kind().url_is_renewed => true,
            Self::Status { status, .. } => {
                status.is_server_error()
                    || *status == StatusCode::TOO_MANY_REQUESTS
                    || *status == StatusCode::REQUEST_TIMEOUT
            }
            Self::Open { .. }
            | Self::NotAFile { .. }
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::TooLarge { .. }
            | Self::Client { .. }
            | Self::Url { .. } => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } | Self::NoUrl { retry_after, .. } => *retry_after,
            Self::Open { .. }
            | Self::NotAFile { .. }
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::TooLarge { .. }
            | Self::Client { .. }
            | Self::Url { .. }
            | Self::Unreachable { .. }
            | Self::BrokeOff { .. }
            | Self::Length { .. } => None,
        }
    }
}

/// There is no URL for an archive.
#[derive(Debug)]
pub struct NoUrl {
    /// Whether asking again can help.
    pub passes: bool,
    /// When whoever was asked wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Gives a URL that is good now, for one that expires.
pub(crate) trait RenewedUrl: Send + Sync {
    fn url(&self) -> BoxFuture<'_, Result<String, NoUrl>>;
}

/// Where an archive is fetched from.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// A file of this host.
    Path(&'a Path),
    /// A URL that stays.
    Url(&'a str),
    /// A URL that is asked for before each try.
    Renewed(&'a dyn RenewedUrl),
}

/// Where an archive is downloaded from.
enum Remote<'a> {
    At(&'a str),
    Renewed(&'a dyn RenewedUrl),
}

impl<'a> Remote<'a> {
    /// A URL that is good now.
    async fn url(&self) -> Result<Cow<'a, str>, NoUrl> {
        match self {
            Self::At(url) => Ok(Cow::Borrowed(*url)),
            Self::Renewed(renewed) => renewed.url().await.map(Cow::Owned),
        }
    }
}

/// Fetches archives.
pub(crate) struct Fetcher {
    client: HttpClient,
    limit_bytes: u64,
    retry: Retry,
}

impl Fetcher {
    pub(crate) fn new(limit_bytes: u64, retry: Retry) -> Self {
        Self { client: HttpClient::new(Timeouts::WhileItMoves), limit_bytes, retry }
    }

    /// Fetches an archive into a nameless file in `dir`.
    ///
    /// # Errors
    /// When it cannot be had, after the last try where trying again can help.
    pub(crate) async fn fetch(
        &self,
        what: &Item,
        origin: Origin<'_>,
        dir: &Path,
    ) -> Result<Archive, FetchError> {
        let remote = match origin {
            Origin::Path(path) => {
                let (what, path) = (what.clone(), path.to_path_buf());
                let (dir, limit_bytes) = (dir.to_path_buf(), self.limit_bytes);
                return blocking(move |stop| copy(&what, &path, &dir, limit_bytes, stop)).await;
            }
            Origin::Url(url) => Remote::At(url),
            Origin::Renewed(renewed) => Remote::Renewed(renewed),
        };
        let mut attempt = 1;
        loop {
            let error = match self.download(&remote, what, dir).await {
                Ok(archive) => return Ok(archive),
                Err(error) if attempt >= self.retry.attempts || !error.passes() => return Err(error),
                Err(error) => error,
            };
            let delay = self.retry.delay(attempt, error.retry_after());
            tracing::warn!(%error, attempt, ?delay, "trying again");
            tokio::time::sleep(delay).await;
            attempt += 1;
        }
    }

    async fn download(&self, remote: &Remote<'_>, what: &Item, dir: &Path) -> Result<Archive, FetchError> {
        let url = remote.url().await.map_err(|NoUrl { passes, retry_after, source }| FetchError::NoUrl {
            what: what.clone(),
            passes,
            retry_after,
            source,
        })?;
        let mut response = self.ask(&url, what).await?;
        let announced = response.content_length();
        let too_large = || FetchError::TooLarge { what: what.clone(), limit_bytes: self.limit_bytes };
        if announced.is_some_and(|bytes| bytes > self.limit_bytes) {
            return Err(too_large());
        }
        let mut progress = Progress::start(what, announced);
        let (chunks, arriving) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let dir = dir.to_path_buf();
        let written = blocking(move |_| write(&dir, arriving));
        loop {
            let chunk = response.chunk().await.map_err(|error| FetchError::BrokeOff {
                what: what.clone(),
                bytes: progress.bytes(),
                source: error.without_url(),
            })?;
            let Some(chunk) = chunk else { break };
            progress.add(chunk.len());
            if progress.bytes() > self.limit_bytes {
                return Err(too_large());
            }
            // the writer ends early only with an error, which `written` holds
            if chunks.send(chunk).await.is_err() {
                break;
            }
        }
        drop(chunks);
        let archive = written.await?;
        let bytes = progress.bytes();
        if let Some(announced) = announced.filter(|announced| *announced != bytes) {
            return Err(FetchError::Length { what: what.clone(), bytes, announced });
        }
        progress.finish();
        Ok(archive)
    }

    async fn ask(&self, url: &str, what: &Item) -> Result<Response, FetchError> {
        let client = self.client.to(url).await;
        let client = client.map_err(|source| FetchError::Client { what: what.clone(), source })?;
        let response = client.get(url).send().await.map_err(|error| {
            let (what, lasting) = (what.clone(), error.is_builder() || error.is_redirect());
            let source = error.without_url();
            if lasting { FetchError::Url { what, source } } else { FetchError::Unreachable { what, source } }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = asked_to_wait(status, response.headers());
        Err(FetchError::Status { what: what.clone(), status, retry_after })
    }
}

/// Writes chunks until their sender is gone. One that was dropped half way makes a nameless file that nobody
/// gets.
fn write<B: AsRef<[u8]>>(dir: &Path, mut chunks: mpsc::Receiver<B>) -> Result<Archive, FetchError> {
    let mut intake = Intake::new(dir)?;
    while let Some(chunk) = chunks.blocking_recv() {
        intake.take(chunk.as_ref())?;
    }
    intake.finish()
}

#[cfg(test)]
mod tests;
