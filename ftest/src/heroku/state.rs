//! What the fake is at one moment, behind a mutex, and how it comes to an answer.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::header::IF_NONE_MATCH;
use hyper::{HeaderMap, Uri};
use serde_json::Value;
use tokio::sync::watch;

use super::answers::not_found;
use super::app::HerokuApp;
use super::faults::{Fault, Faults};
use super::range::Range;
use super::reply::Reply;
use super::requests::{Endpoint, Request, Target, header};
use super::rules::{self, Refusal, Tokens};
use crate::wait::PATIENCE;

type Hook = Box<dyn FnOnce(&mut HerokuApp) + Send>;

/// What the tests and the server share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is a request more, or an answer.
    heard: Condvar,
    /// Faults were lifted: answers that were held back may go.
    pub(super) lifted: watch::Sender<()>,
    /// The URL without a path.
    pub(super) base: String,
}

/// The state.
pub(super) struct State {
    pub(super) app: HerokuApp,
    pub(super) tokens: Tokens,
    pub(super) faults: Faults,
    /// What is to happen once when a resource has been answered.
    pub(super) hooks: Vec<(Endpoint, Hook)>,
    pub(super) requests: Vec<Request>,
    pub(super) violations: Vec<String>,
    /// What is left of the client's rate limit.
    calls_left: u32,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("app", &self.app).field("faults", &self.faults).finish_non_exhaustive()
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Verdict {
    Answer { reply: Reply, truncated: bool },
    Hold,
    Cut,
}

impl Shared {
    pub(super) fn new(app: HerokuApp, token: String, base: String) -> Self {
        let state = State {
            app,
            tokens: Tokens { given: token, revoked: false },
            faults: Faults::default(),
            hooks: Vec::new(),
            requests: Vec::new(),
            violations: Vec::new(),
            calls_left: 4500,
        };
        Self { state: Mutex::new(state), heard: Condvar::new(), lifted: watch::Sender::new(()), base }
    }

    /// The state, for as long as the guard lives.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a request; returns its number in the log.
    pub(super) fn log(&self, request: Request) -> usize {
        let mut state = self.state();
        state.requests.push(request);
        self.heard.notify_all();
        state.requests.len() - 1
    }

    /// Decides what becomes of a logged request.
    pub(super) fn decide(&self, number: usize, uri: &Uri, headers: &HeaderMap) -> Verdict {
        let mut state = self.state();
        let verdict = state.decide(number, uri, headers, &self.base);
        if let Verdict::Answer { reply, .. } = &verdict {
            state.requests[number].status = Some(reply.status);
            self.heard.notify_all();
        }
        verdict
    }

    /// Waits until the log is as it should be.
    ///
    /// # Panics
    /// If it never is.
    pub(super) fn wait(&self, what: &str, as_it_should_be: impl Fn(&[Request]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state();
        while !as_it_should_be(&state.requests) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let requests = state.requests.clone();
                drop(state);
                panic!("waited {PATIENCE:?} in vain for this: {what}\nthe fake has heard: {requests:#?}");
            }
            state = self.heard.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn decide(&mut self, number: usize, uri: &Uri, headers: &HeaderMap, base: &str) -> Verdict {
        let target = Target::of(uri.path());
        let method = self.requests[number].method.clone();
        let range = match rules::check(target, &method, headers, &self.tokens) {
            Ok(range) => range,
            Err(Refusal { reply, violation }) => {
                let context = format!("{method} {}", self.requests[number].target);
                self.violations.extend(violation.map(|violation| format!("{context}: {violation}")));
                return Verdict::Answer {
                    reply: self.finish(reply, target.endpoint, headers),
                    truncated: false,
                };
            }
        };
        let mut truncated = false;
        let reply = match self.faults.strike(target.endpoint) {
            Some(Fault::Held) => return Verdict::Hold,
            Some(Fault::Cut) => return Verdict::Cut,
            Some(Fault::Status(status)) if target.endpoint == Endpoint::Blob => {
                Reply::blob_error(status, "ServiceUnavailable", "Please reduce your request rate.")
            }
            Some(Fault::Status(status)) => rules::error(status, &self.app.name),
            Some(Fault::RateLimited(seconds)) => {
                rules::error(429, &self.app.name).header("retry-after", seconds.to_string())
            }
            Some(Fault::Resets(status, seconds)) => {
                rules::error(status, &self.app.name).header("ratelimit-reset", seconds.to_string())
            }
            Some(Fault::Redirect(url)) => Reply::text(307, "").header("location", url),
            Some(Fault::Body(body)) => Reply::text(200, &body),
            Some(Fault::Edited(edit)) => edited(&self.answer(target, &range, uri, base), &*edit),
            Some(Fault::Truncated) => {
                truncated = true;
                self.answer(target, &range, uri, base)
            }
            None => self.answer(target, &range, uri, base),
        };
        // what is to break off has to be sent
        let reply = if truncated { reply } else { self.finish(reply, target.endpoint, headers) };
        if let Some(hook) = self.hooks.iter().position(|(endpoint, _)| *endpoint == target.endpoint) {
            let (_, hook) = self.hooks.remove(hook);
            hook(&mut self.app);
        }
        Verdict::Answer { reply, truncated }
    }

    /// The answer where nothing is wrong.
    fn answer(&mut self, target: Target<'_>, range: &Range, uri: &Uri, base: &str) -> Reply {
        let app = &mut self.app;
        if target.endpoint != Endpoint::Blob && target.app != app.name {
            return not_found("app");
        }
        match target.endpoint {
            Endpoint::App => app.info(),
            Endpoint::Releases => app.list_releases(range),
            Endpoint::ReleaseConfigVars => app.release_config_vars(target.id),
            Endpoint::ConfigVars => app.config_vars(),
            Endpoint::Slug => app.slug_info(target.id, base),
            Endpoint::Formation => app.formation_info(),
            Endpoint::Blob => app.blob(target.id, uri.query().unwrap_or_default()),
            Endpoint::Unknown => not_found("resource"),
        }
    }

    /// What every answer of the API has; and where the client has it already, nothing but that.
    fn finish(&mut self, reply: Reply, endpoint: Endpoint, headers: &HeaderMap) -> Reply {
        if endpoint == Endpoint::Blob {
            return reply.header("x-amz-request-id", "0123456789ABCDEF");
        }
        self.calls_left = self.calls_left.saturating_sub(1);
        let left = if reply.status == 429 { 0 } else { self.calls_left };
        let id = super::app::uuid(super::app::Kind::Other, self.requests.len());
        let reply = reply.header("ratelimit-remaining", left.to_string()).header("request-id", id);
        let known = header(headers, &IF_NONE_MATCH).unwrap_or_default();
        let current = reply.value_of("etag");
        let matches = known.split(',').map(str::trim).any(|tag| Some(tag) == current || tag == "*");
        if matches && reply.status < 300 { reply.not_modified() } else { reply }
    }
}

fn edited(reply: &Reply, edit: &dyn Fn(&mut Value)) -> Reply {
    let mut body: Value = serde_json::from_slice(&reply.body).expect("answers of the API are JSON");
    edit(&mut body);
    Reply::json(reply.status, &body)
}
