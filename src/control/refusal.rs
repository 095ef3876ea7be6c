//! Why a request is not done, and how answers are made.

use std::error::Error;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::body::AnswerBody;
use super::routes::{Answer, BODY_PATIENCE, MAX_FOLLOWERS, ROUTES};
use super::wire::ErrorResponse;
use crate::formation::{CannotRun, ScaleRefused, ShuttingDown};
use crate::history::RollbackError;

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is nothing at {path}")]
    NotFound { path: String },
    #[error("the method is not allowed here")]
    Method { allowed: &'static str },
    #[error("{asker} may not use {path}")]
    Forbidden { asker: String, path: &'static str, hint: String },
    #[error("the body is not the JSON that is expected: {source}")]
    Json { source: serde_json::Error, example: &'static str },
    #[error("the query is wrong: {0}")]
    Query(String),
    #[error("what events are asked for is not clear: {0}")]
    Events(String),
    #[error("{MAX_FOLLOWERS} clients follow logs or events already")]
    TooManyFollowers,
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body did not come within {BODY_PATIENCE:?}")]
    TooSlow,
    #[error("the body could not be read: {0}")]
    Unreadable(Box<dyn Error + Send + Sync>),
    #[error("the control file is not valid: {0}")]
    ControlFile(String),
    #[error("no release is live yet")]
    NoRelease,
    #[error("{0}")]
    CannotRun(#[from] CannotRun),
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
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::Json { .. }
            | Self::Query(_)
            | Self::Events(_)
            | Self::Unreadable(_)
            | Self::ControlFile(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooManyFollowers | Self::ShuttingDown(_) | Self::History(RollbackError::ShuttingDown) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::History(RollbackError::Unknown { .. }) | Self::Scale(ScaleRefused::Unknown { .. }) => {
                StatusCode::NOT_FOUND
            }
            Self::NoRelease
            | Self::CannotRun(_)
            | Self::History(RollbackError::NoneGood | RollbackError::Nothing)
            | Self::Scale(ScaleRefused::Port(_)) => StatusCode::CONFLICT,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => {
                let paths: Vec<&str> = ROUTES.iter().map(|(_, path, _)| *path).collect();
                Some(format!("there are {}", paths.join(", ")))
            }
            Self::Method { allowed } => Some(format!("use {allowed}")),
            Self::Forbidden { hint, .. } => Some(hint.clone()),
            Self::Json { example, .. } => Some(format!("send an object such as {example}")),
            Self::NoRelease => Some("hsup logs what it waits for".to_owned()),
            Self::Query(_) => Some("for instance /logs?dyno=web.1&n=100&follow".to_owned()),
            Self::Events(_) => Some("for instance /events?follow=no&type=dyno.exit&dyno=web&n=10".to_owned()),
            Self::TooManyFollowers => Some("end one of them".to_owned()),
            Self::TooLarge { .. }
            | Self::TooSlow
            | Self::Unreadable(_)
            | Self::ControlFile(_)
            | Self::CannotRun(_)
            | Self::ShuttingDown(_)
            | Self::History(_)
            | Self::Scale(_) => None,
        }
    }

    pub(super) fn into_answer(self) -> Answer {
        let mut answer = json(&ErrorResponse { error: self.to_string(), hint: self.hint() });
        *answer.status_mut() = self.status();
        if let Self::Method { allowed } = self {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        }
        answer
    }
}

pub(super) fn text(text: &'static str) -> Answer {
    with_type("text/plain; charset=utf-8", whole(text))
}

pub(super) fn json(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).expect("the wire types have text keys and no fallible parts");
    with_type("application/json", whole(body))
}

pub(super) fn whole(body: impl Into<Bytes>) -> AnswerBody {
    AnswerBody::Whole(Full::new(body.into()))
}

pub(super) fn with_type(content_type: &'static str, body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
