//! Where the Docker Engine is: `DOCKER_HOST`, and the files by which it and hsup know one another. Nothing is opened
//! here.

use std::fmt;
use std::path::PathBuf;

/// Where the engine of a host listens if nobody has said otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// The port of an engine with TLS, and of one without.
const TLS_PORT: u16 = 2376;
const PLAIN_PORT: u16 = 2375;

/// The files of a directory such as `DOCKER_CERT_PATH` names, called as everywhere: `ca.pem` is trusted, `cert.pem`
/// and `key.pem` are hsup's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles(pub PathBuf);

/// Where the engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// A host and its port.
    Tcp {
        /// The name or the address, an IPv6 one without brackets.
        host: String,
        /// The port.
        port: u16,
        /// The files of TLS, where it is spoken.
        tls: Option<TlsFiles>,
    },
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::Unix(DEFAULT_SOCKET.into())
    }
}

/// A text names no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no Docker Engine: write unix:///var/run/docker.sock or tcp://HOST:PORT")]
pub struct InvalidEndpoint(String);

impl Endpoint {
    /// Reads `DOCKER_HOST`.
    ///
    /// # Errors
    /// If it is neither a unix socket nor a host with a port.
    pub fn parse(text: &str, tls: Option<TlsFiles>) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(invalid()) };
        }
        let rest = ["tcp://", "http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.ok_or_else(invalid)?.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            // what stands behind the last colon of [::1] is no port
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            Some(_) | None => (rest, None),
        };
        let host =
            host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']')).ok_or_else(invalid)?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(invalid)?,
            None if tls.is_some() => TLS_PORT,
            None => PLAIN_PORT,
        };
        if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
            return Err(invalid());
        }
        Ok(Self::Tcp { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port, tls: _ } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port, tls: _ } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_docker_reads_them() {
        let tls = || Some(TlsFiles("/certs".into()));
        for (text, tls, shown) in [
            ("unix:///run/d.sock", None, "unix:///run/d.sock"),
            ("tcp://10.0.0.1:2375", None, "tcp://10.0.0.1:2375"),
            ("tcp://engine", None, "tcp://engine:2375"),
            ("tcp://engine/", tls(), "tcp://engine:2376"),
            ("tcp://[::1]:99", None, "tcp://[::1]:99"),
            ("tcp://[::1]", None, "tcp://[::1]:2375"),
        ] {
            assert_eq!(Endpoint::parse(text, tls).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "engine",
            "unix://run/d",
            "tcp://",
            "tcp://:1",
            "tcp://a:b",
            "tcp://a:0",
            "ssh://a",
            "tcp://[::1",
        ] {
            assert!(Endpoint::parse(text, None).is_err(), "{text}");
        }
    }
}
