//! A release: everything that dynos are made from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{AppName, ConfigVars, Formation, Process, ProcessType, Quantity, ReleaseVersion, StackName};

/// Where a slug is to be had. A location may hold a signature or a password in its query or user part, so
/// `Display` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub enum SlugLocation {
    /// A file of this host.
    Path(PathBuf),
    /// An `http` or `https` URL.
    Url(String),
    /// A slug of the Heroku Platform API. Its URL expires, so that it is asked for when it is needed.
    Heroku(SlugId),
}

/// How the location of a slug of the Platform API begins as text.
const HEROKU: &str = "heroku-slug:";

/// The id of a slug of the Heroku Platform API: a UUID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlugId(String);

impl SlugId {
    /// The id as text: letters, digits and `-`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not the id of a slug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slug id {0:?} is not valid: it is a UUID")]
pub struct InvalidSlugId(String);

impl FromStr for SlugId {
    type Err = InvalidSlugId;

    /// Reads any form of UUID: what counts is that it is harmless in the path of a URL.
    fn from_str(given: &str) -> Result<Self, InvalidSlugId> {
        let harmless = given.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if harmless && (1..=64).contains(&given.len()) {
            return Ok(Self(given.to_owned()));
        }
        Err(InvalidSlugId(given.chars().take(64).collect()))
    }
}

/// Why a text is not the location of a slug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slug {given:?} is not valid: {why}")]
pub struct InvalidSlugLocation {
    given: String,
    why: &'static str,
}

impl FromStr for SlugLocation {
    type Err = InvalidSlugLocation;

    fn from_str(given: &str) -> Result<Self, InvalidSlugLocation> {
        let invalid = |why| InvalidSlugLocation { given: without_secrets(given), why };
        if given.contains('\0') {
            return Err(invalid("it holds a NUL byte"));
        }
        if let Some(id) = given.strip_prefix(HEROKU) {
            return id.parse().map(Self::Heroku).map_err(|_| invalid("what follows heroku-slug: is no id"));
        }
        match given.split_once("://") {
            Some(("http" | "https", rest)) if !rest.is_empty() && !rest.starts_with('/') => {
                Ok(Self::Url(given.to_owned()))
            }
            Some(("http" | "https", _)) => Err(invalid("the URL names no host")),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::Path(path.into())),
            Some(("file", _)) => {
                Err(invalid("a file:// URL must hold an absolute path, as in file:///slug.tgz"))
            }
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) => {
                Err(invalid("its scheme is not known: use a path, file://, http:// or https://"))
            }
            Some(_) | None if given.is_empty() => Err(invalid("it is empty")),
            Some(_) | None => Ok(Self::Path(given.into())),
        }
    }
}

/// A URL without password, query and fragment.
pub(crate) fn without_secrets(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    match bare.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').map_or((rest, None), |(a, p)| (a, Some(p)));
            let host = authority.rsplit('@').next().unwrap_or_default();
            match path {
                Some(path) => format!("{scheme}://{host}/{path}"),
                None => format!("{scheme}://{host}"),
            }
        }
        None => bare.to_owned(),
    }
}

impl fmt::Display for SlugLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(&without_secrets(url)),
            Self::Heroku(id) => write!(f, "{HEROKU}{}", id.as_str()),
        }
    }
}

impl fmt::Debug for SlugLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("checksum {0:?} is not valid: write SHA256: and 64 hexadecimal digits")]
pub struct InvalidDigest(String);

impl FromStr for Sha256Digest {
    type Err = InvalidDigest;

    /// Reads `SHA256:<hex>` (the Platform API's form), `sha256:<hex>` or the bare hex digits.
    fn from_str(given: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest(given.to_owned());
        let hex = match given.split_once(':') {
            Some((name, hex)) if name.eq_ignore_ascii_case("sha256") => hex,
            Some(_) => return Err(invalid()),
            None => given,
        };
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(invalid());
        }
        let mut digest = [0; 32];
        for (byte, digits) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| invalid())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid())?;
        }
        Ok(Self(digest))
    }
}

impl fmt::Display for Sha256Digest {
    /// The 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A release of an app. `Debug` shows neither config values nor the logplex URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Release {
    /// The app.
    pub app: AppName,
    /// The version.
    pub version: ReleaseVersion,
    /// The code, where the release names it.
    pub slug: Option<SlugLocation>,
    /// The digest that the slug must have, where the source knows it.
    pub slug_checksum: Option<Sha256Digest>,
    /// The base image, where the release names it.
    pub stack: Option<StackName>,
    /// The environment of its dynos.
    pub config: ConfigVars,
    /// Its process types.
    pub formation: Formation,
    /// Where the dynos' log lines go, where the release names it. It holds a password.
    pub logplex_url: Option<String>,
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { app, version, slug, slug_checksum, stack, config, formation, logplex_url } = self;
        f.debug_struct("Release")
            .field("app", app)
            .field("version", version)
            .field("slug", slug)
            .field("slug_checksum", slug_checksum)
            .field("stack", stack)
            .field("config", config)
            .field("formation", formation)
            .field("logplex_url", &logplex_url.as_ref().map(|_| "(set)"))
            .finish()
    }
}

impl Release {
    /// Whether the two differ at most in quantities and in where log lines go, so that no dyno need be replaced to go
    /// from one to the other.
    pub fn needs_no_restart(&self, other: &Self) -> bool {
        let processes = |release: &Self| {
            let of_one = |process: &Process| Process { quantity: Quantity::ONE, ..process.clone() };
            let mut processes: Vec<_> = release.formation.iter().map(of_one).collect();
            processes.sort_by(|a, b| a.process_type.cmp(&b.process_type));
            processes
        };
        let bare =
            |release: &Self| Self { formation: Formation::default(), logplex_url: None, ..release.clone() };
        bare(self) == bare(other) && processes(self) == processes(other)
    }

    /// The process type of the release phase, where the release has one.
    pub fn release_phase(&self) -> Option<&ProcessType> {
        let mut types = self.formation.iter().map(|process| &process.process_type);
        types.find(|process_type| process_type.is_release_phase())
    }

    /// What to say of the change to a release that needs no restart.
    pub fn change_without_restart(&self, other: &Self) -> &'static str {
        match self.logplex_url == other.logplex_url {
            true => "scaling",
            false => "its log lines go elsewhere; no dyno is restarted for it",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_paths_or_urls() {
        let path = |text: &str| Ok(SlugLocation::Path(text.into()));
        assert_eq!("slug.tgz".parse(), path("slug.tgz"));
        assert_eq!("file:///tmp/slug.tgz".parse(), path("/tmp/slug.tgz"));
        assert_eq!("https://h/s?sig=1".parse(), Ok(SlugLocation::Url("https://h/s?sig=1".into())));
        let slug: SlugLocation = "heroku-slug:01234567-89ab".parse().unwrap();
        assert_eq!(
            (slug.to_string().as_str(), slug.to_string().parse()),
            ("heroku-slug:01234567-89ab", Ok(slug))
        );
        let bad =
            ["", "ftp://h/s", "git+ssh://h/s", "file://rel", "http://", "http:///x", "heroku-slug:../x"];
        for bad in bad {
            assert!(bad.parse::<SlugLocation>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_location_shows_no_secret() {
        let location: SlugLocation = "https://me:pw@host/slug.tgz?Signature=abc".parse().unwrap();
        assert_eq!(location.to_string(), "https://host/slug.tgz");
    }

    #[test]
    fn digests_round_trip() {
        let hex = "ab".repeat(32);
        let digest: Sha256Digest = format!("SHA256:{hex}").parse().unwrap();
        assert_eq!(digest.to_string(), hex);
        for bad in ["", "md5:00", "SHA256:12", &"g".repeat(64), &"é".repeat(32)] {
            assert!(bad.parse::<Sha256Digest>().is_err(), "{bad}");
        }
    }
}
