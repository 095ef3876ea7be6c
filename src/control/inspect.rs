//! What is answered of the live release and of one that may come. Nothing here changes anything.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::body::Body;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::access::Asker;
use super::refusal::{Refusal, json};
use super::routes::{Answer, Api, read_bytes};
use super::wire::{ConfigResponse, LiveResponse, PlanResponse, Version};
use crate::explain;
use crate::model::{AppName, Bind, Release};
use crate::sources::control_file;

/// The release that is live, and how this hsup runs it.
#[derive(Clone, Debug)]
pub struct Here {
    /// The release.
    pub live: watch::Receiver<Option<Arc<Release>>>,
    /// The name of the dyno driver.
    pub driver: &'static str,
    /// Where hsup keeps what must outlive it.
    pub state_dir: PathBuf,
    /// The directory that hsup runs in.
    pub directory: PathBuf,
    /// The folder of the Procfile, where that is the source.
    pub folder: Option<PathBuf>,
    /// Paths of the host that dynos see.
    pub binds: Vec<Bind>,
}

impl Here {
    fn release(&self) -> Result<Arc<Release>, Refusal> {
        self.live.borrow().clone().ok_or(Refusal::NoRelease)
    }
}

pub(super) fn config(here: &Here) -> Result<Answer, Refusal> {
    let release = here.release()?;
    let names = release.config.iter().map(|(name, _)| name.as_str().to_owned()).collect();
    Ok(json(&ConfigResponse { release: Version(release.version), names }))
}

pub(super) fn release(here: &Here, asker: &Asker) -> Result<Answer, Refusal> {
    let release = here.release()?;
    asker.says(format_args!("show release {} with its config vars", release.version));
    let written = String::from_utf8(control_file::to_json(&release)).ok().map(RawValue::from_string);
    let release = written.and_then(Result::ok).expect("a control file is JSON");
    // every path came from text or is only shown, so nothing is lost here that would matter
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    let bind = |bind: &Bind| {
        format!("{}:{}{}", path(&bind.host), path(&bind.inside), if bind.read_only { ":ro" } else { "" })
    };
    Ok(json(&LiveResponse {
        driver: here.driver.to_owned(),
        state_dir: path(&here.state_dir),
        directory: path(&here.directory),
        folder: here.folder.as_ref().map(path),
        binds: here.binds.iter().map(bind).collect(),
        release,
    }))
}

/// What a control file would change if it came now.
pub(super) async fn plan<B>(body: B, api: &Api, asker: &Asker) -> Result<Answer, Refusal>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let file = read_bytes(body, control_file::MAX_BYTES).await?;
    let live = api.here.live.borrow().clone();
    let app = live.map_or_else(AppName::unnamed, |live| live.app.clone());
    let parsed = control_file::parse(&file, &app);
    let newest = Arc::new(parsed.map_err(|error| Refusal::ControlFile(explain(&error)))?.release);
    asker.says(format_args!("plan release {}", newest.version));
    let arrival = api.history.preview(Arc::clone(&newest)).await?;
    let rolled_back = !arrival.release.needs_no_restart(&newest);
    let preview = api.formation.preview(arrival).await??;
    Ok(json(&PlanResponse { rolled_back, ..PlanResponse::from(&preview) }))
}
