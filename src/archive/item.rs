//! What is fetched, as messages call it: a noun, what it ought to be, and where it is. It owns the words of
//! advice; it must not know how anything is fetched.

use std::fmt;

use reqwest::StatusCode;

/// A kind of archive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// What it is called.
    pub(crate) noun: &'static str,
    /// What it ought to be.
    pub(crate) form: &'static str,
    /// Whether its URL expires and is asked for again.
    pub(crate) url_is_renewed: bool,
    /// What to do where a server forbids it.
    forbidden: &'static str,
    /// What to do where a server does not have it.
    gone: &'static str,
    /// What to do where a server refuses for another reason.
    refused: &'static str,
}

const SLUG: Kind = Kind {
    noun: "slug",
    form: "a gzipped tar of ./app/...",
    url_is_renewed: false,
    forbidden: "; a signed URL may have expired: release the slug with a URL that may be read",
    gone: "; check the URL, or release the slug anew",
    refused: "",
};

const DEPLOY_AGAIN: &str = "; deploy the app again if this goes on";

const SLUG_OF_API: Kind =
    Kind { url_is_renewed: true, forbidden: DEPLOY_AGAIN, gone: DEPLOY_AGAIN, refused: DEPLOY_AGAIN, ..SLUG };

const STACK: Kind = Kind {
    noun: "stack",
    form: "a root tarball (.tgz, .tar) or a file system image (ext2/3/4, xfs, erofs, squashfs)",
    url_is_renewed: false,
    forbidden: "; name a URL that may be read",
    gone: "; check the URL",
    refused: "",
};

impl Kind {
    /// What to do about a server's refusal.
    pub(crate) fn advice(&self, status: StatusCode) -> &'static str {
        match status.as_u16() {
            401 | 403 => self.forbidden,
            404 | 410 => self.gone,
            _ => self.refused,
        }
    }
}

/// Something that is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    kind: &'static Kind,
    location: String,
}

impl Item {
    /// The slug that is there. The location is shown, so that it must hold no secret.
    pub(crate) fn slug(location: impl fmt::Display) -> Self {
        Self { kind: &SLUG, location: location.to_string() }
    }

    /// The slug that the Heroku API has under this name.
    pub(crate) fn slug_of_api(location: impl fmt::Display) -> Self {
        Self { kind: &SLUG_OF_API, location: location.to_string() }
    }

    /// The stack that is had from there.
    pub(crate) fn stack(location: impl fmt::Display) -> Self {
        Self { kind: &STACK, location: location.to_string() }
    }

    pub(crate) fn kind(&self) -> &'static Kind {
        self.kind
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.noun, self.location)
    }
}
