//! Reads `/proc/self/mountinfo` and `/proc/self/cgroup`: which cgroup hierarchies are mounted where, and where this
//! process is in each. Texts only; the file system is not looked at.

use std::path::{Component, Path, PathBuf};

use super::controller::Version;

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) version: Version,
    /// The cgroup that is seen at the mount point.
    pub(super) root: PathBuf,
    pub(super) point: PathBuf,
    /// The controllers of a v1 hierarchy.
    pub(super) controllers: Vec<String>,
    pub(super) is_read_only: bool,
}

/// The hierarchies of a mountinfo, of several mounts of the same the first.
pub(super) fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in mountinfo.lines().filter_map(mount) {
        if !mounts.iter().any(|seen| (seen.version, &seen.controllers) == (mount.version, &mount.controllers))
        {
            mounts.push(mount);
        }
    }
    mounts
}

/// `36 35 98:0 /root /point options [optional ...] - type source super-options`
fn mount(line: &str) -> Option<Mount> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let version = match kind.next()? {
        "cgroup2" => Version::V2,
        "cgroup" => Version::V1,
        _ => return None,
    };
    let super_options = kind.nth(1)?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
    let is_option = |name: &&str| !["rw", "ro", "xattr", "clone_children", "noprefix"].contains(name);
    let controllers = match version {
        Version::V1 => super_options.split(',').filter(is_option).map(str::to_owned).collect(),
        Version::V2 => Vec::new(),
    };
    let is_read_only =
        [options, super_options].iter().any(|options| options.split(',').any(|name| name == "ro"));
    let (root, point) = (unescaped(root).into(), unescaped(point).into());
    Some(Mount { version, root, point, controllers, is_read_only })
}

/// Undoes what the kernel does to spaces in paths.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

impl Mount {
    /// The path, below the mount point, of the cgroup in which this process is (from `/proc/self/cgroup`). `None`
    /// where it is not to be seen there, as for a process that was put into a container from outside.
    pub(super) fn own(&self, cgroup: &str) -> Option<PathBuf> {
        let path = cgroup.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_this = match self.version {
                Version::V2 => controllers.is_empty(),
                Version::V1 => {
                    controllers.split(',').any(|name| self.controllers.iter().any(|own| own == name))
                }
            };
            is_this.then_some(path)
        })?;
        let below = Path::new(path).strip_prefix(&self.root).ok()?;
        let is_below = below.components().all(|part| matches!(part, Component::Normal(_)));
        is_below.then(|| below.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read() {
        let info = "31 23 0:28 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 master:2 - cgroup cgroup rw,cpu,cpuacct\n\
                    35 31 0:32 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                    40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    41 31 0:38 / /sys/fs/cgroup/my\\040unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                    42 31 0:38 / /elsewhere rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let read = mounts(info);
        let v1 = |root: &str, point: &str, controllers: &[&str], is_read_only| Mount {
            version: Version::V1,
            root: root.into(),
            point: point.into(),
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            is_read_only,
        };
        let unified = Mount { version: Version::V2, ..v1("/", "/sys/fs/cgroup/my unified", &[], false) };
        let expected = [
            v1("/", "/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"], false),
            v1("/docker/ab", "/sys/fs/cgroup/memory", &["memory"], true),
            v1("/", "/sys/fs/cgroup/systemd", &["name=systemd"], false),
            unified,
        ];
        assert_eq!(read, expected);
        let cgroup =
            "4:memory:/docker/ab/c\n2:cpu,cpuacct:/a b\n1:name=systemd:/x\n0::/s.slice/h:1.service\n";
        let own: Vec<_> = read.iter().map(|mount| mount.own(cgroup).unwrap()).collect();
        assert_eq!(own, ["a b", "c", "x", "s.slice/h:1.service"].map(PathBuf::from));
        assert_eq!(read[1].own("4:memory:/docker/other\n"), None);
        assert_eq!(read[0].own("2:cpu,cpuacct:/../..\n"), None);
        assert_eq!(read[0].own("2:cpu,cpuacct:/\n"), Some(PathBuf::new()));
        assert_eq!(read[0].own("9:pids:/\n"), None);
    }
}
