//! An answer of the fake, and how it gets onto the wire: whole, or cut off half way.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::Response;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An answer, before it is HTTP.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// An answer of the API, with a strong ETag.
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::text(status, &body.to_string())
    }

    /// A body that claims to be JSON.
    pub(super) fn text(status: u16, body: &str) -> Self {
        let reply = Self { status, headers: Vec::new(), body: body.as_bytes().to_vec() };
        let etag = format!("\"{}\"", &hex_digest(body.as_bytes())[..32]);
        reply.header(CONTENT_TYPE.as_str(), "application/json").header(ETAG.as_str(), etag)
    }

    /// An error of the API.
    pub(super) fn error(status: u16, id: &str, message: &str) -> Self {
        Self::json(status, &json!({"id": id, "message": message}))
    }

    /// An answer of the store of blobs.
    pub(super) fn blob(body: Vec<u8>) -> Self {
        let reply = Self { status: 200, headers: Vec::new(), body };
        reply.header(CONTENT_TYPE.as_str(), "application/x-gzip").header("accept-ranges", "bytes")
    }

    /// An error of the store of blobs.
    pub(super) fn blob_error(status: u16, code: &str, message: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        );
        let reply = Self { status, headers: Vec::new(), body: body.into_bytes() };
        reply.header(CONTENT_TYPE.as_str(), "application/xml")
    }

    /// One more header.
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The value of a header that it has.
    pub(super) fn value_of(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_str())
    }

    /// The same resource, which the client has already.
    pub(super) fn not_modified(mut self) -> Self {
        self.headers.retain(|(name, _)| *name != CONTENT_TYPE.as_str());
        Self { status: 304, headers: self.headers, body: Vec::new() }
    }

    /// The answer as HTTP; a truncated one announces its whole body and sends the first half.
    pub(super) fn into_response(self, truncated: bool) -> Response<Sent> {
        let length = self.body.len();
        let mut bytes = Bytes::from(self.body);
        if truncated {
            bytes.truncate(length / 2);
        }
        let ending = if truncated { Ending::Flush } else { Ending::Whole };
        let mut response =
            Response::new(Sent { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), ending });
        *response.status_mut() = self.status.try_into().expect("the fake answers with HTTP statuses");
        for (name, value) in self.headers {
            let value = HeaderValue::try_from(value).expect("the fake has decent header values");
            response.headers_mut().append(name, value);
        }
        if self.status != 304 {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        response
    }
}

/// The body of an answer on its way.
#[derive(Debug)]
pub(super) struct Sent {
    bytes: Option<Bytes>,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Nothing is missing.
    Whole,
    /// What there is goes out before the connection is cut.
    Flush,
    /// The connection is cut.
    Cut,
}

/// The connection is closed at this point, as it was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct CutOff;

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut off on demand")
    }
}

impl std::error::Error for CutOff {}

impl Body for Sent {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if let Some(bytes) = self.bytes.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match self.ending {
            Ending::Whole => Poll::Ready(None),
            Ending::Flush => {
                self.ending = Ending::Cut;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Ending::Cut => Poll::Ready(Some(Err(CutOff))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && self.ending == Ending::Whole
    }
}

/// The SHA-256 of some bytes in hex.
pub(super) fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
