//! What a dyno sees as its file system: the stack image, read-only, and the places that are its own. Everything
//! here runs in init, in a mount namespace that is its own already; nothing is undone, since all of it goes with the
//! namespace.
//!
//! Paths of the host are reached through `/` until [`enter`] has made the root the dyno's.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{chdir, pivot_root};

use super::in_root::{by_number, make_place, place, within};
use super::protocol::{AppDir, BindMount, Failure, StartRequest};
use super::remount::restrict;
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
const MASKED_OF_PROC: [&str; 9] =
    ["acpi", "asound", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats"];
const MASKED_OF_SYS: [&str; 2] = ["devices/virtual/powercap", "firmware"];

/// What of `/proc` sets something of the host: it can be read.
const READ_ONLY_OF_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

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
    // Read-only at once: what is made for a dyno may not come to be in the stack image, which all share. Nor in what is
    // mounted below it on the host, which comes along.
    bind(root, root, MsFlags::empty())?;
    let restricted = File::open(root).and_then(|opened| restrict(&opened.into(), true));
    restricted.map_err(Failure::io(format!("make all that is mounted at {} read-only", root.display())))?;
    let nothing = etc(root, &request.scratch.etc, &request.etc)?;
    app(root, &request.scratch.app, &request.app, request.main.uid, userns)?;
    let tmp = format!("mode=1777,size={}", request.tmp_bytes);
    for place in ["tmp", "var/tmp"] {
        fresh("tmpfs", &at(root, place)?, PLAIN, &tmp)?;
    }
    dev(root, &tmp, terminal)?;
    let (proc, sys) = (at(root, "proc")?, at(root, "sys")?);
    // Init shows hsup's own command line, which a dyno must not read: it sees its own processes only.
    fresh("proc", &proc, PLAIN | MsFlags::MS_NOEXEC, "hidepid=2")?;
    fresh("sysfs", &sys, PLAIN | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY, "")?;
    // After `/app` and `/tmp`, which they may lie in.
    request.binds.iter().try_for_each(|bind| show(root, bind))?;
    // Last, since it makes places that others are mounted on unwritable.
    let null = at(root, "dev/null")?;
    READ_ONLY_OF_PROC.iter().try_for_each(|inner| freeze(&proc.join(inner)))?;
    MASKED_OF_PROC.iter().try_for_each(|inner| mask(&proc.join(inner), &nothing, &null))?;
    MASKED_OF_SYS.iter().try_for_each(|inner| mask(&sys.join(inner), &nothing, &null))
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

/// `/etc`: the stack image's, under files of the dyno's own. Gives a directory in which there is nothing, and never will.
fn etc(root: &Path, scratch: &Path, files: &[(String, String)]) -> Result<PathBuf, Failure> {
    let etc = at(root, "etc")?;
    let inert = PLAIN | MsFlags::MS_NOEXEC;
    fresh("tmpfs", scratch, inert, "mode=755,size=1m")?;
    let [own, nothing] = [scratch.join("own"), scratch.join("nothing")];
    for dir in [&own, &nothing] {
        fs::create_dir(dir).map_err(Failure::io("make the places of /etc"))?;
    }
    for (name, content) in files {
        fs::write(own.join(name), content).map_err(Failure::io(format!("write /etc/{name}")))?;
    }
    // What is bound from there is read-only, too.
    change(scratch, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | inert)?;
    let layers = format!("lowerdir={}:{}", option(&own), option(&etc));
    mount(Some("hsup-etc"), &etc, Some("overlay"), PLAIN | MsFlags::MS_RDONLY, Some(layers.as_str()))
        .map_err(Failure::step(format!("mount the layers of {}", etc.display())))?;
    Ok(nothing)
}

fn app(root: &Path, scratch: &Path, app: &AppDir, uid: u32, userns: Option<&OwnedFd>) -> Result<(), Failure> {
    let place = at(root, "app")?;
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
                .map_err(io::Error::from)
                .map_err(Failure::sharing(format!("mount the layers of /app at {}", place.display())))
        }
    }
}

/// Mounts the shared files with the dyno as their owner.
fn owned_by_dyno<'a>(lower: &Path, userns: &OwnedFd, place: &'a Path) -> Result<&'a Path, Failure> {
    let step = |what: &str| Failure::sharing(format!("{what} {}", lower.display()));
    let path = c_string(lower.as_os_str().as_encoded_bytes())?;
    let mount = sys::clone_mount(&path).map_err(step("clone the mount of"))?;
    sys::idmap_mount(mount.as_fd(), userns.as_fd()).map_err(step("show the owners of"))?;
    let at = c_string(place.as_os_str().as_encoded_bytes())?;
    sys::attach_mount(mount.as_fd(), &at).map_err(step("attach the mount of"))?;
    Ok(place)
}

/// `/dev`: what every program expects and nothing else.
fn dev(root: &Path, shm: &str, terminal: Option<&Path>) -> Result<(), Failure> {
    let dev = at(root, "dev")?;
    fresh("tmpfs", &dev, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=755,size=64k")?;
    let usual = umask(Mode::empty());
    let made = DEVICES.iter().try_for_each(|(name, major, minor)| {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&dev.join(name), SFlag::S_IFCHR, mode, makedev(*major, *minor))
            .map_err(Failure::step(format!("make /dev/{name}")))
    });
    umask(usual);
    made?;
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
    let doing = || format!("restrict what is bound to {}", bound.inside.display());
    let shown = within(&root, inside).map_err(Failure::step(doing()))?;
    restrict(&shown, bound.read_only).map_err(Failure::io(doing()))
}

fn make_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().create(true).append(true).mode(0o644).open(path).map(drop)
}

/// Where something of the root is. The stack image may have links there, which mean what they mean to the dyno.
fn at(root: &Path, inside: &str) -> Result<PathBuf, Failure> {
    place(root, inside.as_ref()).map_err(Failure::io(format!("find /{inside} in the stack image")))
}

/// Makes a path of the kernel's own file systems read-only, if there is one.
fn freeze(path: &Path) -> Result<(), Failure> {
    if path.exists() { bind(path, path, PLAIN | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY) } else { Ok(()) }
}

/// Hides a path of the kernel's own file systems, if there is one.
fn mask(path: &Path, nothing: &Path, null: &Path) -> Result<(), Failure> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let instead = if found.is_dir() { nothing } else { null };
    bind(instead, path, MsFlags::empty())
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
