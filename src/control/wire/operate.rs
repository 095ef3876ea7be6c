//! The JSON of restarts, scales, releases and rollbacks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Timestamp, Version};
use crate::history::{Entry, Verdict};
use crate::model::{DynoName, ProcessType, Quantity, Release};

/// The body of `POST /control/restart`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RestartRequest {
    /// Process types and dyno names.
    pub processes: Vec<String>,
    /// Whether one dyno of each type is restarted at a time.
    #[serde(default)]
    pub rolling: bool,
}

/// The answer to `POST /control/restart`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RestartResponse {
    /// The dynos that are being restarted.
    pub restarted_processes: Vec<DynoName>,
}

/// The body of `POST /control/scale`, and the answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ScaleRequest {
    /// How many dynos of these types there are to be.
    #[serde(deserialize_with = "super::quantities::quantities")]
    pub quantities: BTreeMap<ProcessType, Quantity>,
}

/// The body of `POST /control/rollback`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RollbackRequest {
    /// The release to go back to; none for the last good one.
    #[serde(default)]
    pub release: Option<Version>,
}

/// The answer to `POST /control/rollback`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RollbackResponse {
    /// The release that was gone back to.
    pub release: Version,
}

/// The answer to `GET /releases`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReleasesResponse {
    /// The releases of this host, the newest first.
    pub releases: Vec<HistoryEntry>,
}

/// A release that was to run on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HistoryEntry {
    /// Its version.
    pub version: Version,
    /// Whether its dynos are those that should be.
    pub live: bool,
    /// What became of it: `good`, `bad` or `pending`. A text, so that a client understands a newer hsup.
    pub status: String,
    /// Why it was bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When it was first to run.
    pub at: Timestamp,
    /// Where its slug is to be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
}

impl ReleasesResponse {
    /// Shows a history.
    pub fn new(entries: &[Entry], live: Option<&Release>) -> Self {
        Self { releases: entries.iter().rev().map(|entry| HistoryEntry::new(entry, live)).collect() }
    }
}

impl HistoryEntry {
    fn new(entry: &Entry, live: Option<&Release>) -> Self {
        let (status, why) = match &entry.verdict {
            Verdict::Pending => ("pending", None),
            Verdict::Good => ("good", None),
            Verdict::Bad { why } => ("bad", Some(why.clone())),
        };
        Self {
            version: Version(entry.release.version),
            live: live.is_some_and(|live| live.needs_no_restart(&entry.release)),
            status: status.to_owned(),
            why,
            at: Timestamp(entry.at),
            slug: entry.release.slug.as_ref().map(ToString::to_string),
        }
    }
}
