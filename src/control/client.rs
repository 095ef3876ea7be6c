//! The client's end of the control API: one request a connection, with errors that tell an operator what to
//! do. It does not know which socket is whose; it is given a path.

use std::error::Error;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::wire::ErrorResponse;

/// How long hsup may take to answer, unless the answer is that something has been done: a stop has its grace.
const QUESTION_PATIENCE: Duration = Duration::from_secs(10);

/// The largest answer that is read. The status of ten thousand dynos has some 4 MiB.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Why a running hsup could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing is at the path.
    #[error("no hsup is running at {}: start it, or name the socket of another with -s", path.display())]
    NoSocket {
        /// The socket.
        path: PathBuf,
    },
    /// A socket without an owner is at the path.
    #[error(
        "no hsup is running at {}: the socket was left by one that has ended; start it again, or name the \
         socket of another with -s",
        path.display()
    )]
    Stale {
        /// The socket.
        path: PathBuf,
    },
    /// What is at the path is another kind of file.
    #[error("no hsup is running at {}: that is no socket: name the socket of an hsup with -s", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The caller may not use the socket.
    #[error(
        "permission denied at {}: you need to be in the group of the socket or root (see ls -l)",
        path.display()
    )]
    PermissionDenied {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused to connect for another reason.
    #[error("cannot connect to the control socket {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("no answer from the hsup at {}: it has been silent for {QUESTION_PATIENCE:?}", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke before the answer was complete.
    #[error("no answer from the hsup at {}: it may have ended meanwhile", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What broke it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// hsup answered that it will not.
    #[error("{message}{}", hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default())]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What hsup says.
        message: String,
        /// What it advises.
        hint: Option<String>,
    },
    /// The answer is not what this version expects.
    #[error(
        "cannot understand the answer of the hsup at {}: is it of another version than this one? (see hsup version)",
        path.display()
    )]
    Unexpected {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// A client of the hsup behind a socket.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client for the socket at this path. Nothing is connected yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks `GET resource`, for instance `/status`.
    ///
    /// # Errors
    /// If hsup cannot be reached, does not answer within ten seconds, or refuses.
    pub async fn get_json<T: DeserializeOwned>(&self, resource: &str) -> Result<T, ClientError> {
        self.ask(request(Method::GET, resource, Bytes::new())).await
    }

    /// Does `POST resource` with a body, for instance `/control/scale`.
    ///
    /// # Errors
    /// If hsup cannot be reached, does not answer within ten seconds, or refuses.
    pub async fn post_json<B, T>(&self, resource: &str, body: &B) -> Result<T, ClientError>
    where
        B: Serialize + Sync,
        T: DeserializeOwned,
    {
        self.post(resource, to_json(body)).await
    }

    /// The same with a body that is JSON already.
    ///
    /// # Errors
    /// The same.
    pub async fn post<T: DeserializeOwned>(&self, resource: &str, body: Vec<u8>) -> Result<T, ClientError> {
        self.ask(request(Method::POST, resource, body.into())).await
    }

    /// Does `POST resource` with a body, for instance `/control/stop`, and waits until it is done, as long as that takes.
    ///
    /// # Errors
    /// If hsup cannot be reached, ends before it answers, or refuses.
    pub async fn wait_for<B, T>(&self, resource: &str, body: &B) -> Result<T, ClientError>
    where
        B: Serialize + Sync,
        T: DeserializeOwned,
    {
        self.parse(&self.exchange(request(Method::POST, resource, to_json(body).into())).await?)
    }

    /// Asks `GET resource`, and hands on the answer piece by piece, until it ends or `take` wants no more; gives what
    /// `take` has said last.
    ///
    /// # Errors
    /// If hsup cannot be reached, does not begin to answer within ten seconds, or refuses. That it ends is no error.
    pub async fn stream<B>(
        &self,
        resource: &str,
        mut take: impl FnMut(&[u8]) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|source| self.unreachable(source))?;
        let broken =
            |error: hyper::Error| ClientError::Broken { path: self.path.clone(), source: error.into() };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let answer = async {
            let asked = sender.send_request(request(Method::GET, resource, Bytes::new()));
            let silent = |_| ClientError::Silent { path: self.path.clone() };
            let (parts, mut body) =
                timeout(QUESTION_PATIENCE, asked).await.map_err(silent)?.map_err(broken)?.into_parts();
            if !parts.status.is_success() {
                let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.unwrap_or_default();
                return Err(refused(parts.status, &body.to_bytes()));
            }
            while let Some(frame) = body.frame().await {
                if let Ok(bytes) = frame.map_err(broken)?.into_data()
                    && let broken_off @ ControlFlow::Break(_) = take(&bytes)
                {
                    return Ok(broken_off);
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // What ended the connection is told to the answer.
            _ = connection => answer.await,
        }
    }

    async fn ask<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, ClientError> {
        let answer = timeout(QUESTION_PATIENCE, self.exchange(request)).await;
        self.parse(&answer.map_err(|_| ClientError::Silent { path: self.path.clone() })??)
    }

    fn parse<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(answer)
            .map_err(|source| ClientError::Unexpected { path: self.path.clone(), source })
    }

    /// Sends one request and gives the body of a successful answer. The connection lives in this future.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Bytes, ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|source| self.unreachable(source))?;
        let broken =
            |source: Box<dyn Error + Send + Sync>| ClientError::Broken { path: self.path.clone(), source };
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.into()))?;
        let answer = send(sender, request);
        tokio::pin!(answer);
        let answer = tokio::select! {
            answer = &mut answer => answer,
            // What ended the connection is told to the sender.
            _ = connection => answer.await,
        };
        let (status, body) = answer.map_err(broken)?;
        if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
    }

    pub(super) fn unreachable(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTDIR) => ClientError::NoSocket { path },
            Some(Errno::ECONNREFUSED) if is_another_file(&path) => ClientError::NotASocket { path },
            Some(Errno::ECONNREFUSED) => ClientError::Stale { path },
            Some(Errno::EACCES | Errno::EPERM) => ClientError::PermissionDenied { path },
            _ => ClientError::Connect { path, source },
        }
    }
}

fn is_another_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| !file.file_type().is_socket())
}

fn to_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("the wire types have text keys and no fallible parts")
}

fn request(method: Method, resource: &str, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = resource.parse().expect("resources are constants of hsup's commands");
    request.headers_mut().insert(HOST, HeaderValue::from_static("hsup"));
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

async fn send(
    mut sender: SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::<Incoming>::new(body, MAX_ANSWER_BYTES).collect().await?;
    Ok((parts.status, body.to_bytes()))
}

fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let said = serde_json::from_slice(body)
        .unwrap_or_else(|_| ErrorResponse { error: format!("hsup answered {status}"), hint: None });
    ClientError::Refused { status: status.as_u16(), message: said.error, hint: said.hint }
}
