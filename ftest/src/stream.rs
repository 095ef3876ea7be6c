//! Server-sent events as they come over the control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::wait::PATIENCE;

/// A stream of events that is being read.
#[derive(Debug)]
pub struct EventStream(BufReader<UnixStream>);

impl EventStream {
    /// Asks for a resource, with the id of the last event that was seen. HTTP/1.0, for there to be nothing between the
    /// events.
    ///
    /// # Panics
    /// If it is refused.
    pub fn open(socket: &Path, resource: &str, last: Option<u64>) -> Self {
        let mut stream = UnixStream::connect(socket).expect("hsup listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let request = format!("GET {resource} HTTP/1.0\r\nHost: ftest\r\n{last}\r\n");
        stream.write_all(request.as_bytes()).expect("hsup reads");
        let mut stream = Self(BufReader::new(stream));
        let head: Vec<String> =
            std::iter::from_fn(|| stream.line().filter(|line| !line.is_empty())).collect();
        assert!(head.first().is_some_and(|line| line.contains(" 200 ")), "{head:?}");
        assert!(head.iter().any(|line| line == "content-type: text/event-stream"), "{head:?}");
        stream
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.0.read_line(&mut line).expect("hsup tells something in time");
        (length > 0).then(|| line.trim_end().to_owned())
    }

    /// Waits for an event that is as it should be; gives that and those before it.
    ///
    /// # Panics
    /// If the stream ends, or is silent for too long.
    pub fn until(&mut self, what: &str, as_it_should_be: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let event = self.next();
            seen.push(event.unwrap_or_else(|| panic!("the events ended before this: {what}; {seen:#?}")));
            if seen.last().is_some_and(&as_it_should_be) {
                return seen;
            }
        }
    }
}

impl Iterator for EventStream {
    type Item = Value;

    /// The next event, which says the same of itself twice.
    fn next(&mut self) -> Option<Value> {
        let (mut id, mut kind, mut data) = (None, None, None);
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                Some(("id", value)) => id = value.parse::<u64>().ok(),
                Some(("event", value)) => kind = Some(value.to_owned()),
                Some(("data", value)) => data = serde_json::from_str::<Value>(value).ok(),
                Some(("", _comment)) => {}
                None if line.is_empty() => {
                    let Some(data) = data.take() else { continue };
                    assert_eq!((data["Id"].as_u64(), data["Type"].as_str()), (id, kind.as_deref()), "{data}");
                    return Some(data);
                }
                Some(_) | None => panic!("this is no line of an event: {line:?}"),
            }
        }
    }
}
