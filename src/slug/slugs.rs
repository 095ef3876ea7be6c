//! The entry to this room: from the location of a slug to its unpacked tree. It owns the order of the steps;
//! each step itself stands elsewhere.

use std::path::PathBuf;
use std::sync::Arc;

use hsup_drivers::BoxFuture;

use super::cache::Cache;
use super::hold::InUse;
use super::urls::SlugUrls;
use crate::archive::{
    self, Archive, FetchError, Fetcher, Item, Layout, Limits, NoUrl, Origin, RenewedUrl, StageError,
    UnpackError,
};
use crate::blocking::blocking;
use crate::http::Retry;
use crate::model::{Sha256Digest, SlugId, SlugLocation};

/// An unpacked slug. While it, or a clone of it, lives no hsup removes its tree.
#[derive(Clone, Debug)]
pub struct Slug {
    /// The digest of its archive.
    pub digest: Sha256Digest,
    /// Its tree: what a dyno sees at `/app`. All dynos share it, so nobody writes to it.
    pub app_dir: PathBuf,
    pub(super) _in_use: InUse,
}

impl PartialEq for Slug {
    fn eq(&self, other: &Self) -> bool {
        (self.digest, &self.app_dir) == (other.digest, &other.app_dir)
    }
}

impl Eq for Slug {}

#[cfg(test)]
impl Slug {
    /// An empty one in a folder of slugs.
    pub(crate) fn for_tests(dir: PathBuf, digest: Sha256Digest) -> Self {
        let cache = Cache::new(dir);
        cache.open().unwrap();
        let stage = cache.stage().unwrap();
        std::fs::create_dir(stage.path().join("app")).unwrap();
        cache.publish(stage, digest).unwrap().unwrap()
    }
}

/// Why a slug cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum SlugError {
    /// It cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It is not the one that the release names.
    #[error(
        "slug {location} is not the one that was released: its SHA-256 is {got}, expected {expected}; \
         put the right archive there or release this one"
    )]
    Checksum {
        /// Where it was had from.
        location: SlugLocation,
        /// The digest that the release names.
        expected: Sha256Digest,
        /// The digest of what is there.
        got: Sha256Digest,
    },
    /// It is not a slug, or one that is refused.
    #[error("slug {location} cannot be unpacked")]
    Unpack {
        /// Where it was had from.
        location: SlugLocation,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// It is one of the Heroku API, which this hsup does not ask.
    #[error(
        "slug {location} can be had from the Heroku API only: set HEROKU_ACCESS_TOKEN and name the app with --app"
    )]
    NoApi {
        /// The slug.
        location: SlugLocation,
    },
    /// The folder of slugs cannot be used.
    #[error("the folder of slugs cannot be used")]
    Cache(#[from] StageError),
}

/// The slugs of this host.
pub struct Slugs {
    cache: Cache,
    fetcher: Fetcher,
    urls: Option<Arc<dyn SlugUrls>>,
    limits: Limits,
}

impl Slugs {
    /// Slugs unpacked in `dir`, which is made when first needed, for its owner only. Several hsups may share
    /// it. `urls` knows where slugs of the Heroku API are to be had.
    pub fn new(dir: PathBuf, limits: Limits, urls: Option<Arc<dyn SlugUrls>>) -> Self {
        Self::with_retry(dir, limits, urls, Retry::default())
    }

    fn with_retry(dir: PathBuf, limits: Limits, urls: Option<Arc<dyn SlugUrls>>, retry: Retry) -> Self {
        Self { cache: Cache::new(dir), fetcher: Fetcher::new(limits.archive_bytes, retry), urls, limits }
    }

    /// Fetches, verifies and unpacks a slug, each as far as it has not been done before: where the checksum
    /// is given and the tree is there, nothing is read. Without a checksum a file is digested again, for it
    /// may have changed, and a URL is downloaded again; nothing is unpacked twice.
    ///
    /// The tree appears at once and whole. Dropping the future is safe at any time: what was begun is
    /// removed, by the next call at the latest.
    ///
    /// # Errors
    /// When the slug cannot be had, is not the one with this checksum, is refused, or cannot be written. A URL's
    /// passing faults have been retried by then.
    pub async fn prepare(
        &self,
        location: &SlugLocation,
        checksum: Option<Sha256Digest>,
    ) -> Result<Slug, SlugError> {
        loop {
            // one that another hsup has found unneeded, just before this one could say that it is
            if let Some(slug) = self.try_prepare(location, checksum).await? {
                return Ok(slug);
            }
        }
    }

    async fn try_prepare(
        &self,
        location: &SlugLocation,
        checksum: Option<Sha256Digest>,
    ) -> Result<Option<Slug>, SlugError> {
        let cache = self.cache.clone();
        blocking(move |_| cache.open()).await?;
        if let Some(slug) = self.find(checksum).await? {
            return Ok(Some(slug));
        }
        if let SlugLocation::Path(path) = location {
            let (path, limit) = (path.clone(), self.limits.archive_bytes);
            let item = Item::slug(location);
            let digest = blocking(move |stop| archive::digest(&item, &path, limit, stop)).await?;
            verify(location, checksum, digest)?;
            if let Some(slug) = self.find(Some(digest)).await? {
                return Ok(Some(slug));
            }
        }
        let archive = self.fetch(location).await?;
        verify(location, checksum, archive.digest)?;
        match self.find(Some(archive.digest)).await? {
            Some(slug) => Ok(Some(slug)),
            None => self.unpack(location, archive).await,
        }
    }

    async fn fetch(&self, location: &SlugLocation) -> Result<Archive, SlugError> {
        let (slug, dir) = (Item::slug(location), self.cache.dir());
        Ok(match (location, &self.urls) {
            (SlugLocation::Path(path), _) => self.fetcher.fetch(&slug, Origin::Path(path), dir).await?,
            (SlugLocation::Url(url), _) => self.fetcher.fetch(&slug, Origin::Url(url), dir).await?,
            (SlugLocation::Heroku(id), Some(urls)) => {
                let url = UrlOf { id, urls: urls.as_ref() };
                self.fetcher.fetch(&Item::slug_of_api(location), Origin::Renewed(&url), dir).await?
            }
            (SlugLocation::Heroku(_), None) => return Err(SlugError::NoApi { location: location.clone() }),
        })
    }

    async fn find(&self, digest: Option<Sha256Digest>) -> Result<Option<Slug>, SlugError> {
        let Some(digest) = digest else { return Ok(None) };
        let cache = self.cache.clone();
        Ok(blocking(move |_| cache.find(digest)).await?)
    }

    async fn unpack(&self, location: &SlugLocation, archive: Archive) -> Result<Option<Slug>, SlugError> {
        let (cache, limits, location) = (self.cache.clone(), self.limits, location.clone());
        blocking(move |stop| {
            let stage = cache.stage()?;
            archive::unpack(archive.file, &stage.path().join("app"), Layout::Slug, limits, stop)
                .map_err(|source| SlugError::Unpack { location, source })?;
            Ok(cache.publish(stage, archive.digest)?)
        })
        .await
    }
}

/// The URL of one slug.
struct UrlOf<'a> {
    id: &'a SlugId,
    urls: &'a dyn SlugUrls,
}

impl RenewedUrl for UrlOf<'_> {
    fn url(&self) -> BoxFuture<'_, Result<String, NoUrl>> {
        self.urls.url(self.id)
    }
}

fn verify(
    location: &SlugLocation,
    expected: Option<Sha256Digest>,
    got: Sha256Digest,
) -> Result<(), SlugError> {
    match expected {
        Some(expected) if expected != got => {
            Err(SlugError::Checksum { location: location.clone(), expected, got })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::task::Poll;
    use std::time::Duration;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use sha2::{Digest, Sha256};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    struct Host {
        temp: TempDir,
        slugs: Slugs,
    }

    impl Host {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let retry = Retry { attempts: 2, first_delay: Duration::ZERO, longest_delay: Duration::ZERO };
            let slugs = Slugs::with_retry(temp.path().join("slugs"), Limits::default(), None, retry);
            Self { temp, slugs }
        }

        fn put(&self, bytes: &[u8]) -> SlugLocation {
            let path = self.temp.path().join("slug.tgz");
            fs::write(&path, bytes).unwrap();
            SlugLocation::Path(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.temp.path().join("slugs")).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    fn slug_with(text: &str) -> Vec<u8> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "./app/file", text.as_bytes()).unwrap();
        tar.into_inner().unwrap().finish().unwrap()
    }

    fn digest_of(bytes: &[u8]) -> Sha256Digest {
        Sha256Digest(Sha256::digest(bytes).into())
    }

    fn inode(path: &Path) -> u64 {
        fs::metadata(path).unwrap().ino()
    }

    #[tokio::test]
    async fn a_file_becomes_a_tree_named_by_its_digest() {
        let host = Host::new();
        let bytes = slug_with("hello");
        let slug = host.slugs.prepare(&host.put(&bytes), None).await.unwrap();
        assert_eq!(slug.digest, digest_of(&bytes));
        let expected = host.temp.path().join("slugs").join(slug.digest.to_string()).join("app");
        assert_eq!(slug.app_dir, expected);
        assert_eq!(fs::read_to_string(expected.join("file")).unwrap(), "hello");
        assert_eq!(host.names(), [slug.digest.to_string()]);
    }

    #[tokio::test]
    async fn nothing_is_unpacked_twice_but_a_changed_file_is_seen() {
        let host = Host::new();
        let location = host.put(&slug_with("one"));
        let first = host.slugs.prepare(&location, None).await.unwrap();
        let before = inode(&first.app_dir);
        assert_eq!(host.slugs.prepare(&location, None).await.unwrap(), first);
        assert_eq!(inode(&first.app_dir), before);
        host.put(&slug_with("two"));
        let second = host.slugs.prepare(&location, None).await.unwrap();
        assert_ne!(first.digest, second.digest);
        assert_eq!(host.names().len(), 2);
    }

    #[tokio::test]
    async fn what_is_there_is_not_fetched_again() {
        let host = Host::new();
        let bytes = slug_with("x");
        let location = host.put(&bytes);
        let slug = host.slugs.prepare(&location, Some(digest_of(&bytes))).await.unwrap();
        let nowhere = SlugLocation::Url("http://127.0.0.1:1/slug.tgz".into());
        assert_eq!(host.slugs.prepare(&nowhere, Some(slug.digest)).await.unwrap(), slug);
        let gone = SlugLocation::Path("/no/such/slug.tgz".into());
        assert_eq!(host.slugs.prepare(&gone, Some(slug.digest)).await.unwrap(), slug);
    }

    #[tokio::test]
    async fn the_wrong_slug_leaves_nothing() {
        let host = Host::new();
        let bytes = slug_with("x");
        let expected = Sha256Digest([1; 32]);
        let error = host.slugs.prepare(&host.put(&bytes), Some(expected)).await.unwrap_err().to_string();
        assert!(error.contains(&expected.to_string()), "{error}");
        assert!(error.contains(&digest_of(&bytes).to_string()), "{error}");
        assert_eq!(host.names(), [""; 0]);
    }

    #[tokio::test]
    async fn a_downloaded_slug_is_verified_and_unpacked() {
        let host = Host::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/slug.tgz", listener.local_addr().unwrap());
        let bytes = slug_with("x");
        let body = bytes.clone();
        tokio::spawn(async move {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.unwrap();
                stream.write_all(&body).await.unwrap();
            }
        });
        let location = SlugLocation::Url(url);
        let error = host.slugs.prepare(&location, Some(Sha256Digest([1; 32]))).await.unwrap_err();
        assert!(matches!(error, SlugError::Checksum { .. }), "{error}");
        assert_eq!(host.names(), [""; 0]);
        let slug = host.slugs.prepare(&location, Some(digest_of(&bytes))).await.unwrap();
        assert!(slug.app_dir.join("file").exists());
    }

    #[tokio::test]
    async fn a_bad_archive_leaves_nothing_and_spoils_nothing() {
        let host = Host::new();
        let good = slug_with(&"x".repeat(10_000));
        for bad in [&b"no slug"[..], b"", &good[..good.len() / 2]] {
            let error = host.slugs.prepare(&host.put(bad), None).await.unwrap_err();
            assert!(matches!(error, SlugError::Unpack { .. }), "{error}");
            assert!(error.to_string().contains("slug.tgz"), "{error}");
            assert_eq!(host.names(), [""; 0]);
        }
        host.slugs.prepare(&host.put(&good), None).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_dead_run_left_is_removed() {
        let host = Host::new();
        let dead = host.temp.path().join("slugs/.stage-dead/app");
        fs::create_dir_all(&dead).unwrap();
        fs::File::create(dead.join("half")).unwrap().write_all(b"ha").unwrap();
        let slug = host.slugs.prepare(&host.put(&slug_with("x")), None).await.unwrap();
        assert_eq!(host.names(), [slug.digest.to_string()]);
    }

    #[tokio::test]
    async fn two_at_once_get_the_same_tree() {
        let host = Host::new();
        let other = Slugs::new(host.temp.path().join("slugs"), Limits::default(), None);
        let location = host.put(&slug_with(&"x".repeat(100_000)));
        let (one, two) = tokio::join!(host.slugs.prepare(&location, None), other.prepare(&location, None));
        assert_eq!(one.unwrap(), two.unwrap());
        assert_eq!(host.names().len(), 1);
    }

    #[tokio::test]
    async fn a_slug_of_the_api_needs_the_api() {
        let host = Host::new();
        let slug = "heroku-slug:1-2".parse().unwrap();
        let error = host.slugs.prepare(&slug, None).await.unwrap_err().to_string();
        assert!(error.contains("HEROKU_ACCESS_TOKEN"), "{error}");
    }

    #[tokio::test]
    async fn a_call_may_be_dropped_at_any_point() {
        let host = Host::new();
        let location = host.put(&slug_with(&"x".repeat(100_000)));
        for polls in 1..10 {
            let mut call = Box::pin(host.slugs.prepare(&location, None));
            let mut left = polls;
            std::future::poll_fn(|context| {
                left -= 1;
                let done = call.as_mut().poll(context).is_ready();
                if done || left == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        // work that is being given up may take a moment to see it
        loop {
            let slug = host.slugs.prepare(&location, None).await.unwrap();
            assert_eq!(fs::metadata(slug.app_dir.join("file")).unwrap().len(), 100_000);
            if host.names() == [slug.digest.to_string()] {
                return;
            }
        }
    }
}
