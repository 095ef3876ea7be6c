//! The `docker` driver: what it is set up with, and what of it is the business of every driver.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::binary::Binary;
use super::container::Ownership;
use super::context::Context;
use super::endpoint::Endpoint;
use super::engine::Engine;
use super::error::DockerError;
use super::images::{self, Store};
use super::leftovers;
use super::stack::StackImages;
use super::start::Starter;
use crate::native::BindMount;
use crate::owner::Owner;
use crate::running::Running;
use crate::{BoxFuture, BuildError, BuildSpec, Built, DynoDriver, DynoSpec, Network, Run, StartError};

/// How the driver is set up.
#[derive(Clone, Debug)]
pub struct DockerSettings {
    /// Where the engine is.
    pub endpoint: Endpoint,
    /// The images of stacks.
    pub stack_images: StackImages,
    /// The binary that is the first process of containers; none is the one that is running.
    pub entry: Option<PathBuf>,
    /// How many images of an app are kept; none is used again where it is 0.
    pub kept_images: usize,
    /// Where hsup keeps what must outlive it.
    pub state_dir: PathBuf,
    /// Paths of the engine's host that dynos see.
    pub binds: Vec<BindMount>,
    /// What is at `/app` where a release has no slug: the folder of a Procfile.
    pub app_dir: Option<PathBuf>,
    /// How long processes that outlive a dyno's main one have between SIGTERM and SIGKILL.
    pub stop_timeout: Duration,
}

/// The `docker` driver.
pub struct Docker {
    engine: Arc<Engine>,
    entry: Binary,
    stack_images: StackImages,
    kept_images: usize,
    app_dir: Option<PathBuf>,
    starter: Starter,
}

impl Docker {
    /// Connects to the engine, and removes what hsups that were killed have left there.
    ///
    /// # Errors
    /// If no engine answers, or the entry of containers would not run there.
    pub async fn connect(settings: DockerSettings) -> Result<Self, DockerError> {
        let DockerSettings {
            endpoint,
            stack_images,
            entry,
            kept_images,
            state_dir,
            binds,
            app_dir,
            stop_timeout,
        } = settings;
        let entry = Binary::find(entry.as_deref())?;
        let engine = Arc::new(Engine::connect(endpoint).await?);
        let state = leftovers::name_of_state(&state_dir)?;
        match leftovers::remove(&engine, &state, &Running::of(&state_dir)).await? {
            0 => {}
            removed => {
                tracing::warn!("removed {removed} containers that an hsup which was killed had left behind")
            }
        }
        let ownership = Ownership { owner: Owner::me().to_string(), state };
        let starter = Starter {
            engine: Arc::clone(&engine),
            ownership,
            binds,
            grace: stop_timeout,
            told: Mutex::default(),
        };
        Ok(Self { engine, entry, stack_images, kept_images, app_dir, starter })
    }

    async fn build(&self, spec: &BuildSpec) -> Result<Built, BuildError> {
        let app_dir = spec.slug_dir.clone().or_else(|| self.app_dir.clone());
        let app_dir = app_dir.ok_or(BuildError::NoSlug { driver: "docker" })?;
        let stack_image = self.stack_images.of(spec.stack.as_deref());
        let context = Context { stack_image, entry: self.entry.clone(), app_dir };
        let store = Store {
            state: &self.starter.ownership.state,
            entry_digest: &self.entry.digest,
            kept: self.kept_images,
        };
        let image = images::of_release(&self.engine, spec, context, store).await;
        Ok(Built { image: Some(image.map_err(Box::new)?), ..Built::default() })
    }
}

impl DynoDriver for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn network(&self) -> Network {
        Network::Isolated
    }

    fn needs_slug(&self) -> bool {
        true
    }

    fn build<'a>(&'a self, spec: &'a BuildSpec) -> BoxFuture<'a, Result<Built, BuildError>> {
        Box::pin(Self::build(self, spec))
    }

    fn start<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Arc<dyn Run>, StartError>> {
        Box::pin(async { Ok(Arc::new(self.starter.start(spec).await?) as Arc<dyn Run>) })
    }
}
