//! Gets the archive of a slug, from wherever it is. It owns HTTP and what is tried again; it must not look
//! into the archive. A URL may hold a password or a signature, so only [`SlugLocation`]'s own form of it is
//! ever shown.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;

use super::local::{Archive, Intake, copy};
use super::progress::Progress;
use crate::blocking::blocking;
use crate::http::{HttpClient, Retry, Timeouts, asked_to_wait};
use crate::model::SlugLocation;

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
    #[error("cannot download slug {location}: the server answers {status}{}", advice(*status))]
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
        if let Self::Status { retry_after, .. } = self { *retry_after } else { None }
    }
}

fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => "; a signed URL may have expired: release the slug with a URL that may be read",
        404 | 410 => "; check the URL, or release the slug anew",
        _ => "",
    }
}

/// Fetches archives.
pub(super) struct Fetcher {
    client: HttpClient,
    limit_bytes: u64,
    retry: Retry,
}

impl Fetcher {
    pub(super) fn new(limit_bytes: u64, retry: Retry) -> Self {
        Self { client: HttpClient::new(Timeouts::WhileItMoves), limit_bytes, retry }
    }

    /// Fetches an archive into a nameless file in `dir`.
    ///
    /// # Errors
    /// When it cannot be had, after the last try where trying again can help.
    pub(super) async fn fetch(&self, location: &SlugLocation, dir: &Path) -> Result<Archive, FetchError> {
        let url = match location {
            SlugLocation::Path(path) => {
                let (path, dir, limit_bytes) = (path.clone(), dir.to_path_buf(), self.limit_bytes);
                return blocking(move |stop| copy(&path, &dir, limit_bytes, stop)).await;
            }
            SlugLocation::Url(url) => url,
        };
        let mut attempt = 1;
        loop {
            let error = match self.download(url, location, dir).await {
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

    async fn download(&self, url: &str, location: &SlugLocation, dir: &Path) -> Result<Archive, FetchError> {
        let mut response = self.ask(url, location).await?;
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
mod tests {
    use std::fs;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    const AT_ONCE: Retry = Retry { attempts: 5, first_delay: Duration::ZERO, longest_delay: Duration::ZERO };

    /// Answers one connection after the other with these bytes; returns how many were needed.
    async fn serve(answers: Vec<String>) -> (SlugLocation, JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://me:pass@{}/slug.tgz?sig=secret", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            for answer in &answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                // the client may hang up before it has read all
                let _ = stream.write_all(answer.as_bytes()).await;
            }
            answers.len()
        });
        (SlugLocation::Url(url), served)
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n{body}")
    }

    fn sized(status: &str, body: &str) -> String {
        answer(status, &format!("content-length: {}\r\n", body.len()), body)
    }

    async fn fetch(location: &SlugLocation, limit_bytes: u64) -> Result<(String, Archive), FetchError> {
        let dir = tempfile::tempdir().unwrap();
        let fetcher = Fetcher::new(limit_bytes, AT_ONCE);
        let outcome = fetcher.fetch(location, dir.path()).await;
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        outcome.map(|mut archive| (io::read_to_string(&mut archive.file).unwrap(), archive))
    }

    #[tokio::test]
    async fn a_body_arrives_with_its_digest() {
        let (location, served) = serve(vec![sized("200 OK", "abc")]).await;
        let (body, archive) = fetch(&location, 3).await.unwrap();
        assert_eq!(body, "abc");
        assert!(archive.digest.to_string().starts_with("ba7816bf8f01cfea"));
        assert_eq!(served.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn passing_faults_are_tried_again() {
        let chunk_cut = answer("200 OK", "transfer-encoding: chunked\r\n", "5\r\nab");
        let (location, served) = serve(vec![
            sized("500 Internal Server Error", "oops"),
            answer("429 Too Many Requests", "retry-after: 3600\r\n", ""),
            answer("200 OK", "content-length: 10\r\n", "abc"),
            chunk_cut,
            sized("200 OK", "abc"),
        ])
        .await;
        assert_eq!(fetch(&location, 100).await.unwrap().0, "abc");
        assert_eq!(served.await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_body_that_stays_truncated_is_an_error() {
        let cut = answer("200 OK", "content-length: 10\r\n", "abc");
        let (location, served) = serve(vec![cut; 5]).await;
        let error = fetch(&location, 100).await.unwrap_err();
        assert!(matches!(error, FetchError::BrokeOff { bytes: 3, .. }), "{error}");
        assert_eq!(served.await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_refusal_is_final_says_what_to_do_and_no_secret() {
        for status in ["404 Not Found", "410 Gone", "401 Unauthorized", "403 Forbidden"] {
            let (location, served) = serve(vec![sized(status, "")]).await;
            let error = fetch(&location, 100).await.unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(status) && text.contains("/slug.tgz") && text.contains("URL"), "{text}");
            assert!(!text.contains("secret") && !text.contains("pass"), "{text}");
            assert_eq!(served.await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_without_secrets() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://me:pass@{}/slug.tgz?sig=secret", listener.local_addr().unwrap());
        drop(listener);
        let error = fetch(&SlugLocation::Url(url), 100).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(matches!(error, FetchError::Unreachable { .. }), "{text}");
        assert!(!text.contains("secret") && !text.contains("pass@"), "{text}");
        let error = fetch(&SlugLocation::Url("http://h:99999/".into()), 100).await.unwrap_err();
        assert!(matches!(error, FetchError::Url { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_announced_or_not() {
        let announced = answer("200 OK", "content-length: 101\r\n", "");
        let unannounced = answer("200 OK", "", &"x".repeat(101));
        for answer in [announced, unannounced] {
            let (location, served) = serve(vec![answer]).await;
            let error = fetch(&location, 100).await.unwrap_err();
            assert!(matches!(error, FetchError::TooLarge { limit_bytes: 100, .. }), "{error}");
            assert_eq!(served.await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn a_redirect_is_followed_and_told_no_secret() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = format!("location: http://{}/other\r\n", target.local_addr().unwrap());
        let (location, _served) = serve(vec![answer("302 Found", &there, "")]).await;
        let asked = tokio::spawn(async move {
            let (mut stream, _) = target.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(sized("200 OK", "abc").as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        assert_eq!(fetch(&location, 100).await.unwrap().0, "abc");
        let request = asked.await.unwrap().to_lowercase();
        assert!(!request.contains("secret") && !request.contains("authorization"), "{request}");
    }
}
