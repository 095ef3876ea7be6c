//! The `native` driver: what it is set up with, and what of it is the business of every driver.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::stat::fstat;
use tokio::task::JoinSet;

use super::cgroup::{Hierarchies, Host};
use super::claims::{Claims, ClaimsDir};
use super::doctor;
use super::error::NativeError;
use super::files;
use super::in_root::{make_place, within};
use super::ledger::Ledger;
use super::network::{Allow, Block, ExtraInterface, Routes};
use super::protocol::{BindMount, Scratch};
use super::run::NativeRun;
use super::start::Starter;
use super::uplink::Uplink;
use super::zygotes::Zygote;
use crate::guardian::Guardian;
use crate::{BoxFuture, BuildError, BuildSpec, Built, DynoDriver, DynoSpec, Network, Run, StartError};

/// What the root of a stack image must have for something to be mounted on.
pub(super) const PLACES: [&str; 7] = ["app", "dev", "etc", "proc", "sys", "tmp", "var/tmp"];

/// How the driver is set up.
#[derive(Clone, Debug)]
pub struct NativeSettings {
    /// Where hsup keeps what must outlive it.
    pub state_dir: PathBuf,
    /// What the /30 networks of dynos are taken from.
    pub block: Block,
    /// What the users of dynos are taken from.
    pub uids: RangeInclusive<u32>,
    /// An interface of the host on which each dyno has a further one, and its address there.
    pub extra_interface: Option<ExtraInterface>,
    /// Further routes of dynos.
    pub extra_routes: Routes,
    /// What dynos may reach besides the world outside.
    pub allow: Allow,
    /// Paths of the host that dynos see.
    pub binds: Vec<BindMount>,
    /// What is at `/app` where a release has no slug: the folder of a Procfile.
    pub app_dir: Option<PathBuf>,
    /// Whether there will be one dyno and nothing to do beside it, so that its start and end need no thread of their own.
    pub one_off: bool,
}

/// The `native` driver.
pub struct Native {
    starter: Arc<Starter>,
    /// What replaces the zygote and puts the packet filter back, where there is more than one dyno; it ends with the
    /// driver.
    _keepers: JoinSet<()>,
}

impl Native {
    /// A driver that has its dynos cloned from this zygote. What earlier hsups have left behind is undone first. To be
    /// called within the runtime.
    ///
    /// # Errors
    /// If the state dir, the cgroups or the network cannot be used.
    pub fn new(
        zygote: Zygote,
        guardian: Arc<Guardian>,
        mut settings: NativeSettings,
    ) -> Result<Self, NativeError> {
        let uplink = Arc::new(Uplink::join()?);
        let mut cgroups = Hierarchies::detect(&Host::read()?);
        make_dir(&settings.state_dir)?;
        settings.state_dir = files::real_name(&settings.state_dir);
        doctor::mend_and_tell(&settings.state_dir, &cgroups);
        cgroups.prepare()?;
        let scratch = Scratch::of(&settings.state_dir);
        for dir in [&scratch.etc, &scratch.app] {
            make_dir(dir)?;
        }
        let claims = Claims::open(ClaimsDir::of_host(), &settings.state_dir)?;
        claims.begin_at(turn(&settings.uids));
        let zygote = Arc::new(zygote);
        let mut keepers = JoinSet::new();
        if !settings.one_off {
            keepers.spawn(Arc::clone(&zygote).keep());
            keepers.spawn(Uplink::keep(&uplink)?);
        }
        let starter = Starter {
            guardian,
            zygote,
            claims,
            ledger: Ledger::open(&settings.state_dir)?,
            waiting: Arc::default(),
            cgroups,
            uplink,
            copies: AtomicBool::new(false),
            mixed: Mutex::default(),
            scratch,
            settings,
        };
        Ok(Self { starter: Arc::new(starter), _keepers: keepers })
    }
}

fn make_dir(dir: &Path) -> Result<(), NativeError> {
    files::make_dir(dir).map_err(|source| NativeError::Scratch { path: dir.to_owned(), source })
}

/// Does what blocks on a thread for that or, where nobody would do anything else meanwhile, in place: to hand something
/// over and back is two switches to wait for.
pub(super) async fn beside<T: Send + 'static>(
    in_place: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if in_place {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Where an hsup begins to look for free UIDs: not where the one before it did.
fn turn(uids: &RangeInclusive<u32>) -> u32 {
    let count = uids.end().saturating_sub(*uids.start()).saturating_add(1);
    uids.start() + process::id() % count
}

/// Sees to it that a stack image has what dynos need to be there.
fn complete(root: &Path) -> Result<(), BuildError> {
    let opened = File::open(root);
    let opened = opened.map_err(|source| BuildError::Io {
        operation: "open the stack image",
        path: root.to_owned(),
        source,
    })?;
    for place in PLACES {
        let found = match within(&opened, place.as_ref()) {
            Err(Errno::ENOENT) => make_place(&opened, place.as_ref(), true),
            found => found,
        };
        let is_dir = found.and_then(|found| Ok(fstat(&found)?.st_mode & libc::S_IFMT == libc::S_IFDIR));
        let operation = "find or make in the stack image the directory";
        let failed = |source| BuildError::Io { operation, path: root.join(place), source };
        match is_dir {
            Ok(true) => {}
            Ok(false) => return Err(failed(Errno::ENOTDIR.into())),
            Err(error) => return Err(failed(error.into())),
        }
    }
    Ok(())
}

impl DynoDriver for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn network(&self) -> Network {
        Network::Isolated
    }

    fn needs_slug(&self) -> bool {
        true
    }

    fn needs_stack(&self) -> bool {
        true
    }

    fn build<'a>(&'a self, spec: &'a BuildSpec) -> BoxFuture<'a, Result<Built, BuildError>> {
        Box::pin(async {
            let root = spec.stack_dir.clone().ok_or(BuildError::NoStack { driver: "native" })?;
            complete(&root)?;
            self.starter.look_anew();
            Ok(Built { app_dir: spec.slug_dir.clone(), root: Some(root), image: None })
        })
    }

    fn start<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Arc<dyn Run>, StartError>> {
        let (starter, spec) = (Arc::clone(&self.starter), spec.clone());
        Box::pin(async move {
            let started = Arc::clone(&starter).start(spec).await?;
            let run = NativeRun::new(starter, started);
            Ok(run.map_err(|source| StartError::System { operation: "watch the dyno", source })?
                as Arc<dyn Run>)
        })
    }
}
