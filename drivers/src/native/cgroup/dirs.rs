//! The directories that cgroups are: those below one, and the processes in them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::CgroupError;

/// The cgroups directly below `dir`; none if it is gone.
pub(super) fn children(dir: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CgroupError::io("read", dir)(error)),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry.map_err(CgroupError::io("read", dir))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            children.push(entry.path());
        }
    }
    Ok(children)
}

/// The lines of `file` of `dir` and of all cgroups below it, as numbers; none where it is gone.
pub(super) fn numbers(dir: &Path, file: &str) -> Result<Vec<u32>, CgroupError> {
    let path = dir.join(file);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // The cgroup was removed before the file was opened, or after.
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(CgroupError::io("read", &path)(error)),
    };
    let mut numbers: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for child in children(dir)? {
        numbers.extend(self::numbers(&child, file)?);
    }
    Ok(numbers)
}

/// The processes in a cgroup and those below it. 0 stands for one of a foreign pid namespace.
pub(super) fn procs(dir: &Path) -> Result<Vec<u32>, CgroupError> {
    numbers(dir, "cgroup.procs")
}

/// The number after `key` in a file of lines `key number`.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_the_whole_tree_are_found() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::write(root.path().join("cgroup.procs"), "1\n2\n").unwrap();
        fs::write(below.join("cgroup.procs"), "3\n").unwrap();
        assert_eq!(procs(root.path()).unwrap(), [1, 2]);
        fs::write(root.path().join("a/cgroup.procs"), "").unwrap();
        assert_eq!(procs(root.path()).unwrap(), [1, 2, 3]);
        assert!(procs(&root.path().join("gone")).unwrap().is_empty());
    }

    #[test]
    fn keys_are_whole() {
        let text = "oom 1\noom_kill 2\nmax 3\n";
        assert_eq!(
            (keyed(text, "oom"), keyed(text, "oom_kill"), keyed(text, "ma")),
            (Some(1), Some(2), None)
        );
    }
}
