//! The end of a drain: what is sent in the time that there is, and what that time is not spent on.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::*;
use crate::logs::{LogSettings, Origin, Speaker};

/// How long a test waits for what comes at once.
const PATIENCE: Duration = Duration::from_secs(60);

type Answer = dyn FnMut(&str) -> u16 + Send;

/// A receiver of requests, which answers each with the status that this says for its body; gives its URL.
fn receiver(mut answer: impl FnMut(&str) -> u16 + Send + 'static) -> Secret {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(move |body: &str| answer(body)));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = Arc::clone(&answer);
            thread::spawn(move || converse(stream, &answer));
        }
    });
    Secret::from(url)
}

fn converse(stream: TcpStream, answer: &Mutex<Answer>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = bytes.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let status = (answer.lock().unwrap())(&String::from_utf8_lossy(&body));
        write!(reader.get_mut(), "HTTP/1.1 {status} status\r\nContent-Length: 0\r\n\r\n")?;
    }
}

/// Gives a drain a line of each of eight dynos, which go by all of its lanes, and ends it; how it was doing at its end.
async fn end(url: &Secret, time: Duration) -> DrainStatus {
    let dir = tempfile::tempdir().unwrap();
    let place = DrainPlace { spools: dir.path().to_owned(), adopts: true, host: "host".to_owned() };
    let settings = DrainSettings { spool_bytes: 0, ..LogSettings::default().drain };
    let mut drain = Drain::start(url, &settings, &place, Tail::new(1 << 20)).unwrap();
    for n in 1..=8 {
        let speaker = Speaker::dyno(&format!("web.{n}").parse().unwrap());
        let text = format!("of {n}\n").into_bytes();
        drain.give(&Arc::new(Batch::new(speaker, Origin::Stdout, SystemTime::now(), text)));
    }
    let deadline = Instant::now() + time;
    drain.close(deadline);
    drain.ended(deadline).await;
    drain.status()
}

#[tokio::test]
async fn a_receiver_that_is_of_no_use_for_a_moment_gets_all_lines_at_the_end() {
    let mut requests = 0;
    let url = receiver(move |_| {
        requests += 1;
        if requests <= 6 { 503 } else { 200 }
    });
    let status = end(&url, PATIENCE).await;
    assert_eq!((status.sent_lines, status.retries, status.dropped_lines), (8, 6, 0), "{status:?}");
}

#[tokio::test]
async fn lines_that_the_receiver_never_takes_keep_no_others_back_at_the_end() {
    let url = receiver(|body| if body.contains("of 1") { 429 } else { 200 });
    let status = end(&url, Duration::from_secs(2)).await;
    assert!(status.sent_lines >= 5 && status.dropped_lines == 8 - status.sent_lines, "{status:?}");
    assert!(status.retries > 1, "{status:?}");
}

#[tokio::test]
async fn the_end_is_not_held_up_by_a_receiver_that_is_down() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = Instant::now();
    let status = end(&Secret::from(format!("http://{nobody}/")), 2 * PATIENCE).await;
    assert_eq!((status.sent_lines, status.dropped_lines), (0, 8), "{status:?}");
    assert!(began.elapsed() < PATIENCE);
}
