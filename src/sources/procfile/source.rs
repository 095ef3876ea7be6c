//! The Procfile as a source: one release at the start, and another when it changed and SIGHUP asks.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hsup_drivers::BoxFuture;

use super::error::ProcfileError;
use super::{dotenv, lines};
use crate::blocking::blocking;
use crate::explain;
use crate::model::{AppName, ConfigVars, Formation, Release, ReleaseVersion};
use crate::sources::{GaveUp, Link, ReleaseSource, publish};

/// A Procfile and the `.env` beside it, which may be missing.
///
/// Each process type has one dyno; `release`, Heroku's release phase, has none. The first release is version
/// 1; each change that SIGHUP finds is one version more. While the files are wrong the last release stays.
pub struct Procfile {
    files: Files,
    release: Release,
}

/// Where a release is read from.
#[derive(Clone)]
struct Files {
    procfile: PathBuf,
    inherited: ConfigVars,
}

impl Procfile {
    /// Reads a Procfile. `inherited` are the vars of the environment, over which `.env` prevails.
    ///
    /// # Errors
    /// If there is no Procfile, or a line of it or of `.env` is wrong: all wrong lines are named.
    pub fn open(path: PathBuf, app: AppName, inherited: ConfigVars) -> Result<Self, ProcfileError> {
        let files = Files { procfile: path, inherited };
        let (formation, config) = files.read()?;
        let release = Release {
            app,
            version: ReleaseVersion(1),
            slug: None,
            slug_checksum: None,
            stack: None,
            config,
            formation,
            logplex_url: None,
        };
        Ok(Self { files, release })
    }

    /// The release as it was read last.
    pub fn release(&self) -> &Release {
        &self.release
    }

    async fn run(self, Link { releases, reread, looks, live: _ }: Link) -> Infallible {
        let Self { files, mut release } = self;
        let mut asked = reread.newest();
        looks.succeeded();
        loop {
            publish(&releases, release.clone());
            reread.looked(asked);
            asked = reread.newer_than(asked).await;
            let files = files.clone();
            let read = blocking(move |_| files.read()).await;
            match &read {
                Ok(_) => looks.succeeded(),
                Err(error) => looks.failed(&explain(error)),
            }
            match read {
                Ok((formation, config)) if formation != release.formation || config != release.config => {
                    let version = ReleaseVersion(release.version.0 + 1);
                    release = Release { version, formation, config, ..release };
                }
                Ok(_) => {}
                Err(ProcfileError::Lines(errors)) => {
                    for error in errors {
                        tracing::error!("the release stays as it was: {error}");
                    }
                }
                Err(error @ (ProcfileError::Missing { .. } | ProcfileError::Read { .. })) => {
                    tracing::error!("the release stays as it was: {}", explain(&error));
                }
            }
        }
    }
}

impl Files {
    fn read(&self) -> Result<(Formation, ConfigVars), ProcfileError> {
        let path = &self.procfile;
        let procfile = read(path)?.ok_or_else(|| ProcfileError::Missing { path: path.clone() })?;
        let env = path.with_file_name(".env");
        let mut errors = Vec::new();
        let formation = lines::formation(path, &procfile, &mut errors);
        let mut config = self.inherited.clone();
        if let Some(vars) = read(&env)? {
            dotenv::add(&env, &vars, &mut config, &mut errors);
        }
        if errors.is_empty() { Ok((formation, config)) } else { Err(ProcfileError::Lines(errors)) }
    }
}

/// The bytes of a regular file, or none where there is no such file. Anything else could hang.
fn read(path: &Path) -> Result<Option<Vec<u8>>, ProcfileError> {
    let fault = |source| ProcfileError::Read { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(found) if found.is_file() => fs::read(path).map(Some).map_err(fault),
        Ok(found) if found.is_dir() => Err(fault(io::ErrorKind::IsADirectory.into())),
        Ok(_) => Err(fault(io::Error::other("it is not a regular file"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault(error)),
    }
}

impl ReleaseSource for Procfile {
    fn follow(self: Box<Self>, link: Link) -> BoxFuture<'static, Result<(), GaveUp>> {
        Box::pin(async move { match self.run(link).await {} })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::*;
    use crate::sources::{Reread, link};

    fn open(dir: &Path) -> Result<Procfile, ProcfileError> {
        let mut inherited = ConfigVars::default();
        inherited.set("A".parse().unwrap(), "inherited".to_owned()).unwrap();
        inherited.set("B".parse().unwrap(), "inherited".to_owned()).unwrap();
        Procfile::open(dir.join("Procfile"), "myapp".parse().unwrap(), inherited)
    }

    #[test]
    fn env_prevails_over_what_is_inherited() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("Procfile"), "web: x").unwrap();
        let release = open(dir.path()).unwrap().release;
        assert_eq!((release.version.0, release.config.get("A")), (1, Some("inherited")));
        fs::write(dir.path().join(".env"), "A=own").unwrap();
        let release = open(dir.path()).unwrap().release;
        assert_eq!((release.config.get("A"), release.config.get("B")), (Some("own"), Some("inherited")));
    }

    #[test]
    fn the_faults_of_both_files_are_told_together() {
        let dir = tempfile::tempdir().unwrap();
        let said = open(dir.path()).err().unwrap().to_string();
        assert!(said.contains("/Procfile does not exist: write one"), "{said}");
        fs::write(dir.path().join("Procfile"), "web: x\nbad").unwrap();
        fs::write(dir.path().join(".env"), "bad").unwrap();
        let said = open(dir.path()).err().unwrap().to_string();
        assert!(
            said.contains("/Procfile:2: ") && said.contains("\n") && said.contains("/.env:1: "),
            "{said}"
        );
        fs::remove_file(dir.path().join(".env")).unwrap();
        fs::create_dir(dir.path().join(".env")).unwrap();
        let said = open(dir.path()).err().unwrap().to_string();
        assert!(said.starts_with("cannot read ") && said.contains("/.env (make it a file"), "{said}");
    }

    #[tokio::test]
    async fn rereading_publishes_changes_only() {
        let dir = tempfile::tempdir().unwrap();
        let procfile = dir.path().join("Procfile");
        fs::write(&procfile, "web: x").unwrap();
        let source = open(dir.path()).unwrap();
        let (releases, mut seen) = watch::channel(None);
        let reread = Reread::default();
        let run = tokio::spawn(Box::new(source).follow(link(releases, &reread)));
        tokio::time::timeout(Duration::from_secs(20), seen.changed()).await.unwrap().unwrap();
        assert_eq!(seen.borrow_and_update().as_ref().unwrap().release.version.0, 1);
        // neither wrong nor unchanged files are published: the change after them is version 2
        for text in ["bad", "web: x", "web: y"] {
            fs::write(&procfile, text).unwrap();
            let wish = reread.ask();
            tokio::time::timeout(Duration::from_secs(20), reread.fulfilled(wish)).await.unwrap();
        }
        tokio::time::timeout(Duration::from_secs(20), seen.changed()).await.unwrap().unwrap();
        let release = seen.borrow_and_update().clone().unwrap().release;
        assert_eq!(release.version.0, 2);
        assert_eq!(release.formation.iter().next().unwrap().command.args(), ["y"]);
        run.abort();
    }
}
