//! Slugs whose URLs expire: who knows them is asked for a fresh one whenever one is needed. It owns the question;
//! the answer is a source's business.

use hsup_drivers::BoxFuture;

use crate::archive::NoUrl;
use crate::model::SlugId;

/// Knows the URLs of slugs.
pub trait SlugUrls: Send + Sync {
    /// A URL from which the archive of a slug can be had now. It may hold a signature, so it is never shown.
    fn url<'a>(&'a self, slug: &'a SlugId) -> BoxFuture<'a, Result<String, NoUrl>>;
}
