//! What hsup has for a formation besides its dynos: sockets, and the history of releases.

use std::path::PathBuf;

use super::super::fatal::Fatal;
use super::super::{Config, SourceChoice};
use crate::formation::{Settings, Work};
use crate::history::{self, Place};
use crate::listen::Listeners;
use crate::model::{Action, Quantities};

/// The sockets that hsup holds for the dynos of a formation.
pub(super) fn listeners(config: &Config, action: &Action) -> Result<Listeners, Fatal> {
    match action {
        Action::Start(_) => Listeners::bind(&config.listens).map_err(Fatal::listen),
        Action::Run(_) | Action::Build => Ok(Listeners::default()),
    }
}

/// Where the histories of the apps are that have this state dir.
pub(super) fn histories(config: &Config) -> PathBuf {
    config.state_dir.join("releases")
}

/// How the history of releases is kept. That of a Procfile stays in memory: its config vars are the environment of a
/// shell, and nobody expects to find that on disk.
pub(super) fn history_of(config: &Config, settings: &Settings) -> history::Settings {
    let dir = || match config.source {
        Some(SourceChoice::Procfile { .. }) => None,
        None
        | Some(
            SourceChoice::Payload { .. }
            | SourceChoice::PayloadFile { .. }
            | SourceChoice::HerokuApi { .. }
            | SourceChoice::ControlDir { .. }
            | SourceChoice::Running(_),
        ) => Some(histories(config)),
    };
    let (place, forget_scale, runs_once) = match &settings.work {
        Work::Formation { quantities } => {
            let forget_scale = matches!(quantities, Quantities::Explicit(_));
            (dir().map_or(Place::Memory, Place::Keep), forget_scale, settings.policy.one_shot)
        }
        Work::OneOff { .. } => (dir().map_or(Place::Memory, Place::Read), false, true),
        // what is built is the newest release, whatever runs
        Work::Build => (Place::Memory, false, true),
    };
    history::Settings { place, forget_scale, newest_only: runs_once }
}
