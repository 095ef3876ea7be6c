//! The answers of the Platform API: of each what hsup needs, and nothing that it can do without.
//! Source: <https://devcenter.heroku.com/articles/platform-api-reference>.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, Error, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::error::ApiError;
use crate::model::{Sha256Digest, SlugId};

/// The status of a release that may run.
const SUCCEEDED: &str = "succeeded";

/// A release of the list of releases.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct ReleaseInfo {
    pub(super) id: ReleaseId,
    pub(super) version: u64,
    status: String,
    current: Option<bool>,
    pub(super) slug: Option<SlugRef>,
    oci_image: Option<Present>,
}

impl ReleaseInfo {
    /// Whether this is the release that Heroku runs, if no newer one is. A release whose release phase is going on
    /// (`pending`) or has failed is not, nor one that is said not to be current.
    pub(super) fn is_run(&self) -> bool {
        self.status == SUCCEEDED && self.current != Some(false)
    }

    /// Whether its code is a container image.
    pub(super) fn is_image(&self) -> bool {
        self.oci_image.is_some()
    }
}

/// Something whose content does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Present;

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(input).map(|_| Self)
    }
}

/// The id of a release, as a segment of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReleaseId(SlugId);

impl<'de> Deserialize<'de> for ReleaseId {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        id(input).map(Self)
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// Every id of the API is a UUID.
fn id<'de, D: Deserializer<'de>>(input: D) -> Result<SlugId, D::Error> {
    String::deserialize(input)?.parse().map_err(|_| D::Error::custom("it is no id, expected a UUID"))
}

/// What a release says of its slug.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct SlugRef {
    #[serde(deserialize_with = "id")]
    pub(super) id: SlugId,
}

/// A slug.
#[derive(Deserialize)]
pub(super) struct SlugInfo {
    pub(super) blob: Blob,
    #[serde(default, deserialize_with = "checksum")]
    pub(super) checksum: Option<Sha256Digest>,
    pub(super) stack: Option<StackRef>,
    pub(super) process_types: Option<BTreeMap<String, String>>,
}

fn checksum<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Sha256Digest>, D::Error> {
    let text = Option::<String>::deserialize(input)?;
    let wrong = |_| D::Error::custom("it is no checksum, expected SHA256: and 64 hexadecimal digits");
    text.map(|text| text.parse().map_err(wrong)).transpose()
}

/// Where the archive of a slug is.
#[derive(Deserialize)]
pub(super) struct Blob {
    /// It holds a signature.
    pub(super) url: String,
}

/// A stack, as apps and slugs name theirs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct StackRef {
    pub(super) name: String,
}

/// An app.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct AppInfo {
    pub(super) stack: Option<StackRef>,
}

/// A process type of the formation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct FormationEntry {
    #[serde(rename = "type")]
    pub(super) process_type: String,
    pub(super) command: Option<String>,
    pub(super) quantity: u32,
}

/// Config vars. A null is no var.
pub(super) type ConfigInfo = BTreeMap<String, Option<String>>;

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// What a refusal says of itself.
pub(super) fn message(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Refusal>(body).ok().map(|refusal| refusal.message)
}

/// Reads an answer. Where it is not as it should be, the error names the field and no value: any may be a secret.
pub(super) fn parse<T: DeserializeOwned>(url: &str, body: &[u8]) -> Result<T, ApiError> {
    let malformed = |what: String| ApiError::Malformed { url: url.to_owned(), what };
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        malformed(describe(&path, error.inner()))
    })?;
    json.end().map_err(|error| malformed(describe(".", &error)))?;
    Ok(value)
}

fn describe(path: &str, error: &serde_json::Error) -> String {
    let place = format!("line {} column {}", error.line(), error.column());
    if error.is_eof() {
        return format!("it ends too early, at {place}");
    }
    if !error.is_data() {
        return format!("it is no JSON, at {place}");
    }
    let text = error.to_string();
    let field = if path == "." { "the whole".to_owned() } else { path.to_owned() };
    match (text.strip_prefix("missing field "), text.rsplit_once(", expected ")) {
        (Some(name), _) => {
            format!("{field}: there is no {}", name.split(" at line").next().unwrap_or(name))
        }
        (None, Some((_, expected))) => {
            format!("{field}: expected {}", expected.split(" at line").next().unwrap_or(expected))
        }
        (None, None) => format!("{field} is wrong, at {place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong<T: DeserializeOwned>(body: &str) -> String {
        match parse::<T>("http://api/x", body.as_bytes()) {
            Err(ApiError::Malformed { what, .. }) => what,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{body} is accepted"),
        }
    }

    #[test]
    fn a_wrong_answer_is_described_without_its_values() {
        assert_eq!(wrong::<ConfigInfo>(r#"{"A": "x", "SECRET": 42}"#), "SECRET: expected a string");
        assert_eq!(
            wrong::<SlugInfo>(r#"{"blob": "https://h/?Signature=s3cret"}"#),
            "blob: expected struct Blob"
        );
        assert_eq!(wrong::<ReleaseInfo>(r#"{"id": "1"}"#), "the whole: there is no `version`");
        assert_eq!(
            wrong::<Vec<ReleaseInfo>>(r#"[{"id": "1", "version": "s3cret"}]"#),
            "[0].version: expected u64"
        );
        assert_eq!(
            wrong::<Vec<ReleaseInfo>>(r#"[{"id": "1", "version": "missing field s3cret"}]"#),
            "[0].version: expected u64"
        );
        assert_eq!(wrong::<ConfigInfo>(r#"{"A": "s3c"#), "it ends too early, at line 1 column 10");
        assert_eq!(wrong::<ConfigInfo>("<html>"), "it is no JSON, at line 1 column 1");
        assert_eq!(wrong::<ConfigInfo>("{} x"), "it is no JSON, at line 1 column 4");
        assert_eq!(wrong::<ReleaseInfo>(r#"{"id": "../x"}"#), "id: expected a UUID");
        let checksum = r#"{"blob": {"url": "x"}, "checksum": "md5:1"}"#;
        assert_eq!(wrong::<SlugInfo>(checksum), "checksum: expected SHA256: and 64 hexadecimal digits");
    }

    #[test]
    fn the_release_that_runs_has_succeeded_and_is_current() {
        let is_run = |more: &str| {
            let body = format!(r#"{{"id": "1-2", "version": 1, {more}, "slug": null, "user": {{}}}}"#);
            parse::<ReleaseInfo>("", body.as_bytes()).unwrap().is_run()
        };
        assert!(is_run(r#""status": "succeeded""#));
        assert!(is_run(r#""status": "succeeded", "current": true"#));
        assert!(!is_run(r#""status": "succeeded", "current": false"#));
        assert!(!is_run(r#""status": "pending", "current": true"#));
        assert!(!is_run(r#""status": "failed""#) && !is_run(r#""status": "expired""#));
    }
}
