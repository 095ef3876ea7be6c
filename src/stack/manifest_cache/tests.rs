//! Fetching a manifest, over real sockets.

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const MANIFEST: &str = "- {name: a, version: 1, url: https://h/a, md5: 90015098301201200963017028017072}\n";

const NOON_UNIX_S: u64 = 1_800_000_000;
const HOUR_S: u64 = 3600;

/// Answers one connection after the other; gives the requests.
async fn serve(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/manifest.yml?sig=secret", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let _ = stream.write_all(answer.as_bytes()).await;
            requests.push(String::from_utf8(request).unwrap());
        }
        requests
    });
    (url, served)
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\netag: \"e1\"\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn source(url: &str) -> (TempDir, ManifestSource) {
    let temp = tempfile::tempdir().unwrap();
    let source = ManifestSource::new(StackLocation::Url(url.to_owned()), temp.path().to_path_buf());
    (temp, source)
}

#[tokio::test]
async fn it_is_fetched_once_a_day_and_then_only_if_it_has_changed() {
    let (url, served) =
        serve(vec![answer("200 OK", MANIFEST), answer("304 Not Modified", ""), answer("200 OK", "[]")]).await;
    let (temp, source) = source(&url);
    let get = async |freshness, now| source.of_url(&url, freshness, now).await.unwrap().names();
    assert_eq!(get(Freshness::Daily, NOON_UNIX_S).await, ["a"]);
    assert_eq!(get(Freshness::Daily, NOON_UNIX_S + 23 * HOUR_S).await, ["a"]);
    assert_eq!(get(Freshness::Daily, NOON_UNIX_S + 25 * HOUR_S).await, ["a"]);
    // what has not changed is good for another day
    assert_eq!(get(Freshness::Daily, NOON_UNIX_S + 48 * HOUR_S).await, ["a"]);
    assert_eq!(get(Freshness::Now, NOON_UNIX_S + 48 * HOUR_S).await, [""; 0]);
    let requests = served.await.unwrap();
    assert!(!requests[0].contains("if-none-match"));
    assert!(requests[1].contains("if-none-match: \"e1\"") && requests[2].contains("if-none-match: \"e1\""));
    let kept = fs::read_to_string(temp.path().join(CACHE_FILE)).unwrap();
    assert!(!kept.contains("secret"), "{kept}");
}

#[tokio::test]
async fn what_cannot_be_had_is_taken_from_the_last_time() {
    let error = answer("503 Service Unavailable", "");
    let (url, served) = serve(vec![error.clone(), answer("200 OK", MANIFEST), error]).await;
    let (_temp, source) = source(&url);
    let get = async |now| source.of_url(&url, Freshness::Daily, now).await;
    assert!(matches!(get(NOON_UNIX_S).await, Err(NoManifest::Status(StatusCode::SERVICE_UNAVAILABLE))));
    assert_eq!(get(NOON_UNIX_S).await.unwrap().names(), ["a"]);
    let later = NOON_UNIX_S + 30 * HOUR_S;
    assert_eq!(get(later).await.unwrap().names(), ["a"]);
    served.await.unwrap();
    // there is no server any more
    assert_eq!(get(later).await.unwrap().names(), ["a"]);
    // a clock that was set back
    assert_eq!(get(NOON_UNIX_S - HOUR_S).await.unwrap().names(), ["a"]);
    let other = source.of_url("http://127.0.0.1:1/", Freshness::Daily, NOON_UNIX_S).await;
    assert!(matches!(other, Err(NoManifest::Unreachable(_))));
}

#[tokio::test]
async fn what_is_no_manifest_is_refused_and_not_kept() {
    let (url, _served) =
        serve(vec![answer("200 OK", "<html>"), answer("200 OK", &"#".repeat(MAX_BYTES + 1))]).await;
    let (temp, source) = source(&url);
    let get = async || source.of_url(&url, Freshness::Daily, NOON_UNIX_S).await;
    assert!(matches!(get().await, Err(NoManifest::Invalid(_))));
    assert!(matches!(get().await, Err(NoManifest::TooLarge)));
    assert!(!temp.path().join(CACHE_FILE).exists());
}

#[tokio::test]
async fn a_file_is_read_each_time() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("manifest.yml");
    let source = ManifestSource::new(StackLocation::Path(path.clone()), temp.path().to_path_buf());
    assert!(matches!(source.get(Freshness::Daily).await, Err(NoManifest::Read(_))));
    fs::write(&path, MANIFEST).unwrap();
    assert_eq!(source.get(Freshness::Daily).await.unwrap().names(), ["a"]);
    fs::write(&path, "[]").unwrap();
    assert_eq!(source.get(Freshness::Daily).await.unwrap().names(), [""; 0]);
}
