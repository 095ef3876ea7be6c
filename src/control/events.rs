//! `GET /events`: which events are asked for, and the answer as server-sent events, which goes on for as long as hsup
//! does. They come from the journal and nowhere else, so that a reader, however slow, holds up nobody: what it is too
//! slow for it has missed, and is told so in place.
//!
//! The format is that of the HTML standard, section 9.2; `Last-Event-ID` resumes.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use hyper::HeaderMap;
use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::sleep;

use super::body::{Follow, Rest};
use super::logs::read_switch;
use super::wire::{EventEntry, Timestamp};
use crate::events::{Events, Missed, Place, What};
use crate::model::Target;

/// How long nothing is sent before a comment is: the HTML standard advises 15 s, for who stands between not to hang up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How many events are sent at once: what is on its way to a slow reader is bounded by this.
const AT_ONCE: usize = 64;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsQuery {
    /// Whether to go on with what comes.
    pub follow: bool,
    /// How many of the newest events to begin with; all that are kept where there is no number.
    pub newest: Option<usize>,
    /// The types, or what they begin with up to a dot; all where there is none.
    pub types: Vec<EventType>,
    /// The dynos and process types; where there are none, also what is about no dyno.
    pub targets: Vec<Target>,
}

/// A type of events, `dyno.exit`, or several, `dyno`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventType(String);

/// There are no such events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no type of events: there are dyno, release, source and {}", What::WORDS.join(", "))]
pub struct InvalidEventType {
    given: String,
}

impl std::str::FromStr for EventType {
    type Err = InvalidEventType;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let this = Self(given.to_owned());
        let exists = What::WORDS.iter().any(|word| this.covers(word));
        exists.then_some(this).ok_or_else(|| InvalidEventType { given: given.to_owned() })
    }
}

impl EventType {
    fn covers(&self, word: &str) -> bool {
        word.strip_prefix(self.0.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl Default for EventsQuery {
    fn default() -> Self {
        Self { follow: true, newest: None, types: Vec::new(), targets: Vec::new() }
    }
}

impl EventsQuery {
    /// The resource that stands for it.
    pub fn resource(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !self.follow {
            query.append_pair("follow", "no");
        }
        if let Some(newest) = self.newest {
            query.append_pair("n", &newest.to_string());
        }
        for EventType(word) in &self.types {
            query.append_pair("type", word);
        }
        for target in &self.targets {
            query.append_pair("dyno", &target.to_string());
        }
        let query = query.finish();
        if query.is_empty() { "/events".to_owned() } else { format!("/events?{query}") }
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
                "follow" => read.follow = read_switch(&value).ok_or_else(|| wrong("write yes or no"))?,
                "n" => {
                    read.newest = Some(value.parse().map_err(|_| wrong("write a whole number such as 100"))?);
                }
                "type" => {
                    read.types.push(value.parse().map_err(|error: InvalidEventType| error.to_string())?);
                }
                "dyno" => read.targets.push(value.parse().map_err(|error| format!("{error}"))?),
                _ => return Err(format!("{name} is not known: there are follow, n, type and dyno")),
            }
        }
        Ok(read)
    }

    fn wants(&self, what: &What) -> bool {
        let dyno = || what.dyno().is_some_and(|dyno| self.targets.iter().any(|target| target.covers(dyno)));
        (self.types.is_empty() || self.types.iter().any(|wanted| wanted.covers(what.word())))
            && (self.targets.is_empty() || dyno())
    }
}

/// The id of the last event that a reader has seen, as its header says.
///
/// # Errors
/// If that is no id.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, String> {
    let Some(given) = headers.get("last-event-id") else { return Ok(None) };
    let text = given.to_str().unwrap_or_default().trim();
    if text.is_empty() && given.is_empty() {
        // what an EventSource has that has seen no event with an id
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        format!(
            "Last-Event-ID {given:?} is no id of an event: send the last one that came, or no such header"
        )
    })
}

/// One reader of the events.
pub(super) struct EventFollower {
    query: EventsQuery,
    events: Events,
    place: Place,
    /// What has been missed before the place.
    missed: Option<Missed>,
    /// The id of the first event that is not asked for, where it does not follow.
    until: u64,
    changes: watch::Receiver<(u64, bool)>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl EventFollower {
    /// A reader that has seen the event with that id, or nothing yet. It has its permit for as long as it is there.
    pub(super) fn new(
        query: EventsQuery,
        events: Events,
        last: Option<u64>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let changes = events.changes();
        let until = if query.follow { u64::MAX } else { changes.borrow().0 };
        let (place, missed) = match last {
            Some(id) => events.behind(id),
            None => (events.before(query.newest, |what| query.wants(what)), None),
        };
        Self { query, events, place, missed, until, changes, _permit: permit }
    }

    /// Reads a piece; none where there is nothing at the moment, and an empty one where there is nothing that is wanted.
    fn read(&mut self) -> Option<Vec<u8>> {
        let left = usize::try_from(self.place.left_until(self.until)).unwrap_or(usize::MAX);
        let reading = self.events.read(&mut self.place, AT_ONCE.min(left));
        let missed = self.missed.take().or(reading.missed);
        if missed.is_none() && reading.events.is_empty() {
            return None;
        }
        let mut text = Vec::new();
        if let Some(missed) = missed {
            append(&mut text, &EventEntry::gap(missed, Timestamp(SystemTime::now())));
        }
        for event in reading.events.iter().filter(|event| self.query.wants(&event.what)) {
            append(&mut text, &EventEntry::from(event.as_ref()));
        }
        Some(text)
    }
}

impl Follow for EventFollower {
    fn rest(mut self: Box<Self>) -> Rest {
        Box::pin(async move {
            loop {
                let (_, is_last) = *self.changes.borrow_and_update();
                match self.read() {
                    Some(text) if text.is_empty() => continue,
                    Some(text) => return Some((Bytes::from(text), self as Box<dyn Follow>)),
                    None if is_last || !self.query.follow => return None,
                    None => {}
                }
                tokio::select! {
                    changed = self.changes.changed() => changed.ok()?,
                    () = sleep(KEEP_ALIVE) => {
                        return Some((Bytes::from_static(b": keep-alive\n\n"), self as Box<dyn Follow>));
                    }
                }
            }
        })
    }
}

/// Appends an event; JSON has no line ends in it.
fn append(text: &mut Vec<u8>, entry: &EventEntry) {
    if let Some(id) = entry.id {
        let _written_to_memory = writeln!(text, "id: {id}");
    }
    let _written_to_memory = write!(text, "event: {}\ndata: ", entry.r#type);
    serde_json::to_writer(&mut *text, entry).expect("it is plain data");
    text.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::DynoNews;
    use crate::model::ReleaseVersion;

    fn memory(events: &Events, dyno: &str) {
        let news = DynoNews::Memory;
        events.tell(What::Dyno { dyno: dyno.parse().unwrap(), release: ReleaseVersion(1), news });
    }

    fn failed(events: &Events, why: &str) {
        events.tell(What::SourceFailed { why: why.to_owned() });
    }

    fn follower(query: &str, events: &Events, last: Option<u64>) -> Box<dyn Follow> {
        let query = EventsQuery::parse(query).unwrap();
        Box::new(EventFollower::new(query, events.clone(), last, None))
    }

    /// The next piece as `id type message` of each event in it.
    async fn next(follower: Box<dyn Follow>) -> Option<(Vec<(Option<u64>, String)>, Box<dyn Follow>)> {
        let (bytes, follower) = follower.rest().await?;
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let blocks = text.strip_suffix("\n\n").expect("a piece ends with an event").split("\n\n");
        let parsed = blocks.map(|block| {
            let field = |name: &str| {
                let mut found = block.lines().filter_map(|line| line.strip_prefix(&format!("{name}: ")));
                let value = found.next().map(str::to_owned);
                assert_eq!(found.next(), None, "{block}");
                value
            };
            let data: serde_json::Value =
                serde_json::from_str(&field("data").unwrap_or("{}".into())).unwrap();
            let id = field("id").map(|id| id.parse().unwrap());
            assert_eq!(
                (data["Id"].as_u64(), data["Type"].as_str()),
                (id, field("event").as_deref()),
                "{block}"
            );
            (id, data["Message"].as_str().unwrap_or(block).to_owned())
        });
        Some((parsed.collect(), follower))
    }

    async fn all(follower: Box<dyn Follow>) -> Vec<String> {
        let (mut messages, mut rest) = (Vec::new(), Some(follower));
        while let Some(before) = rest.take() {
            if let Some((events, after)) = next(before).await {
                messages.extend(events.into_iter().map(|(_, message)| message));
                rest = Some(after);
            }
        }
        messages
    }

    #[test]
    fn queries_survive_the_way_there() {
        let query = EventsQuery {
            follow: false,
            newest: Some(7),
            types: vec!["dyno".parse().unwrap(), "release.bad".parse().unwrap()],
            targets: vec!["web.1".parse().unwrap()],
        };
        let resource = query.resource();
        assert_eq!(EventsQuery::parse(resource.strip_prefix("/events?").unwrap()), Ok(query));
        assert_eq!(EventsQuery::default().resource(), "/events");
        assert_eq!(EventsQuery::parse(""), Ok(EventsQuery::default()));
        for bad in ["n=-1", "n=", "follow=perhaps", "type=dyn", "type=", "dyno=we%20b", "since=1"] {
            assert!(EventsQuery::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_id_is_a_number_or_nothing() {
        let read = |value: &'static [u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("last-event-id", hyper::header::HeaderValue::from_bytes(value).unwrap());
            last_event_id(&headers)
        };
        assert_eq!(
            (read(b"42"), read(b""), last_event_id(&HeaderMap::new())),
            (Ok(Some(42)), Ok(None), Ok(None))
        );
        for bad in [b"x".as_slice(), b"-1", b"1.5", b" ", b"\xff", b"99999999999999999999"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn what_there_is_comes_and_no_more() {
        let events = Events::new();
        assert!(all(follower("follow=no", &events, None)).await.is_empty());
        (0..200).for_each(|n| failed(&events, &n.to_string()));
        memory(&events, "web.1");
        memory(&events, "worker.1");
        assert_eq!(all(follower("follow=no", &events, None)).await.len(), 202);
        assert_eq!(
            all(follower("follow=no&type=source&n=2", &events, None)).await,
            ["the source of releases: 198", "the source of releases: 199"]
        );
        let web = ["web.1: Error R14 (Memory quota exceeded)"];
        assert_eq!(all(follower("follow=no&dyno=web", &events, None)).await, web);
        assert_eq!(all(follower("follow=no&type=dyno.memory&dyno=web.1", &events, None)).await, web);
        let ending = follower("follow=no&n=3", &events, None);
        failed(&events, "later");
        assert_eq!(all(ending).await.len(), 3, "what came after the question is not an answer to it");
    }

    #[tokio::test]
    async fn who_comes_back_goes_on_where_it_was() {
        let events = Events::new();
        ["a", "b", "c"].iter().for_each(|why| failed(&events, why));
        let (first, _) = next(follower("", &events, None)).await.unwrap();
        let id = first[1].0;
        assert_eq!(all(follower("follow=no", &events, id)).await, ["the source of releases: c"]);
        let newest = first[2].0;
        assert!(all(follower("follow=no", &events, newest)).await.is_empty());
        let (after, _) = next(follower("", &events, Some(5))).await.unwrap();
        assert_eq!((after.len(), after[0].0), (4, None), "{after:?}");
        assert!(after[0].1.contains("not of this hsup"), "{after:?}");
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_has_missed_and_the_end_ends_it() {
        let events = Events::new();
        failed(&events, "first");
        let (_, slow) = next(follower("type=source", &events, None)).await.unwrap();
        (0..1500).for_each(|_| memory(&events, "web.1"));
        let (told, slow) = next(slow).await.unwrap();
        assert_eq!(told, [(None, "500 events missed: they came faster than they were read".to_owned())]);
        let waiting = tokio::spawn(async { next(slow).await });
        failed(&events, "last");
        events.close();
        let (told, slow) = waiting.await.unwrap().unwrap();
        assert_eq!(told[0].1, "the source of releases: last");
        assert!(next(slow).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_comment_keeps_a_quiet_connection_alive() {
        let begun = tokio::time::Instant::now();
        let (bytes, _) = follower("", &Events::new(), None).rest().await.unwrap();
        assert_eq!((&bytes[..], begun.elapsed()), (b": keep-alive\n\n".as_slice(), KEEP_ALIVE));
    }
}
