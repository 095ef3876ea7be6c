//! `GET /logs`: which lines are asked for, and the answer, which may go on for as long as the dynos do. The lines come
//! from the tail buffer and nowhere else, so that a reader, however slow, holds up nobody: what it is too slow for it has
//! missed, and is told so in place.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::body::{Follow, Rest};
use super::wire::Timestamp;
use crate::logs::{Batch, Line, Newest, Origin, Place, Speaker, Start, Tail, append_text, text_head};
use crate::model::Target;

/// How many lines are shown where nothing says how many or since when.
const DEFAULT_LINES: u64 = 100;

/// How much is made at once. A line may be a hundred times as long as JSON as it is in the tail buffer, and who reads
/// slowly is to hold no more than this of it.
const PIECE_BYTES: usize = 64 * 1024;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogsQuery {
    /// The dynos and process types; all where there is none.
    pub targets: Vec<Target>,
    /// How many of the newest lines.
    pub lines: Option<u64>,
    /// Whether to go on with what comes.
    pub follow: bool,
    /// From when on.
    pub since: Option<SystemTime>,
    /// Whether each line is a JSON object.
    pub json: bool,
}

impl LogsQuery {
    /// The resource that stands for it.
    pub fn resource(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for target in &self.targets {
            query.append_pair("dyno", &target.to_string());
        }
        if let Some(lines) = self.lines {
            query.append_pair("n", &lines.to_string());
        }
        if let Some(since) = self.since {
            query.append_pair("since", &Timestamp(since).to_string());
        }
        for (name, given) in [("follow", self.follow), ("json", self.json)] {
            if given {
                query.append_key_only(name);
            }
        }
        let query = query.finish();
        if query.is_empty() { "/logs".to_owned() } else { format!("/logs?{query}") }
    }

    /// Reads the query of a resource.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut read = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let wrong = |what: &str| format!("{name}={value}: {what}");
            match name.as_ref() {
                "dyno" | "type" => read.targets.push(value.parse().map_err(|error| format!("{error}"))?),
                "n" => {
                    read.lines = Some(value.parse().map_err(|_| wrong("write a whole number such as 100"))?);
                }
                "since" => {
                    let time = humantime::parse_rfc3339_weak(&value);
                    read.since = Some(time.map_err(|_| wrong("write a time such as 2026-11-21T10:00:00Z"))?);
                }
                "follow" => read.follow = read_switch(&value).ok_or_else(|| wrong("write true or false"))?,
                "json" => read.json = read_switch(&value).ok_or_else(|| wrong("write true or false"))?,
                _ => {
                    return Err(format!(
                        "{name} is not known: there are dyno, type, n, since, follow and json"
                    ));
                }
            }
        }
        Ok(read)
    }

    fn wants(&self, speaker: &Speaker) -> bool {
        self.targets.is_empty()
            || speaker.name().is_some_and(|name| self.targets.iter().any(|target| target.covers(name)))
    }
}

/// A name without a value is a switch that is on.
pub(super) fn read_switch(value: &str) -> Option<bool> {
    match value {
        "" | "true" | "yes" | "1" => Some(true),
        "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// One reader of the lines.
pub(super) struct Follower {
    query: LogsQuery,
    tail: Tail,
    /// Batches that were read and have not been given to their end.
    batches: VecDeque<Arc<Batch>>,
    /// How many lines of the first of them have been given, or are not asked for.
    given: u64,
    /// What comes behind them.
    place: Place,
    changes: watch::Receiver<(u64, bool)>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Follower {
    /// A reader that has read nothing. It has its permit for as long as it is there.
    pub(super) fn new(query: LogsQuery, tail: Tail, permit: Option<OwnedSemaphorePermit>) -> Self {
        let changes = tail.changes();
        let lines = match (query.lines, query.since) {
            (Some(lines), _) => lines,
            (None, Some(_)) => u64::MAX,
            (None, None) => DEFAULT_LINES,
        };
        let newest = Newest { lines, since: query.since, follow: query.follow };
        let Start { first, place } = tail.begin(newest, |speaker| query.wants(speaker));
        let (batches, given) = first.map_or_else(Default::default, |(batch, old)| ([batch].into(), old));
        Self { query, tail, batches, given, place, changes, _permit: permit }
    }

    /// The next piece of what there is; an empty one where there is no more.
    fn read(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        while text.len() < PIECE_BYTES {
            if self.batches.is_empty() {
                let wanted = |speaker: &Speaker| self.query.wants(speaker);
                let reading = self.tail.read(&mut self.place, PIECE_BYTES, wanted);
                if reading.missed > 0 {
                    self.tell_missed(&mut text, reading.missed);
                }
                self.batches = reading.batches.into();
            }
            let Some(batch) = self.batches.front().map(Arc::clone) else { break };
            if self.give(&mut text, &batch) {
                self.batches.pop_front();
                self.given = 0;
            }
        }
        text
    }

    /// Gives what has not been given of the first batch; whether that was all.
    fn give(&mut self, text: &mut Vec<u8>, batch: &Batch) -> bool {
        let head = text_head(batch);
        for line in batch.lines().skip(usize::try_from(self.given).unwrap_or(usize::MAX)) {
            if text.len() >= PIECE_BYTES {
                return false;
            }
            self.append(text, batch, &head, line);
            self.given += 1;
        }
        true
    }

    fn append(&self, text: &mut Vec<u8>, batch: &Batch, head: &[u8], line: Line<'_>) {
        if !self.query.json {
            return append_text(text, head, line);
        }
        let entry = LogEntry {
            time: Timestamp(batch.at),
            source: batch.origin.source(),
            dyno: batch.speaker.as_str(),
            stream: match batch.origin {
                Origin::Stdout => "stdout",
                Origin::Stderr => "stderr",
                Origin::Platform => "platform",
            },
            message: &String::from_utf8_lossy(line.bytes),
            cut: line.cut,
        };
        append_json(text, &entry);
    }

    fn tell_missed(&self, text: &mut Vec<u8>, missed: u64) {
        let mut message = String::new();
        let _written_to_memory =
            write!(message, "{missed} lines missed: they came faster than they were read");
        let now = Timestamp(SystemTime::now());
        if self.query.json {
            let (source, dyno, stream) = ("heroku", "logs", "platform");
            append_json(text, &LogEntry { time: now, source, dyno, stream, message: &message, cut: false });
        } else {
            text.extend_from_slice(format!("{now} heroku[logs]: {message}\n").as_bytes());
        }
    }
}

impl Follow for Follower {
    fn rest(mut self: Box<Self>) -> Rest {
        Box::pin(async move {
            loop {
                let (_, is_last) = *self.changes.borrow_and_update();
                let text = self.read();
                if !text.is_empty() {
                    return Some((Bytes::from(text), self as Box<dyn Follow>));
                }
                if is_last || !self.query.follow || self.changes.changed().await.is_err() {
                    return None;
                }
            }
        })
    }
}

fn append_json(text: &mut Vec<u8>, entry: &LogEntry<'_>) {
    serde_json::to_writer(&mut *text, entry).expect("it is plain data");
    text.push(b'\n');
}

/// A line as a JSON object. Bytes that are not UTF-8 are replaced.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogEntry<'a> {
    /// When it was read.
    time: Timestamp,
    /// `app` for what a dyno printed, `heroku` for what was said of it.
    source: &'static str,
    /// `web.1`.
    dyno: &'a str,
    /// `stdout`, `stderr` or `platform`.
    stream: &'static str,
    /// The line.
    message: &'a str,
    /// Whether it is a piece of a line that was too long.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn batch(dyno: &str, second: u64, text: &str) -> Arc<Batch> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let speaker = Speaker::dyno(&dyno.parse().unwrap());
        Arc::new(Batch::new(speaker, Origin::Stdout, at, text.as_bytes().to_vec()))
    }

    fn following(query: &str, tail: &Tail) -> Box<dyn Follow> {
        Box::new(Follower::new(LogsQuery::parse(query).unwrap(), tail.clone(), None))
    }

    async fn all(query: &str, tail: &Tail) -> Vec<String> {
        let mut follower = Some(following(query, tail));
        let mut text = Vec::new();
        while let Some(before) = follower.take() {
            if let Some((bytes, after)) = before.rest().await {
                text.extend_from_slice(&bytes);
                follower = Some(after);
            }
        }
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn queries_survive_the_way_there() {
        let query = LogsQuery {
            targets: vec!["web.1".parse().unwrap(), "worker".parse().unwrap()],
            lines: Some(7),
            follow: true,
            since: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)),
            json: true,
        };
        let resource = query.resource();
        assert_eq!(LogsQuery::parse(resource.strip_prefix("/logs?").unwrap()), Ok(query));
        assert_eq!(
            (LogsQuery::default().resource().as_str(), LogsQuery::parse("")),
            ("/logs", Ok(LogsQuery::default()))
        );
        for bad in ["n=many", "since=now", "dyno=we%20b", "color=yes", "follow=maybe"] {
            assert!(LogsQuery::parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn the_newest_lines_of_those_that_are_wanted_are_shown() {
        let tail = Tail::new(1 << 20);
        for second in 0..200 {
            tail.push(&batch("web.1", second, &format!("{second}\n")));
        }
        tail.push(&batch("worker.1", 200, "done\n"));
        let lines = all("", &tail).await;
        assert_eq!(
            (lines.len(), lines[99].as_str()),
            (100, "1970-01-01T00:03:20.000000+00:00 app[worker.1]: done")
        );
        assert_eq!(all("type=worker", &tail).await.len(), 1);
        assert_eq!(all("n=0", &tail).await, [""; 0]);
        assert_eq!(all("n=2&dyno=web.1", &tail).await[0], "1970-01-01T00:03:18.000000+00:00 app[web.1]: 198");
        assert_eq!(all("since=1970-01-01T00:03:19Z", &tail).await.len(), 2);
        let json = r#"{"Time":"1970-01-01T00:03:20.000Z","Source":"app","Dyno":"worker.1","Stream":"stdout","Message":"done"}"#;
        assert_eq!(all("json&n=1", &tail).await, [json]);
    }

    #[tokio::test]
    async fn what_there_is_comes_in_pieces_and_they_end_though_more_is_printed() {
        let tail = Tail::new(1 << 20);
        let empty = "\n".repeat(1000);
        (0..10).for_each(|n| tail.push(&batch("web.1", n, &empty)));
        for query in ["n=9500", "n=9500&json"] {
            let (mut follower, mut lines, mut pieces) = (Some(following(query, &tail)), 0, 0);
            while let Some((bytes, after)) = match follower.take() {
                Some(follower) => follower.rest().await,
                None => None,
            } {
                assert!(bytes.len() < PIECE_BYTES + 200 && bytes.ends_with(b"\n"), "{}", bytes.len());
                lines += bytes.iter().filter(|byte| **byte == b'\n').count();
                pieces += 1;
                tail.push(&batch("web.1", 100, "later\n"));
                follower = Some(after);
            }
            assert!(lines == 9500 && pieces > 6, "{query}: {lines} lines in {pieces} pieces");
        }
    }

    #[tokio::test]
    async fn who_follows_gets_what_comes_and_is_told_what_it_missed() {
        let tail = Tail::new(20_000);
        tail.push(&batch("web.1", 0, "old\n"));
        let follower = following("follow", &tail);
        let (bytes, follower) = follower.rest().await.unwrap();
        assert!(bytes.ends_with(b"app[web.1]: old\n"));
        (0..1000).for_each(|n| tail.push(&batch("web.1", 1, &format!("{n}\n"))));
        let (bytes, follower) = follower.rest().await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (told, rest) = text.split_once('\n').unwrap();
        let missed: usize =
            told.split_once("heroku[logs]: ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(missed + rest.lines().count(), 1000);
        let waiting = tokio::spawn(follower.rest());
        tail.push(&batch("web.1", 2, "last\n"));
        tail.close();
        let (bytes, follower) = waiting.await.unwrap().unwrap();
        assert!(bytes.ends_with(b"last\n"));
        assert!(follower.rest().await.is_none());
    }
}
