//! Which source of releases is chosen, by flags, variables and what lies in the current directory. It opens no
//! source: whether a chosen one can be read, the source itself will say.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::Surroundings;
use super::settings::{Given, Problem, Reader, Setting};
use super::socket::UNNAMED_APP;
use crate::model::AppName;
use crate::secret::Secret;
use crate::sources::heroku_api::{ApiUrl, Token};

const PAYLOAD: &str = "HSUP_CONTROL_GOB";
const PAYLOAD_FILE: &str = "HSUP_CONTROL_GOB_FILE";
const TOKEN: &str = "HEROKU_ACCESS_TOKEN";
/// The directory in which systemd has put the credentials of a unit.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
const TOKEN_CREDENTIAL: &str = "heroku-access-token";
const CONTROL_DIR: Setting = Setting { flag: "--control-dir", variable: "HSUP_CONTROL_DIR" };
const PROCFILE: Setting = Setting { flag: "--procfile", variable: "HSUP_PROCFILE" };

/// Where releases come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceChoice {
    /// A serialised `Startup`.
    Payload {
        /// The text of it, which holds the whole environment of a release.
        text: Secret,
        /// The folder that is the app, where the release is that of a Procfile.
        folder: Option<PathBuf>,
    },
    /// A file that holds such a text.
    PayloadFile {
        /// The file.
        path: PathBuf,
    },
    /// The Heroku Platform API.
    HerokuApi {
        /// Where it is.
        url: ApiUrl,
        /// What gives access to it.
        token: Token,
        /// The app.
        app: AppName,
        /// Whether the last good release may run while it cannot be asked.
        stale: bool,
    },
    /// A control directory.
    ControlDir {
        /// The directory.
        dir: PathBuf,
    },
    /// A Procfile.
    Procfile {
        /// The file.
        path: PathBuf,
        /// Whether it was named, and not just found in the current directory.
        explicit: bool,
    },
    /// What a running hsup has live.
    Running(Running),
}

/// How the release of a running hsup was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Whether a driver was named, which else is that of the running hsup.
    pub driver_named: bool,
    /// Whether a state dir was named.
    pub state_dir_named: bool,
    /// What to say where none is running: there is no other source either.
    pub otherwise: Option<String>,
}

impl SourceChoice {
    /// The name of the app where the command line gives none, as far as it is known before there is a
    /// release: for a Procfile the name of its directory if that can be one, else `app`.
    pub(super) fn app(&self) -> Option<AppName> {
        match self {
            Self::Procfile { path, .. } => {
                let name = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
                let name = name.and_then(|name| name.parse().ok());
                Some(name.unwrap_or_else(|| UNNAMED_APP.parse().expect("`app` is an app name")))
            }
            Self::HerokuApi { app, .. } => Some(app.clone()),
            Self::Payload { .. } | Self::PayloadFile { .. } | Self::ControlDir { .. } | Self::Running(_) => {
                None
            }
        }
    }
}

/// The flags that choose a source.
pub(super) struct SourceFlags {
    /// What there is where the command may use the release of a running hsup.
    pub running: Option<Running>,
    /// Whether it is to.
    pub live: bool,
    pub control_dir: Option<OsString>,
    pub procfile: Option<OsString>,
    /// Whether the app was named, by flag or variable.
    pub app_named: bool,
    /// The app, where it was named and that can be its name.
    pub app: Option<AppName>,
    pub heroku_api_url: ApiUrl,
    pub stale: bool,
}

/// Chooses the source: one that a flag names; else a payload, the Heroku API, a control directory, a Procfile, in
/// this order.
pub(super) fn choose(
    reader: &mut Reader<'_>,
    flags: SourceFlags,
    surroundings: &Surroundings<'_>,
) -> Option<SourceChoice> {
    let directory = surroundings.directory.as_path();
    if let (true, Some(running)) = (flags.live, &flags.running) {
        return Some(SourceChoice::Running(running.clone()));
    }
    if flags.control_dir.is_some() && flags.procfile.is_some() {
        let what = "both choose the source of releases: give only one of them";
        reader.problems.push(Problem::usage("--control-dir and --procfile", what));
        return None;
    }
    let flagged = (flags.control_dir.is_some(), flags.procfile.is_some());
    let problems = reader.problems.len();
    let payload = reader.text_variable(PAYLOAD);
    let payload_file = reader.variable(PAYLOAD_FILE);
    let control_dir = reader.path(CONTROL_DIR, flags.control_dir);
    let procfile = reader.path(PROCFILE, flags.procfile);
    if reader.problems.len() > problems {
        return None;
    }
    let absolute = |given: Given<PathBuf>| directory.join(given.value);
    let control_dir = control_dir.map(|given| SourceChoice::ControlDir { dir: absolute(given) });
    let procfile = procfile.map(|given| SourceChoice::Procfile { path: absolute(given), explicit: true });
    match (payload, payload_file, flagged) {
        (Some(text), ..) => Some(SourceChoice::Payload { text: text.into(), folder: None }),
        (None, Some(path), _) => Some(SourceChoice::PayloadFile { path: directory.join(path) }),
        (None, None, (true, _)) => control_dir,
        (None, None, (_, true)) => procfile,
        (None, None, (false, false)) => {
            let named = control_dir.or(procfile);
            let (url, stale) = (flags.heroku_api_url, flags.stale);
            let problems = reader.problems.len();
            let token = read_token(reader, surroundings);
            if reader.problems.len() > problems {
                return None;
            }
            match (token.is_some(), flags.app) {
                (true, Some(app)) => {
                    let (name, token) = token?;
                    let token = reader.keep(name, token.expose().parse())?;
                    Some(SourceChoice::HerokuApi { url, token, app, stale })
                }
                // that the name is wrong has been said
                (true, None) if flags.app_named => None,
                (has_token, _) => named.or_else(|| fall_back(reader, has_token, directory, flags.running)),
            }
        }
    }
}

/// The token, and what names it: the variable or, where that is unset, a credential of systemd's
/// (`LoadCredential=heroku-access-token:PATH`, see systemd.exec(5)), which is in no environment.
fn read_token(reader: &mut Reader<'_>, surroundings: &Surroundings<'_>) -> Option<(&'static str, Secret)> {
    if let Some(token) = reader.text_variable(TOKEN) {
        return Some((TOKEN, token.into()));
    }
    let path = PathBuf::from(reader.variable(CREDENTIALS)?).join(TOKEN_CREDENTIAL);
    match (surroundings.read)(&path) {
        Ok(token) => Some((TOKEN_CREDENTIAL, token.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let what = format!("cannot read {}: {error}: see LoadCredential= of its unit", path.display());
            reader.keep::<Infallible, _>(CREDENTIALS, Err(what));
            None
        }
    }
}

/// What is left where nothing was chosen: the Procfile of the current directory, or what a running hsup has.
fn fall_back(
    reader: &mut Reader<'_>,
    token: bool,
    directory: &Path,
    running: Option<Running>,
) -> Option<SourceChoice> {
    let path = directory.join("Procfile");
    if path.is_file() {
        return Some(SourceChoice::Procfile { path, explicit: false });
    }
    let place = directory.display();
    let no_source = if token {
        format!(
            "no source of releases: there is a HEROKU_ACCESS_TOKEN, but no app is named: name it with --app APP (there is \
             no Procfile in {place} either)"
        )
    } else {
        format!(
            "no source of releases: there is no Procfile in {place}: run hsup in the directory of an app, or name a \
             source with --procfile PATH, --control-dir DIR, or HEROKU_ACCESS_TOKEN and --app APP"
        )
    };
    if let Some(running) = running {
        return Some(SourceChoice::Running(Running { otherwise: Some(no_source), ..running }));
    }
    reader.problems.push(Problem::source(no_source));
    None
}
