//! Makes the v2 cgroup of all dynos and has controllers handed down to it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::CgroupError;
use super::controller::{Controller, Version, write};
use super::error::Lack;
use super::hierarchies::Unified;

/// How often to look for processes that were forked by one that was just being moved. Only a fork bomb is not
/// through after two.
const MOVES: usize = 16;

/// Makes the cgroup of all dynos and gives it the controllers. Returns those that it cannot have.
pub(super) fn prepare(
    unified: &Unified,
    controllers: &[Controller],
) -> Result<Vec<(Controller, Lack)>, CgroupError> {
    make(&unified.base)?;
    let mut lacks: Vec<(Controller, Lack)> = Vec::new();
    for dir in [&unified.parent, &unified.base] {
        let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        let is_enabled = |name: &str| enabled.split_whitespace().any(|one| one == name);
        let is_lacking = |controller: Controller| lacks.iter().any(|(lacking, _)| *lacking == controller);
        let missing = controllers.iter().copied().filter(|controller| !is_lacking(*controller));
        let missing: Vec<Controller> =
            missing.filter(|controller| !is_enabled(controller.name(Version::V2))).collect();
        if missing.is_empty() {
            continue;
        }
        let moved = match &unified.leaf {
            Some(leaf) if *dir == unified.parent => move_processes(dir, leaf),
            Some(_) | None => Ok(()),
        };
        for controller in missing {
            let name = controller.name(Version::V2);
            // One a write: if one cannot be had, the others still can.
            let enabled = write(&dir.join("cgroup.subtree_control"), &format!("+{name}"));
            if let Err(error) = enabled {
                let why = chain(moved.as_ref().err().unwrap_or(&error));
                let lack = Lack::NotEnabled { controller: name, dir: dir.clone(), why };
                lacks.push((controller, lack));
            }
        }
    }
    Ok(lacks)
}

/// Makes a cgroup if it is not there.
pub(super) fn make(dir: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(CgroupError::io("make the cgroup", dir)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Moves all processes of a cgroup (not those of cgroups below) to another.
pub(super) fn move_processes(from: &Path, to: &Path) -> Result<(), CgroupError> {
    make(to)?;
    let (source, target) = (from.join("cgroup.procs"), to.join("cgroup.procs"));
    for _ in 0..MOVES {
        let pids = fs::read_to_string(&source).map_err(CgroupError::io("read", &source))?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids.lines() {
            if pid == "0" {
                // Written, it would mean the one that writes.
                let foreign = io::Error::other("it is of a foreign pid namespace");
                return Err(CgroupError::io("move a process out of", from)(foreign));
            }
            match write(&target, pid) {
                // It has ended.
                Err(CgroupError::Write { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {}
                moved => moved?,
            }
        }
    }
    Ok(())
}

/// An error and its causes.
fn chain(error: &CgroupError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
