//! `hsup run` inside the release that is live: asks the running hsup for it, with the driver that it is run by, and has
//! this one start from that as from a payload, so that no source is asked again.

use std::env;
use std::path::PathBuf;

use super::fatal::Fatal;
use super::source_choice::Running;
use super::{CliCommand, Config, DriverKind, ExitCode, FindError, SocketChoice, SourceChoice, find_running};
use crate::control::Client;
use crate::control::wire::LiveResponse;
use crate::model::{Action, AppName, Startup};
use crate::sources::{control_file, payload};

/// The configuration with the live release of a running hsup as its source, where that is chosen.
pub(super) fn with_live_release(config: Config) -> Result<Config, Fatal> {
    let (Some(SourceChoice::Running(running)), CliCommand::Run { command }) =
        (&config.source, &config.command)
    else {
        return Ok(config);
    };
    let live = ask(&config, running)?;
    let app = config.app.clone().unwrap_or_else(AppName::unnamed);
    let parsed = control_file::parse(live.release.get().as_bytes(), &app).map_err(Fatal::invalid)?;
    let not_ours = |what: &str| {
        Fatal::usage(format!("the running hsup has {what} that this one does not know: run the same version"))
    };
    let driver = match running.driver_named {
        true => config.driver,
        false => live.driver.parse().map_err(|_| not_ours("a driver"))?,
    };
    let is_isolated = live.driver.parse().is_ok_and(DriverKind::is_isolated);
    if let Some(folder) = live.folder.as_ref().filter(|_| driver.is_isolated() && !is_isolated) {
        return Err(Fatal::usage(format!(
            "the running hsup has the Procfile of {folder} with the variables of this host, which say nothing inside a dyno \
             of the {} driver: run this in {folder} without --live",
            driver.name()
        )));
    }
    let binds = if config.binds.is_empty() {
        live.binds
            .iter()
            .map(|bind| bind.parse().map_err(|_| not_ours("a bind")))
            .collect::<Result<_, _>>()?
    } else {
        config.binds.clone()
    };
    env::set_current_dir(&live.directory)
        .map_err(Fatal::system("go to the directory that the running hsup is in"))?;
    let startup = Startup {
        release: parsed.release,
        action: Action::Run(command.clone()),
        one_shot: true,
        start_number: config.start_number,
        skip_build: false,
        binds,
    };
    let text = payload::encode(&startup).into();
    let state_dir = match running.state_dir_named {
        true => config.state_dir.clone(),
        false => PathBuf::from(live.state_dir),
    };
    let source = Some(SourceChoice::Payload { text, folder: live.folder.map(PathBuf::from) });
    Ok(Config { source, driver, state_dir, control_socket: SocketChoice::Default, ..config })
}

/// The live release of the hsup that is meant.
fn ask(config: &Config, running: &Running) -> Result<LiveResponse, Fatal> {
    let found = find_running(&config.control_socket, config.app.as_ref(), config.runtime_dir.as_deref());
    let path = found.map_err(|error| match (&error, &running.otherwise) {
        (FindError::NoneRunning { .. } | FindError::AppNotRunning { .. }, Some(no_source)) => {
            Fatal::no_source_nor_hsup(no_source, &error)
        }
        (
            FindError::NoneRunning { .. }
            | FindError::AppNotRunning { .. }
            | FindError::NoSocket
            | FindError::Several { .. }
            | FindError::Unreadable { .. },
            _,
        ) => Fatal::new(error.exit_code(), &error),
    })?;
    // One of its own, which is gone before this process divides itself.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Fatal::system("start the runtime"))?;
    Ok(runtime.block_on(Client::new(path).get_json("/release"))?)
}

impl Fatal {
    fn no_source_nor_hsup(no_source: &str, error: &FindError) -> Self {
        Self::new(
            ExitCode::NoSource,
            &NoSourceNorHsup { no_source: no_source.to_owned(), why: error.to_string() },
        )
    }
}

/// There is nothing that a one-off dyno could be of.
#[derive(Debug, thiserror::Error)]
#[error("{no_source}; and there is no running hsup whose release it could be: {why}")]
struct NoSourceNorHsup {
    no_source: String,
    why: String,
}
