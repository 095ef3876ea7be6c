//! The file of a history: `<dir>/<app>/releases.json`, written whole each time. It holds the config vars of every release,
//! and is its owner's only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::record::{Entry, History, Pin, Scaled, Verdict};
use crate::durable::{self, ReplaceError};
use crate::model::{AppName, ProcessType, Quantity, Release, Sha256Digest};
use crate::sources::control_file;

/// It holds secrets.
const FILE_MODE: u32 = 0o600;
/// So does what is in it.
const DIR_MODE: u32 = 0o700;

/// A history cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot make the directory {}", dir.display())]
    Directory { dir: PathBuf, source: io::Error },
    #[error(transparent)]
    Keep(#[from] ReplaceError),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is damaged and holds no history of releases; its app begins a new one", path.display())]
    Content { path: PathBuf },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    releases: Vec<OneEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pin: Option<OnePin>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    scale: BTreeMap<ProcessType, OneScale>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneScale {
    to: Quantity,
    instead_of: Option<Quantity>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneEntry {
    release: Box<RawValue>,
    /// Whether it was good; nothing while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    good: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Seconds since 1970.
    at: u64,
    #[serde(default)]
    phase_done: bool,
    #[serde(default)]
    beside_another: bool,
    /// The digest of what it was unpacked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slug: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OnePin {
    instead_of: Box<RawValue>,
    release: Box<RawValue>,
}

/// The name of the file.
const NAME: &str = "releases.json";

/// Where the history of an app is: apps of different hsups may have one directory.
fn dir_of(dir: &Path, app: &AppName) -> PathBuf {
    dir.join(app.as_str())
}

/// Removes what a crash has left of the history of an app that was being written.
pub(super) fn clean(dir: &Path, app: &AppName) {
    durable::remove_leftovers(&dir_of(dir, app));
}

/// The history of an app that was kept in this directory; an empty one where there is none.
///
/// # Errors
/// If it cannot be read.
pub(super) fn load(dir: &Path, app: &AppName) -> Result<History, FileError> {
    let path = dir_of(dir, app).join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(History::default()),
        Err(source) => return Err(FileError::Read { path, source }),
    };
    // what is wrong with it may show a secret
    parse(&bytes, app).ok_or(FileError::Content { path })
}

fn parse(bytes: &[u8], app: &AppName) -> Option<History> {
    let document: Document = serde_json::from_slice(bytes).ok()?;
    let release = |raw: &RawValue| {
        control_file::parse(raw.get().as_bytes(), app).ok().map(|parsed| Arc::new(parsed.release))
    };
    let entry = |entry: OneEntry| {
        Some(Entry {
            release: release(&entry.release)?,
            verdict: match entry.good {
                None => Verdict::Pending,
                Some(true) => Verdict::Good,
                Some(false) => Verdict::Bad { why: entry.why.unwrap_or_default() },
            },
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(entry.at),
            phase_done: entry.phase_done,
            beside_another: entry.beside_another,
            slug: entry.slug.map(|digest| digest.parse()).transpose().ok()?,
        })
    };
    let entries = document.releases.into_iter().map(entry).collect::<Option<_>>()?;
    let pin = match document.pin {
        None => None,
        Some(pin) => Some(Pin { instead_of: release(&pin.instead_of)?, release: release(&pin.release)? }),
    };
    let scaled = |OneScale { to, instead_of }| Scaled { to, instead_of };
    let scale = document.scale.into_iter().map(|(name, scale)| (name, scaled(scale))).collect();
    Some(History { entries, pin, scale })
}

/// The slugs that any of the apps whose histories are in this directory may need, whichever hsup has them.
///
/// # Errors
/// If one cannot be read: then it is not known what its app needs.
pub(crate) fn slugs_of_all(dir: &Path) -> Result<BTreeSet<Sha256Digest>, FileError> {
    let failed = |source| FileError::Read { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(failed)?,
    };
    let mut slugs = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // what has no such name is not of hsup
        let app = entry.file_name().to_str().and_then(|name| name.parse::<AppName>().ok());
        if let Some(app) = app.filter(|_| entry.path().is_dir()) {
            slugs.extend(load(dir, &app)?.slugs());
        }
    }
    Ok(slugs)
}

/// Keeps the history of an app in this directory.
///
/// # Errors
/// If it cannot be written; what was kept before is there still.
pub(super) fn save(dir: &Path, app: &AppName, history: &History) -> Result<(), FileError> {
    let dir = dir_of(dir, app);
    let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(&dir);
    made.map_err(|source| FileError::Directory { dir: dir.clone(), source })?;
    Ok(durable::replace(&dir, NAME, &to_json(history), FILE_MODE)?)
}

fn to_json(history: &History) -> Vec<u8> {
    let raw = |release: &Release| {
        let json = String::from_utf8(control_file::to_json(release)).expect("JSON is UTF-8");
        RawValue::from_string(json).expect("a control file is JSON")
    };
    let entry = |entry: &Entry| {
        let (good, why) = match &entry.verdict {
            Verdict::Pending => (None, None),
            Verdict::Good => (Some(true), None),
            Verdict::Bad { why } => (Some(false), Some(why.clone())),
        };
        let at = entry.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let Entry { phase_done, beside_another, .. } = *entry;
        let slug = entry.slug.map(|digest| digest.to_string());
        OneEntry { release: raw(&entry.release), good, why, at, phase_done, beside_another, slug }
    };
    let pin = |pin: &Pin| OnePin { instead_of: raw(&pin.instead_of), release: raw(&pin.release) };
    let scaled = |Scaled { to, instead_of }| OneScale { to, instead_of };
    let document = Document {
        releases: history.entries.iter().map(entry).collect(),
        pin: history.pin.as_ref().map(pin),
        scale: history.scale.iter().map(|(name, scale)| (name.clone(), scaled(*scale))).collect(),
    };
    serde_json::to_vec(&document).expect("text, numbers and lists always serialise")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_kept_is_what_is_loaded_and_its_owners_only() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("releases");
        let app: AppName = "myapp".parse().unwrap();
        assert_eq!(load(&dir, &app).unwrap(), History::default());
        let release = |version: u64| {
            let json = format!(
                r#"{{"Version":{version},"Name":"myapp","Env":{{"A":"s3cret"}},"Processes":[{{"Type":"web","Args":["./web $PORT"],"Readiness":"period=1s,http=/up","Rollout":"overlap"}}]}}"#
            );
            Arc::new(control_file::parse(json.as_bytes(), &app).unwrap().release)
        };
        let mut history = History::default();
        for (version, verdict) in
            [(1, Verdict::Good), (2, Verdict::Bad { why: "it crashes".to_owned() }), (3, Verdict::Pending)]
        {
            history.begin(&release(version), None, SystemTime::UNIX_EPOCH + Duration::from_secs(version));
            history.judge(&release(version), verdict);
        }
        history.finish_phase(&release(3));
        assert!(history.unpack(&release(3), Sha256Digest([3; 32])));
        history.pin(&release(1), &release(3));
        let web = BTreeMap::from([("web".parse().unwrap(), Quantity::ONE)]);
        history.scale(web, &release(3));
        save(&dir, &app, &history).unwrap();
        assert_eq!(load(&dir, &app).unwrap(), history);
        let file = dir.join("myapp/releases.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(&file, "{\"Env\": \"s3cret\"").unwrap();
        let error = load(&dir, &app).unwrap_err().to_string();
        assert!(error.contains("myapp/releases.json is damaged") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn every_app_has_its_slugs_and_one_that_cannot_be_read_is_said() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("releases");
        assert_eq!(slugs_of_all(&dir).unwrap(), BTreeSet::new());
        let digest = |byte: u8| Sha256Digest([byte; 32]);
        for (app, named, unpacked) in [("one", 1, 2), ("two", 3, 4)] {
            let app: AppName = app.parse().unwrap();
            let json = |version: u64, more: &str| {
                let json = format!(r#"{{"Version":{version},"Env":{{}},"Processes":[]{more}}}"#);
                Arc::new(control_file::parse(json.as_bytes(), &app).unwrap().release)
            };
            let mut history = History::default();
            let checksum = format!(r#","Slug":"/x.tgz","SlugChecksum":"SHA256:{}""#, digest(named));
            history.begin(&json(1, &checksum), None, SystemTime::UNIX_EPOCH);
            history.begin(&json(2, ""), None, SystemTime::UNIX_EPOCH);
            history.unpack(&json(2, ""), digest(unpacked));
            save(&dir, &app, &history).unwrap();
        }
        fs::write(dir.join("README"), "not of hsup").unwrap();
        fs::create_dir(dir.join("new")).unwrap();
        assert_eq!(slugs_of_all(&dir).unwrap(), BTreeSet::from([1, 2, 3, 4].map(digest)));
        fs::write(dir.join("two/releases.json"), "").unwrap();
        assert!(slugs_of_all(&dir).unwrap_err().to_string().contains("two/releases.json is damaged"));
    }
}
