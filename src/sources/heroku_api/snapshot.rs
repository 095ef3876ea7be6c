//! One look at an app: releases, config vars, slug, formation and stack, read so that they belong together. What
//! was read before is asked for with its `ETag`, so that an app that has not changed costs an answer without a
//! body for each. A look that fails takes nothing for seen: the next one asks for what is missing.

use std::sync::Arc;

use reqwest::StatusCode;
use serde::de::DeserializeOwned;

use super::client::{Answer, Client};
use super::error::ApiError;
use super::wire::{self, AppInfo, ConfigInfo, FormationEntry, ReleaseId, ReleaseInfo, SlugInfo};
use crate::model::{
    AppName, Command, ConfigVars, Formation, Process, ProcessType, Quantity, Release, ReleaseVersion, SlugId,
    SlugLocation,
};

/// How many releases are asked for at once: one is enough unless release phases fail in a row.
const PAGE: &str = "version ..; order=desc,max=10";

/// How often a look is begun again because a release came while it was going on.
const TRIES: u32 = 5;

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    /// The release to run, and what is odd about it.
    Release { release: Box<Release>, warnings: Vec<String> },
    /// Nothing to run so far.
    Nothing(NotYet),
    /// A release that hsup cannot run.
    Image(ImageRelease),
}

/// An app that has nothing to run so far.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotYet {
    #[error("app {0} has no release that has succeeded")]
    NoRelease(AppName),
    #[error("app {0} has no code yet: its release {1} has no slug, deploy the app")]
    NoSlug(AppName, ReleaseVersion),
}

/// A release whose code is no slug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "release {version} of app {app} is a container image, and hsup runs slugs: give the app a stack with buildpacks \
     (heroku stack:set heroku-24 -a {app}) and deploy it again"
)]
pub(super) struct ImageRelease {
    app: AppName,
    version: ReleaseVersion,
}

/// What was read, and the tag to ask with whether it has changed.
struct Known<T> {
    etag: Option<String>,
    value: T,
}

/// The slug of a release: all but its URL, which expires.
struct KnownSlug {
    id: SlugId,
    info: SlugInfo,
}

/// Config vars of a release, or those of the app where the API does not tell those of a release.
struct KnownConfig {
    release: ReleaseId,
    of_release: Option<ConfigInfo>,
    of_app: Option<Known<ConfigInfo>>,
}

/// Looks at one app, and remembers what it saw.
pub(super) struct Looker {
    client: Arc<Client>,
    releases: Option<Known<Option<ReleaseInfo>>>,
    config: Option<KnownConfig>,
    slug: Option<KnownSlug>,
    formation: Option<Known<Vec<FormationEntry>>>,
    about: Option<Known<AppInfo>>,
}

impl Looker {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { client, releases: None, config: None, slug: None, formation: None, about: None }
    }

    pub(super) fn app(&self) -> &AppName {
        self.client.app()
    }

    /// Looks. What it gives was all true at one moment: if anything is new, the releases are as they were before
    /// and after it was read, or the look begins again.
    pub(super) async fn look(&mut self) -> Result<Found, ApiError> {
        let mut look_again = self.read_releases().await?;
        for _ in 0..TRIES {
            let (anything_new, found) = self.read_the_rest().await?;
            if !anything_new && !look_again {
                return Ok(found);
            }
            look_again = self.read_releases().await?;
            if !look_again {
                return Ok(found);
            }
        }
        Err(ApiError::Restless { app: self.app().clone() })
    }

    /// Reads which release is to run; tells whether that is news.
    async fn read_releases(&mut self) -> Result<bool, ApiError> {
        let mut etag = self.releases.as_ref().and_then(|known| known.etag.clone());
        let mut first_etag = None;
        let mut range = Some(PAGE.to_owned());
        let mut run = None;
        let mut first = true;
        while let Some(asked) = range.take() {
            let answer = self.client.get("/releases", Some(&asked), etag.take().as_deref()).await;
            let answer = answer.map_err(|error| self.no_app(error))?;
            let Answer::New { url, etag, next_range, body } = answer else { return Ok(false) };
            if std::mem::take(&mut first) {
                first_etag = etag;
            }
            let mut page: Vec<ReleaseInfo> = wire::parse(&url, &body)?;
            page.sort_by_key(|release| std::cmp::Reverse(release.version));
            run = page.into_iter().find(ReleaseInfo::is_run);
            // the same range again would be asked for for ever
            range = next_range.filter(|next| run.is_none() && *next != asked);
        }
        let is_news = self.releases.as_ref().is_none_or(|known| known.value != run);
        self.releases = Some(Known { etag: first_etag, value: run });
        Ok(is_news)
    }

    /// Reads what belongs to the release; tells whether any of it is news.
    async fn read_the_rest(&mut self) -> Result<(bool, Found), ApiError> {
        let app = self.app().clone();
        let Some(release) = self.releases.as_ref().and_then(|known| known.value.clone()) else {
            return Ok((false, Found::Nothing(NotYet::NoRelease(app))));
        };
        let version = ReleaseVersion(release.version);
        let Some(slug) = &release.slug else {
            let news = self.read_app().await?;
            let is_image = release.is_image() || self.app_stack().is_some_and(|name| name == "container");
            return Ok((
                news,
                if is_image {
                    Found::Image(ImageRelease { app, version })
                } else {
                    Found::Nothing(NotYet::NoSlug(app, version))
                },
            ));
        };
        let mut news = self.read_config(&release.id).await?;
        news |= self.read_slug(&slug.id).await?;
        news |= self.read_formation().await?;
        if self.slug.as_ref().is_some_and(|slug| slug.info.stack.is_none()) {
            news |= self.read_app().await?;
        }
        Ok((news, self.found(version)?))
    }

    async fn read_config(&mut self, release: &ReleaseId) -> Result<bool, ApiError> {
        if let Some(known) = &mut self.config
            && known.release == *release
        {
            if known.of_release.is_some() {
                return Ok(false);
            }
            return read(&self.client, "/config-vars", &mut known.of_app).await;
        }
        let mut known = KnownConfig { release: release.clone(), of_release: None, of_app: None };
        let path = format!("/releases/{release}/config-vars");
        match self.client.get(&path, None, None).await {
            Ok(Answer::New { url, body, .. }) => known.of_release = Some(wire::parse(&url, &body)?),
            Ok(Answer::Unchanged) => {}
            Err(ApiError::Status { status: StatusCode::NOT_FOUND, .. }) => {}
            Err(error) => return Err(error),
        }
        if known.of_release.is_none() {
            read(&self.client, "/config-vars", &mut known.of_app).await?;
        }
        self.config = Some(known);
        Ok(true)
    }

    async fn read_slug(&mut self, id: &SlugId) -> Result<bool, ApiError> {
        if self.slug.as_ref().is_some_and(|known| known.id == *id) {
            return Ok(false);
        }
        let info = self.client.slug(id).await?;
        self.slug = Some(KnownSlug { id: id.clone(), info });
        Ok(true)
    }

    async fn read_formation(&mut self) -> Result<bool, ApiError> {
        let read = read(&self.client, "/formation", &mut self.formation).await;
        read.map_err(|error| self.no_app(error))
    }

    async fn read_app(&mut self) -> Result<bool, ApiError> {
        let read = read(&self.client, "", &mut self.about).await;
        read.map_err(|error| self.no_app(error))
    }

    fn stack_name(&self) -> Option<&str> {
        let of_slug = self.slug.as_ref().and_then(|known| known.info.stack.as_ref());
        of_slug.map(|stack| stack.name.as_str()).or_else(|| self.app_stack())
    }

    /// The stack of the app: that of a release without a slug, whatever the slug of the one before it had.
    fn app_stack(&self) -> Option<&str> {
        let about = self.about.as_ref().and_then(|known| known.value.stack.as_ref());
        about.map(|stack| stack.name.as_str())
    }

    /// Of what every app has, "not found" means the app.
    fn no_app(&self, error: ApiError) -> ApiError {
        if let ApiError::Status { url, status: StatusCode::NOT_FOUND, .. } = &error {
            return ApiError::NoApp { url: url.clone(), app: self.app().clone() };
        }
        error
    }

    /// The release that all of it makes.
    fn found(&self, version: ReleaseVersion) -> Result<Found, ApiError> {
        let slug = self.slug.as_ref().expect("it has been read");
        let config = self.config.as_ref().expect("they have been read");
        let config = config.of_release.as_ref().or(config.of_app.as_ref().map(|known| &known.value));
        let entries = self.formation.as_ref().map(|known| known.value.as_slice()).unwrap_or_default();
        let mut warnings = Vec::new();
        let stack = self.stack_name().and_then(|name| keep(name.parse(), &mut warnings));
        let release = Release {
            app: self.app().clone(),
            version,
            slug: Some(SlugLocation::Heroku(slug.id.clone())),
            slug_checksum: slug.info.checksum,
            stack,
            config: config_vars(config.expect("one of the two has been read"), &mut warnings),
            formation: formation(&slug.info, entries, &mut warnings),
            logplex_url: None,
        };
        if release.slug_checksum.is_none() {
            warnings.push("the API knows no checksum of its slug, which cannot be verified".to_owned());
        }
        Ok(Found::Release { release: Box::new(release), warnings })
    }
}

/// Reads a resource of the app unless it is as it was; tells whether it is news.
async fn read<T: DeserializeOwned + PartialEq>(
    client: &Client,
    path: &str,
    known: &mut Option<Known<T>>,
) -> Result<bool, ApiError> {
    let etag = known.as_ref().and_then(|known| known.etag.as_deref());
    let Answer::New { url, etag, body, .. } = client.get(path, None, etag).await? else { return Ok(false) };
    let value = wire::parse(&url, &body)?;
    let is_news = known.as_ref().is_none_or(|known| known.value != value);
    *known = Some(Known { etag, value });
    Ok(is_news)
}

/// The value; or nothing, and one more warning.
fn keep<T, E: std::fmt::Display>(result: Result<T, E>, warnings: &mut Vec<String>) -> Option<T> {
    result.map_err(|error| warnings.push(format!("{error}; it is left out"))).ok()
}

fn config_vars(info: &ConfigInfo, warnings: &mut Vec<String>) -> ConfigVars {
    let mut vars = ConfigVars::default();
    for (name, value) in info {
        let Some(value) = value else { continue };
        keep(name.parse().and_then(|name| vars.set(name, value.clone())), warnings);
    }
    vars
}

/// The process types of the slug with the quantities of the formation, and those that only the formation has, but for
/// those of one-off dynos and of the release phase: `web` first, then by name, so that each keeps its port whatever the
/// order of the answer.
fn formation(slug: &SlugInfo, entries: &[FormationEntry], warnings: &mut Vec<String>) -> Formation {
    let of_slug = slug.process_types.iter().flatten();
    let only_here = entries
        .iter()
        .filter(|entry| !slug.process_types.as_ref().is_some_and(|of| of.contains_key(&entry.process_type)));
    let mut types: Vec<(&str, &str)> = of_slug
        .map(|(name, command)| (name.as_str(), command.as_str()))
        .chain(
            only_here
                .map(|entry| (entry.process_type.as_str(), entry.command.as_deref().unwrap_or_default())),
        )
        .collect();
    types.sort_by_key(|(name, _)| (*name != "web", *name));
    let mut formation = Formation::default();
    for (name, command) in types {
        // the size of one-off dynos stands in the formation of some apps, and Heroku has run the release phase before a
        // release has succeeded: that is once for the app, not once for each host of it
        let is_release_phase = name.parse().is_ok_and(|name: ProcessType| name.is_release_phase());
        if name == ProcessType::run().as_str() || is_release_phase {
            continue;
        }
        let quantity =
            entries.iter().find(|entry| entry.process_type == name).map_or(0, |entry| entry.quantity);
        keep(add(&mut formation, name, command, quantity), warnings);
    }
    formation
}

fn add(formation: &mut Formation, name: &str, command: &str, quantity: u32) -> Result<(), String> {
    let of_type = |error: &dyn std::fmt::Display| format!("process type {name:?}: {error}");
    let process_type = name.parse::<ProcessType>().map_err(|error| error.to_string())?;
    let command = Command::try_from(vec![command.to_owned()]).map_err(|error| of_type(&error))?;
    let quantity = Quantity::try_from(quantity).map_err(|error| of_type(&error))?;
    formation.add(Process::new(process_type, command, quantity)).map_err(|error| error.to_string())
}
