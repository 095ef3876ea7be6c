//! `hsup check FILE`: validates a control file and starts nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process;

use serde::Serialize;

use super::{Config, ExitCode, output};
use crate::explain;
use crate::model::{AppName, Release};
use crate::sources::control_file::{self, ControlFileError, MAX_BYTES, Parsed};

/// What is found of a control file.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Finding {
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    formation: Option<BTreeMap<String, u32>>,
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Says whether a control file would be accepted, and if not, why; `-` is standard input.
pub fn check(config: &Config, file: &Path, json: bool) -> process::ExitCode {
    let name = file.display();
    let bytes = match read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            let _nobody_listens = writeln!(io::stderr(), "failed to read {name}: {error}");
            return ExitCode::NoSource.into();
        }
    };
    let app = config.app.clone().unwrap_or_else(AppName::unnamed);
    let parsed = control_file::parse(&bytes, &app);
    let code = if parsed.is_ok() { ExitCode::Ok } else { ExitCode::ReleaseInvalid };
    if json {
        let finding = serde_json::to_string_pretty(&finding(&parsed)).expect("a finding is plain data");
        return match output::print(&finding) {
            Ok(()) => code.into(),
            Err(fatal) => fatal.report(),
        };
    }
    let mut errors = io::stderr().lock();
    match parsed {
        Ok(parsed) => {
            for warning in &parsed.warnings {
                let _nobody_listens = writeln!(errors, "{name}: warning: {warning}");
            }
            return output::show(&format!("{name}: {}", summary(&parsed.release)));
        }
        Err(error) => {
            let _nobody_listens = writeln!(errors, "{name}: {}", explain(&error));
        }
    }
    code.into()
}

fn finding(parsed: &Result<Parsed, ControlFileError>) -> Finding {
    match parsed {
        Ok(Parsed { release, warnings }) => Finding {
            valid: true,
            app: Some(release.app.to_string()),
            release: Some(release.version.to_string()),
            formation: Some(
                release.formation.iter().map(|p| (p.process_type.to_string(), p.quantity.get())).collect(),
            ),
            warnings: warnings.iter().map(ToString::to_string).collect(),
            error: None,
        },
        Err(error) => Finding {
            valid: false,
            app: None,
            release: None,
            formation: None,
            warnings: Vec::new(),
            error: Some(explain(error)),
        },
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
