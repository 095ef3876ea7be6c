//! Slugs on this host: fetched, verified and unpacked once, then shared by every dyno of the release. Nothing
//! here knows dynos, drivers or sources.

mod cache;
mod hold;
mod remove;
mod slugs;
mod urls;

pub use crate::archive::{Limits, NoUrl};
pub use remove::remove_unneeded;
pub use slugs::{Slug, SlugError, Slugs};
pub use urls::SlugUrls;
