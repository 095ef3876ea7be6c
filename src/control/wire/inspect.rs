//! What tells of the live release and of one that may come.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Version;
use crate::formation::{self, DynoChange, VarChanges};
use crate::model::{DynoName, VarName};

/// The answer to `GET /config`: the names of the config vars. The values are secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConfigResponse {
    /// The release that is live.
    pub release: Version,
    /// The names, sorted.
    pub names: Vec<String>,
}

/// The answer to `GET /release`: the live release with every secret of it, and what it takes to run something in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LiveResponse {
    /// The name of the dyno driver.
    pub driver: String,
    /// The directory in which hsup keeps slugs and stacks.
    pub state_dir: String,
    /// The directory that hsup runs in.
    pub directory: String,
    /// The folder of the Procfile, where the release is from one.
    pub folder: Option<String>,
    /// Paths of the host that dynos see, as `--bind` has them.
    pub binds: Vec<String>,
    /// The release, as a control file.
    pub release: Box<RawValue>,
}

/// What `hsup config --show --json` writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConfigValues {
    /// The release that is live.
    pub release: Version,
    /// The config vars.
    pub config: BTreeMap<String, String>,
}

/// The answer to `POST /plan`: what a control file would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PlanResponse {
    /// The release that would run.
    pub release: Version,
    /// The release that runs.
    pub live: Option<Version>,
    /// Whether what would run is another one than that of the file, which was rolled back.
    pub rolled_back: bool,
    /// Whether the command of its release phase would be run first.
    pub release_phase: bool,
    /// Whether log lines would go elsewhere.
    pub drain: bool,
    /// The names of config vars that would differ.
    pub config: PlannedConfig,
    /// Every dyno that there is or would be.
    pub dynos: Vec<PlannedDyno>,
}

/// How config vars would differ, by their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PlannedConfig {
    /// Those that would come.
    pub added: Vec<String>,
    /// Those that would have another value.
    pub changed: Vec<String>,
    /// Those that would go.
    pub removed: Vec<String>,
}

/// What would become of a dyno.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PlannedDyno {
    /// Its name.
    pub name: DynoName,
    /// `started`, `replaced`, `restarted`, `stopped` or `unchanged`.
    pub change: String,
    /// Why: `code`, `config vars`, `command`, `scale`, ...
    pub why: Vec<String>,
}

impl From<&formation::Preview> for PlanResponse {
    fn from(preview: &formation::Preview) -> Self {
        let VarChanges { added, changed, removed } = &preview.config;
        let names = |names: &[VarName]| names.iter().map(|name| name.as_str().to_owned()).collect();
        let dyno = |DynoChange { name, change, why }: &DynoChange| PlannedDyno {
            name: name.clone(),
            change: change.word().to_owned(),
            why: why.iter().map(|why| (*why).to_owned()).collect(),
        };
        Self {
            release: Version(preview.release),
            live: preview.live.map(Version),
            rolled_back: preview.rolled_back,
            release_phase: preview.release_phase,
            drain: preview.drain,
            config: PlannedConfig { added: names(added), changed: names(changed), removed: names(removed) },
            dynos: preview.dynos.iter().map(dyno).collect(),
        }
    }
}
