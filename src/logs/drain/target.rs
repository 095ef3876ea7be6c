//! Where a drain sends to: what its URL says. The URL holds a password, so it is shown only without it.

use std::fmt;

use reqwest::Url;
use sha2::{Digest, Sha256};

use crate::model::without_secrets;
use crate::secret::Secret;

/// The port of syslog over TCP, where the URL names none (RFC 6587 has none of its own; this is what servers use).
const SYSLOG_PORT: u16 = 514;
/// The port of syslog over TLS (RFC 5425).
const SYSLOG_TLS_PORT: u16 = 6514;

/// How lines get there.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// Requests of type `application/logplex-1`. The URL has its user and password.
    Http(Secret),
    /// Octet-counted syslog messages on a connection.
    Syslog { host: String, port: u16, tls: bool },
}

/// Where a drain sends to.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) way: Way,
    shown: String,
    id: String,
}

/// A URL that is no drain's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the URL (not shown, since it may hold a password) cannot be read: write one such as https://USER:PASSWORD@HOST/PATH"
)]
pub struct InvalidDrain;

impl Target {
    pub(super) fn new(given: &Secret) -> Result<Self, InvalidDrain> {
        let url = Url::parse(given.expose()).map_err(|_| InvalidDrain)?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(InvalidDrain)?;
        // A resolver wants an IPv6 address without its brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let way = match url.scheme() {
            "http" | "https" => Way::Http(Secret::from(String::from(url))),
            "syslog" => Way::Syslog { host, port: url.port().unwrap_or(SYSLOG_PORT), tls: false },
            "syslog+tls" => Way::Syslog { host, port: url.port().unwrap_or(SYSLOG_TLS_PORT), tls: true },
            _ => return Err(InvalidDrain),
        };
        let digest = Sha256::digest(given.expose().as_bytes());
        let id = digest.iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { way, shown: without_secrets(given.expose()), id })
    }

    /// What its spool is called: the same for the same URL, and no way back to it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

/// How much of the digest tells drains apart.
const ID_BYTES: usize = 8;

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, InvalidDrain> {
        Target::new(&Secret::from(url.to_owned()))
    }

    #[test]
    fn urls_say_how_to_send_and_show_no_password() {
        let way = |url: &str| target(url).unwrap().way;
        assert!(matches!(way("https://t:hunter2@h/logs"), Way::Http(_)));
        let syslog = |host: &str, port, tls| Way::Syslog { host: host.to_owned(), port, tls };
        assert!(way("syslog://h") == syslog("h", 514, false));
        assert!(way("syslog+tls://[::1]") == syslog("::1", 6514, true));
        assert!(way("syslog+tls://logs.example.com:7000/x") == syslog("logs.example.com", 7000, true));
        for bad in ["", "h", "ftp://h", "https://", "syslog://"] {
            assert_eq!(target(bad).err(), Some(InvalidDrain), "{bad}");
        }
        let shown = format!("{:?}", target("https://t:hunter2@h/logs?key=hunter2").unwrap());
        assert_eq!(shown, "https://h/logs");
        assert_ne!(target("https://a:b@h/").unwrap().id(), target("https://a:c@h/").unwrap().id());
    }
}
