//! What is asked of the fake: which resource, and what the tests want to know of a request afterwards.

use std::time::Instant;

use hyper::header::{AUTHORIZATION, HeaderName, IF_NONE_MATCH, RANGE};
use hyper::{HeaderMap, Uri};

/// The resources that the fake has, and all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/apps/{app}`
    App,
    /// `/apps/{app}/releases`
    Releases,
    /// `/apps/{app}/releases/{id or version}/config-vars`
    ReleaseConfigVars,
    /// `/apps/{app}/config-vars`
    ConfigVars,
    /// `/apps/{app}/slugs/{id}`
    Slug,
    /// `/apps/{app}/formation`
    Formation,
    /// `/blobs/{id}`, which is not the API's but the store's that slugs are downloaded from.
    Blob,
    /// Anything else.
    Unknown,
}

/// A resource with the names in its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) app: &'a str,
    /// The release, the slug or the blob.
    pub(super) id: &'a str,
}

impl<'a> Target<'a> {
    pub(super) fn of(path: &'a str) -> Self {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let target = |endpoint, app, id| Self { endpoint, app, id };
        match segments[..] {
            ["apps", app] => target(Endpoint::App, app, ""),
            ["apps", app, "releases"] => target(Endpoint::Releases, app, ""),
            ["apps", app, "releases", id, "config-vars"] => target(Endpoint::ReleaseConfigVars, app, id),
            ["apps", app, "config-vars"] => target(Endpoint::ConfigVars, app, ""),
            ["apps", app, "slugs", id] => target(Endpoint::Slug, app, id),
            ["apps", app, "formation"] => target(Endpoint::Formation, app, ""),
            ["blobs", id] => target(Endpoint::Blob, "", id),
            _ => target(Endpoint::Unknown, "", ""),
        }
    }
}

/// A request as it arrived, and what became of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it arrived.
    pub at: Instant,
    /// The method.
    pub method: String,
    /// The path and the query.
    pub target: String,
    /// The resource.
    pub endpoint: Endpoint,
    /// The host and port of an absolute request target, as a proxy gets it.
    pub authority: Option<String>,
    /// `If-None-Match`.
    pub if_none_match: Option<String>,
    /// `Range`.
    pub range: Option<String>,
    /// Whether there was an `Authorization`.
    pub authorized: bool,
    /// The status answered; `None` while there is no answer, and where the connection was cut.
    pub status: Option<u16>,
}

impl Request {
    pub(super) fn new(method: &str, uri: &Uri, headers: &HeaderMap) -> Self {
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Self {
            at: Instant::now(),
            method: method.to_owned(),
            target: target.to_owned(),
            endpoint: Target::of(uri.path()).endpoint,
            authority: uri.authority().map(|authority| authority.as_str().to_owned()),
            if_none_match: header(headers, &IF_NONE_MATCH),
            range: header(headers, &RANGE),
            authorized: headers.contains_key(AUTHORIZATION),
            status: None,
        }
    }
}

/// The text of a header.
pub(super) fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
