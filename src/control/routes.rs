//! What is answered to which request: one table of routes, and one flat match on them. It knows neither sockets nor
//! connections, and asks the formation for everything.
//!
//! `openapi.json` beside this file describes each route; a test holds the two together.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::access::{Access, Asker, Role};
use super::body::{AnswerBody, Follow};
use super::events::{EventFollower, EventsQuery, last_event_id};
use super::inspect::{self, Here};
use super::logs::{Follower, LogsQuery};
use super::metrics::{self, ProcessUse, Scrape};
use super::refusal::{Refusal, json, text, whole, with_type};
use super::stall::Manner;
use super::usage::Usages;
use super::wire::{
    ReleasesResponse, RestartRequest, RestartResponse, RollbackRequest, RollbackResponse, ScaleRequest,
    StatusResponse, StopRequest, StopResponse, Version,
};
use crate::events::{Events, What};
use crate::formation::FormationHandle;
use crate::history::HistoryHandle;
use crate::logs::Logs;
use crate::model::Target;
use crate::sources::Looks;

/// The largest body of a request: a name for each of a thousand dynos fits.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long a client may take to send its body. It is on this host; longer means that it hangs.
pub(super) const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// The description of it all.
const OPENAPI: &str = include_str!("openapi.json");

/// What a resource is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It can only be read.
    Read,
    /// It can only be read, and holds secrets.
    Secret,
    /// It does something, or costs something.
    Act,
}

impl Kind {
    /// The methods, as the header `Allow` has them. The server leaves the body out for HEAD.
    fn methods(self) -> &'static str {
        match self {
            Self::Read | Self::Secret => "GET, HEAD",
            Self::Act => "POST",
        }
    }

    /// Who may use it.
    fn needs(self) -> Role {
        match self {
            Self::Read => Role::Read,
            Self::Secret | Self::Act => Role::Control,
        }
    }
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Status,
    Logs,
    Events,
    Metrics,
    Releases,
    Config,
    Release,
    OpenApi,
    Plan,
    Stop,
    Restart,
    Scale,
    Rollback,
}

/// Every route.
pub(super) const ROUTES: &[(Kind, &str, Route)] = &[
    (Kind::Read, "/health", Route::Health),
    (Kind::Read, "/status", Route::Status),
    (Kind::Read, "/logs", Route::Logs),
    (Kind::Read, "/events", Route::Events),
    (Kind::Read, "/metrics", Route::Metrics),
    (Kind::Read, "/releases", Route::Releases),
    (Kind::Read, "/config", Route::Config),
    (Kind::Secret, "/release", Route::Release),
    (Kind::Act, "/plan", Route::Plan),
    (Kind::Read, "/openapi.json", Route::OpenApi),
    (Kind::Act, "/control/stop", Route::Stop),
    (Kind::Act, "/control/restart", Route::Restart),
    (Kind::Act, "/control/scale", Route::Scale),
    (Kind::Act, "/control/rollback", Route::Rollback),
];

/// How many clients may follow the logs or the events at a time: half of the connections stay free for others.
pub(super) const MAX_FOLLOWERS: usize = 32;

/// An answer.
pub(super) type Answer = Response<AnswerBody>;

/// What the API tells of and acts on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    pub(super) formation: FormationHandle,
    pub(super) history: HistoryHandle,
    pub(super) here: Here,
    logs: Logs,
    usages: Usages,
    events: Events,
    looks: Looks,
    followers: Arc<Semaphore>,
    /// When hsup was started.
    started: SystemTime,
}

impl Api {
    /// The API of these dynos, the releases that there have been, the one that is live here, the dynos' logs, what
    /// happens, and the looks at the source.
    pub fn new(
        formation: FormationHandle,
        history: HistoryHandle,
        here: Here,
        logs: Logs,
        events: Events,
        looks: Looks,
    ) -> Self {
        let followers = Arc::new(Semaphore::new(MAX_FOLLOWERS));
        let (usages, started) = (Usages::default(), SystemTime::now());
        Self { formation, history, here, logs, usages, events, looks, followers, started }
    }

    /// Lets a client follow something for as long as it likes, if not too many do. It has what it is given until it ends.
    fn let_follow(&self, parts: &Parts) -> Result<OwnedSemaphorePermit, Refusal> {
        let permit = Arc::clone(&self.followers).try_acquire_owned();
        let permit = permit.map_err(|_| Refusal::TooManyFollowers)?;
        manner(parts).follow();
        Ok(permit)
    }

    /// Tells what somebody asks for, does it, and tells if it was refused.
    async fn attempt<T>(
        &self,
        asker: &Asker,
        command: &'static str,
        arguments: Vec<String>,
        done: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        asker.says(format_args!("{command} {}", arguments.join(" ")));
        let by = asker.to_string();
        let tell = |arguments, refused| {
            self.events.tell(What::Command { by: by.clone(), command, arguments, refused });
        };
        tell(arguments.clone(), None);
        let done = done.await;
        if let Err(refusal) = &done {
            tell(arguments, Some(refusal.to_string()));
        }
        done
    }
}

/// Answers a request; what cannot be done is an answer as well.
pub(super) async fn answer<B>(request: Request<B>, api: &Api) -> Answer
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let (parts, body) = request.into_parts();
    let result = async {
        let (kind, path, route) = find(parts.method.as_str(), parts.uri.path())?;
        let asker = admit(&parts, kind, path)?;
        answer_route(route, &parts, body, api, asker).await
    };
    result.await.unwrap_or_else(Refusal::into_answer)
}

/// Who asks, if it may. The server tells of each request whose it is.
fn admit<'a>(parts: &'a Parts, kind: Kind, path: &'static str) -> Result<&'a Asker, Refusal> {
    let found = parts.extensions.get::<(Asker, Arc<Access>)>();
    let (asker, access) = found.expect("the server puts into each request who asks");
    if asker.may(kind.needs()) {
        return Ok(asker);
    }
    tracing::warn!("control: {asker} was refused {path}");
    Err(Refusal::Forbidden { asker: asker.to_string(), path, hint: access.hint() })
}

/// How the one who asks is dealt with. The server tells that of each request as well.
fn manner(parts: &Parts) -> &Manner {
    parts.extensions.get().expect("the server puts into each request how its client is dealt with")
}

/// The route of a method and a path.
fn find(method: &str, path: &str) -> Result<(Kind, &'static str, Route), Refusal> {
    let found = ROUTES.iter().find(|(_, routed, _)| *routed == path);
    let (kind, routed, route) = found.ok_or_else(|| Refusal::NotFound { path: path.to_owned() })?;
    let allowed = kind.methods();
    if !allowed.split(", ").any(|allowed| allowed == method) {
        return Err(Refusal::Method { allowed });
    }
    Ok((*kind, routed, *route))
}

async fn answer_route<B>(
    route: Route,
    parts: &Parts,
    body: B,
    api: &Api,
    asker: &Asker,
) -> Result<Answer, Refusal>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    match route {
        Route::Health => Ok(text("OK")),
        Route::Status => status(api).await,
        Route::Logs => logs(parts, api),
        Route::Events => events(parts, api),
        Route::Metrics => metrics(api).await,
        Route::Releases => releases(&api.history).await,
        Route::Config => inspect::config(&api.here),
        Route::Release => inspect::release(&api.here, asker),
        Route::Plan => inspect::plan(body, api, asker).await,
        Route::OpenApi => Ok(with_type("application/json", whole(OPENAPI))),
        Route::Stop => stop(body, api, asker, manner(parts)).await,
        Route::Restart => restart(body, api, asker).await,
        Route::Scale => scale(body, api, asker).await,
        Route::Rollback => rollback(body, api, asker).await,
    }
}

async fn status(api: &Api) -> Result<Answer, Refusal> {
    let (status, logs) = (api.formation.status().await?, api.logs.status());
    // What dynos use is read from /proc, and of many dynos there is much to write: not on the thread that supervises.
    let usages = api.usages.clone();
    let answer = move || {
        let mains: Vec<u32> = status.dynos.iter().filter_map(|dyno| dyno.pid).collect();
        let seen = usages.of(&mains);
        json(&StatusResponse::new(&status, &logs, |pid| seen.get(&pid).copied().flatten()))
    };
    let answer = tokio::task::spawn_blocking(answer).await;
    Ok(answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())))
}

fn logs(parts: &Parts, api: &Api) -> Result<Answer, Refusal> {
    let query = LogsQuery::parse(parts.uri.query().unwrap_or_default()).map_err(Refusal::Query)?;
    let permit = query.follow.then(|| api.let_follow(parts)).transpose()?;
    let content_type = if query.json { "application/x-ndjson" } else { "text/plain; charset=utf-8" };
    let follower: Box<dyn Follow> = Box::new(Follower::new(query, api.logs.tail(), permit));
    Ok(with_type(content_type, follower.into()))
}

fn events(parts: &Parts, api: &Api) -> Result<Answer, Refusal> {
    let query = EventsQuery::parse(parts.uri.query().unwrap_or_default()).map_err(Refusal::Events)?;
    let last = last_event_id(&parts.headers).map_err(Refusal::Events)?;
    let permit = query.follow.then(|| api.let_follow(parts)).transpose()?;
    let follower: Box<dyn Follow> = Box::new(EventFollower::new(query, api.events.clone(), last, permit));
    let mut answer = with_type("text/event-stream", follower.into());
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

async fn metrics(api: &Api) -> Result<Answer, Refusal> {
    let (formation, logs) = (api.formation.status().await?, api.logs.status());
    let (tally, looks, started) = (api.events.tally(), api.looks.counts(), api.started);
    // What hsup uses is read from /proc: not on the thread that supervises dynos.
    let text = tokio::task::spawn_blocking(move || {
        Scrape { formation, logs, tally, looks, process: ProcessUse::read(started) }.text()
    });
    let text = text.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    Ok(with_type(metrics::CONTENT_TYPE, whole(text)))
}

async fn stop<B>(body: B, api: &Api, asker: &Asker, manner: &Manner) -> Result<Answer, Refusal>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let StopRequest { processes } = read(body, r#"{"Processes":["web","worker.2"]}"#).await?;
    // A name that no dyno can have is like one that no dyno has: it stops nothing.
    let targets: Vec<Target> = processes.iter().filter_map(|name| name.parse().ok()).collect();
    let done = async {
        let stopped = api.formation.stop(targets.clone()).await?;
        // It takes as long as the dynos do.
        Ok(manner.wait_for(stopped).await?)
    };
    let stopped = api.attempt(asker, "stop", texts(&targets), done).await?;
    Ok(json(&StopResponse::new(&targets, &stopped)))
}

async fn releases(history: &HistoryHandle) -> Result<Answer, Refusal> {
    let (entries, live) = history.list().await?;
    Ok(json(&ReleasesResponse::new(&entries, live.as_deref())))
}

async fn restart<B>(body: B, api: &Api, asker: &Asker) -> Result<Answer, Refusal>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let RestartRequest { processes, rolling } = read(body, r#"{"Processes":["web","worker.2"]}"#).await?;
    let targets: Vec<Target> = processes.iter().filter_map(|name| name.parse().ok()).collect();
    let mut arguments = texts(&targets);
    arguments.extend(rolling.then(|| "(one of each type at a time)".to_owned()));
    let done = async { Ok(api.formation.restart(targets, rolling).await?) };
    let restarted = api.attempt(asker, "restart", arguments, done).await?;
    Ok(json(&RestartResponse { restarted_processes: restarted }))
}

async fn scale<B>(body: B, api: &Api, asker: &Asker) -> Result<Answer, Refusal>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let request: ScaleRequest = read(body, r#"{"Quantities":{"web":3}}"#).await?;
    let quantities: Vec<_> = request.quantities.iter().map(|(name, to)| format!("{name}={to}")).collect();
    let done = async {
        api.formation.check_scale(request.quantities.clone()).await??;
        Ok(api.history.scale(request.quantities.clone()).await?)
    };
    api.attempt(asker, "scale", quantities, done).await?;
    Ok(json(&request))
}

async fn rollback<B>(body: B, api: &Api, asker: &Asker) -> Result<Answer, Refusal>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let RollbackRequest { release } = read(body, r#"{"Release":"v3"}, or {} for the last good one"#).await?;
    let arguments = release.iter().map(Version::to_string).collect();
    let done = async { Ok(api.history.rollback(release.map(|Version(version)| version)).await?) };
    let release = api.attempt(asker, "rollback", arguments, done).await?;
    Ok(json(&RollbackResponse { release: Version(release.version) }))
}

fn texts(things: &[impl ToString]) -> Vec<String> {
    things.iter().map(ToString::to_string).collect()
}

/// Reads a body as JSON, whatever its content type says: `curl -d` sends a form's.
async fn read<T, B>(body: B, example: &'static str) -> Result<T, Refusal>
where
    T: DeserializeOwned,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let body = read_bytes(body, MAX_BODY_BYTES).await?;
    serde_json::from_slice(&body).map_err(|source| Refusal::Json { source, example })
}

/// Reads a body.
pub(super) async fn read_bytes<B>(body: B, limit: usize) -> Result<Bytes, Refusal>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let body = timeout(BODY_PATIENCE, Limited::new(body, limit).collect()).await;
    let body = body.map_err(|_| Refusal::TooSlow)?.map_err(|error| {
        if error.is::<LengthLimitError>() { Refusal::TooLarge { limit } } else { Refusal::Unreadable(error) }
    })?;
    Ok(body.to_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// What is served is what is described, both ways.
    #[test]
    fn the_description_has_every_route_and_no_other() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{path}");
                described.insert((method.to_uppercase(), path.clone()));
            }
        }
        let method = |kind: Kind| kind.methods().split(", ").next().unwrap().to_owned();
        let served: BTreeSet<_> =
            ROUTES.iter().map(|(kind, path, _)| (method(*kind), (*path).to_owned())).collect();
        assert_eq!(served, described);
        assert_eq!(served.len(), ROUTES.len(), "a path stands twice");
        for (method, path) in &described {
            assert!(find(method, path).is_ok(), "{method} {path}");
        }
    }

    /// What the document refers to is in it.
    #[test]
    fn every_reference_of_the_description_leads_somewhere() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let (mut found, mut places) = (0, vec![&document]);
        while let Some(place) = places.pop() {
            if let Some(reference) = place.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
                found += 1;
            }
            places.extend(place.as_object().into_iter().flat_map(|object| object.values()));
            places.extend(place.as_array().into_iter().flatten());
        }
        assert!(found > 10, "{found}");
    }

    #[test]
    fn another_method_is_told_which_ones_there_are() {
        let allowed = |method, path| match find(method, path) {
            Err(Refusal::Method { allowed }) => allowed,
            other => panic!("{other:?}"),
        };
        assert_eq!(allowed("POST", "/status"), "GET, HEAD");
        assert_eq!(allowed("get", "/status"), "GET, HEAD");
        assert_eq!(allowed("GET", "/control/stop"), "POST");
        assert!(matches!(find("HEAD", "/logs"), Ok((Kind::Read, _, Route::Logs))));
    }
}
