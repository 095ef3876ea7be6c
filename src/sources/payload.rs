//! The payload: how hsup hands a whole `Startup` to the hsup inside a container. It is the base64 of JSON
//! (not of a Go gob, whatever the variables are called), in the words of the control file:
//!
//! ```json
//! {"App": {"Version": 1, "Name": "myapp", "Env": {}, "Processes": []}, "Action": "start",
//!  "Quantities": {"web": 2}, "Args": [], "OneShot": false, "StartNumber": 1, "SkipBuild": true,
//!  "Binds": [{"Host": "/srv/data", "Inside": "/app/data"}]}
//! ```
//!
//! `Quantities` is null where those of the release count; `Args` is the command of the action `run`.
//! A payload holds every config var: no error shows any of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hsup_drivers::BoxFuture;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use super::control_file::{self, ControlFileError, Document, MAX_BYTES, Written};
use super::{GaveUp, Link, ReleaseSource, publish};
use crate::model::{Action, Bind, Command, ProcessType, Quantities, Quantity, Release, Startup};

/// The variable that holds a payload.
pub const TEXT_VAR: &str = "HSUP_CONTROL_GOB";
/// The variable that names a file with a payload.
pub const FILE_VAR: &str = "HSUP_CONTROL_GOB_FILE";

/// The largest payload: the base64 of the largest control file, and room for the rest.
const MAX_TEXT_BYTES: usize = MAX_BYTES / 3 * 4 + 1024 * 1024;

/// Why there is no startup in a payload.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Not base64.
    #[error("the payload is not base64: start the inner hsup by the outer one, which makes it")]
    NotBase64,
    /// Not the JSON of a startup.
    #[error("the payload is not one of this hsup, run the same version inside and outside")]
    Content(#[from] ControlFileError),
    /// The app has no name.
    #[error(
        "the payload is not one of this hsup, run the same version inside and outside: App.Name is missing"
    )]
    NoName,
    /// The action is none or lacks what it needs, or a bind is none.
    #[error("the payload is not one of this hsup, run the same version inside and outside: {0}")]
    Invalid(&'static str),
    /// The file is no file.
    #[error("{} is not a regular file: put the payload into one", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The file is larger than any payload.
    #[error("{} is larger than any payload", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read the payload file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file would stay where others may find it.
    #[error("cannot remove the payload file {}, which holds secrets (remove it by hand and see to the permissions of its directory)", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Outgoing<'a> {
    app: Written<'a>,
    action: &'static str,
    quantities: Option<Cow<'a, BTreeMap<ProcessType, Quantity>>>,
    args: &'a [String],
    one_shot: bool,
    start_number: u32,
    skip_build: bool,
    binds: Vec<BindText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Incoming {
    app: Document,
    action: String,
    #[serde(default)]
    quantities: Option<BTreeMap<ProcessType, Quantity>>,
    #[serde(default)]
    args: Option<Vec<String>>,
    one_shot: bool,
    start_number: u32,
    skip_build: bool,
    #[serde(default)]
    binds: Option<Vec<BindText>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BindText {
    host: String,
    inside: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
}

/// The payload of a startup.
pub fn encode(startup: &Startup) -> String {
    let Startup { release, action, one_shot, start_number, skip_build, binds } = startup;
    let one_of_each = || {
        let processes = release.formation.iter();
        processes.map(|process| (process.process_type.clone(), Quantities::OneOfEach.of(process))).collect()
    };
    let (action, quantities, args): (_, _, &[String]) = match action {
        Action::Start(Quantities::OfRelease) => ("start", None, &[]),
        Action::Start(Quantities::OneOfEach) => ("start", Some(Cow::Owned(one_of_each())), &[]),
        Action::Start(Quantities::Explicit(quantities)) => ("start", Some(Cow::Borrowed(quantities)), &[]),
        Action::Run(command) => ("run", None, command.args()),
        Action::Build => ("build", None, &[]),
    };
    let outgoing = Outgoing {
        app: Written(release),
        action,
        quantities,
        args,
        one_shot: *one_shot,
        start_number: *start_number,
        skip_build: *skip_build,
        // every path came from text, so nothing is lost here
        binds: binds
            .iter()
            .map(|bind| BindText {
                host: bind.host.to_string_lossy().into_owned(),
                inside: bind.inside.to_string_lossy().into_owned(),
                read_only: bind.read_only,
            })
            .collect(),
    };
    let json = serde_json::to_vec(&outgoing).expect("text, numbers and maps with text keys always serialise");
    STANDARD.encode(json)
}

/// The startup of a payload; blanks around it do not matter.
///
/// # Errors
/// If it is no payload. The error shows nothing of it.
pub fn decode(text: &str) -> Result<Startup, PayloadError> {
    let json = STANDARD.decode(text.trim()).map_err(|_| PayloadError::NotBase64)?;
    let json = String::from_utf8(json).map_err(|_| PayloadError::NotBase64)?;
    let (incoming, _) = control_file::read::<Incoming>(&json)?;
    let Incoming { app, action, quantities, args, one_shot, start_number, skip_build, binds } = incoming;
    let action = match action.as_str() {
        "start" => Action::Start(quantities.map_or(Quantities::OfRelease, Quantities::Explicit)),
        "run" => Action::Run(
            Command::try_from(args.unwrap_or_default())
                .map_err(|_| PayloadError::Invalid("Args holds no command to run"))?,
        ),
        "build" => Action::Build,
        _ => return Err(PayloadError::Invalid("Action is none of start, run and build")),
    };
    let name = app.name().cloned().ok_or(PayloadError::NoName)?;
    let bind = |bind: BindText| {
        let given = format!("{}:{}{}", bind.host, bind.inside, if bind.read_only { ":ro" } else { "" });
        given.parse::<Bind>().map_err(|_| PayloadError::Invalid("Binds holds a path that is not absolute"))
    };
    Ok(Startup {
        release: app.into_release(&name),
        action,
        one_shot,
        start_number,
        skip_build,
        binds: binds.unwrap_or_default().into_iter().map(bind).collect::<Result<_, _>>()?,
    })
}

/// The startup of a payload file, which is removed as soon as it is read, whatever it holds.
///
/// # Errors
/// If it is not a regular file, cannot be read or removed, or holds no payload.
pub fn read_file(path: &Path) -> Result<Startup, PayloadError> {
    let text = take_file(path)?;
    std::str::from_utf8(&text).map_err(|_| PayloadError::NotBase64).and_then(decode)
}

fn take_file(path: &Path) -> Result<Vec<u8>, PayloadError> {
    let own = || path.to_owned();
    let fault = |source| PayloadError::Read { path: own(), source };
    // neither follows a symlink to a file that is not ours to remove, nor waits on a FIFO
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    let file = match options.read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) => {
            let odd = std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file());
            return Err(if odd { PayloadError::NotAFile { path: own() } } else { fault(error) });
        }
    };
    if !file.metadata().map_err(fault)?.is_file() {
        return Err(PayloadError::NotAFile { path: own() });
    }
    let mut text = Vec::new();
    let read = file.take(MAX_TEXT_BYTES as u64 + 1).read_to_end(&mut text);
    std::fs::remove_file(path).map_err(|source| PayloadError::Remove { path: own(), source })?;
    read.map_err(fault)?;
    if text.len() > MAX_TEXT_BYTES { Err(PayloadError::TooLarge { path: own() }) } else { Ok(text) }
}

/// The source of the one release that a payload holds.
pub struct PayloadSource(Release);

impl PayloadSource {
    /// A source of this release.
    pub fn new(release: Release) -> Self {
        Self(release)
    }
}

impl ReleaseSource for PayloadSource {
    fn follow(self: Box<Self>, link: Link) -> BoxFuture<'static, Result<(), GaveUp>> {
        Box::pin(async move {
            link.looks.succeeded();
            publish(&link.releases, self.0);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
