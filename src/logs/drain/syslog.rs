//! Sends parcels over a syslog connection (RFC 5424 in the framing of RFC 6587, over TCP or TLS). The frames of a parcel
//! are what goes over the wire as it is. Syslog has no answers: what the connection has taken counts as sent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::parcel::Parcel;
use super::send::SendError;
use crate::blocking::blocking;
use crate::explain;
use crate::http::install_crypto;

/// A host that is up accepts within milliseconds; 10 s leave room for a lost SYN or two, and for TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a receiver may take for one parcel.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to a receiver.
pub(super) type Connection = Box<dyn Stream>;

/// What a connection can do.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Opens connections and sends parcels over them.
pub(super) struct SyslogSender {
    host: String,
    port: u16,
    tls: bool,
    /// Made when it is first needed: the roots of the host are read from disk.
    config: OnceCell<Arc<ClientConfig>>,
}

impl SyslogSender {
    pub(super) fn new(host: String, port: u16, tls: bool) -> Self {
        Self { host, port, tls, config: OnceCell::new() }
    }

    /// Makes one attempt, over the connection that there is or a new one, which is there for the next parcel then.
    pub(super) async fn send(&self, parcel: &Parcel, open: &mut Option<Connection>) -> Result<(), SendError> {
        let down = |what: String| SendError::Down { what };
        let failed = |what: String| SendError::Failed { what, asked: None };
        let kept = match open.take() {
            Some(mut connection) => is_open(&mut connection).await.then_some(connection),
            None => None,
        };
        let mut connection = match kept {
            Some(connection) => connection,
            None => timeout(CONNECT_TIMEOUT, self.connect())
                .await
                .map_err(|_| down("it does not accept the connection in time".to_owned()))?
                .map_err(|error| down(explain(&error)))?,
        };
        let write = async {
            connection.write_all(&parcel.body).await?;
            connection.flush().await
        };
        timeout(WRITE_TIMEOUT, write)
            .await
            .map_err(|_| failed("it takes the lines too slowly".to_owned()))?
            .map_err(|error| failed(explain(&error)))?;
        *open = Some(connection);
        Ok(())
    }

    async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        if !self.tls {
            return Ok(Box::new(stream));
        }
        let config = self.config.get_or_try_init(tls_config).await?;
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        Ok(Box::new(stream))
    }
}

async fn tls_config() -> io::Result<Arc<ClientConfig>> {
    blocking(|_| {
        install_crypto();
        ClientConfig::with_platform_verifier().map(Arc::new).map_err(io::Error::other)
    })
    .await
}

/// Whether the receiver has not closed it meanwhile: a receiver of syslog sends nothing.
async fn is_open(connection: &mut Connection) -> bool {
    let mut byte = [0];
    // Ready at once, or there is nothing to be read.
    tokio::select! {
        biased;
        _closed_or_chatty = connection.read(&mut byte) => false,
        () = std::future::ready(()) => true,
    }
}
