//! Fetching, over real sockets.

use std::fs;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::model::SlugLocation;

const AT_ONCE: Retry = Retry { attempts: 5, first_delay: Duration::ZERO, longest_delay: Duration::ZERO };

/// Answers one connection after the other with these bytes; returns how many were needed.
async fn serve(answers: Vec<String>) -> (String, JoinHandle<usize>) {
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
    (url, served)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n{body}")
}

fn sized(status: &str, body: &str) -> String {
    answer(status, &format!("content-length: {}\r\n", body.len()), body)
}

async fn fetch(url: &str, limit_bytes: u64) -> Result<(String, Archive), FetchError> {
    let dir = tempfile::tempdir().unwrap();
    let fetcher = Fetcher::new(limit_bytes, AT_ONCE);
    let item = Item::slug(url.parse::<SlugLocation>().unwrap());
    let outcome = fetcher.fetch(&item, Origin::Url(url), dir.path()).await;
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

/// Gives one URL after the other, then none.
struct Urls(Mutex<Vec<String>>);

impl RenewedUrl for Urls {
    fn url(&self) -> BoxFuture<'_, Result<String, NoUrl>> {
        let mut urls = self.0.lock().unwrap();
        let next = if urls.is_empty() { None } else { Some(urls.remove(0)) };
        let none = || NoUrl { passes: false, retry_after: None, source: "no more".into() };
        Box::pin(async move { next.ok_or_else(none) })
    }
}

#[tokio::test]
async fn a_url_that_has_expired_is_asked_for_again() {
    let (url, served) = serve(vec![sized("403 Forbidden", "<Error/>"), sized("200 OK", "abc")]).await;
    let slug = Item::slug_of_api("heroku-slug:1-2");
    let dir = tempfile::tempdir().unwrap();
    let urls = Urls(Mutex::new(vec![url.clone(), url]));
    let fetcher = Fetcher::new(100, AT_ONCE);
    assert!(fetcher.fetch(&slug, Origin::Renewed(&urls), dir.path()).await.is_ok());
    assert_eq!(served.await.unwrap(), 2);
    let error = fetcher.fetch(&slug, Origin::Renewed(&urls), dir.path()).await.unwrap_err();
    assert_eq!(
        crate::explain(&error),
        "cannot download slug heroku-slug:1-2: there is no URL for it: no more"
    );
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
    let error = fetch(&url, 100).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(matches!(error, FetchError::Unreachable { .. }), "{text}");
    assert!(!text.contains("secret") && !text.contains("pass@"), "{text}");
    let error = fetch("http://h:99999/", 100).await.unwrap_err();
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
