//! Where control sockets lie: the path at which an hsup listens, and how a client finds the hsup that is
//! running. It makes no sockets and speaks no HTTP.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::ExitCode;
use crate::model::AppName;

/// Where sockets lie when there is no runtime directory.
const SYSTEM_DIR: &str = "/run";

/// The folder of hsup's sockets in a runtime directory.
const FOLDER: &str = "hsup";

/// The name that an app goes by when nothing names it.
pub const UNNAMED_APP: &str = "app";

/// The longest path of a unix socket: `sun_path` has 108 bytes, of which one is the NUL at its end.
pub const MAX_SOCKET_PATH: usize = 107;

/// Where the control API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketChoice {
    /// At this path.
    Path {
        /// The path.
        path: PathBuf,
        /// Whether a flag says so. The variable may be there for all commands, and then tells most where to look.
        explicit: bool,
    },
    /// At [`default_socket`].
    Default,
    /// Nowhere.
    None,
}

/// Why no running hsup was found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The control socket is `none`.
    #[error(
        "the control socket is \"none\", so there is no hsup to talk to: give the socket of a running hsup \
         with -s PATH"
    )]
    NoSocket,
    /// No socket is there.
    #[error("no hsup is running: there is no socket in {}: start one with hsup start, or give its socket with -s PATH", list(.dirs))]
    NoneRunning {
        /// Where was looked.
        dirs: Vec<PathBuf>,
    },
    /// No socket of that app is there.
    #[error("no hsup is running for app {app}: there is no {app}.sock in {}{}: start one with hsup start -a {app}, or give its socket with -s PATH", list(.dirs), others(.running))]
    AppNotRunning {
        /// The app.
        app: AppName,
        /// Where was looked.
        dirs: Vec<PathBuf>,
        /// The apps for which one is running.
        running: Vec<String>,
    },
    /// More than one hsup is running.
    #[error("several hsups are running: {}; choose one with -a", .apps.join(", "))]
    Several {
        /// Their apps.
        apps: Vec<String>,
    },
    /// A directory cannot be read.
    #[error("failed to look for sockets in {} (to do without, give the socket with -s PATH)", dir.display())]
    Unreadable {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl FindError {
    /// The code that hsup ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoSocket => ExitCode::Usage,
            Self::NoneRunning { .. } | Self::AppNotRunning { .. } | Self::Several { .. } => {
                ExitCode::NotRunning
            }
            Self::Unreadable { .. } => ExitCode::System,
        }
    }
}

fn others(running: &[String]) -> String {
    if running.is_empty() { String::new() } else { format!("; running here: {}", running.join(", ")) }
}

fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// The path at which the hsup of an app listens: `$XDG_RUNTIME_DIR/hsup/<app>.sock` or
/// `/run/hsup/<app>.sock`. An app without a name is called `app`.
pub fn default_socket(app: Option<&AppName>, runtime_dir: Option<&Path>) -> PathBuf {
    let base = runtime_dir.unwrap_or(Path::new(SYSTEM_DIR));
    base.join(FOLDER).join(file_name(app.map_or(UNNAMED_APP, AppName::as_str)))
}

fn file_name(app: &str) -> String {
    format!("{app}.sock")
}

/// The socket of the hsup that a client is to talk to: the path that was given, else that of the app, else
/// the only one that there is. Both the runtime directory and `/run` are looked at: an operator who logged in
/// as root has the former, a service of the system has not.
///
/// Whether anything listens at a socket that is named, by path or app, only the client will see.
///
/// # Errors
/// If there is none, or it is not clear which one is meant.
pub fn find_running(
    choice: &SocketChoice,
    app: Option<&AppName>,
    runtime_dir: Option<&Path>,
) -> Result<PathBuf, FindError> {
    let bases = runtime_dir.into_iter().chain([Path::new(SYSTEM_DIR)]);
    let mut dirs: Vec<_> = bases.map(|base| base.join(FOLDER)).collect();
    dirs.dedup();
    match (choice, app) {
        (SocketChoice::Path { path, explicit: _ }, _) => Ok(path.clone()),
        (SocketChoice::None, _) => Err(FindError::NoSocket),
        (SocketChoice::Default, Some(app)) => find_app(app, dirs),
        (SocketChoice::Default, None) => find_only(dirs),
    }
}

fn find_app(app: &AppName, dirs: Vec<PathBuf>) -> Result<PathBuf, FindError> {
    let paths: Vec<_> =
        dirs.iter().map(|dir| dir.join(file_name(app.as_str()))).filter(|p| p.exists()).collect();
    let live = paths.iter().find(|path| is_live(path)).or(paths.first());
    live.cloned().ok_or_else(|| {
        let (sockets, _) = live_sockets(&dirs);
        FindError::AppNotRunning {
            app: app.clone(),
            running: sockets.iter().map(|path| app_of(path)).collect(),
            dirs,
        }
    })
}

/// The app whose socket that is.
fn app_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Every socket at which somebody listens, by name, and what could not be read.
fn live_sockets(dirs: &[PathBuf]) -> (Vec<PathBuf>, Option<FindError>) {
    let (mut found, mut unreadable) = (Vec::new(), None);
    for dir in dirs {
        match sockets_in(dir) {
            Ok(sockets) => found.extend(sockets.into_iter().filter(|path| is_live(path))),
            Err(source) => unreadable = Some(FindError::Unreadable { dir: dir.clone(), source }),
        }
    }
    found.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    (found, unreadable)
}

fn find_only(dirs: Vec<PathBuf>) -> Result<PathBuf, FindError> {
    let (found, unreadable) = live_sockets(&dirs);
    match found.as_slice() {
        // A folder that is closed to this user matters only where the others hold nothing.
        [] => Err(unreadable.unwrap_or(FindError::NoneRunning { dirs })),
        [only] => Ok(only.clone()),
        several => Err(FindError::Several { apps: several.iter().map(|path| app_of(path)).collect() }),
    }
}

/// The paths in the directory that end in `.sock`; none where there is no directory.
fn sockets_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.filter(|path| path.as_ref().map_or(true, |p| p.extension().is_some_and(|e| e == "sock"))).collect()
}

/// Whether somebody listens there, or may: a socket that this user may not use is a live one too. What a
/// killed hsup left behind refuses connections.
fn is_live(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn app(name: &str) -> AppName {
        name.parse().unwrap()
    }

    /// A folder with a socket per name; those that start with "dead" have nobody listening.
    fn folder(names: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>, Vec<UnixListener>) {
        let dir = tempfile::tempdir().unwrap();
        let mut listeners = Vec::new();
        for name in names {
            let listener = UnixListener::bind(dir.path().join(file_name(name))).unwrap();
            if !name.starts_with("dead") {
                listeners.push(listener);
            }
        }
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        let dirs = vec![dir.path().to_owned(), dir.path().join("missing")];
        (dir, dirs, listeners)
    }

    #[test]
    fn the_default_lies_in_the_runtime_directory_or_in_run() {
        let myapp = app("myapp");
        assert_eq!(default_socket(Some(&myapp), None), Path::new("/run/hsup/myapp.sock"));
        let runtime = Path::new("/run/user/7");
        assert_eq!(default_socket(Some(&myapp), Some(runtime)), Path::new("/run/user/7/hsup/myapp.sock"));
        assert_eq!(default_socket(None, None), Path::new("/run/hsup/app.sock"));
    }

    #[test]
    fn a_path_that_was_given_is_the_one() {
        let path = PathBuf::from("/x/y.sock");
        let choice = SocketChoice::Path { path: path.clone(), explicit: false };
        let found = find_running(&choice, Some(&app("other")), None);
        assert_eq!(found.unwrap(), path);
    }

    #[test]
    fn none_is_no_socket_to_talk_to() {
        let error = find_running(&SocketChoice::None, None, None).unwrap_err();
        assert!(error.to_string().contains("-s PATH"), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Usage);
    }

    #[test]
    fn the_only_live_one_is_found() {
        let (dir, dirs, _listeners) = folder(&["a", "dead"]);
        assert_eq!(find_only(dirs).unwrap(), dir.path().join("a.sock"));
    }

    #[test]
    fn several_are_named() {
        let (_dir, dirs, _listeners) = folder(&["b", "a"]);
        let error = find_only(dirs).unwrap_err();
        assert_eq!(error.to_string(), "several hsups are running: a, b; choose one with -a");
        assert_eq!(error.exit_code(), ExitCode::NotRunning);
    }

    #[test]
    fn an_app_is_found_by_its_name_even_if_it_is_dead_for_the_client_to_see() {
        let (dir, dirs, _listeners) = folder(&["a", "dead"]);
        assert_eq!(find_app(&app("a"), dirs.clone()).unwrap(), dir.path().join("a.sock"));
        assert_eq!(find_app(&app("dead"), dirs).unwrap(), dir.path().join("dead.sock"));
    }

    #[test]
    fn none_at_all_says_where_was_looked() {
        let dirs = vec![PathBuf::from("/nowhere/hsup"), PathBuf::from("/neither/hsup")];
        let error = find_only(dirs.clone()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no hsup is running: there is no socket in /nowhere/hsup or /neither/hsup: start one with hsup \
             start, or give its socket with -s PATH"
        );
        let error = find_app(&app("a"), dirs).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no hsup is running for app a: there is no a.sock in /nowhere/hsup or /neither/hsup: start one \
             with hsup start -a a, or give its socket with -s PATH"
        );
        assert_eq!(error.exit_code(), ExitCode::NotRunning);
    }

    #[test]
    fn where_an_app_is_not_running_those_are_named_that_are() {
        let (_dir, dirs, _listeners) = folder(&["shop", "blog", "dead"]);
        let error = find_app(&app("shpo"), dirs).unwrap_err().to_string();
        assert!(error.contains("; running here: blog, shop: start one with hsup start -a shpo"), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let closed = file.path().to_owned();
        let (dir, dirs, _listeners) = folder(&["a"]);
        let found = find_only([vec![closed.clone()], dirs].concat());
        assert_eq!(found.unwrap(), dir.path().join("a.sock"));
        let error = find_only(vec![closed]).unwrap_err();
        assert!(error.to_string().starts_with("failed to look for sockets in "), "{error}");
        assert_eq!(error.exit_code(), ExitCode::System);
    }
}
