//! The `abspath` driver, for use inside a container: the app is at `/app`, as on Heroku, and its dynos are
//! subprocesses there.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::command::{c_string, shell_line};
use crate::guardian::Guardian;
use crate::simple::{DEFAULT_PATH, environment, host_address, shell};
use crate::subprocess::{Place, Program, Subprocess};
use crate::{BoxFuture, BuildError, BuildSpec, Built, DynoDriver, DynoSpec, Network, Run, StartError};

/// What the shell of a dyno does before it becomes the command: the stack's and the app's profiles.
pub(crate) const PROFILE: &str = r#"for profile in /etc/profile.d/*.sh "$HOME"/.profile.d/*.sh; do
  [ -r "$profile" ] && . "$profile"
done
unset profile
exec "$0" -c "$1""#;

/// The `abspath` driver.
///
/// There is one `/app`. What a release is prepared with leaves it alone: each start of a dyno, or of a release phase, has it
/// show the slug of its own release. So the code that a dyno is started with is that of its release, also after another one
/// has been prepared and was not good.
#[derive(Debug)]
pub struct AbsPath {
    app: Arc<AppDir>,
    /// Paths of the host, and the paths at which dynos see them.
    binds: Arc<[(PathBuf, PathBuf)]>,
    /// The slug that this hsup has put there; none before the first one, and where that has failed halfway. Held while a
    /// dyno is started.
    shown: Arc<Mutex<Option<PathBuf>>>,
}

#[derive(Debug)]
struct AppDir {
    guardian: Arc<Guardian>,
    path: PathBuf,
    base: Vec<(String, String)>,
    address: IpAddr,
}

impl AbsPath {
    /// A driver whose dynos run in `app_dir`, which is `/app` but in tests. A bind (a path of the host, and the
    /// path at which dynos see it) becomes a symbolic link.
    pub fn new(guardian: Arc<Guardian>, app_dir: PathBuf, binds: Vec<(PathBuf, PathBuf)>) -> Self {
        let base = [("PATH", DEFAULT_PATH.to_owned()), ("HOME", app_dir.display().to_string())];
        let base = base.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let app = Arc::new(AppDir { guardian, path: app_dir, base, address: host_address() });
        Self { app, binds: binds.into(), shown: Arc::default() }
    }

    /// Has `/app` show a slug, where it shows another one, with what is bound.
    async fn show(&self, mut shown: Shown, slug_dir: &Path) -> Result<Shown, Failed> {
        if shown.as_deref() == Some(slug_dir) {
            return Ok(shown);
        }
        let (slug_dir, app_dir) = (slug_dir.to_owned(), self.app.path.clone());
        let binds = Arc::clone(&self.binds);
        let show = move || {
            *shown = None;
            install(&slug_dir, &app_dir)?;
            binds.iter().try_for_each(|(host, inside)| bind(host, inside))?;
            *shown = Some(slug_dir);
            Ok(shown)
        };
        let done = tokio::task::spawn_blocking(show).await;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

/// What `/app` shows, for one that starts something there.
type Shown = OwnedMutexGuard<Option<PathBuf>>;

impl Place for AppDir {
    fn guardian(&self) -> &Guardian {
        &self.guardian
    }

    fn address(&self) -> IpAddr {
        self.address
    }

    fn program(&self, spec: &DynoSpec, notify: Option<&str>) -> Result<Program<'_>, StartError> {
        let shell = shell();
        let args = [shell, "-c", PROFILE, shell, &shell_line(&spec.command)];
        let args = args.into_iter().map(c_string).collect::<Result<_, _>>()?;
        let env = environment(&self.base, spec, notify)?;
        Ok(Program { path: shell.into(), args, env, dir: Some(&self.path) })
    }
}

/// What of `/app` could not be done.
#[derive(Debug)]
struct Failed {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failed {
    let path = path.to_owned();
    move |source| Failed { operation, path, source }
}

impl From<Failed> for BuildError {
    fn from(Failed { operation, path, source }: Failed) -> Self {
        Self::Io { operation, path, source }
    }
}

impl From<Failed> for StartError {
    fn from(Failed { operation, path, source }: Failed) -> Self {
        Self::SetUp { what: format!("{operation} {}", path.display()), source }
    }
}

/// Makes `app_dir` show the files of a slug.
///
/// Where it can be a link it is one, which is switched in one step and leaves dynos of the release before in
/// the directory that they started in. A directory that is a mount point or holds files that hsup did not put
/// there cannot be replaced; it is emptied and filled.
fn install(slug_dir: &Path, app_dir: &Path) -> Result<(), Failed> {
    let next = app_dir.with_extension("next");
    let _left_by_a_crash = fs::remove_file(&next);
    if !app_dir.is_symlink() && app_dir.exists() && fs::remove_dir(app_dir).is_err() {
        for entry in fs::read_dir(app_dir).map_err(failed("read", app_dir))? {
            let path = entry.map_err(failed("read", app_dir))?.path();
            let removed = if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(failed("remove", &path))?;
        }
        return copy_tree(slug_dir, app_dir).map_err(failed("copy the slug to", app_dir));
    }
    symlink(slug_dir, &next).map_err(failed("link", &next))?;
    fs::rename(&next, app_dir).map_err(failed("replace", app_dir))
}

/// Shows a path of the host at another one. What is there already stays, unless it is a link that hsup made.
fn bind(host: &Path, inside: &Path) -> Result<(), Failed> {
    if host == inside || fs::read_link(inside).is_ok_and(|target| target == host) {
        return Ok(());
    }
    if let Some(parent) = inside.parent() {
        fs::create_dir_all(parent).map_err(failed("create", parent))?;
    }
    symlink(host, inside).map_err(failed("bind to", inside))
}

/// Copies what is in one directory into another, modes and links included.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_tree(&source, &target)?;
            fs::set_permissions(&target, entry.metadata()?.permissions())?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

impl DynoDriver for AbsPath {
    fn name(&self) -> &'static str {
        "abspath"
    }

    fn network(&self) -> Network {
        Network::Host
    }

    fn needs_slug(&self) -> bool {
        true
    }

    fn build<'a>(&'a self, spec: &'a BuildSpec) -> BoxFuture<'a, Result<Built, BuildError>> {
        Box::pin(async move {
            let slug_dir = spec.slug_dir.clone().ok_or(BuildError::NoSlug { driver: "abspath" })?;
            let shown = Arc::clone(&self.shown).lock_owned().await;
            if shown.is_none() {
                // Nothing runs there yet: what `hsup build` leaves, in an image, is whole.
                self.show(shown, &slug_dir).await?;
            }
            Ok(Built { app_dir: Some(slug_dir), ..Built::default() })
        })
    }

    fn start<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Arc<dyn Run>, StartError>> {
        let place: Arc<dyn Place> = Arc::clone(&self.app) as _;
        Box::pin(async move {
            let mut shown = Arc::clone(&self.shown).lock_owned().await;
            if let Some(slug_dir) = &spec.built.app_dir {
                shown = self.show(shown, slug_dir).await?;
            }
            let started = Subprocess::start(place, spec);
            drop(shown);
            started
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slug(root: &Path, name: &str) -> PathBuf {
        let dir = root.join(name);
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::write(dir.join("bin/web"), name).unwrap();
        symlink("bin/web", dir.join("web")).unwrap();
        dir
    }

    #[test]
    fn app_is_switched_as_a_link() {
        let root = tempfile::tempdir().unwrap();
        let app = root.path().join("app");
        fs::create_dir(&app).unwrap();
        for name in ["one", "two"] {
            install(&slug(root.path(), name), &app).unwrap();
            assert_eq!(fs::read_to_string(app.join("web")).unwrap(), name);
            assert!(app.is_symlink());
        }
    }

    #[test]
    fn a_bind_is_a_link_and_replaces_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (host, inside) = (root.path().join("host"), root.path().join("app/data"));
        fs::create_dir(&host).unwrap();
        for _ in 0..2 {
            bind(&host, &inside).unwrap();
            assert_eq!(fs::read_link(&inside).unwrap(), host);
        }
        assert!(bind(root.path(), &inside).is_err());
        bind(&host, &host).unwrap();
    }

    #[test]
    fn app_that_holds_files_is_emptied_and_filled() {
        let root = tempfile::tempdir().unwrap();
        let app = root.path().join("app");
        fs::create_dir_all(app.join("old/dir")).unwrap();
        install(&slug(root.path(), "one"), &app).unwrap();
        assert!(!app.join("old").exists());
        assert_eq!(fs::read_to_string(app.join("web")).unwrap(), "one");
    }
}
