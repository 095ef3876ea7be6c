//! Standard output of commands that print something and end. A reader that goes away has seen enough, as of any filter;
//! whatever else keeps output from being written is a failure, which a script has to hear of.

use std::io::{self, Write};
use std::process;

use super::ExitCode;
use super::fatal::Fatal;

/// Prints a text, with one newline at its end; gives the exit code of the process.
pub fn show(text: &str) -> process::ExitCode {
    match print(text) {
        Ok(()) => ExitCode::Ok.into(),
        Err(fatal) => fatal.report(),
    }
}

/// Prints a text, with one newline at its end.
pub(super) fn print(text: &str) -> Result<(), Fatal> {
    let mut out = io::stdout().lock();
    finish(writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()))
}

/// What has come of writing to standard output.
pub(super) fn finish(written: io::Result<()>) -> Result<(), Fatal> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Fatal::output(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
