//! Which driver there is, and how it is set up.

use std::path::PathBuf;
use std::sync::Arc;

use hsup_drivers::docker::{Docker, DockerSettings};
use hsup_drivers::guardian::Guardian;
use hsup_drivers::native::{BindMount, Native, NativeSettings, Zygote};
use hsup_drivers::{AbsPath, DynoDriver, Simple};
use nix::unistd::geteuid;

use super::fatal::Fatal;
use super::{CliCommand, Config, DriverKind, SourceChoice};
use crate::model::Bind;

/// Where the `abspath` driver has the app.
pub(super) const APP_DIR: &str = "/app";

/// Forks what the driver needs to have been forked before there is a second thread.
pub(super) fn fork_zygote(config: &Config) -> Result<Option<Zygote>, Fatal> {
    match config.driver {
        DriverKind::Native if !geteuid().is_root() => Err(Fatal::not_root()),
        DriverKind::Native => Zygote::fork().map(Some).map_err(Fatal::system("fork the zygote of dynos")),
        DriverKind::Simple | DriverKind::Abspath | DriverKind::Docker => Ok(None),
    }
}

/// What is asked of a driver that cannot give it is refused, where it would else be left out without a word. What a host's
/// variable allows to native dynos is in the way of no other driver.
fn refuse_what_cannot_be(config: &Config) -> Result<(), Fatal> {
    let driver = config.driver;
    match driver {
        DriverKind::Abspath if folder_of_procfile(config).is_some() => Err(Fatal::procfile_without_slug()),
        DriverKind::Simple | DriverKind::Abspath if !config.limits.is_empty() => Err(Fatal::limits(driver)),
        DriverKind::Simple | DriverKind::Abspath | DriverKind::Docker if config.native.allow_by_flag => {
            Err(Fatal::allow(driver))
        }
        DriverKind::Simple | DriverKind::Abspath | DriverKind::Docker | DriverKind::Native => Ok(()),
    }
}

/// The driver. One whose dynos see the host's own paths cannot show them at others, nor keep them from writing.
pub(super) async fn driver(
    config: &Config,
    binds: &[Bind],
    guardian: &Arc<Guardian>,
    zygote: Option<Zygote>,
) -> Result<Arc<dyn DynoDriver>, Fatal> {
    refuse_what_cannot_be(config)?;
    let guardian = Arc::clone(guardian);
    match (config.driver, zygote) {
        (DriverKind::Simple, _) => match binds.iter().find(|bind| bind.host != bind.inside || bind.read_only)
        {
            Some(bind) => Err(Fatal::bind(bind, "simple")),
            None => Ok(Arc::new(Simple::new(guardian))),
        },
        (DriverKind::Abspath, _) => match binds.iter().find(|bind| bind.read_only) {
            Some(bind) => Err(Fatal::bind(bind, "abspath")),
            None => {
                let binds = binds.iter().map(|bind| (bind.host.clone(), bind.inside.clone()));
                Ok(Arc::new(AbsPath::new(guardian, PathBuf::from(APP_DIR), binds.collect())))
            }
        },
        (DriverKind::Docker, _) => {
            Ok(Arc::new(Docker::connect(docker_settings(config, binds)).await.map_err(Fatal::docker)?))
        }
        (DriverKind::Native, None) => Err(Fatal::not_root()),
        (DriverKind::Native, Some(zygote)) => {
            let native = Native::new(zygote, guardian, native_settings(config, binds));
            Ok(Arc::new(native.map_err(Fatal::native)?))
        }
    }
}

fn docker_settings(config: &Config, binds: &[Bind]) -> DockerSettings {
    DockerSettings {
        endpoint: config.docker.endpoint.clone(),
        stack_images: config.docker.stack_images.clone(),
        entry: config.docker.entry.clone(),
        kept_images: config.docker.kept_images,
        state_dir: config.state_dir.clone(),
        binds: mounts(binds),
        app_dir: folder_of_procfile(config),
        stop_timeout: config.stop_timeout,
    }
}

fn native_settings(config: &Config, binds: &[Bind]) -> NativeSettings {
    NativeSettings {
        state_dir: config.state_dir.clone(),
        block: config.native.block,
        uids: config.native.uids.clone(),
        extra_interface: config.native.extra_interface.clone(),
        extra_routes: config.native.extra_routes.clone(),
        allow: config.native.allow,
        binds: mounts(binds),
        app_dir: folder_of_procfile(config),
        one_off: matches!(config.command, CliCommand::Run { .. }),
    }
}

fn mounts(binds: &[Bind]) -> Vec<BindMount> {
    let mount = |bind: &Bind| BindMount {
        host: bind.host.clone(),
        inside: bind.inside.clone(),
        read_only: bind.read_only,
    };
    binds.iter().map(mount).collect()
}

/// A Procfile has no slug: its folder is the app.
pub(super) fn folder_of_procfile(config: &Config) -> Option<PathBuf> {
    match &config.source {
        Some(SourceChoice::Procfile { path, .. }) => path.parent().map(PathBuf::from),
        Some(SourceChoice::Payload { text: _, folder }) => folder.clone(),
        Some(
            SourceChoice::PayloadFile { .. }
            | SourceChoice::HerokuApi { .. }
            | SourceChoice::ControlDir { .. }
            | SourceChoice::Running(_),
        )
        | None => None,
    }
}
