//! A release as the JSON of a control file. It holds secrets: whoever writes it down sees to its mode.

use hsup_drivers::Limits;
use serde::{Serialize, Serializer};

use crate::model::{
    AppName, CheckText, Command, ConfigVars, Process, Quantity, Release, ReleaseVersion, Rollout,
    SlugLocation, StackName,
};

/// The control file of a release: `parse` gives the same release back.
pub fn to_json(release: &Release) -> Vec<u8> {
    serde_json::to_vec(&Written(release)).expect("text, numbers and maps with text keys always serialise")
}

/// Serialises a release as its control file.
pub(in crate::sources) struct Written<'a>(pub(in crate::sources) &'a Release);

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document<'a> {
    version: ReleaseVersion,
    name: &'a AppName,
    env: &'a ConfigVars,
    #[serde(skip_serializing_if = "Option::is_none")]
    slug: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slug_checksum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<&'a StackName>,
    processes: Vec<OneProcess<'a>>,
    #[serde(rename = "LogplexURL", skip_serializing_if = "Option::is_none")]
    logplex_url: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OneProcess<'a> {
    args: &'a Command,
    #[serde(skip_serializing_if = "Limits::is_empty")]
    limits: &'a Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    liveness: Option<&'a CheckText>,
    quantity: Quantity,
    #[serde(skip_serializing_if = "Option::is_none")]
    readiness: Option<&'a CheckText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<Rollout>,
    #[serde(rename = "Type")]
    process_type: &'a str,
}

impl<'a> From<&'a Process> for OneProcess<'a> {
    fn from(process: &'a Process) -> Self {
        Self {
            args: &process.command,
            limits: &process.limits,
            liveness: process.checks.liveness.as_ref(),
            quantity: process.quantity,
            readiness: process.checks.readiness.as_ref(),
            rollout: process.rollout,
            process_type: process.process_type.as_str(),
        }
    }
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let Release { app, version, slug, slug_checksum, stack, config, formation, logplex_url } = self.0;
        Document {
            version: *version,
            name: app,
            env: config,
            slug: slug.as_ref().map(|slug| match slug {
                // every path came from text, so nothing is lost here
                SlugLocation::Path(path) => path.to_string_lossy().into_owned(),
                SlugLocation::Url(url) => url.clone(),
                SlugLocation::Heroku(_) => slug.to_string(),
            }),
            slug_checksum: slug_checksum.map(|digest| format!("SHA256:{digest}")),
            stack: stack.as_ref(),
            processes: formation.iter().map(OneProcess::from).collect(),
            logplex_url: logplex_url.as_deref(),
        }
        .serialize(out)
    }
}
