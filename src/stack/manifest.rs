//! Manifests of stacks: a YAML list of what there is and where. It owns the format and the choice; how a manifest is
//! had stands elsewhere.

use serde::Deserialize;

use super::checksum::Checksum;
use super::id::{StackId, newest};
use super::location::StackLocation;
use crate::model::{Sha256Digest, StackName};

/// An entry as it is written. Everything is text: a version `1.10` is no number.
#[derive(Deserialize)]
struct Written {
    name: String,
    version: String,
    url: String,
    md5: Option<String>,
    sha256: Option<String>,
    #[serde(default)]
    primary: bool,
}

/// Why a text is no manifest.
#[derive(Debug, thiserror::Error)]
#[error("it is not a YAML list of stacks, each with name, version, url, and sha256 or md5: {0}")]
pub struct ManifestError(String);

/// A stack that can be downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) id: StackId,
    pub(super) location: StackLocation,
    pub(super) checksum: Checksum,
    primary: bool,
}

/// The stacks that can be downloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest(Vec<Offer>);

impl Manifest {
    /// Reads a manifest. Besides it, tells of entries that are left out.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn parse(text: &str) -> Result<(Self, Vec<String>), ManifestError> {
        let written: Vec<Written> = serde_saphyr::from_str(text).map_err(|error| {
            // the error shows the place in the text too, which fits no log line
            let error = error.to_string();
            ManifestError(error.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
        })?;
        let (mut offers, mut left_out) = (Vec::new(), Vec::new());
        for (number, entry) in written.into_iter().enumerate() {
            match offer(&entry) {
                Ok(offer) => offers.push(offer),
                Err(why) => left_out.push(format!("entry {} ({}): {why}", number + 1, entry.name)),
            }
        }
        Ok((Self(offers), left_out))
    }

    /// The stack that a name means; without a name the primary one.
    pub(super) fn offer(&self, name: Option<&StackName>) -> Option<&Offer> {
        let ids = self.0.iter().map(|offer| &offer.id);
        let id = match name {
            Some(name) => newest(ids, name)?,
            None => {
                let primary = self.0.iter().filter(|offer| offer.primary);
                newest(ids, &primary.max_by_key(|offer| &offer.id)?.id.name)?
            }
        };
        self.0.iter().find(|offer| offer.id == *id)
    }

    /// The names, for messages.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.0.iter().map(|offer| offer.id.name.to_string()).collect();
        names.sort();
        names.dedup();
        names
    }
}

fn offer(entry: &Written) -> Result<Offer, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let id = StackId {
        name: entry.name.trim().parse().map_err(|error| text(&error))?,
        version: entry.version.trim().parse().map_err(|error| text(&error))?,
    };
    let location: StackLocation = entry.url.parse().map_err(|error| text(&error))?;
    if matches!(&location, StackLocation::Path(path) if path.is_relative()) {
        return Err("its url is a relative path: write an absolute one or a URL".to_owned());
    }
    let checksum = match (&entry.sha256, &entry.md5) {
        (Some(sha256), _) => Checksum::Sha256(sha256.parse::<Sha256Digest>().map_err(|error| text(&error))?),
        (None, Some(md5)) => Checksum::md5(md5).map_err(|error| text(&error))?,
        (None, None) => return Err("it has neither sha256 nor md5, so it could not be verified".to_owned()),
    };
    Ok(Offer { id, location, checksum, primary: entry.primary })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn manifest() -> Manifest {
        let text = format!(
            "---\n\
             - name: cedar-14\n  version: 1.9\n  url: https://h/a.img.gz\n  md5: 90015098301201200963017028017072\n  primary: true\n\
             - name: cedar-14\n  version: 1.10\n  url: 'https://h/b.img.gz'\n  sha256: {SHA}\n  md5: unused\n  extra: [1]\n\
             - {{name: heroku-24, version: v3, url: /srv/c.tgz, sha256: {SHA}}}\n"
        );
        let (manifest, left_out) = Manifest::parse(&text).unwrap();
        assert_eq!(left_out, [""; 0]);
        manifest
    }

    #[test]
    fn a_manifest_is_a_list_of_offers() {
        let manifest = manifest();
        let chosen = |name: Option<&str>| {
            let name = name.map(|name| name.parse().unwrap());
            manifest.offer(name.as_ref()).map(|offer| offer.id.to_string())
        };
        assert_eq!(chosen(Some("cedar-14")).as_deref(), Some("cedar-14-1.10"));
        assert_eq!(chosen(Some("cedar-14-1.9")).as_deref(), Some("cedar-14-1.9"));
        assert_eq!(chosen(None).as_deref(), Some("cedar-14-1.10"));
        assert_eq!(chosen(Some("heroku-26")), None);
        assert_eq!(manifest.names(), ["cedar-14", "heroku-24"]);
        let of = |n: usize| manifest.0[n].checksum;
        assert!(matches!(of(0), Checksum::Md5(_)) && matches!(of(1), Checksum::Sha256(_)));
        assert_eq!(manifest.0[2].location, StackLocation::Path("/srv/c.tgz".into()));
    }

    #[test]
    fn a_bad_entry_is_left_out_and_a_bad_file_refused() {
        let entries = [
            ("a", "1", "https://h/x", ""),
            ("a", "1-2", "https://h/x", SHA),
            ("a/b", "1", "https://h/x", SHA),
            ("a", "1", "ftp://h/x", SHA),
            ("a", "1", "relative.img", SHA),
            ("a", "1", "https://h/x", "abc"),
        ];
        let entry = |(name, version, url, sha): (&str, &str, &str, &str)| {
            let sha = if sha.is_empty() { "~" } else { sha };
            format!("- {{name: {name}, version: {version}, url: \"{url}\", sha256: {sha}}}\n")
        };
        let (manifest, left_out) = Manifest::parse(&entries.map(entry).concat()).unwrap();
        assert_eq!((manifest, left_out.len()), (Manifest::default(), entries.len()));
        for bad in ["name: x", "- 1", "<html></html>", "- name: a\n  version: 1\n", "[", "- {name: [1]}"] {
            let error = Manifest::parse(bad).unwrap_err().to_string();
            assert!(error.contains("YAML list") && error.lines().count() == 1, "{error}");
        }
    }
}
