//! Gets the archive of a slug, from wherever it is. It owns HTTP and what is tried again; it must not look
//! into the archive. A URL may hold a password or a signature, so only [`SlugLocation`]'s own form of it is
//! ever shown.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;

use super::local::{Archive, Intake, copy};
use super::progress::Progress;
use super::urls::{NoUrl, SlugUrls};
use crate::blocking::blocking;
use crate::http::{HttpClient, Retry, Timeouts, asked_to_wait};
use crate::model::{SlugId, SlugLocation};

/// Chunks on their way from the network to the disk: enough to keep both busy, some 256 KiB of memory.
const CHUNKS_IN_FLIGHT: usize = 16;

/// Why the archive of a slug cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The file cannot be opened.
    #[error("cannot open slug {path:?}; it must be there and readable for the user that hsup runs as")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is there is no regular file.
    #[error("slug {path:?} is {kind}; name a gzipped tar of ./app/...")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read slug {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
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
    /// It is larger than a slug may be.
    #[error("slug {location} is larger than {}, the most that a slug may have", indicatif::HumanBytes(*limit_bytes))]
    TooLarge {
        /// The slug.
        location: SlugLocation,
        /// The limit.
        limit_bytes: u64,
    },
    /// This host cannot do HTTP.
    #[error(
        "cannot download slug {location}: no HTTP client; TLS needs the host's CA certificates (package ca-certificates)"
    )]
    Client {
        /// The slug.
        location: SlugLocation,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// It is a slug of the Heroku API, which this hsup does not ask.
    #[error(
        "slug {location} can be had from the Heroku API only: set HEROKU_ACCESS_TOKEN and name the app with --app"
    )]
    NoApi {
        /// The slug.
        location: SlugLocation,
    },
    /// There is no URL for it.
    #[error("cannot download slug {location}: there is no URL for it")]
    NoUrl {
        /// The slug.
        location: SlugLocation,
        /// Whether asking again can help.
        passes: bool,
        /// When the API wants to be asked again.
        retry_after: Option<Duration>,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The URL is not one, or its server redirects in a circle.
    #[error("cannot download slug {location}: its URL leads nowhere")]
    Url {
        /// The slug.
        location: SlugLocation,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The server cannot be reached.
    #[error("cannot download slug {location}: its server does not answer")]
    Unreachable {
        /// The slug.
        location: SlugLocation,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The transfer broke off.
    #[error("the download of slug {location} broke off after {bytes} bytes")]
    BrokeOff {
        /// The slug.
        location: SlugLocation,
        /// What had arrived.
        bytes: u64,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The body is shorter or longer than announced.
    #[error("the download of slug {location} has {bytes} bytes, but the server announced {announced}")]
    Length {
        /// The slug.
        location: SlugLocation,
        /// What arrived.
        bytes: u64,
        /// What was announced.
        announced: u64,
    },
    /// The server refuses.
    #[error("cannot download slug {location}: the server answers {status}{}", advice(location, *status))]
    Status {
        /// The slug.
        location: SlugLocation,
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
            Self::Status { status: StatusCode::FORBIDDEN, location: SlugLocation::Heroku(_), .. } => true,
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
            | Self::NoApi { .. }
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
            | Self::NoApi { .. }
            | Self::Url { .. }
            | Self::Unreachable { .. }
            | Self::BrokeOff { .. }
            | Self::Length { .. } => None,
        }
    }
}

fn advice(location: &SlugLocation, status: StatusCode) -> &'static str {
    match (status.as_u16(), location) {
        (_, SlugLocation::Heroku(_)) => "; deploy the app again if this goes on",
        (401 | 403, SlugLocation::Path(_) | SlugLocation::Url(_)) => {
            "; a signed URL may have expired: release the slug with a URL that may be read"
        }
        (404 | 410, SlugLocation::Path(_) | SlugLocation::Url(_)) => {
            "; check the URL, or release the slug anew"
        }
        (_, SlugLocation::Path(_) | SlugLocation::Url(_)) => "",
    }
}

/// Where an archive is fetched from.
enum Remote<'a> {
    At(&'a str),
    Of(&'a SlugId, &'a dyn SlugUrls),
}

impl<'a> Remote<'a> {
    /// A URL that is good now.
    async fn url(&self) -> Result<Cow<'a, str>, NoUrl> {
        match self {
            Self::At(url) => Ok(Cow::Borrowed(*url)),
            Self::Of(id, urls) => urls.url(id).await.map(Cow::Owned),
        }
    }
}

/// Fetches archives.
pub(super) struct Fetcher {
    client: HttpClient,
    urls: Option<Arc<dyn SlugUrls>>,
    limit_bytes: u64,
    retry: Retry,
}

impl Fetcher {
    pub(super) fn new(limit_bytes: u64, retry: Retry, urls: Option<Arc<dyn SlugUrls>>) -> Self {
        Self { client: HttpClient::new(Timeouts::WhileItMoves), urls, limit_bytes, retry }
    }

    /// Fetches an archive into a nameless file in `dir`.
    ///
    /// # Errors
    /// When it cannot be had, after the last try where trying again can help.
    pub(super) async fn fetch(&self, location: &SlugLocation, dir: &Path) -> Result<Archive, FetchError> {
        let remote = match (location, &self.urls) {
            (SlugLocation::Path(path), _) => {
                let (path, dir, limit_bytes) = (path.clone(), dir.to_path_buf(), self.limit_bytes);
                return blocking(move |stop| copy(&path, &dir, limit_bytes, stop)).await;
            }
            (SlugLocation::Url(url), _) => Remote::At(url),
            (SlugLocation::Heroku(id), Some(urls)) => Remote::Of(id, urls.as_ref()),
            (SlugLocation::Heroku(_), None) => return Err(FetchError::NoApi { location: location.clone() }),
        };
        let mut attempt = 1;
        loop {
            let error = match self.download(&remote, location, dir).await {
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

    async fn download(
        &self,
        remote: &Remote<'_>,
        location: &SlugLocation,
        dir: &Path,
    ) -> Result<Archive, FetchError> {
        let url = remote.url().await.map_err(|NoUrl { passes, retry_after, source }| FetchError::NoUrl {
            location: location.clone(),
            passes,
            retry_after,
            source,
        })?;
        let mut response = self.ask(&url, location).await?;
        let announced = response.content_length();
        let too_large = || FetchError::TooLarge { location: location.clone(), limit_bytes: self.limit_bytes };
        if announced.is_some_and(|bytes| bytes > self.limit_bytes) {
            return Err(too_large());
        }
        let mut progress = Progress::start(location, announced);
        let (chunks, arriving) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let dir = dir.to_path_buf();
        let written = blocking(move |_| write(&dir, arriving));
        loop {
            let chunk = response.chunk().await.map_err(|error| FetchError::BrokeOff {
                location: location.clone(),
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
            return Err(FetchError::Length { location: location.clone(), bytes, announced });
        }
        progress.finish();
        Ok(archive)
    }

    async fn ask(&self, url: &str, location: &SlugLocation) -> Result<Response, FetchError> {
        let client = self.client.to(url).await;
        let client = client.map_err(|source| FetchError::Client { location: location.clone(), source })?;
        let response = client.get(url).send().await.map_err(|error| {
            let (location, lasting) = (location.clone(), error.is_builder() || error.is_redirect());
            let source = error.without_url();
            if lasting {
                FetchError::Url { location, source }
            } else {
                FetchError::Unreachable { location, source }
            }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = asked_to_wait(response.headers());
        Err(FetchError::Status { location: location.clone(), status, retry_after })
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
