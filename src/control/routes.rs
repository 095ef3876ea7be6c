//! What is answered to which request: one flat match on method and path. It knows neither sockets nor
//! connections, and asks the formation for everything.

use std::error::Error;
use std::time::Duration;

use hsup_drivers::process;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::wire::{ErrorResponse, StatusResponse, StopRequest, StopResponse};

use crate::formation::{FormationHandle, ShuttingDown};

/// The largest body of a request: a name for each of a thousand dynos fits.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long a client may take to send its body. It is on this host; longer means that it hangs.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// The methods of a resource that can only be read.
const READ: &str = "GET, HEAD";

/// The methods of a resource that does something.
const ACT: &str = "POST";

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// Answers a request; what cannot be done is an answer as well.
pub(super) async fn answer<B>(request: Request<B>, formation: &FormationHandle) -> Answer
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let (parts, body) = request.into_parts();
    let result = match (parts.method.as_str(), parts.uri.path()) {
        // The server leaves the body out for HEAD.
        ("GET" | "HEAD", "/health") => Ok(text("OK")),
        ("GET" | "HEAD", "/status") => status(formation).await,
        ("POST", "/control/stop") => stop(body, formation).await,
        (_, "/health" | "/status") => Err(Refusal::Method { allowed: READ }),
        (_, "/control/stop") => Err(Refusal::Method { allowed: ACT }),
        (_, path) => Err(Refusal::NotFound { path: path.to_owned() }),
    };
    result.unwrap_or_else(Refusal::into_answer)
}

async fn status(formation: &FormationHandle) -> Result<Answer, Refusal> {
    let status = formation.status().await?;
    // What dynos use is read from /proc, a file or more a dyno: not on the thread that supervises them.
    let response = tokio::task::spawn_blocking(move || StatusResponse::new(&status, process::usage)).await;
    Ok(json(&response.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))))
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

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is nothing at {path}")]
    NotFound { path: String },
    #[error("the method is not allowed here")]
    Method { allowed: &'static str },
    #[error("the body is not the JSON that is expected: {source}")]
    Json { source: serde_json::Error, example: &'static str },
    #[error("the body is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    #[error("the body did not come within {BODY_PATIENCE:?}")]
    TooSlow,
    #[error("the body could not be read: {0}")]
    Unreadable(Box<dyn Error + Send + Sync>),
    #[error("{0}")]
    ShuttingDown(#[from] ShuttingDown),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Json { .. } | Self::Unreadable(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ShuttingDown(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => Some("try /health, /status or /control/stop".to_owned()),
            Self::Method { allowed } => Some(format!("use {allowed}")),
            Self::Json { example, .. } => Some(format!("send an object such as {example}")),
            Self::TooLarge => Some("name process types instead of single dynos".to_owned()),
            Self::TooSlow | Self::Unreadable(_) | Self::ShuttingDown(_) => None,
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
    with_type("text/plain; charset=utf-8", text.into())
}

fn json(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).expect("the wire types have text keys and no fallible parts");
    with_type("application/json", body.into())
}

fn with_type(content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
