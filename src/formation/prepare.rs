//! Preparing a release: everything that must be there before its first dyno can start. Dynos of the release
//! before run on meanwhile, and go on running if it fails.

use std::sync::Arc;

use hsup_drivers::{BoxFuture, BuildError, BuildSpec, Built, DynoDriver};

use crate::model::Release;
use crate::slug::{SlugError, Slugs};

/// A release cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Its slug cannot be had.
    #[error("failed to prepare the slug of release {release}")]
    Slug {
        /// The release.
        release: String,
        /// Why.
        source: Box<SlugError>,
    },
    /// The driver cannot prepare it.
    #[error("failed to build release {release} for the {driver} driver")]
    Build {
        /// The release.
        release: String,
        /// The driver.
        driver: &'static str,
        /// Why.
        source: BuildError,
    },
}

/// Prepares releases for a driver.
pub struct Preparer {
    driver: Arc<dyn DynoDriver>,
    slugs: Arc<Slugs>,
}

impl Preparer {
    /// A preparer that keeps its slugs there.
    pub fn new(driver: Arc<dyn DynoDriver>, slugs: Slugs) -> Self {
        Self { driver, slugs: Arc::new(slugs) }
    }

    /// The driver.
    pub fn driver(&self) -> &Arc<dyn DynoDriver> {
        &self.driver
    }

    /// Fetches and unpacks the slug of a release, where its driver runs code from one, and has the driver build.
    /// Dropping the future abandons the work and leaves nothing half-made in use.
    pub fn prepare(&self, release: Arc<Release>) -> BoxFuture<'static, Result<Built, PrepareError>> {
        let (driver, slugs) = (Arc::clone(&self.driver), Arc::clone(&self.slugs));
        Box::pin(async move {
            let name = format!("{} of {}", release.version, release.app);
            let slug_dir = match &release.slug {
                Some(location) if driver.needs_slug() => {
                    let slug = slugs.prepare(location, release.slug_checksum).await;
                    let failed =
                        |source| PrepareError::Slug { release: name.clone(), source: Box::new(source) };
                    Some(slug.map_err(failed)?.app_dir)
                }
                Some(_) | None => None,
            };
            let spec = BuildSpec { release: name.clone(), slug_dir };
            let failed = |source| PrepareError::Build { release: name, driver: driver.name(), source };
            driver.build(&spec).await.map_err(failed)
        })
    }
}
