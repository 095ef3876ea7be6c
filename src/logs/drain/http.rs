//! Sends parcels as requests of type `application/logplex-1`, as log-shuttle does.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{RequestBuilder, StatusCode};

use super::parcel::Parcel;
use super::send::SendError;
use crate::explain;
use crate::http::{HttpClient, Redirects, Timeouts, asked_to_wait};
use crate::secret::Secret;

/// How long one request may take. A receiver that is slower than that for half a megabyte does not keep up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of an answer is read, for the connection to be used again.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Sends parcels to one URL, over connections that are kept.
pub(super) struct HttpSender {
    url: Secret,
    client: HttpClient,
    gzip: bool,
}

impl HttpSender {
    pub(super) fn new(url: Secret, gzip: bool) -> Self {
        let client = HttpClient::new(Timeouts::InAll(REQUEST_TIMEOUT)).redirects(Redirects::Answers);
        Self { url, client, gzip }
    }

    /// What is sent of a parcel: the same for each attempt.
    pub(super) fn body(&self, parcel: &Parcel) -> Bytes {
        if !self.gzip {
            return parcel.body.clone();
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let compressed = gzip.write_all(&parcel.body).and_then(|()| gzip.finish());
        Bytes::from(compressed.expect("writing to memory does not fail"))
    }

    /// Makes one attempt.
    pub(super) async fn send(&self, parcel: &Parcel, body: &Bytes) -> Result<(), SendError> {
        let failed = |error: reqwest::Error| match (error.is_connect(), explain(&error.without_url())) {
            (true, what) => SendError::Down { what },
            (false, what) => SendError::Failed { what, asked: None },
        };
        let client = self.client.to(self.url.expose()).await.map_err(failed)?;
        let request = self.request(client.post(self.url.expose()), parcel).body(body.clone());
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let asked = asked_to_wait(status, answer.headers());
        let mut read = 0;
        while read < MAX_ANSWER_BYTES
            && let Ok(Some(more)) = answer.chunk().await
        {
            read += more.len();
        }
        judge(status, asked)
    }

    fn request(&self, request: RequestBuilder, parcel: &Parcel) -> RequestBuilder {
        let id = parcel.id.to_string();
        let request = request
            .header(CONTENT_TYPE, "application/logplex-1")
            .header("Logplex-Msg-Count", parcel.lines)
            .header("Logplex-Frame-Id", &id)
            .header("X-Request-Id", &id);
        if self.gzip { request.header(CONTENT_ENCODING, "gzip") } else { request }
    }
}

/// What an answer means for the parcel.
fn judge(status: StatusCode, asked: Option<Duration>) -> Result<(), SendError> {
    if status.is_success() {
        return Ok(());
    }
    let what = match status.as_u16() {
        300..=399 => format!("it answers {status}: give the URL that it redirects to"),
        401 | 403 => format!("it answers {status}: are the user and the password in the URL right?"),
        404 | 410 => format!("it answers {status}: is the path in the URL right?"),
        _ => format!("it answers {status}"),
    };
    let comes_back = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    // What a redirect says may be mended at the other end, and the lines are as good as ever.
    if status.is_client_error() && !comes_back {
        Err(SendError::Refused { what })
    } else {
        Err(SendError::Failed { what, asked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_receiver_does_not_want_is_not_sent_again() {
        let judge = |status| judge(StatusCode::from_u16(status).unwrap(), None);
        for accepted in [200, 202, 204] {
            assert!(judge(accepted).is_ok());
        }
        for again in [301, 408, 429, 500, 502, 503, 504] {
            assert!(matches!(judge(again), Err(SendError::Failed { .. })), "{again}");
        }
        for refused in [400, 401, 403, 404, 413, 422] {
            assert!(matches!(judge(refused), Err(SendError::Refused { .. })), "{refused}");
        }
    }
}
