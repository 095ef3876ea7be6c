//! The `abspath` driver, for use inside a container: the app is at `/app`, as on Heroku, and its dynos are
//! subprocesses there.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
#[derive(Debug)]
pub struct AbsPath {
    app: Arc<AppDir>,
    /// Paths of the host, and the paths at which dynos see them.
    binds: Vec<(PathBuf, PathBuf)>,
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
        Self { app: Arc::new(AppDir { guardian, path: app_dir, base, address: host_address() }), binds }
    }
}

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

/// Makes `app_dir` show the files of a slug.
///
/// Where it can be a link it is one, which is switched in one step and leaves dynos of the release before in
/// the directory that they started in. A directory that is a mount point or holds files that hsup did not put
/// there cannot be replaced; it is emptied and filled.
fn install(slug_dir: &Path, app_dir: &Path) -> Result<(), BuildError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::Io { operation, path, source }
    };
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
fn bind(host: &Path, inside: &Path) -> Result<(), BuildError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::Io { operation, path, source }
    };
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
        let (app_dir, binds) = (self.app.path.clone(), self.binds.clone());
        Box::pin(async move {
            let slug_dir = spec.slug_dir.clone().ok_or(BuildError::NoSlug { driver: "abspath" })?;
            let install = move || {
                install(&slug_dir, &app_dir)?;
                binds.iter().try_for_each(|(host, inside)| bind(host, inside))
            };
            let installed = tokio::task::spawn_blocking(install).await;
            installed.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
            Ok(Built::default())
        })
    }

    fn start<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Arc<dyn Run>, StartError>> {
        let place: Arc<dyn Place> = Arc::clone(&self.app) as _;
        Box::pin(async { Subprocess::start(place, spec) })
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
