//! What the API refuses: requests that the real one would not answer either.

use hyper::HeaderMap;
use hyper::header::{ACCEPT, AUTHORIZATION, RANGE, USER_AGENT};

use super::range::Range;
use super::reply::Reply;
use super::requests::{Endpoint, Target, header};

/// A refused request: the answer, and what is wrong with the client, if it is to blame.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reply: Reply,
    pub(super) violation: Option<String>,
}

impl Refusal {
    fn new(reply: Reply, violation: impl Into<String>) -> Self {
        Self { reply, violation: Some(violation.into()) }
    }
}

/// The tokens that matter.
#[derive(Debug)]
pub(super) struct Tokens {
    /// The one that clients are given.
    pub(super) given: String,
    /// Whether it has been revoked, so that it is no fault of the client if it is refused.
    pub(super) revoked: bool,
}

/// Whether a request is refused for what it is, whatever the state of the app; else its range.
///
/// # Errors
/// If it is refused.
pub(super) fn check(
    target: Target<'_>,
    method: &str,
    headers: &HeaderMap,
    tokens: &Tokens,
) -> Result<Range, Refusal> {
    if method != "GET" {
        let reply = Reply::error(405, "method_not_allowed", "Method not allowed.").header("allow", "GET");
        return Err(Refusal::new(reply, "the method is not GET"));
    }
    match target.endpoint {
        Endpoint::Blob => check_blob(headers),
        Endpoint::Unknown => {
            let reply = Reply::error(404, "not_found", "The requested API endpoint was not found.");
            Err(Refusal::new(reply, "the API has no such path"))
        }
        Endpoint::App
        | Endpoint::Releases
        | Endpoint::ReleaseConfigVars
        | Endpoint::ConfigVars
        | Endpoint::Slug
        | Endpoint::Formation => check_api(target.endpoint, headers, tokens),
    }
}

fn check_blob(headers: &HeaderMap) -> Result<Range, Refusal> {
    if headers.contains_key(AUTHORIZATION) {
        let message = "Only one auth mechanism allowed";
        let reply = Reply::blob_error(400, "InvalidArgument", message);
        return Err(Refusal::new(reply, "the token was sent to the store of blobs"));
    }
    check_agent(headers).map(|()| Range::default())
}

fn check_agent(headers: &HeaderMap) -> Result<(), Refusal> {
    let agent = header(headers, &USER_AGENT).unwrap_or_default();
    if agent.strip_prefix("hsup/").is_some_and(|version| !version.is_empty()) {
        return Ok(());
    }
    let reply = Reply::error(400, "bad_request", "Please specify a User-Agent.");
    Err(Refusal::new(reply, format!("User-Agent is {agent:?}, not hsup/...")))
}

fn check_api(endpoint: Endpoint, headers: &HeaderMap, tokens: &Tokens) -> Result<Range, Refusal> {
    check_agent(headers)?;
    check_accept(headers)?;
    check_token(headers, tokens)?;
    let Some(text) = header(headers, &RANGE) else { return Ok(Range::default()) };
    let refusal = || {
        let reply = Reply::error(416, "requested_range_not_satisfiable", "Invalid `Range` header.");
        Refusal::new(reply, format!("Range is {text:?}"))
    };
    let range = Range::parse(&text).ok_or_else(refusal)?;
    let version = range.attribute == "version" && endpoint == Endpoint::Releases;
    // an end that is no version, or an end at all where versions are ordered by something else
    let ends = range.first != super::range::Bound::Open;
    if (version || range.attribute == "id") && (!ends || (version && range.start().is_some())) {
        Ok(range)
    } else {
        Err(refusal())
    }
}

fn check_accept(headers: &HeaderMap) -> Result<(), Refusal> {
    let accept = header(headers, &ACCEPT).unwrap_or_default();
    let mut parts = accept.split(';').map(str::trim);
    if parts.next() == Some("application/vnd.heroku+json") && parts.any(|part| part == "version=3") {
        return Ok(());
    }
    let message = "Please specify `Accept: application/vnd.heroku+json; version=3`.";
    let reply = Reply::error(406, "not_acceptable", message);
    Err(Refusal::new(reply, format!("Accept is {accept:?}")))
}

fn check_token(headers: &HeaderMap, tokens: &Tokens) -> Result<(), Refusal> {
    let authorization = header(headers, &AUTHORIZATION).unwrap_or_default();
    let right = authorization.strip_prefix("Bearer ") == Some(&tokens.given);
    if right && !tokens.revoked {
        return Ok(());
    }
    let reply = Reply::error(401, "unauthorized", "Invalid credentials provided.");
    let violation = if authorization.is_empty() {
        Some("there is no Authorization")
    } else if right {
        None
    } else {
        Some("the Authorization has not the token that was given")
    };
    Err(Refusal { reply, violation: violation.map(str::to_owned) })
}

/// The error that the API has for a status.
pub(super) fn error(status: u16, app: &str) -> Reply {
    let forbidden = format!("You do not have access to the app {app}.");
    match status {
        401 => Reply::error(401, "unauthorized", "Invalid credentials provided."),
        403 => Reply::error(403, "forbidden", &forbidden),
        404 => super::answers::not_found("app"),
        429 => Reply::error(429, "rate_limit", "Your account reached the API rate limit."),
        503 => Reply::error(503, "maintenance", "The Platform API is temporarily unavailable."),
        status => Reply::error(status, "internal_server_error", "Internal server error."),
    }
}
