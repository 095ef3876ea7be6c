//! Where a stack, or a manifest of stacks, is had from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::model::without_secrets;

/// A file of this host or a URL. A URL may hold a password or a signature, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum StackLocation {
    /// A file of this host.
    Path(PathBuf),
    /// An `http` or `https` URL.
    Url(String),
}

/// Why a text is no location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a location: {why}")]
pub struct InvalidLocation {
    given: String,
    why: &'static str,
}

impl StackLocation {
    /// The location, of which a relative path counts from this directory.
    #[must_use]
    pub fn below(self, directory: &Path) -> Self {
        match self {
            Self::Path(path) => Self::Path(directory.join(path)),
            Self::Url(url) => Self::Url(url),
        }
    }
}

impl FromStr for StackLocation {
    type Err = InvalidLocation;

    fn from_str(given: &str) -> Result<Self, InvalidLocation> {
        let invalid = |why| InvalidLocation { given: without_secrets(given), why };
        if given.contains('\0') {
            return Err(invalid("it holds a NUL byte"));
        }
        match given.split_once("://") {
            Some(("http" | "https", rest)) if !rest.is_empty() && !rest.starts_with('/') => {
                Ok(Self::Url(given.to_owned()))
            }
            Some(("http" | "https", _)) => Err(invalid("the URL names no host")),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::Path(path.into())),
            Some(("file", _)) => Err(invalid("a file:// URL holds an absolute path, as in file:///x.img")),
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) => {
                Err(invalid("its scheme is not known: use a path, file://, http:// or https://"))
            }
            Some(_) | None if given.is_empty() => Err(invalid("it is empty")),
            Some(_) | None => Ok(Self::Path(given.into())),
        }
    }
}

impl fmt::Display for StackLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(&without_secrets(url)),
        }
    }
}

impl fmt::Debug for StackLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_paths_or_http_urls_and_show_no_secret() {
        let read = |text: &str| text.parse::<StackLocation>();
        assert_eq!(read("a.img").unwrap().below(Path::new("/d")), StackLocation::Path("/d/a.img".into()));
        assert_eq!(read("file:///a.img").unwrap().below(Path::new("/d")), read("/a.img").unwrap());
        assert_eq!(read("https://me:pw@h/x.tgz?sig=s").unwrap().to_string(), "https://h/x.tgz");
        for bad in ["", "ftp://h/x", "http://", "file://x", "http:///x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(!read("s3://k:pw@h/x?sig=s").unwrap_err().to_string().contains("pw"));
    }
}
