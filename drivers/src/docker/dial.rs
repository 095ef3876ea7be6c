//! Connections to the Docker Engine: one for each request, since requests to an engine are few and some last as long as
//! a dyno. What is asked is not known here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bollard::BollardRequest;
use bollard::errors::Error;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::endpoint::{Endpoint, TlsFiles};
use super::error::DockerError;

/// An engine that is up accepts within milliseconds; 10 s leave room for a lost SYN or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a host that has lost its power or its network breaks after a minute: one that has been silent for so
/// long is asked whether it is there, and again, so many times.
const SILENT_SECONDS: u32 = 30;
const ASK_AGAIN_SECONDS: u32 = 10;
const TIMES_ASKED: u32 = 3;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Dialer {
    endpoint: Arc<Endpoint>,
    tls: Option<TlsConnector>,
}

impl Dialer {
    /// What connects to that endpoint.
    ///
    /// # Errors
    /// If the files of TLS cannot be used.
    pub(super) fn new(endpoint: Endpoint) -> Result<Self, DockerError> {
        let tls = match &endpoint {
            Endpoint::Unix(_) | Endpoint::Tcp { tls: None, .. } => None,
            Endpoint::Tcp { tls: Some(files), .. } => Some(TlsConnector::from(Arc::new(configure(files)?))),
        };
        Ok(Self { endpoint: Arc::new(endpoint), tls })
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match (self.endpoint.as_ref(), &self.tls) {
            (Endpoint::Unix(path), _) => Ok(Box::new(UnixStream::connect(path).await?)),
            (Endpoint::Tcp { host, port, tls: _ }, tls) => {
                let stream = connect_over_tcp(host, *port).await?;
                let Some(tls) = tls else { return Ok(Box::new(stream)) };
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                Ok(Box::new(tls.connect(name, stream).await?))
            }
        }
    }

    /// Sends a request over a connection of its own.
    ///
    /// # Errors
    /// If there is no connection to be had, or it breaks.
    pub(super) async fn ask(self, mut request: BollardRequest) -> Result<Response<Incoming>, Error> {
        let stream = match timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(stream) => stream?,
            Err(_elapsed) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer, or with what the connection has become.
        tokio::spawn(connection.with_upgrades());
        request.headers_mut().insert(HOST, HeaderValue::from_static("docker"));
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(io::Error::other)?;
        Ok(sender.send_request(request).await?)
    }
}

/// A connection that breaks when there is nobody any more at its other end: an answer may take as long as a dyno, and
/// would be waited for without end. `TCP_USER_TIMEOUT` is left alone: it would also break the connection to an engine
/// that is there, when a dyno does not read its input for as long.
async fn connect_over_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    setsockopt(&stream, KeepAlive, &true)?;
    setsockopt(&stream, TcpKeepIdle, &SILENT_SECONDS)?;
    setsockopt(&stream, TcpKeepInterval, &ASK_AGAIN_SECONDS)?;
    setsockopt(&stream, TcpKeepCount, &TIMES_ASKED)?;
    Ok(stream)
}

/// TLS as Docker has it: only that authority is trusted, and hsup shows a certificate of its own.
fn configure(TlsFiles(dir): &TlsFiles) -> Result<ClientConfig, DockerError> {
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.join(name));
    let wrong = |path: &std::path::Path| {
        let path = path.to_owned();
        move |why: String| DockerError::Certificate { path, why }
    };
    let certificates = |path: &std::path::Path| {
        let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match found {
            Ok(found) if found.is_empty() => Err(wrong(path)("it holds no certificate".to_owned())),
            Ok(found) => Ok(found),
            Err(error) => Err(wrong(path)(error.to_string())),
        }
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&ca)? {
        roots.add(certificate).map_err(|error| wrong(&ca)(error.to_string()))?;
    }
    let own = certificates(&cert)?;
    let key_der = PrivateKeyDer::from_pem_file(&key).map_err(|error| wrong(&key)(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_root_certificates(roots).with_client_auth_cert(own, key_der))
        .map_err(|error| wrong(&cert)(error.to_string()))
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_silent_host_is_asked_whether_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect_over_tcp("127.0.0.1", listener.local_addr().unwrap().port()).await.unwrap();
        assert!(getsockopt(&stream, KeepAlive).unwrap());
        let (silent, again) = (getsockopt(&stream, TcpKeepIdle), getsockopt(&stream, TcpKeepInterval));
        let times = getsockopt(&stream, TcpKeepCount).unwrap();
        assert_eq!(silent.unwrap() + again.unwrap() * times, 60);
    }
}
