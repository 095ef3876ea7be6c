//! Which program a dyno's command line becomes, seen from inside the dyno.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use super::protocol::Failure;
use crate::abspath::PROFILE;
use crate::command::{c_string, find_program, plain_words};
use crate::simple::{DEFAULT_PATH, shell};

/// Where profiles lie that a shell has to read before the command.
const PROFILES: [&str; 2] = ["/etc/profile.d", "/app/.profile.d"];

/// A program and its arguments.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<CString>,
}

/// The program for a command line: a shell that reads the profiles and becomes the command; or, where there is no
/// profile and nothing that a shell would have to interpret, the command itself, which starts sooner.
pub(crate) fn find(line: &str, env: &[String]) -> Result<Program, Failure> {
    let direct =
        if PROFILES.iter().any(|dir| has_profile(Path::new(dir))) { None } else { plain_words(line) };
    let (path, words) = match direct {
        Some(words) => {
            let search = env.iter().find_map(|var| var.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
            let program = words.first().copied().unwrap_or_default();
            (find_program(program, search, Path::new("/app"))?, words)
        }
        None => (shell().into(), vec![shell(), "-c", PROFILE, shell(), line]),
    };
    let args = words.into_iter().map(c_string).collect::<Result<_, _>>()?;
    Ok(Program { path, args })
}

fn has_profile(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().extension().is_some_and(|extension| extension == "sh"))
}
