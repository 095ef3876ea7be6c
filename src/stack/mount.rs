//! Images as directories: a loop device, a mount on it, and what must be in it. It owns the system calls; where
//! images lie and who uses them is not its business.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hsup_drivers::sys::{attach_loop_device, free_loop_device};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::content::FileSystem;

const LOOP_CONTROL: &str = "/dev/loop-control";

/// How often another process may be quicker to take a free loop device.
const ATTEMPTS: u32 = 100;

/// Nobody writes to a stack, and what it holds gives nobody rights: dynos have their devices from elsewhere.
const FLAGS: MsFlags = MsFlags::MS_RDONLY.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOSUID);

/// A step of mounting an image.
#[derive(Debug)]
pub(super) struct MountFault {
    pub(super) operation: String,
    /// Whether the image is to blame, and not this host.
    pub(super) image_is_bad: bool,
    pub(super) source: io::Error,
}

impl MountFault {
    fn of<E: Into<io::Error>>(operation: impl Into<String>) -> impl FnOnce(E) -> Self {
        let operation = operation.into();
        move |source| Self { operation, image_is_bad: false, source: source.into() }
    }
}

/// A loop device that shows an image. It is free again once it is neither held nor mounted.
struct LoopDevice {
    path: PathBuf,
    _held: File,
}

impl LoopDevice {
    fn attach(image: &Path) -> Result<Self, MountFault> {
        let file = File::open(image).map_err(MountFault::of(format!("open {image:?}")))?;
        let control =
            device(Path::new(LOOP_CONTROL)).map_err(MountFault::of(format!("open {LOOP_CONTROL}")))?;
        let mut attempt = 1;
        loop {
            let number =
                free_loop_device(control.as_fd()).map_err(MountFault::of("find a free loop device"))?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let held = device(&path).map_err(MountFault::of(format!("open {}", path.display())))?;
            match attach_loop_device(held.as_fd(), file.as_fd(), image.as_os_str().as_bytes()) {
                Ok(()) => return Ok(Self { path, _held: held }),
                Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && attempt < ATTEMPTS => {
                    attempt += 1
                }
                Err(error) => {
                    let operation = format!("attach {image:?} to {}", path.display());
                    return Err(MountFault::of(operation)(error));
                }
            }
        }
    }
}

fn device(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlag::O_CLOEXEC.bits()).open(path)
}

/// Mounts an image, read-only, on a directory that is there.
///
/// # Errors
/// When there is no loop device, or the kernel refuses the image.
pub(super) fn mount_image(image: &Path, file_system: FileSystem, on: &Path) -> Result<(), MountFault> {
    let device = LoopDevice::attach(image)?;
    let (types, options) = file_system.mount_types();
    let mut refusals = Vec::new();
    for file_system in types {
        match mount(Some(&device.path), on, Some(*file_system), FLAGS, options) {
            Ok(()) => return Ok(()),
            Err(error) => refusals.push(error),
        }
    }
    // a type that this kernel does not have says nothing of the image
    let refusal = refusals.into_iter().find(|refusal| *refusal != Errno::ENODEV).unwrap_or(Errno::ENODEV);
    Err(refused(image, file_system, refusal))
}

/// What a kernel says of images that it cannot read.
const BAD_IMAGE: [Errno; 7] = [
    Errno::EINVAL,
    Errno::EUCLEAN,
    Errno::EBADMSG,
    Errno::EIO,
    Errno::EROFS,
    Errno::EFBIG,
    Errno::EOPNOTSUPP,
];

fn refused(image: &Path, file_system: FileSystem, refusal: Errno) -> MountFault {
    let why = if refusal == Errno::ENODEV {
        format!("this kernel has no {file_system} file system")
    } else if refusal == Errno::EROFS {
        "it was not unmounted cleanly, so mend it first (e2fsck -f, xfs_repair)".to_owned()
    } else if matches!(refusal, Errno::EPERM | Errno::EACCES) {
        "that takes root".to_owned()
    } else {
        format!("the kernel refuses it as {file_system}")
    };
    let operation = format!("mount {image:?}: {why}");
    MountFault { operation, image_is_bad: BAD_IMAGE.contains(&refusal), source: refusal.into() }
}

/// Unmounts a directory.
///
/// # Errors
/// `EBUSY` if something in it is in use.
pub(super) fn unmount(dir: &Path) -> io::Result<()> {
    Ok(umount2(dir, MntFlags::UMOUNT_NOFOLLOW)?)
}

/// Whether a directory could be the root of dynos: any that could has one of these.
pub(super) fn looks_like_root(dir: &Path) -> bool {
    ["bin", "usr"].iter().any(|name| fs::symlink_metadata(dir.join(name)).is_ok())
}

/// Whether an image can be mounted and holds a root file system. It is mounted where nobody else sees it: should
/// this process be killed meanwhile, nothing stays.
///
/// # Errors
/// As [`mount_image`], or if this process may not have mounts of its own.
pub(super) fn holds_root(image: &Path, file_system: FileSystem, on: &Path) -> Result<bool, MountFault> {
    in_private_namespace(|| {
        mount_image(image, file_system, on)?;
        let holds_root = looks_like_root(on);
        unmount(on).map_err(MountFault::of(format!("unmount {on:?}")))?;
        Ok(holds_root)
    })
    .map_err(|error| {
        let what = "make a mount namespace, which takes root";
        MountFault::of(what)(error)
    })?
}

/// Runs work in a mount namespace of its own, on a thread that ends with it.
///
/// # Errors
/// If there can be none.
pub(super) fn in_private_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mounts".to_owned()).spawn_scoped(scope, || {
            // a thread that has a namespace of its own no longer shares its directory with the others either
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            Ok(work())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
