//! The last release of an app that went live on this host, kept on disk: a start while its source cannot be asked
//! runs that. It holds every config var, and is its owner's only.

use std::convert::Infallible;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::control_file;
use crate::blocking::blocking;
use crate::durable::{self, ReplaceError};
use crate::explain;
use crate::model::{AppName, Release};

/// It holds secrets.
const FILE_MODE: u32 = 0o600;
/// So does what is in it.
const DIR_MODE: u32 = 0o700;

/// The last good release of one app.
#[derive(Clone, Debug)]
pub struct LastGood {
    dir: PathBuf,
    app: AppName,
}

/// The last good release cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum LastGoodError {
    #[error("cannot make the directory {}", dir.display())]
    Directory { dir: PathBuf, source: io::Error },
    #[error(transparent)]
    Keep(#[from] ReplaceError),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is damaged and holds no release: remove it", path.display())]
    Content { path: PathBuf },
}

impl LastGood {
    /// Of this app, in this directory, which is made when it is first needed.
    pub fn new(dir: PathBuf, app: AppName) -> Self {
        Self { dir, app }
    }

    fn name(&self) -> String {
        format!("{}.json", self.app)
    }

    /// The release that was kept, if there is one.
    pub(super) async fn load(&self) -> Result<Option<Release>, LastGoodError> {
        let (path, app) = (self.dir.join(self.name()), self.app.clone());
        blocking(move |_| {
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(LastGoodError::Read { path, source }),
            };
            let parsed = control_file::parse(&bytes, &app);
            parsed.map(|parsed| Some(parsed.release)).map_err(|_| LastGoodError::Content { path })
        })
        .await
    }

    /// Keeps each release that goes live from now on, for ever.
    pub(super) async fn follow(&self, mut live: watch::Receiver<Option<Arc<Release>>>) -> Infallible {
        while live.changed().await.is_ok() {
            let Some(release) = live.borrow_and_update().clone() else { continue };
            if let Err(error) = self.keep(release).await {
                tracing::error!("a start without the source could not run this release: {}", explain(&error));
            }
        }
        std::future::pending().await
    }

    async fn keep(&self, release: Arc<Release>) -> Result<(), LastGoodError> {
        let this = self.clone();
        blocking(move |_| {
            let bytes = control_file::to_json(&release);
            if fs::read(this.dir.join(this.name())).is_ok_and(|kept| kept == bytes) {
                return Ok(());
            }
            let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(&this.dir);
            made.map_err(|source| LastGoodError::Directory { dir: this.dir.clone(), source })?;
            // hsups of other apps have the same directory
            durable::remove_leftovers_of(&this.dir, &this.name());
            Ok(durable::replace(&this.dir, &this.name(), &bytes, FILE_MODE)?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_what_is_loaded_and_its_owners_only() {
        let dir = tempfile::tempdir().unwrap();
        let app: AppName = "myapp".parse().unwrap();
        let last_good = LastGood::new(dir.path().join("last-good"), app.clone());
        assert!(last_good.load().await.unwrap().is_none());
        let json = r#"{"Version": 7, "Name": "myapp", "Env": {"A": "s3cret"}, "Slug": "heroku-slug:1-2", "Stack": "heroku-24",
            "Processes": [{"Type": "web", "Args": ["./web $PORT"], "Quantity": 3}]}"#;
        let release = Arc::new(control_file::parse(json.as_bytes(), &app).unwrap().release);
        for _ in 0..2 {
            last_good.keep(Arc::clone(&release)).await.unwrap();
            assert_eq!(last_good.load().await.unwrap().as_ref(), Some(&*release));
        }
        let file = dir.path().join("last-good/myapp.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(&file, "{\"Env\": \"s3cret\"").unwrap();
        let error = last_good.load().await.unwrap_err().to_string();
        assert!(error.contains("myapp.json is damaged") && !error.contains("s3cret"), "{error}");
    }
}
