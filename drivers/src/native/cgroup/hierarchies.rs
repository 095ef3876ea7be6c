//! Which cgroup hierarchies this host has, what hsup may use of them, and where in them its dynos go.
//!
//! Looks only; what must be made before the first dyno is made by [`Hierarchies::prepare`].
//!
//! # Where dynos go
//! In v2, where hsup's own cgroup has been delegated to it (by systemd's `Delegate=yes`, or because it is the root
//! of a cgroup namespace, as in a container), below that: `<own>/dynos/<name>`, hsup itself moving to `<own>/hsup`,
//! since a cgroup with processes cannot hand controllers on. Else at the top of the hierarchy: `/hsup/<name>`.
//!
//! In v1, each controller having a hierarchy of its own, below hsup's own cgroup where that is not the top and can
//! be written, so that what limits hsup limits its dynos too: `<own>/hsup/<name>`. Else `/hsup/<name>`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use nix::unistd::{AccessFlags, access};

use super::controller::{Controller, Version, write};
use super::error::{Lack, Unkept};
use super::mounts::{Mount, mounts};
use super::{CgroupError, prepare};
use crate::{Limits, sys};

/// Where hsup's own processes go in a cgroup that it shares with its dynos, and where dynos go in one that it does
/// not.
const HSUP: &str = "hsup";
/// Where dynos go in a cgroup that is hsup's own.
const DYNOS: &str = "dynos";
/// What systemd marks a cgroup with that it leaves to a service: the first for root's manager, both by newer ones.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// What is known of a host before its cgroups are looked at.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where its file system starts: `/` but in tests.
    pub root: PathBuf,
    /// The text of `/proc/self/mountinfo`.
    pub mountinfo: String,
    /// The text of `/proc/self/cgroup`.
    pub cgroup: String,
    /// Whether a v2 cgroup has been delegated to whom runs in it.
    pub is_delegated: fn(&Path) -> bool,
}

impl Host {
    /// This host, as this process sees it.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn read() -> Result<Self, CgroupError> {
        let read = |path: &str| fs::read_to_string(path).map_err(CgroupError::io("read", Path::new(path)));
        let (mountinfo, cgroup) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        Ok(Self { root: "/".into(), mountinfo, cgroup, is_delegated })
    }

    /// Where a path of the host is.
    fn path(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

fn is_delegated(dir: &Path) -> bool {
    DELEGATED.iter().any(|name| sys::extended_attribute(dir, name).is_ok_and(|value| value == b"1"))
}

/// Which hierarchies a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No cgroups at all.
    Absent,
    /// v1 only.
    V1,
    /// Both, each controller being in one of them.
    Hybrid,
    /// v2 only.
    V2,
}

/// The v2 hierarchy, as far as hsup uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unified {
    /// The cgroup that hands its controllers to hsup's.
    pub(super) parent: PathBuf,
    /// The cgroup whose children are dynos; a child of `parent`.
    pub(super) base: PathBuf,
    /// Where processes in `parent` must go before it can hand on controllers; `None` at the top of the host's
    /// hierarchy, where that is not so.
    pub(super) leaf: Option<PathBuf>,
}

/// Where the controller of a limit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the v2 hierarchy.
    Unified,
    /// In a v1 hierarchy, where dynos go below this cgroup.
    Below(PathBuf),
    /// Nowhere.
    Nowhere(Lack),
}

/// The cgroup hierarchies of a host.
#[derive(Debug)]
pub struct Hierarchies {
    pub(super) kind: Kind,
    pub(super) unified: Option<Unified>,
    /// In the order of [`Controller::ALL`].
    pub(super) places: [Place; 4],
    /// A v1 cgroup in which hsup is, and stays.
    own_v1: Option<PathBuf>,
    /// Whether it has been said that swap is not counted.
    pub(super) said_swap: AtomicBool,
}

impl Hierarchies {
    /// Looks at a host.
    pub fn detect(host: &Host) -> Self {
        let mounts = mounts(&host.mountinfo);
        let v2 = mounts.iter().find(|mount| mount.version == Version::V2);
        let has_v1 = mounts.iter().any(|mount| mount.version == Version::V1);
        let kind = match (v2.is_some(), has_v1) {
            (false, false) => Kind::Absent,
            (false, true) => Kind::V1,
            (true, true) => Kind::Hybrid,
            (true, false) => Kind::V2,
        };
        let unified = v2.map(|mount| unified(host, mount));
        let writable = v2.is_some_and(|mount| !mount.is_read_only);
        let can_write = |unified: &&Unified| writable && can_write(&unified.parent);
        let usable = unified.as_ref().filter(can_write);
        let places = Controller::ALL.map(|controller| {
            let name = controller.name(Version::V1);
            let v1 = mounts.iter().find(|mount| mount.controllers.iter().any(|own| own == name));
            place(host, controller, unified.as_ref(), usable.is_some(), v1)
        });
        let mut v1 = mounts.iter().filter(|mount| mount.version == Version::V1 && !mount.is_read_only);
        let own_v1 = v1.find_map(|mount| Some(host.path(&mount.point).join(mount.own(&host.cgroup)?)));
        Self { kind, unified: usable.cloned(), places, own_v1, said_swap: AtomicBool::new(false) }
    }

    /// Which hierarchies they are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Makes what must be there before the first dyno, and moves hsup's own processes out of the way where they
    /// are in it. To be called once, before any dyno is started and any process is forked that stays.
    ///
    /// A controller that cannot be had is no error here, but where a limit needs it.
    ///
    /// # Errors
    /// If the cgroup of all dynos cannot be made.
    pub fn prepare(&mut self) -> Result<(), CgroupError> {
        for (controller, lack) in self.make_unified_base()? {
            for (other, place) in Controller::ALL.into_iter().zip(&mut self.places) {
                if other == controller {
                    *place = Place::Nowhere(lack.clone());
                }
            }
        }
        Ok(())
    }

    /// Makes the cgroup of all dynos in v2; returns the controllers that it cannot have.
    fn make_unified_base(&self) -> Result<Vec<(Controller, Lack)>, CgroupError> {
        let Some(unified) = &self.unified else { return Ok(Vec::new()) };
        prepare::prepare(unified, &self.unified_controllers())
    }

    /// The controllers that are in v2.
    pub(super) fn unified_controllers(&self) -> Vec<Controller> {
        let all = Controller::ALL.into_iter().zip(&self.places);
        all.filter_map(|(controller, place)| (*place == Place::Unified).then_some(controller)).collect()
    }

    /// Makes the cgroup of all dynos in which `path` is to be made: in v1 it is made with the first, and anywhere
    /// another hsup that ends may have removed it.
    pub(super) fn make_base_of(&self, path: &Path) -> Result<(), CgroupError> {
        let Some(base) = path.parent() else { return Ok(()) };
        if self.unified.as_ref().is_some_and(|unified| unified.base == base) {
            self.make_unified_base()?;
            return Ok(());
        }
        prepare::make(base)
    }

    /// Makes the next [`Cgroup::attach`] fast, where that is needed for these limits.
    ///
    /// The first process that is moved between cgroups after a while waits 5 to 20 ms for all CPUs to take note,
    /// and those that are moved within some ms after it do not. To be called on a thread of its own while the
    /// process that is to be moved is still being made, it takes that wait off the way: it moves hsup to where hsup
    /// is already.
    ///
    /// [`Cgroup::attach`]: super::Cgroup::attach
    pub fn warm(&self, limits: &Limits) {
        if let (Some(own), false) = (&self.own_v1, self.asked_v1(limits).is_empty()) {
            let _only_slower = write(&own.join("cgroup.procs"), "0");
        }
    }

    /// Removes the cgroups that [`Hierarchies::prepare`] and dynos have made for all dynos, as far as they are
    /// empty. Whatever stays is used by somebody else, and is no error.
    pub fn tidy(&self) {
        for base in self.bases() {
            let _in_use = fs::remove_dir(base);
        }
    }

    /// The cgroups below which dynos go, of which some may not be there.
    pub fn bases(&self) -> Vec<&Path> {
        let v1 = self.places.iter().filter_map(|place| match place {
            Place::Below(base) => Some(base.as_path()),
            Place::Unified | Place::Nowhere(_) => None,
        });
        self.unified.iter().map(|unified| unified.base.as_path()).chain(v1).collect()
    }

    /// The directories that a cgroup of that name has, in the order in which they are made. None is made; that is for the ledger to know them first.
    ///
    /// # Errors
    /// If the name cannot be one, or a limit cannot be kept here.
    pub fn plan(&self, name: &str, limits: &Limits) -> Result<Vec<PathBuf>, CgroupError> {
        if name.is_empty() || [".", ".."].contains(&name) || name.contains(['/', '\n', '\0']) {
            return Err(CgroupError::Name(name.to_owned()));
        }
        let unkept = self.unkept(limits);
        if !unkept.is_empty() {
            return Err(CgroupError::Unkept(unkept));
        }
        let mut paths: Vec<PathBuf> = self.unified.iter().map(|unified| unified.base.join(name)).collect();
        for (_, base) in self.asked_v1(limits) {
            let path = base.join(name);
            // Controllers can share a v1 hierarchy.
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    /// Those of the limits that cannot be kept on this host.
    pub fn unkept(&self, limits: &Limits) -> Vec<Unkept> {
        let mut unkept = Vec::new();
        for (controller, place) in Controller::ALL.into_iter().zip(&self.places) {
            let asked = controller.asked(limits);
            match place {
                Place::Nowhere(lack) => {
                    unkept.extend(asked.into_iter().map(|limit| Unkept { limit, lack: lack.clone() }));
                }
                Place::Below(_) if asked == ["swap"] => {
                    unkept.push(Unkept { limit: "swap", lack: Lack::SwapAlone });
                }
                Place::Below(_) | Place::Unified => {}
            }
        }
        unkept
    }

    /// The v1 controllers that these limits need, and below which cgroup of theirs dynos go.
    pub(super) fn asked_v1<'a>(&'a self, limits: &Limits) -> Vec<(Controller, &'a Path)> {
        let all = Controller::ALL.into_iter().zip(&self.places);
        let asked = all.filter(|(controller, _)| !controller.asked(limits).is_empty());
        let v1 = asked.filter_map(|(controller, place)| match place {
            Place::Below(base) => Some((controller, base.as_path())),
            Place::Unified | Place::Nowhere(_) => None,
        });
        v1.collect()
    }
}

/// Where dynos go in the v2 hierarchy.
fn unified(host: &Host, mount: &Mount) -> Unified {
    let top = host.path(&mount.point);
    // Every cgroup has that file but the one at the top of the host's hierarchy.
    let is_root = |dir: &Path| dir == top && !dir.join("cgroup.type").exists();
    let own = mount.own(&host.cgroup).map(|own| top.join(own));
    // An hsup before this one in the same cgroup has moved to a child of it, and so has a service with systemd's
    // DelegateSubgroup.
    let candidates = own.iter().flat_map(|own| own.ancestors().take(2)).filter(|dir| dir.starts_with(&top));
    let is_ours = |dir: &&Path| !is_root(dir) && (host.is_delegated)(dir);
    let parent = candidates.into_iter().find(is_ours).unwrap_or(&top).to_owned();
    if is_root(&parent) {
        Unified { base: parent.join(HSUP), parent, leaf: None }
    } else {
        Unified { base: parent.join(DYNOS), leaf: Some(parent.join(HSUP)), parent }
    }
}

/// Where a controller is: in v2 if it is there, else in v1.
fn place(
    host: &Host,
    controller: Controller,
    unified: Option<&Unified>,
    is_usable: bool,
    v1: Option<&Mount>,
) -> Place {
    let name = controller.name(Version::V2);
    if let Some(unified) = unified
        && has_controller(&unified.parent, name)
    {
        if is_usable {
            return Place::Unified;
        }
        return Place::Nowhere(Lack::ReadOnly { controller: name, dir: unified.parent.clone() });
    }
    if let Some(mount) = v1 {
        return below(host, controller, mount);
    }
    let above = unified.iter().flat_map(|unified| unified.parent.ancestors().skip(1));
    if let Some(above) = above.into_iter().find(|dir| has_controller(dir, name)) {
        let why = format!("{} does not hand it on", above.display());
        let dir = unified.map(|unified| unified.parent.clone()).unwrap_or_default();
        return Place::Nowhere(Lack::NotEnabled { controller: name, dir, why });
    }
    Place::Nowhere(Lack::NotMounted(name))
}

/// Where dynos go in a v1 hierarchy.
fn below(host: &Host, controller: Controller, mount: &Mount) -> Place {
    let top = host.path(&mount.point);
    let own = mount.own(&host.cgroup).filter(|own| own != Path::new("")).map(|own| top.join(own));
    let dirs = own.into_iter().chain([top.clone()]);
    match dirs.into_iter().find(|dir| !mount.is_read_only && can_write(dir)) {
        Some(dir) => Place::Below(dir.join(HSUP)),
        None => Place::Nowhere(Lack::ReadOnly { controller: controller.name(Version::V1), dir: top }),
    }
}

fn has_controller(dir: &Path, name: &str) -> bool {
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    controllers.split_whitespace().any(|controller| controller == name)
}

fn can_write(dir: &Path) -> bool {
    access(dir, AccessFlags::W_OK).is_ok()
}

#[cfg(test)]
mod tests;
