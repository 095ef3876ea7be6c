//! Slugs on this host: fetched, verified and unpacked once, then shared by every dyno of the release. Nothing
//! here knows dynos, drivers or sources.

mod cache;
mod fetch;
mod links;
mod local;
mod progress;
mod slugs;
mod tree;
mod unpack;
mod urls;

pub use cache::CacheError;
pub use fetch::FetchError;
pub use slugs::{Limits, Slug, SlugError, Slugs};
pub use unpack::UnpackError;
pub use urls::{NoUrl, SlugUrls};
