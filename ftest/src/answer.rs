//! A client of the control API that writes its own bytes, so that the tests see what is on the wire.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::wait::PATIENCE;

/// An answer of the control API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// Sends bytes and reads the answer, up to the end of the connection. `None` if there is nobody to answer.
pub fn request(socket: &Path, bytes: &[u8]) -> Option<Answer> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.write_all(bytes).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).expect("the control API speaks UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// `GET`s a resource.
pub fn get(socket: &Path, resource: &str) -> Option<Answer> {
    request(socket, format!("GET {resource} HTTP/1.1\r\nHost: ftest\r\nConnection: close\r\n\r\n").as_bytes())
}

/// `POST`s a body to a resource.
pub fn post(socket: &Path, resource: &str, body: &str) -> Option<Answer> {
    let length = body.len();
    let head =
        format!("POST {resource} HTTP/1.1\r\nHost: ftest\r\nConnection: close\r\nContent-Length: {length}");
    request(socket, format!("{head}\r\n\r\n{body}").as_bytes())
}
