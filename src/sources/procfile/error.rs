//! What is wrong with a Procfile and its `.env`. No message shows a value of `.env`.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// One wrong line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; none where it is the file as a whole.
    pub line: Option<usize>,
    /// What is wrong and how to mend it.
    pub problem: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// Why a Procfile gives no release.
#[derive(Debug, thiserror::Error)]
pub enum ProcfileError {
    /// There is none.
    #[error(
        "{} does not exist: write one with a line such as `web: python3 -m http.server $PORT`, or choose another source of releases",
        path.display()
    )]
    Missing {
        /// The Procfile.
        path: PathBuf,
    },
    /// It or its `.env` cannot be read.
    #[error("cannot read {} (make it a file that the user of hsup can read)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Lines of the Procfile and of `.env` are wrong: all of them.
    #[error("{}", .0.iter().map(LineError::to_string).collect::<Vec<_>>().join("\n"))]
    Lines(Vec<LineError>),
}
