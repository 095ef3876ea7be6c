//! The one check of a logplex URL. It holds a password, so no error shows any part of it.

/// Why a text is not a logplex URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLogplexUrl {
    /// No scheme that log lines can be sent with.
    #[error(
        "the URL does not start with http://, https://, syslog:// or syslog+tls://: write one such as https://token:PASSWORD@logs.example.com/logs"
    )]
    Scheme,
    /// No host.
    #[error("the URL names no host: write one such as https://token:PASSWORD@logs.example.com/logs")]
    Host,
    /// The part after the host's colon.
    #[error("the URL's port is not a number from 1 to 65535: mend or remove it")]
    Port,
    /// Blanks or control characters.
    #[error("the URL holds a blank or a control character: remove it")]
    Blank,
}

/// Checks a logplex URL: `http`, `https`, `syslog` or `syslog+tls`, with a host.
///
/// # Errors
/// If it is none.
pub fn check_logplex_url(url: &str) -> Result<(), InvalidLogplexUrl> {
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(InvalidLogplexUrl::Blank);
    }
    let (scheme, rest) = url.split_once("://").ok_or(InvalidLogplexUrl::Scheme)?;
    if !["http", "https", "syslog", "syslog+tls"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(InvalidLogplexUrl::Scheme);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_and_port = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = match host_and_port.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(InvalidLogplexUrl::Host)?;
            match after {
                "" => (address, None),
                _ => (address, Some(after.strip_prefix(':').ok_or(InvalidLogplexUrl::Host)?)),
            }
        }
        None => match host_and_port.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host_and_port, None),
        },
    };
    if host.is_empty() {
        return Err(InvalidLogplexUrl::Host);
    }
    match port {
        Some(port) if !port.parse::<u16>().is_ok_and(|port| port != 0) => Err(InvalidLogplexUrl::Port),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_need_a_known_scheme_and_a_host() {
        for good in [
            "http://h",
            "https://token:pw@h.example:601/logs?x=1",
            "syslog://h:514",
            "syslog+tls://[::1]:6514",
            "HTTPS://h/",
        ] {
            assert_eq!(check_logplex_url(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("h:514", InvalidLogplexUrl::Scheme),
            ("ftp://h", InvalidLogplexUrl::Scheme),
            ("https://", InvalidLogplexUrl::Host),
            ("https://u:p@/x", InvalidLogplexUrl::Host),
            ("https://:80", InvalidLogplexUrl::Host),
            ("https://[::1", InvalidLogplexUrl::Host),
            ("https://h:0", InvalidLogplexUrl::Port),
            ("https://h:http", InvalidLogplexUrl::Port),
            ("https://h /x", InvalidLogplexUrl::Blank),
        ] {
            assert_eq!(check_logplex_url(bad), Err(why), "{bad}");
        }
    }
}
