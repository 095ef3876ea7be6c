//! `hsup check FILE`: validates a control file and starts nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process;

use super::{Config, ExitCode};
use crate::explain;
use crate::model::{AppName, Release};
use crate::sources::control_file::{self, MAX_BYTES};

/// Says whether a control file would be accepted, and if not, why; `-` is standard input.
pub fn check(config: &Config, file: &Path) -> process::ExitCode {
    let name = file.display();
    let bytes = match read(file) {
        Ok(bytes) => bytes,
        Err(error) => return refuse(ExitCode::NoSource, &format!("failed to read {name}: {error}")),
    };
    let app = config.app.clone().unwrap_or_else(AppName::unnamed);
    match control_file::parse(&bytes, &app) {
        Ok(parsed) => {
            let mut out = io::stderr().lock();
            for warning in &parsed.warnings {
                let _nobody_listens = writeln!(out, "{name}: warning: {warning}");
            }
            let _reader_is_gone = writeln!(io::stdout(), "{name}: {}", summary(&parsed.release));
            ExitCode::Ok.into()
        }
        Err(error) => refuse(ExitCode::ReleaseInvalid, &format!("{name}: {}", explain(&error))),
    }
}

/// One byte more than is allowed is enough to refuse a file.
pub(super) fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    if file == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn summary(release: &Release) -> String {
    let types: Vec<String> =
        release.formation.iter().map(|p| format!("{}={}", p.process_type, p.quantity)).collect();
    let types = if types.is_empty() { "no process types".to_owned() } else { types.join(" ") };
    format!("valid: release {} of {}, {types}", release.version, release.app)
}

fn refuse(code: ExitCode, text: &str) -> process::ExitCode {
    let _nobody_listens = writeln!(io::stderr(), "{text}");
    code.into()
}
