//! What can go wrong with the Platform API. No error shows a token, a config var or the signature of a URL.

use std::time::Duration;

use reqwest::StatusCode;

use crate::model::AppName;

/// The Platform API did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// This host cannot do HTTP.
    #[error("no HTTP client; TLS needs the host's CA certificates (package ca-certificates)")]
    NoClient(#[source] reqwest::Error),
    /// It cannot be reached.
    #[error("{url} cannot be reached")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The answer broke off.
    #[error("the answer of {url} broke off")]
    BrokeOff {
        /// What was asked for.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The token is not valid.
    #[error(
        "{url} answers 401 Unauthorized: HEROKU_ACCESS_TOKEN is not a valid token for app {app}; \
         make one with `heroku authorizations:create` and start hsup with it"
    )]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// The app.
        app: AppName,
    },
    /// The token does not suffice.
    #[error(
        "{url} answers 403 Forbidden{message}: the account of HEROKU_ACCESS_TOKEN may not read app {app}; \
         add it as a collaborator, or use the token of another account"
    )]
    Forbidden {
        /// What was asked for.
        url: String,
        /// The app.
        app: AppName,
        /// What the API says of it, in brackets.
        message: String,
    },
    /// There is no such app.
    #[error(
        "{url} answers 404 Not Found: there is no app {app}, or HEROKU_ACCESS_TOKEN may not see it; check --app"
    )]
    NoApp {
        /// What was asked for.
        url: String,
        /// The app.
        app: AppName,
    },
    /// Too many requests.
    #[error("{url} answers 429 Too Many Requests: the account's rate limit is used up")]
    RateLimited {
        /// What was asked for.
        url: String,
        /// When the API wants to be asked again.
        wait: Option<Duration>,
    },
    /// Any other refusal.
    #[error("{url} answers {status}{message}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: StatusCode,
        /// What the API says of it, in brackets.
        message: String,
        /// When it wants to be asked again.
        wait: Option<Duration>,
    },
    /// The answer is not what the API promises.
    #[error("the answer of {url} is not the Platform API's: {what}")]
    Malformed {
        /// What was asked for.
        url: String,
        /// What is wrong, without any value.
        what: String,
    },
    /// The app changed whenever it was looked at.
    #[error("app {app} is being released right now")]
    Restless {
        /// The app.
        app: AppName,
    },
}

impl ApiError {
    /// Whether asking again soon can help: the API is not to be had, rather than that it says no.
    pub fn passes(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::BrokeOff { .. }
            | Self::RateLimited { .. }
            | Self::Malformed { .. }
            | Self::Restless { .. } => true,
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::REQUEST_TIMEOUT,
            Self::NoClient(_) | Self::Unauthorized { .. } | Self::Forbidden { .. } | Self::NoApp { .. } => {
                false
            }
        }
    }

    /// How long the API asks to be left alone.
    pub fn asked_to_wait(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { wait, .. } | Self::Status { wait, .. } => *wait,
            Self::NoClient(_)
            | Self::Unreachable { .. }
            | Self::BrokeOff { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::NoApp { .. }
            | Self::Malformed { .. }
            | Self::Restless { .. } => None,
        }
    }
}
