//! Settings: each has a flag and a variable. Here the two are merged and read, and what is wrong with any of
//! them is collected, so that all of it can be said at once. What the settings are is `config.rs`'s business.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use super::ExitCode;

/// The names of a setting.
#[derive(Clone, Copy)]
pub(super) struct Setting {
    pub flag: &'static str,
    pub variable: &'static str,
}

/// One thing that is wrong with the command line or the environment. It is shown as one line that starts with
/// the flag, the variable or the command that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    name: Option<&'static str>,
    what: String,
    code: ExitCode,
}

impl Problem {
    /// Something wrong with what a flag, a variable or a command was given.
    pub(super) fn usage(name: &'static str, what: impl fmt::Display) -> Self {
        Self { name: Some(name), what: what.to_string(), code: ExitCode::Usage }
    }

    /// Something wrong with the source of releases.
    pub(super) fn source(what: impl fmt::Display) -> Self {
        Self { name: None, what: what.to_string(), code: ExitCode::NoSource }
    }

    /// The code that hsup ends with if this is all that is wrong.
    pub(super) fn code(&self) -> ExitCode {
        self.code
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "{name}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// A value, and which of the names of its setting gave it.
pub(super) struct Given<T> {
    pub value: T,
    pub name: &'static str,
}

/// Reads settings and collects what is wrong with them.
pub(super) struct Reader<'a> {
    variables: &'a dyn Fn(&str) -> Option<OsString>,
    pub problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub fn new(variables: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Self { variables, problems: Vec::new() }
    }

    /// A variable, unless it is unset or empty.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        (self.variables)(name).filter(|value| !value.is_empty())
    }

    /// A variable that must be text. Its value is not shown if it is not.
    pub fn text_variable(&mut self, name: &'static str) -> Option<String> {
        let text = self.variable(name)?.into_string();
        self.keep(name, text.map_err(|_| "its value is not UTF-8: write it as plain text"))
    }

    /// A setting that is text.
    pub fn text(&mut self, setting: Setting, flag: Option<String>) -> Option<Given<String>> {
        match flag {
            Some(value) => Some(Given { value, name: setting.flag }),
            None => {
                let value = self.text_variable(setting.variable)?;
                Some(Given { value, name: setting.variable })
            }
        }
    }

    /// A setting that is read by `read`, which says what is wrong with it and what would be right.
    pub fn parsed<T, E: fmt::Display>(
        &mut self,
        setting: Setting,
        flag: Option<String>,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let Given { value, name } = self.text(setting, flag)?;
        self.keep(name, read(&value))
    }

    /// A setting that is a path, which must not be empty.
    pub fn path(&mut self, setting: Setting, flag: Option<OsString>) -> Option<Given<PathBuf>> {
        let (value, name) = match flag {
            Some(value) => (value, setting.flag),
            None => (self.variable(setting.variable)?, setting.variable),
        };
        let value = self.keep(name, not_empty(&value))?;
        Some(Given { value, name })
    }

    /// The value, or nothing and one more problem.
    pub fn keep<T, E: fmt::Display>(&mut self, name: &'static str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.push(Problem::usage(name, error));
                None
            }
        }
    }
}

/// The path, unless it is empty.
pub(super) fn not_empty(path: &OsStr) -> Result<PathBuf, &'static str> {
    if path.is_empty() { Err("the path is empty: give one") } else { Ok(path.into()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    const APP: Setting = Setting { flag: "--app", variable: "HSUP_APP" };

    fn variables(name: &str) -> Option<OsString> {
        match name {
            "HSUP_APP" => Some("from-variable".into()),
            "HSUP_EMPTY" => Some(OsString::new()),
            "HSUP_BYTES" => Some(OsString::from_vec(vec![b's', 0xff])),
            _ => None,
        }
    }

    #[test]
    fn a_flag_beats_its_variable() {
        let mut reader = Reader::new(&variables);
        let given = reader.text(APP, Some("from-flag".to_owned())).unwrap();
        assert_eq!((given.value.as_str(), given.name), ("from-flag", "--app"));
        let given = reader.text(APP, None).unwrap();
        assert_eq!((given.value.as_str(), given.name), ("from-variable", "HSUP_APP"));
    }

    #[test]
    fn an_empty_variable_is_unset_and_an_empty_flag_is_a_mistake() {
        let mut reader = Reader::new(&variables);
        let setting = Setting { flag: "--empty", variable: "HSUP_EMPTY" };
        assert!(reader.path(setting, None).is_none());
        assert!(reader.problems.is_empty());
        assert!(reader.path(setting, Some(OsString::new())).is_none());
        assert_eq!(reader.problems[0].to_string(), "--empty: the path is empty: give one");
    }

    #[test]
    fn what_is_not_utf_8_is_not_shown() {
        let mut reader = Reader::new(&variables);
        assert!(reader.text_variable("HSUP_BYTES").is_none());
        assert_eq!(
            reader.problems[0].to_string(),
            "HSUP_BYTES: its value is not UTF-8: write it as plain text"
        );
    }
}
