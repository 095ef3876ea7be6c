//! Preparing a release: everything that must be there before its first dyno can start. Dynos of the release
//! before run on meanwhile, and go on running if it fails.

use std::sync::Arc;

use hsup_drivers::{BoxFuture, BuildError, BuildSpec, Built, DynoDriver};

use crate::model::Release;
use crate::slug::{Slug, SlugError, Slugs};
use crate::stack::{Stack, StackError, Stacks};

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
    /// Its stack cannot be had.
    #[error("failed to prepare the stack of release {release}")]
    Stack {
        /// The release.
        release: String,
        /// Why.
        source: Box<StackError>,
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

/// What dynos of a release are started from. While it lives, what it names is there.
#[derive(Debug, Default)]
pub struct Prepared {
    /// What the driver has made of the release.
    pub built: Arc<Built>,
    /// Its code, where it has any that the driver runs.
    pub slug: Option<Slug>,
    _stack: Option<Stack>,
}

/// Prepares releases for a driver.
pub struct Preparer {
    driver: Arc<dyn DynoDriver>,
    slugs: Arc<Slugs>,
    stacks: Arc<Stacks>,
}

impl Preparer {
    /// A preparer that has slugs and stacks from there.
    pub fn new(driver: Arc<dyn DynoDriver>, slugs: Slugs, stacks: Stacks) -> Self {
        Self { driver, slugs: Arc::new(slugs), stacks: Arc::new(stacks) }
    }

    /// The driver.
    pub fn driver(&self) -> &Arc<dyn DynoDriver> {
        &self.driver
    }

    /// Fetches and unpacks the slug of a release, where its driver runs code from one, makes its stack ready, where
    /// its dynos run on one, and has the driver build. Dropping the future abandons the work and leaves nothing
    /// half-made in use.
    pub fn prepare(&self, release: Arc<Release>) -> BoxFuture<'static, Result<Prepared, PrepareError>> {
        let driver = Arc::clone(&self.driver);
        let (slugs, stacks) = (Arc::clone(&self.slugs), Arc::clone(&self.stacks));
        Box::pin(async move {
            let name = format!("{} of {}", release.version, release.app);
            let slug = match &release.slug {
                Some(location) if driver.needs_slug() => {
                    let slug = slugs.prepare(location, release.slug_checksum).await;
                    let failed =
                        |source| PrepareError::Slug { release: name.clone(), source: Box::new(source) };
                    Some(slug.map_err(failed)?)
                }
                Some(_) | None => None,
            };
            let stack = if driver.needs_stack() {
                let stack = stacks.prepare(release.stack.as_ref()).await;
                let failed = |source| PrepareError::Stack { release: name.clone(), source: Box::new(source) };
                Some(stack.map_err(failed)?)
            } else {
                None
            };
            let stack_dir = stack.as_ref().map(|stack| stack.root.clone());
            let spec = BuildSpec {
                release: name.clone(),
                app: release.app.to_string(),
                version: release.version.to_string(),
                stack: release.stack.as_ref().map(ToString::to_string),
                slug_digest: slug.as_ref().map(|slug| slug.digest.to_string()),
                slug_dir: slug.as_ref().map(|slug| slug.app_dir.clone()),
                stack_dir,
            };
            let failed = |source| PrepareError::Build { release: name, driver: driver.name(), source };
            let built = driver.build(&spec).await.map_err(failed)?;
            Ok(Prepared { built: Arc::new(built), slug, _stack: stack })
        })
    }
}
