//! Slugs whose URLs expire: who knows them is asked for a fresh one whenever one is needed. It owns the question;
//! the answer is a source's business.

use std::error::Error;
use std::time::Duration;

use hsup_drivers::BoxFuture;

use crate::model::SlugId;

/// Knows the URLs of slugs.
pub trait SlugUrls: Send + Sync {
    /// A URL from which the archive of a slug can be had now. It may hold a signature, so it is never shown.
    fn url<'a>(&'a self, slug: &'a SlugId) -> BoxFuture<'a, Result<String, NoUrl>>;
}

/// There is no URL for a slug.
#[derive(Debug)]
pub struct NoUrl {
    /// Whether asking again can help.
    pub passes: bool,
    /// When whoever was asked wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Why.
    pub source: Box<dyn Error + Send + Sync>,
}
