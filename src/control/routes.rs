//! What is answered to which request: one flat match on method and path. It knows neither sockets nor
//! connections, and asks the formation for everything.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use hsup_drivers::process;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::body::AnswerBody;
use super::logs::{Follower, LogsQuery};
use super::stall::Unhurried;
use super::wire::{
    ErrorResponse, ReleasesResponse, RestartRequest, RestartResponse, RollbackRequest, RollbackResponse,
    ScaleRequest, StatusResponse, StopRequest, StopResponse, Version,
};

use crate::formation::{FormationHandle, ScaleRefused, ShuttingDown};
use crate::history::{HistoryHandle, RollbackError};
use crate::logs::Logs;

/// The largest body of a request: a name for each of a thousand dynos fits.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long a client may take to send its body. It is on this host; longer means that it hangs.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// The methods of a resource that can only be read.
const READ: &str = "GET, HEAD";

/// The methods of a resource that does something.
const ACT: &str = "POST";

/// How many clients may follow the logs at a time: half of the connections stay free for others.
const MAX_FOLLOWERS: usize = 32;

/// An answer.
pub(super) type Answer = Response<AnswerBody>;

/// What the API tells of and acts on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    formation: FormationHandle,
    history: HistoryHandle,
    logs: Logs,
    followers: Arc<Semaphore>,
}

impl Api {
    /// The API of these dynos, the releases that there have been, and the dynos' logs.
    pub fn new(formation: FormationHandle, history: HistoryHandle, logs: Logs) -> Self {
        Self { formation, history, logs, followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)) }
    }
}

/// Answers a request; what cannot be done is an answer as well.
pub(super) async fn answer<B>(request: Request<B>, api: &Api) -> Answer
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let (parts, body) = request.into_parts();
    let result = match (parts.method.as_str(), parts.uri.path()) {
        // The server leaves the body out for HEAD.
        ("GET" | "HEAD", "/health") => Ok(text("OK")),
        ("GET" | "HEAD", "/status") => status(api).await,
        ("GET" | "HEAD", "/logs") => logs(&parts, api),
        ("GET" | "HEAD", "/releases") => releases(&api.history).await,
        ("POST", "/control/stop") => stop(body, &api.formation).await,
        ("POST", "/control/restart") => restart(body, &api.formation).await,
        ("POST", "/control/scale") => scale(body, api).await,
        ("POST", "/control/rollback") => rollback(body, &api.history).await,
        (_, "/health" | "/status" | "/logs" | "/releases") => Err(Refusal::Method { allowed: READ }),
        (_, "/control/stop" | "/control/restart" | "/control/scale" | "/control/rollback") => {
            Err(Refusal::Method { allowed: ACT })
        }
        (_, path) => Err(Refusal::NotFound { path: path.to_owned() }),
    };
    result.unwrap_or_else(Refusal::into_answer)
}

async fn status(api: &Api) -> Result<Answer, Refusal> {
    let (status, logs) = (api.formation.status().await?, api.logs.status());
    // What dynos use is read from /proc, a file or more a dyno: not on the thread that supervises them.
    let response = move || StatusResponse::new(&status, &logs, process::usage);
    let response = tokio::task::spawn_blocking(response).await;
    Ok(json(&response.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))))
}

fn logs(parts: &Parts, api: &Api) -> Result<Answer, Refusal> {
    let query = LogsQuery::parse(parts.uri.query().unwrap_or_default()).map_err(Refusal::Query)?;
    let permit = match query.follow {
        true => Some(Arc::clone(&api.followers).try_acquire_owned().map_err(|_| Refusal::TooManyFollowers)?),
        false => None,
    };
    if let (true, Some(unhurried)) = (query.follow, parts.extensions.get::<Unhurried>()) {
        unhurried.allow();
    }
    let content_type = if query.json { "application/x-ndjson" } else { "text/plain; charset=utf-8" };
    let follower = Follower::new(query, api.logs.tail(), permit);
    Ok(with_type(content_type, follower.into()))
}

async fn stop<B>(body: B, formation: &FormationHandle) -> Result<Answer, Refusal>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let StopRequest { processes } = read(body, r#"{"Processes":["web","worker.2"]}"#).await?;
    // A name that no dyno can have is like one that no dyno has: it stops nothing.
    let targets: Vec<_> = processes.iter().filter_map(|name| name.parse().ok()).collect();
    let stopped = formation.stop(targets.clone()).await?;
    Ok(json(&StopResponse::new(&targets, &stopped)))
}

async fn releases(history: &HistoryHandle) -> Result<Answer, Refusal> {
    let (entries, live) = history.list().await?;
    Ok(json(&ReleasesResponse::new(&entries, live.as_deref())))
}

async fn restart<B>(body: B, formation: &FormationHandle) -> Result<Answer, Refusal>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let RestartRequest { processes, rolling } = read(body, r#"{"Processes":["web","worker.2"]}"#).await?;
    let targets: Vec<_> = processes.iter().filter_map(|name| name.parse().ok()).collect();
    let restarted = formation.restart(targets, rolling).await?;
    Ok(json(&RestartResponse { restarted_processes: restarted }))
}

async fn scale<B>(body: B, api: &Api) -> Result<Answer, Refusal>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let request: ScaleRequest = read(body, r#"{"Quantities":{"web":3}}"#).await?;
    api.formation.check_scale(request.quantities.clone()).await??;
    api.history.scale(request.quantities.clone()).await?;
    Ok(json(&request))
}

async fn rollback<B>(body: B, history: &HistoryHandle) -> Result<Answer, Refusal>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let RollbackRequest { release } = read(body, r#"{"Release":"v3"}, or {} for the last good one"#).await?;
    let release = history.rollback(release.map(|Version(version)| version)).await?;
    Ok(json(&RollbackResponse { release: Version(release.version) }))
}

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is nothing at {path}")]
    NotFound { path: String },
    #[error("the method is not allowed here")]
    Method { allowed: &'static str },
    #[error("the body is not the JSON that is expected: {source}")]
    Json { source: serde_json::Error, example: &'static str },
    #[error("the query is wrong: {0}")]
    Query(String),
    #[error("{MAX_FOLLOWERS} clients follow the logs already")]
    TooManyFollowers,
    #[error("the body is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    #[error("the body did not come within {BODY_PATIENCE:?}")]
    TooSlow,
    #[error("the body could not be read: {0}")]
    Unreadable(Box<dyn Error + Send + Sync>),
    #[error("{0}")]
    ShuttingDown(#[from] ShuttingDown),
    #[error("{0}")]
    Scale(#[from] ScaleRefused),
    #[error("{0}")]
    History(#[from] RollbackError),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Json { .. } | Self::Query(_) | Self::Unreadable(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooManyFollowers | Self::ShuttingDown(_) | Self::History(RollbackError::ShuttingDown) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::History(RollbackError::Unknown { .. }) | Self::Scale(ScaleRefused::Unknown { .. }) => {
                StatusCode::NOT_FOUND
            }
            Self::History(RollbackError::NoneGood | RollbackError::Nothing)
            | Self::Scale(ScaleRefused::Port(_)) => StatusCode::CONFLICT,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => Some(
                "try /health, /status, /logs, /releases or /control/stop, restart, scale, rollback"
                    .to_owned(),
            ),
            Self::Method { allowed } => Some(format!("use {allowed}")),
            Self::Json { example, .. } => Some(format!("send an object such as {example}")),
            Self::TooLarge => Some("name process types instead of single dynos".to_owned()),
            Self::Query(_) => Some("for instance /logs?dyno=web.1&n=100&follow".to_owned()),
            Self::TooManyFollowers => Some("end one of them".to_owned()),
            Self::TooSlow
            | Self::Unreadable(_)
            | Self::ShuttingDown(_)
            | Self::History(_)
            | Self::Scale(_) => None,
        }
    }

    fn into_answer(self) -> Answer {
        let mut answer = json(&ErrorResponse { error: self.to_string(), hint: self.hint() });
        *answer.status_mut() = self.status();
        if let Self::Method { allowed } = self {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        }
        answer
    }
}

/// Reads a body as JSON, whatever its content type says: `curl -d` sends a form's.
async fn read<T, B>(body: B, example: &'static str) -> Result<T, Refusal>
where
    T: DeserializeOwned,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let body = timeout(BODY_PATIENCE, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    let body = body.map_err(|_| Refusal::TooSlow)?.map_err(|error| {
        if error.is::<LengthLimitError>() { Refusal::TooLarge } else { Refusal::Unreadable(error) }
    })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|source| Refusal::Json { source, example })
}

fn text(text: &'static str) -> Answer {
    with_type("text/plain; charset=utf-8", whole(text))
}

fn json(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).expect("the wire types have text keys and no fallible parts");
    with_type("application/json", whole(body))
}

fn whole(body: impl Into<Bytes>) -> AnswerBody {
    AnswerBody::Whole(Full::new(body.into()))
}

fn with_type(content_type: &'static str, body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
