//! Bytes to a release: size, UTF-8, JSON, fields; unknown fields become warnings.

use serde::Deserialize;

use super::error::{ControlFileError, push_key, shorten};
use super::fields::{Document, FIELDS, PROCESS_FIELDS};
use crate::model::{AppName, Release};

/// The largest control file. Config vars are some kilobytes; what is above this is a slug put in by mistake.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The most warnings about one file: one more says that there are others.
const MAX_WARNINGS: usize = 20;

/// A control file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The release.
    pub release: Release,
    /// What is odd and was left aside, one sentence each.
    pub warnings: Vec<String>,
}

/// Reads a control file. `fallback` is the app where the file names none.
///
/// `Version` is required, so that `{}` does not stop every dyno. A process type without `Quantity` has one
/// dyno. A field that is null counts as missing; a field that stands twice is an error.
///
/// # Errors
/// If the bytes are no control file; the error shows no value of `Env` and no `LogplexURL`.
pub fn parse(bytes: &[u8], fallback: &AppName) -> Result<Parsed, ControlFileError> {
    if bytes.len() > MAX_BYTES {
        return Err(ControlFileError::TooLarge { limit: MAX_BYTES });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| ControlFileError::not_utf8(bytes, error))?;
    // editors of other systems put a byte order mark in front
    let text = text.trim_start_matches('\u{feff}');
    if text.trim().is_empty() {
        return Err(ControlFileError::Empty);
    }
    let (document, warnings) = read::<Document>(text)?;
    Ok(Parsed { release: document.into_release(fallback), warnings })
}

/// Deserialises a whole text and gathers warnings about fields that nobody read.
pub(in crate::sources) fn read<'de, T: Deserialize<'de>>(
    text: &'de str,
) -> Result<(T, Vec<String>), ControlFileError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let mut warnings = Vec::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let value = serde_ignored::deserialize(tracked, |path| warn(&mut warnings, &path))
        .map_err(|error| ControlFileError::of_json(text, &error, Some(&track.path())))?;
    json.end().map_err(|error| ControlFileError::of_json(text, &error, None))?;
    Ok((value, warnings))
}

fn warn(warnings: &mut Vec<String>, path: &serde_ignored::Path<'_>) {
    if warnings.len() == MAX_WARNINGS {
        warnings.push("more unknown fields are ignored".to_owned());
    }
    if warnings.len() > MAX_WARNINGS {
        return;
    }
    let mut field = String::new();
    show(path, &mut field);
    let hint = match path {
        serde_ignored::Path::Map { key, .. } => FIELDS
            .iter()
            .chain(&PROCESS_FIELDS)
            .find(|known| known.eq_ignore_ascii_case(key))
            .map(|known| format!("; did you mean \"{known}\"?"))
            .unwrap_or_default(),
        serde_ignored::Path::Root
        | serde_ignored::Path::Seq { .. }
        | serde_ignored::Path::Some { .. }
        | serde_ignored::Path::NewtypeStruct { .. }
        | serde_ignored::Path::NewtypeVariant { .. } => String::new(),
    };
    warnings.push(format!("unknown field {} is ignored{hint}", shorten(&field)));
}

fn show(path: &serde_ignored::Path<'_>, shown: &mut String) {
    match path {
        serde_ignored::Path::Root => {}
        serde_ignored::Path::Seq { parent, index } => {
            show(parent, shown);
            shown.push_str(&format!("[{index}]"));
        }
        serde_ignored::Path::Map { parent, key } => {
            show(parent, shown);
            push_key(shown, key);
        }
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => show(parent, shown),
    }
}

#[cfg(test)]
mod tests;
