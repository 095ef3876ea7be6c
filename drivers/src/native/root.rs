//! What a dyno sees as its file system: the stack image, read-only, and the places that are its own. Everything
//! here runs in init, in a mount namespace that is its own already; nothing is undone, since the namespace goes
//! when its last process does.
//!
//! Paths of the host are reached through `/` until [`enter`] has made the root the dyno's.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknod, mknodat};
use nix::unistd::{chdir, pivot_root};

use super::protocol::{AppDir, BindMount, Failure, StartRequest};
use crate::command::c_string;
use crate::sys;

/// What no process of a dyno has a use for on any file system of its own.
const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// The devices of `/dev`: name, major and minor number.
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The links of `/dev`.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// What of `/proc` and `/sys` tells of the host, or of its keys: it cannot be seen.
const MASKED: [&str; 11] = [
    "proc/acpi",
    "proc/asound",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
];

/// What of `/proc` sets something of the host: it can be read.
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// Mounts everything below the root of the stack image. `userns` shows the shared files of `/app` as the dyno's;
/// `terminal` is where the host has the dyno's terminal.
pub(super) fn build(
    request: &StartRequest,
    userns: Option<&OwnedFd>,
    terminal: Option<&Path>,
) -> Result<(), Failure> {
    let root = &request.root;
    // First: nothing that is mounted from here on may be seen by the host.
    change(Path::new("/"), MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    // Read-only at once: what is made for a dyno may not come to be in the stack image, which all share.
    bind(root, root, MsFlags::MS_RDONLY | PLAIN)?;
    etc(root, &request.scratch.etc, &request.etc)?;
    app(root, &request.scratch.app, &request.app, request.uid, userns)?;
    let tmp = format!("mode=1777,size={}", request.tmp_bytes);
    for place in ["tmp", "var/tmp"] {
        fresh("tmpfs", &root.join(place), PLAIN, &tmp)?;
    }
    dev(root, &tmp, terminal)?;
    // Init shows hsup's own command line, which a dyno must not read: it sees its own processes only.
    fresh("proc", &root.join("proc"), PLAIN | MsFlags::MS_NOEXEC, "hidepid=2")?;
    fresh("sysfs", &root.join("sys"), PLAIN | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY, "")?;
    // After `/app` and `/tmp`, which they may lie in.
    request.binds.iter().try_for_each(|bind| show(root, bind))?;
    // Last, since it makes places that others are mounted on unwritable.
    READ_ONLY.iter().try_for_each(|place| freeze(&root.join(place)))?;
    MASKED.iter().try_for_each(|place| mask(root, place))
}

/// Makes the root the dyno's, and lets go of the host's.
pub(super) fn enter(root: &Path) -> Result<(), Failure> {
    let step = |what: &str| Failure::step(format!("{what} {}", root.display()));
    chdir(root).map_err(step("change to the root"))?;
    // The old root is stacked on the new one, and taken off: no place is needed to put it.
    pivot_root(".", ".").map_err(step("change the root to"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(step("let go of the root of the host below"))?;
    chdir("/").map_err(step("change to the root"))
}

/// Whether the kernel, or the file system that the shared files of `/app` are on, has refused to show them with
/// another owner: then the dyno needs a copy.
pub(super) fn needs_copy(failure: &Failure) -> bool {
    match failure {
        Failure::Step { what, errno } => {
            let refused =
                [libc::EINVAL, libc::ENOSYS, libc::EPERM, libc::EOPNOTSUPP, libc::ENOSPC].contains(errno);
            refused && [IDMAP, LAYERS].iter().any(|step| what.starts_with(step))
        }
        Failure::NotFound { .. } | Failure::NotExecutable { .. } => false,
    }
}

pub(super) const IDMAP: &str = "show the owners of";
const LAYERS: &str = "mount the layers of /app at";

/// `/etc`: the stack image's, under files of the dyno's own.
fn etc(root: &Path, scratch: &Path, files: &[(String, String)]) -> Result<(), Failure> {
    let etc = root.join("etc");
    fresh("tmpfs", scratch, PLAIN, "mode=755,size=1m")?;
    for (name, content) in files {
        let path = scratch.join(name);
        let written = fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)));
        written.map_err(Failure::io(format!("write /etc/{name}")))?;
    }
    let layers = format!("lowerdir={}:{}", option(scratch), option(&etc));
    mount(Some("hsup-etc"), &etc, Some("overlay"), PLAIN | MsFlags::MS_RDONLY, Some(layers.as_str()))
        .map_err(Failure::step(format!("mount the layers of {}", etc.display())))
}

fn app(root: &Path, scratch: &Path, app: &AppDir, uid: u32, userns: Option<&OwnedFd>) -> Result<(), Failure> {
    let place = root.join("app");
    match app {
        AppDir::Empty => fresh("tmpfs", &place, PLAIN, &format!("mode=755,uid={uid},gid={uid}")),
        AppDir::Own(dir) => bind(dir, &place, PLAIN),
        AppDir::Layers { lower, owner: _, upper, work } => {
            let shown = match userns {
                Some(userns) => owned_by_dyno(lower, userns, scratch)?,
                None => lower,
            };
            chown(upper, Some(uid), Some(uid)).map_err(Failure::io("own the layer of /app"))?;
            // Volatile: what a dyno writes is gone with it, and need not be on disk. Else the end of the mount, and
            // each fsync of an app, would wait for all that anybody has written to the host's disk.
            let (lower, upper, work) = (option(shown), option(upper), option(work));
            let layers = format!("volatile,lowerdir={lower},upperdir={upper},workdir={work}");
            mount(Some("hsup-app"), &place, Some("overlay"), PLAIN, Some(layers.as_str()))
                .map_err(Failure::step(format!("{LAYERS} {}", place.display())))
        }
    }
}

/// Mounts the shared files with the dyno as their owner.
fn owned_by_dyno<'a>(lower: &Path, userns: &OwnedFd, place: &'a Path) -> Result<&'a Path, Failure> {
    let step = |what: &str| Failure::io(format!("{what} {}", lower.display()));
    let path = c_string(lower.as_os_str().as_encoded_bytes())?;
    let mount = sys::clone_mount(&path).map_err(step("clone the mount of"))?;
    sys::idmap_mount(mount.as_fd(), userns.as_fd()).map_err(step(IDMAP))?;
    let at = c_string(place.as_os_str().as_encoded_bytes())?;
    sys::attach_mount(mount.as_fd(), &at).map_err(step("attach the mount of"))?;
    Ok(place)
}

/// `/dev`: what every program expects and nothing else.
fn dev(root: &Path, shm: &str, terminal: Option<&Path>) -> Result<(), Failure> {
    let dev = root.join("dev");
    fresh("tmpfs", &dev, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=755,size=64k")?;
    let step = |what: &str, name: &str| Failure::step(format!("{what} /dev/{name}"));
    for (name, major, minor) in DEVICES {
        let (path, mode) = (dev.join(name), Mode::from_bits_truncate(0o666));
        mknod(&path, SFlag::S_IFCHR, mode, makedev(major, minor)).map_err(step("make", name))?;
        // whatever the umask
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(Failure::io("set a mode"))?;
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, dev.join(name)).map_err(Failure::io(format!("link /dev/{name}")))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(name)).map_err(Failure::io(format!("make /dev/{name}")))?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    if let Some(terminal) = terminal {
        // The terminal is of the host's /dev/pts, and programs look for its name in /dev.
        let console = dev.join("console");
        make_file(&console).map_err(Failure::io("make /dev/console"))?;
        bind(terminal, &console, quiet)?;
    }
    fresh("devpts", &dev.join("pts"), quiet, "newinstance,ptmxmode=0666,mode=0620")?;
    fresh("tmpfs", &dev.join("shm"), PLAIN | MsFlags::MS_NOEXEC, shm)?;
    fresh("mqueue", &dev.join("mqueue"), PLAIN | MsFlags::MS_NOEXEC, "")?;
    change(&dev, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | quiet)
}

/// Shows a path of the host. Links on the way mean what they mean to the dyno: none leads out of its root.
fn show(root: &Path, bound: &BindMount) -> Result<(), Failure> {
    let inside = bound.inside.strip_prefix("/").unwrap_or(&bound.inside);
    let root = File::open(root).map_err(Failure::io("open the root"))?;
    let place = match within(&root, inside) {
        Err(Errno::ENOENT) => make_place(&root, inside, bound.host.is_dir()),
        found => found,
    };
    let place = place.map_err(Failure::step(format!(
        "make {}, where --bind is to show {} (the stack image is read-only: bind below /app, /tmp or /var/tmp, or to \
         a path that it has)",
        bound.inside.display(),
        bound.host.display()
    )))?;
    bind(&bound.host, &by_number(&place), MsFlags::empty())?;
    // What is mounted below it on the host comes along, and is not to be more than it.
    let restrict = || format!("restrict what is bound to {}", bound.inside.display());
    let shown = within(&root, inside).map_err(Failure::step(restrict()))?;
    let path = c_string(by_number(&shown).as_os_str().as_encoded_bytes())?;
    sys::restrict_mounts(&path, bound.read_only).map_err(Failure::io(restrict()))
}

/// A path below a root, as whoever has that root sees it.
fn within(root: &File, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, if path.as_os_str().is_empty() { Path::new(".") } else { path }, how)
}

/// Makes what is missing of a path below a root.
fn make_place(root: &File, path: &Path, as_dir: bool) -> nix::Result<OwnedFd> {
    let name = path.file_name().ok_or(Errno::EINVAL)?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let parent = match within(root, parent) {
        Err(Errno::ENOENT) => make_place(root, parent, true),
        found => found,
    }?;
    if as_dir {
        mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
    } else {
        mknodat(&parent, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0)?;
    }
    within(root, path)
}

/// Where the host's `/proc`, which is still there, has what is open.
fn by_number(open: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", open.as_raw_fd()).into()
}

fn make_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().create(true).append(true).mode(0o644).open(path).map(drop)
}

/// Makes a path read-only, if there is one.
fn freeze(path: &Path) -> Result<(), Failure> {
    if path.exists() { bind(path, path, PLAIN | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY) } else { Ok(()) }
}

/// Hides a path, if there is one.
fn mask(root: &Path, place: &str) -> Result<(), Failure> {
    let path = root.join(place);
    match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => {
            fresh("tmpfs", &path, PLAIN | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY, "size=0,mode=555")
        }
        Ok(_) => mount(Some(&root.join("dev/null")), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(Failure::step(format!("hide /{place}"))),
        Err(_) => Ok(()),
    }
}

/// Mounts a new file system.
fn fresh(kind: &str, at: &Path, flags: MsFlags, options: &str) -> Result<(), Failure> {
    let options = (!options.is_empty()).then_some(options);
    mount(Some(kind), at, Some(kind), flags, options)
        .map_err(Failure::step(format!("mount {kind} at {}", at.display())))
}

/// Shows one path at another; flags need a second call.
fn bind(from: &Path, to: &Path, flags: MsFlags) -> Result<(), Failure> {
    let recursive = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, recursive, None::<&str>).map_err(Failure::step(format!(
        "bind {} to {}",
        from.display(),
        to.display()
    )))?;
    if flags.is_empty() { Ok(()) } else { change(to, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags) }
}

/// Changes a mount.
fn change(at: &Path, flags: MsFlags) -> Result<(), Failure> {
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>)
        .map_err(Failure::step(format!("change the mount at {}", at.display())))
}

/// A path as an option of overlay: what divides paths and options is escaped.
fn option(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.chars().fold(String::new(), |mut escaped, c| {
        if matches!(c, '\\' | ',' | ':') {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}
