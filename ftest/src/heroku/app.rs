//! The app that the fake has: releases, slugs, config vars and formation, as a test changes them.

use std::collections::{BTreeMap, BTreeSet};

use super::reply::hex_digest;

/// What the API says of the checksum of a slug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The SHA-256 of its bytes.
    True,
    /// The SHA-256 of other bytes.
    Wrong,
    /// Nothing.
    Unknown,
}

/// The app. Its methods that make a release return the version.
#[derive(Debug)]
pub struct HerokuApp {
    pub(super) name: String,
    pub(super) stack: String,
    /// From old to new.
    pub(super) releases: Vec<Release>,
    pub(super) slugs: Vec<Slug>,
    /// The quantities that were set; else there is one web dyno, and none of the others.
    quantities: BTreeMap<String, u32>,
    /// The config vars of the app, which those of a release are a copy of.
    pub(super) config: BTreeMap<String, String>,
    pub(super) sends_current: bool,
    pub(super) has_release_config_vars: bool,
    /// The release that is current, where it is not the newest succeeded one.
    current: Option<u64>,
    mark: String,
    signed: u64,
    /// The signatures of the blob URLs that have not expired.
    signatures: BTreeSet<String>,
    /// Whether blob URLs have expired as soon as they are given.
    expire_at_once: bool,
}

/// A release.
#[derive(Clone, Debug)]
pub(super) struct Release {
    pub(super) version: u64,
    pub(super) status: String,
    pub(super) slug: Option<String>,
    pub(super) description: String,
    pub(super) config: BTreeMap<String, String>,
}

/// A slug.
#[derive(Debug)]
pub(super) struct Slug {
    pub(super) id: String,
    pub(super) bytes: Vec<u8>,
    pub(super) checksum: Checksum,
    pub(super) process_types: Vec<(String, String)>,
}

impl HerokuApp {
    pub(super) fn new(name: &str, mark: &str) -> Self {
        Self {
            name: name.to_owned(),
            stack: "heroku-24".to_owned(),
            releases: Vec::new(),
            slugs: Vec::new(),
            quantities: BTreeMap::new(),
            config: BTreeMap::from([("FTEST_MARK".to_owned(), mark.to_owned())]),
            sends_current: true,
            has_release_config_vars: true,
            current: None,
            mark: mark.to_owned(),
            signed: 0,
            signatures: BTreeSet::new(),
            expire_at_once: false,
        }
    }

    /// Releases new code, with process types (type, command) and all the config vars.
    pub fn deploy(&mut self, slug: Vec<u8>, types: &[(&str, &str)], config: &[(&str, &str)]) -> u64 {
        let id = uuid(Kind::Slug, self.slugs.len() + 1);
        let process_types =
            types.iter().map(|(name, command)| ((*name).to_owned(), (*command).to_owned())).collect();
        let checksum = Checksum::True;
        self.slugs.push(Slug { id: id.clone(), bytes: slug, checksum, process_types });
        self.configure(config);
        self.release(Some(id), "Deploy 1a2b3c4d")
    }

    /// Releases the code that there is with these config vars, which are all of them.
    pub fn set_config(&mut self, config: &[(&str, &str)]) -> u64 {
        self.configure(config);
        self.release(self.newest_slug(), "Set config vars")
    }

    /// Releases the code and the config vars of an earlier release again.
    ///
    /// # Panics
    /// If there is no such release.
    pub fn rollback(&mut self, version: u64) -> u64 {
        let earlier = self.releases.iter().find(|release| release.version == version);
        let earlier = earlier.expect("there is this release").clone();
        self.config = earlier.config;
        self.release(earlier.slug, &format!("Rollback to v{version}"))
    }

    /// Adds a failed release of the code that there is.
    pub fn failed_release(&mut self) -> u64 {
        let version = self.release(self.newest_slug(), "Deploy 5e6f7a8b: release command failed");
        self.release_status(version, "failed");
        version
    }

    /// Releases a container image, which is no slug.
    pub fn container_release(&mut self) -> u64 {
        "container".clone_into(&mut self.stack);
        self.release(None, "Deployed web (0123456789ab)")
    }

    /// Adds a release that has no code, like the first one of every app.
    pub fn empty_release(&mut self) -> u64 {
        self.release(None, "Initial release")
    }

    /// The name, from now on.
    pub fn rename(&mut self, name: &str) {
        name.clone_into(&mut self.name);
    }

    /// The stack, from now on.
    pub fn stack(&mut self, stack: &str) {
        stack.clone_into(&mut self.stack);
    }

    /// The quantity of a process type, which makes no release.
    pub fn scale(&mut self, process_type: &str, quantity: u32) {
        self.quantities.insert(process_type.to_owned(), quantity);
    }

    /// The status of a release: `succeeded`, `pending`, `failed` or `expired`.
    ///
    /// # Panics
    /// If there is no such release.
    pub fn release_status(&mut self, version: u64, status: &str) {
        let release = self.releases.iter_mut().find(|release| release.version == version);
        status.clone_into(&mut release.expect("there is this release").status);
    }

    /// The release that is `current`, if it is not the newest one that has succeeded.
    pub fn current(&mut self, version: Option<u64>) {
        self.current = version;
    }

    /// Whether releases have a `current`, which they have not had ever since.
    pub fn sends_current(&mut self, sends: bool) {
        self.sends_current = sends;
    }

    /// Whether the config vars of a release can be asked for.
    pub fn has_release_config_vars(&mut self, has: bool) {
        self.has_release_config_vars = has;
    }

    /// What is said of the checksum of a release's slug.
    ///
    /// # Panics
    /// If the release has no slug.
    pub fn checksum(&mut self, version: u64, checksum: Checksum) {
        let id = self.slug_id(version);
        let slug = self.slugs.iter_mut().find(|slug| slug.id == id);
        slug.expect("slugs are never removed").checksum = checksum;
    }

    /// The id of a release's slug.
    ///
    /// # Panics
    /// If the release has none.
    pub fn slug_id(&self, version: u64) -> String {
        let release = self.releases.iter().find(|release| release.version == version);
        release.and_then(|release| release.slug.clone()).expect("the release has a slug")
    }

    /// From now on no blob URL that has been given works.
    pub fn expire_blob_urls(&mut self) {
        self.signatures.clear();
    }

    /// Whether from now on a blob URL has expired by the time that it arrives.
    pub fn expire_blob_urls_at_once(&mut self, at_once: bool) {
        self.expire_at_once = at_once;
    }

    /// The version of the release that runs, as the API sees it.
    pub fn current_version(&self) -> Option<u64> {
        let succeeded = |release: &&Release| release.status == "succeeded";
        self.current.or_else(|| self.releases.iter().rev().find(succeeded).map(|release| release.version))
    }

    /// A new signature for the URL of a blob.
    pub(super) fn sign(&mut self) -> String {
        self.signed += 1;
        let signature = hex_digest(format!("{} {}", self.mark, self.signed).as_bytes());
        if !self.expire_at_once {
            self.signatures.insert(signature.clone());
        }
        signature
    }

    /// Whether the query of a blob's URL has a signature that is good.
    pub(super) fn is_signed(&self, query: &str) -> bool {
        let signature = query.split('&').find_map(|part| part.strip_prefix("Signature="));
        signature.is_some_and(|signature| self.signatures.contains(signature))
    }

    /// The process types of the current release: type, command and quantity.
    pub(super) fn formation(&self) -> Vec<(&str, &str, u32)> {
        let current = self.current_version();
        let release = self.releases.iter().find(|release| Some(release.version) == current);
        let slug = release.and_then(|release| release.slug.as_ref());
        let slug = self.slugs.iter().find(|own| Some(&own.id) == slug);
        let types = slug.into_iter().flat_map(|slug| &slug.process_types);
        types.map(|(name, command)| (name.as_str(), command.as_str(), self.quantity(name))).collect()
    }

    fn quantity(&self, process_type: &str) -> u32 {
        let unset = u32::from(process_type == "web");
        self.quantities.get(process_type).copied().unwrap_or(unset)
    }

    fn newest_slug(&self) -> Option<String> {
        self.releases.last().and_then(|release| release.slug.clone())
    }

    fn configure(&mut self, config: &[(&str, &str)]) {
        self.config = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.config.insert("FTEST_MARK".to_owned(), self.mark.clone());
    }

    fn release(&mut self, slug: Option<String>, description: &str) -> u64 {
        let version = self.releases.last().map_or(1, |release| release.version + 1);
        let (status, description) = ("succeeded".to_owned(), description.to_owned());
        self.releases.push(Release { version, status, slug, description, config: self.config.clone() });
        version
    }
}

/// What an id is of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    App = 0xa,
    Release = 0xb,
    Slug = 0xc,
    Formation = 0xd,
    Stack = 0xe,
    Other = 0xf,
}

/// The id of the n-th of a kind: the same one in each run.
pub(super) fn uuid(kind: Kind, n: usize) -> String {
    format!("{:08x}-89ab-4def-8123-{n:012x}", 0x0123_4560 + kind as u32)
}
