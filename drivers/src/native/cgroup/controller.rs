//! The controllers that limits are kept by, and how their files are written.
//!
//! What is written is decided by the controller's own file.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use super::error::{Lack, Unkept, Warning};
use super::{CgroupError, cpu, io, memory, pids};
use crate::Limits;

/// The two interfaces of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A controller that limits are kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Pids,
    Io,
}

impl Controller {
    pub(super) const ALL: [Self; 4] = [Self::Memory, Self::Cpu, Self::Pids, Self::Io];

    /// Its name for the kernel.
    pub(super) fn name(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Memory, _) => "memory",
            (Self::Cpu, _) => "cpu",
            (Self::Pids, _) => "pids",
            (Self::Io, Version::V2) => "io",
            (Self::Io, Version::V1) => "blkio",
        }
    }

    /// The limits among these that it is to keep, by the names that users know.
    pub(super) fn asked(self, limits: &Limits) -> Vec<&'static str> {
        let asked = match self {
            Self::Memory => [
                limits.memory_bytes.is_some().then_some("memory"),
                limits.swap_bytes.is_some().then_some("swap"),
            ],
            Self::Cpu => [limits.cpu_millis.is_some().then_some("cpu"), None],
            Self::Pids => [limits.pids.is_some().then_some("pids"), None],
            Self::Io => [limits.io_weight.is_some().then_some("io"), None],
        };
        asked.into_iter().flatten().collect()
    }

    /// What it writes to keep these limits.
    pub(super) fn settings(self, version: Version, limits: &Limits) -> Vec<Setting> {
        match self {
            Self::Memory => memory::settings(version, limits),
            Self::Cpu => cpu::settings(version, limits),
            Self::Pids => pids::settings(version, limits),
            Self::Io => io::settings(version, limits),
        }
    }
}

/// One value to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The files that do the same, each with its value; the first that is there is written.
    pub(super) choices: Vec<(&'static str, String)>,
    /// What it means if there is none.
    pub(super) absent: Absent,
}

impl Setting {
    /// One without which the limit of that name would not be kept.
    pub(super) fn required(limit: &'static str, choices: Vec<(&'static str, String)>) -> Self {
        Self { choices, absent: Absent::Unkept(limit) }
    }
}

/// What it means that a kernel does not have a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// That this limit cannot be kept.
    Unkept(&'static str),
    /// Something that the user is told once.
    Warns(Warning),
    /// Nothing: the limit is kept without it too.
    Passes,
}

/// Writes one setting to the cgroup `dir`.
pub(super) fn apply(dir: &Path, setting: &Setting) -> Result<Option<Warning>, CgroupError> {
    for (file, value) in &setting.choices {
        let path = dir.join(file);
        if path.exists() {
            write(&path, value)?;
            return Ok(None);
        }
    }
    match setting.absent {
        Absent::Unkept(limit) => {
            let files: Vec<&str> = setting.choices.iter().map(|(file, _)| *file).collect();
            let lack = Lack::NoFile { dir: dir.to_owned(), files: files.join(" or ") };
            Err(CgroupError::Unkept(vec![Unkept { limit, lack }]))
        }
        Absent::Warns(warning) => Ok(Some(warning)),
        Absent::Passes => Ok(None),
    }
}

/// Writes a value to a file of the kernel's, which is never created.
pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    let written =
        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|source| CgroupError::Write { value: value.to_owned(), path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn first_file_that_is_there_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let weight =
            Setting::required("io", vec![("io.weight", "200".into()), ("io.bfq.weight", "109".into())]);
        let error = apply(dir.path(), &weight).unwrap_err().to_string();
        assert!(
            error.starts_with("limit io cannot be kept: this kernel has no io.weight or io.bfq.weight in /")
        );
        fs::write(dir.path().join("io.bfq.weight"), "").unwrap();
        assert_eq!(apply(dir.path(), &weight).unwrap(), None);
        assert_eq!(fs::read_to_string(dir.path().join("io.bfq.weight")).unwrap(), "109");
        assert!(!dir.path().join("io.weight").exists());
    }

    #[test]
    fn what_is_not_required_may_be_absent() {
        let dir = tempfile::tempdir().unwrap();
        let setting = |absent| Setting { choices: vec![("memory.swap.max", "0".into())], absent };
        let warned = apply(dir.path(), &setting(Absent::Warns(Warning::SwapNotCounted))).unwrap();
        assert_eq!(warned, Some(Warning::SwapNotCounted));
        assert_eq!(apply(dir.path(), &setting(Absent::Passes)).unwrap(), None);
    }

    #[test]
    fn a_refused_value_is_named_with_its_file() {
        let error = write(Path::new("/proc/self/no-such-file"), "17").unwrap_err();
        assert_eq!(error.to_string(), "failed to write 17 to /proc/self/no-such-file");
    }
}
