//! The manifest as it is had: from a file, or over HTTP once a day at most, with what was fetched last kept beside
//! the stacks for when it cannot be had. It owns that; what a manifest says is `manifest.rs`'s business.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::StatusCode;
use reqwest::header::{ETAG, IF_NONE_MATCH};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::location::StackLocation;
use super::manifest::{Manifest, ManifestError};
use crate::blocking::blocking;
use crate::durable;
use crate::explain;
use crate::http::{HttpClient, Timeouts};
use crate::model::Sha256Digest;

/// How long what was fetched is good: stacks are released every few weeks.
const GOOD_FOR: Duration = Duration::from_secs(24 * 3600);

/// A manifest is a few KiB; dynos that start wait for it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest manifest: room for thousands of stacks.
const MAX_BYTES: usize = 1 << 20;

const CACHE_FILE: &str = ".manifest.json";

/// The URL may hold a signature, and so may those in the manifest.
const CACHE_MODE: u32 = 0o600;

/// How new a manifest has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Fetched within a day.
    Daily,
    /// Asked for now, since somebody asks.
    Now,
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoManifest {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("there is no HTTP client; TLS needs the host's CA certificates (package ca-certificates)")]
    Client(#[source] reqwest::Error),
    #[error("its server does not answer")]
    Unreachable(#[source] reqwest::Error),
    #[error("its server answers {0}")]
    Status(StatusCode),
    #[error("it is larger than 1 MiB")]
    TooLarge,
    #[error("it is not text")]
    NotText,
    #[error(transparent)]
    Invalid(#[from] ManifestError),
}

/// What was fetched last.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    /// The SHA-256 of the URL, which may hold a secret.
    url_sha256: String,
    etag: Option<String>,
    fetched_unix_s: u64,
    text: String,
}

impl Kept {
    /// A clock that was set back makes it old.
    fn is_good(&self, now_unix_s: u64) -> bool {
        now_unix_s.checked_sub(self.fetched_unix_s).is_some_and(|age| age < GOOD_FOR.as_secs())
    }
}

/// Gets a manifest.
pub(super) struct ManifestSource {
    location: StackLocation,
    /// Where what was fetched is kept.
    dir: PathBuf,
    http: HttpClient,
}

impl ManifestSource {
    pub(super) fn new(location: StackLocation, dir: PathBuf) -> Self {
        Self { location, dir, http: HttpClient::new(Timeouts::InAll(TIMEOUT)) }
    }

    pub(super) fn location(&self) -> &StackLocation {
        &self.location
    }

    /// The manifest.
    ///
    /// # Errors
    /// When it cannot be had and never could, or what is there is none.
    pub(super) async fn get(&self, freshness: Freshness) -> Result<Manifest, NoManifest> {
        match &self.location {
            StackLocation::Path(path) => {
                let path = path.clone();
                let text = blocking(move |_| read(&path)).await?;
                self.parse(&text)
            }
            StackLocation::Url(url) => self.of_url(url, freshness, now_unix_s()).await,
        }
    }

    async fn of_url(&self, url: &str, freshness: Freshness, now: u64) -> Result<Manifest, NoManifest> {
        let kept = self.kept(url).await;
        if let Some(kept) = kept.as_ref().filter(|kept| freshness == Freshness::Daily && kept.is_good(now)) {
            return self.parse(&kept.text);
        }
        let etag = kept.as_ref().and_then(|kept| kept.etag.as_deref());
        match (self.fetch(url, etag, now).await, kept) {
            (Ok(Some(fetched)), _) => {
                let manifest = self.parse(&fetched.text)?;
                self.keep(fetched).await;
                Ok(manifest)
            }
            (Ok(None), Some(kept)) => {
                let manifest = self.parse(&kept.text)?;
                self.keep(Kept { fetched_unix_s: now, ..kept }).await;
                Ok(manifest)
            }
            (Ok(None), None) => Err(NoManifest::Status(StatusCode::NOT_MODIFIED)),
            (Err(error), Some(kept)) => {
                let since = UNIX_EPOCH + Duration::from_secs(kept.fetched_unix_s);
                let since = humantime::format_rfc3339_seconds(since);
                let why = explain(&error);
                tracing::warn!(
                    "the manifest of stacks at {} cannot be had, going on with that of {since}: {why}",
                    self.location
                );
                self.parse(&kept.text)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn parse(&self, text: &str) -> Result<Manifest, NoManifest> {
        let (manifest, left_out) = Manifest::parse(text)?;
        for entry in left_out {
            tracing::warn!("the manifest of stacks at {}: {entry}; it is left out", self.location);
        }
        Ok(manifest)
    }

    /// None if it is what the `ETag` says.
    async fn fetch(&self, url: &str, etag: Option<&str>, now: u64) -> Result<Option<Kept>, NoManifest> {
        let unreachable = |error: reqwest::Error| NoManifest::Unreachable(error.without_url());
        let mut request = self.http.to(url).await.map_err(NoManifest::Client)?.get(url);
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let mut response = request.send().await.map_err(unreachable)?;
        match response.status() {
            StatusCode::NOT_MODIFIED => return Ok(None),
            status if !status.is_success() => return Err(NoManifest::Status(status)),
            _ => {}
        }
        let etag = response.headers().get(ETAG).and_then(|etag| Some(etag.to_str().ok()?.to_owned()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BYTES {
                return Err(NoManifest::TooLarge);
            }
        }
        let text = String::from_utf8(body).map_err(|_| NoManifest::NotText)?;
        Ok(Some(Kept { url_sha256: digest(url), etag, fetched_unix_s: now, text }))
    }

    /// What was fetched last from this URL, if it still is a manifest.
    async fn kept(&self, url: &str) -> Option<Kept> {
        let path = self.dir.join(CACHE_FILE);
        let bytes = blocking(move |_| fs::read(path)).await.ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        (kept.url_sha256 == digest(url) && Manifest::parse(&kept.text).is_ok()).then_some(kept)
    }

    /// Keeps it for the next time; what cannot be kept is fetched again.
    async fn keep(&self, kept: Kept) {
        let dir = self.dir.clone();
        let kept = blocking(move |_| {
            let bytes = serde_json::to_vec(&kept).expect("a manifest is plain text");
            durable::replace(&dir, CACHE_FILE, &bytes, CACHE_MODE)
        });
        if let Err(error) = kept.await {
            tracing::warn!("the manifest of stacks is not kept: {}", explain(&error));
        }
    }
}

fn read(path: &Path) -> Result<String, NoManifest> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let file = fs::File::open(path).map_err(NoManifest::Read)?;
    file.take(limit).read_to_end(&mut text).map_err(NoManifest::Read)?;
    if text.len() > MAX_BYTES {
        return Err(NoManifest::TooLarge);
    }
    String::from_utf8(text).map_err(|_| NoManifest::NotText)
}

fn digest(url: &str) -> String {
    Sha256Digest(Sha256::digest(url).into()).to_string()
}

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
