//! The socket file: who may take the path, with which mode, and who may remove it again. Nothing is read from
//! or written to the socket here.
//!
//! Two hsups that are given one path must never both believe that they own it. "Is the socket there stale?"
//! and "then it is mine" are two steps, so they are done under a lock: `flock` on the *directory*, which
//! leaves no file behind, ends with its holder however that one ends, and is held for the moment of binding
//! only. Afterwards the living socket itself keeps others away.
//!
//! The mode is given to the socket before it is bound: Linux makes the file with the mode of the socket's
//! inode, narrowed by the umask. It is then widened to exactly [`SOCKET_MODE`], so that there is no moment at
//! which more people may connect than in the end.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{AcceptConn, SockType};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstatat, stat};
use nix::unistd::{Gid, UnlinkatFlags, fchownat, unlinkat};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::time::{Instant, sleep};

use super::access::Access;
use crate::users::Group;

/// Owner and group may talk to hsup: who may stop dynos is decided by the group of the file.
const SOCKET_MODE: Mode = Mode::S_IRWXU.union(Mode::S_IRWXG);

/// With a group that may only read everybody may connect, and is told apart then: a file has one group.
const OPEN_MODE: Mode = Mode::S_IRWXU.union(Mode::S_IRWXG).union(Mode::S_IRWXO);

/// Directories made on the way: everybody may pass, since the socket itself says who may connect.
const DIRECTORY_MODE: u32 = 0o755;

/// The longest path of a socket: `sun_path` has 108 bytes and the last one is a NUL.
const MAX_PATH_BYTES: usize = 107;

/// How many clients may wait to be accepted.
const BACKLOG: u32 = 128;

/// How long another hsup may take to bind in the same directory. It needs microseconds; a holder that takes
/// longer is not binding a socket.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How often the lock is tried again; `flock` has no other way to wait without holding up a thread.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// Why the control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A living hsup has the path.
    #[error(
        "socket in use: another hsup answers at {}; stop it or choose another path with -s", path.display()
    )]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something other than a socket is there, and it is left alone.
    #[error(
        "cannot use {} as the control socket: {what} is there; remove it or choose another path with -s",
        path.display()
    )]
    Occupied {
        /// The path.
        path: PathBuf,
        /// What stands there.
        what: &'static str,
    },
    /// The path does not fit into a socket address.
    #[error(
        "cannot use {} as the control socket: the path has {} bytes and a socket's path at most {MAX_PATH_BYTES}; \
         choose a shorter one with -s",
        path.display(), path.as_os_str().len()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The path is not one of a file.
    #[error(
        "cannot use {path:?} as the control socket: it names no file; give one with -s, as in -s /run/hsup.sock"
    )]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// Another program keeps the directory locked.
    #[error(
        "cannot lock {}: another program has held its lock for {LOCK_PATIENCE:?}; end that program (see fuser) or \
         choose another path with -s",
        directory.display()
    )]
    Locked {
        /// The directory of the socket.
        directory: PathBuf,
    },
    /// What a service manager has handed over is something else.
    #[error(
        "the socket that the service manager has handed over is no unix stream socket that listens: write \
         ListenStream=/run/hsup/APP.sock into its unit"
    )]
    NotListening,
    /// The system refused a step.
    #[error("cannot {operation} {} ({hint})", path.display())]
    Io {
        /// The step.
        operation: &'static str,
        /// The file or directory that it was about.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let denied = source.raw_os_error().is_some_and(is_denial);
        let hint = if denied {
            "give hsup the right to write there, or choose another path with -s"
        } else {
            "check the path, or choose another one with -s"
        };
        Self::Io { operation, path: path.to_owned(), hint, source }
    }
}

fn in_use(path: &Path) -> SocketError {
    SocketError::InUse { path: path.to_owned() }
}

fn is_denial(errno: i32) -> bool {
    [Errno::EACCES, Errno::EPERM, Errno::EROFS].contains(&Errno::from_raw(errno))
}

/// The control socket, bound and listening.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    // Before the listener, which is open until after this is dropped. So no other hsup takes the path between the
    // look and the removal, and the kernel has not given the number of our inode to another file.
    file: Option<OwnFile>,
    listener: UnixListener,
    access: Access,
}

impl ControlSocket {
    /// The path of the socket: as it was given, or as whoever has bound it says. Empty for one that has none.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Says who may use it: members of `control` everything, and of `read` what only reads. Without either it stays as
    /// it is, and who may connect may do everything. Where only `read` is named, control is that of the group that the
    /// file of the socket has. The file of a socket that a service manager has made is left as it is.
    ///
    /// # Errors
    /// If the file cannot be given to the group, or has none.
    pub fn restrict(&mut self, control: Option<Group>, read: Option<Group>) -> Result<(), SocketError> {
        if control.is_none() && read.is_none() {
            return Ok(());
        }
        // From the first moment on, nobody is let in who is not to be.
        let control = match control {
            Some(control) => control,
            None => {
                let found =
                    stat(&self.path).map_err(|error| SocketError::io("look at", &self.path, error))?;
                Group { name: found.st_gid.to_string(), gid: found.st_gid }
            }
        };
        let mode = if read.is_some() { OPEN_MODE } else { SOCKET_MODE };
        let gid = Gid::from_raw(control.gid);
        self.access = Access { control: Some(control), read };
        let Some(file) = &self.file else { return Ok(()) };
        let Place { directory, path } = &file.place;
        let name = file.place.name();
        fchownat(directory, name, None, Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|error| SocketError::io("give to its group", path, error))?;
        fchmodat(directory, name, mode, FchmodatFlags::NoFollowSymlink)
            .map_err(|error| SocketError::io("set the mode of", path, error))
    }
}

/// The file of a socket that hsup has made. Dropping it removes the file if that is still the one; a file that someone
/// else has put in its place stays.
#[derive(Debug)]
struct OwnFile {
    place: Place,
    made: FileId,
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if let Ok(Some(found)) = self.place.look()
            && FileId::of(&found) == self.made
            && let Err(error) = self.place.remove()
        {
            tracing::warn!(path = %self.place.path.display(), %error, "the control socket could not be removed");
        }
    }
}

/// Which file something is, whatever its name.
#[derive(Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(stat: &FileStat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// A name in an open directory, so that a later `chdir` or a renamed parent does not lead elsewhere.
#[derive(Debug)]
struct Place {
    directory: File,
    path: PathBuf,
}

impl Place {
    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// What stands there; a symbolic link is not followed.
    fn look(&self) -> Result<Option<FileStat>, Errno> {
        match fstatat(&self.directory, self.name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn remove(&self) -> Result<(), Errno> {
        match unlinkat(&self.directory, self.name(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            result => result,
        }
    }
}

/// Takes a socket that a service manager has bound: it listens already, and its file is the manager's.
///
/// # Errors
/// If it is not a unix stream socket that listens.
pub fn adopt(descriptor: OwnedFd) -> Result<ControlSocket, SocketError> {
    let is_stream = getsockopt(&descriptor, SockType) == Ok(nix::sys::socket::SockType::Stream);
    let listens = getsockopt(&descriptor, AcceptConn) == Ok(true);
    let listener = std::os::unix::net::UnixListener::from(descriptor);
    let address =
        listener.local_addr().ok().filter(|_| is_stream && listens).ok_or(SocketError::NotListening)?;
    let path = address.as_pathname().map(Path::to_owned).unwrap_or_default();
    let watched = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    let listener = watched.map_err(|error| SocketError::io("listen at", &path, error))?;
    Ok(ControlSocket { path, file: None, listener, access: Access::default() })
}

/// Takes the path for this hsup: makes missing directories, takes over a stale socket or an empty file, and
/// listens.
///
/// # Errors
/// If a living hsup or anything else is there, or the system refuses.
pub async fn bind(path: &Path) -> Result<ControlSocket, SocketError> {
    check(path)?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    create_directories(parent).map_err(|error| SocketError::io("create the directory", parent, error))?;
    let directory =
        File::open(parent).map_err(|error| SocketError::io("open the directory", parent, error))?;
    let kept = directory.try_clone().map_err(|error| SocketError::io("open the directory", parent, error))?;
    let place = Place { directory: kept, path: path.to_owned() };
    let lock = lock(directory, parent).await?;
    clear(&place).await?;
    let socket = listen(place);
    drop(lock);
    socket
}

fn check(path: &Path) -> Result<(), SocketError> {
    let bytes = path.as_os_str().as_bytes();
    if path.file_name().is_none() || bytes.ends_with(b"/") || bytes.contains(&0) {
        return Err(SocketError::NoFile { path: path.to_owned() });
    }
    if bytes.len() > MAX_PATH_BYTES {
        return Err(SocketError::TooLong { path: path.to_owned() });
    }
    Ok(())
}

fn create_directories(directory: &Path) -> io::Result<()> {
    if directory == Path::new("") || directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        create_directories(parent)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        // The umask may have narrowed it, and then the socket's group could not pass.
        Ok(()) => std::fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE)),
        // Another hsup may be on the same way.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

async fn lock(mut directory: File, path: &Path) -> Result<Flock<File>, SocketError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EWOULDBLOCK)) if Instant::now() >= deadline => {
                return Err(SocketError::Locked { directory: path.to_owned() });
            }
            Err((unlocked, Errno::EWOULDBLOCK | Errno::EINTR)) => directory = unlocked,
            Err((_, error)) => return Err(SocketError::io("lock the directory", path, error)),
        }
        sleep(LOCK_INTERVAL).await;
    }
}

/// Removes what hsup may take over and refuses the rest.
async fn clear(place: &Place) -> Result<(), SocketError> {
    let path = place.path.as_path();
    let Some(found) = place.look().map_err(|error| SocketError::io("look at", path, error))? else {
        return Ok(());
    };
    let occupied = |what| Err(SocketError::Occupied { path: path.to_owned(), what });
    match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFSOCK => probe(path).await?,
        SFlag::S_IFREG if found.st_size == 0 => {}
        SFlag::S_IFREG => return occupied("a file that is not empty"),
        SFlag::S_IFDIR => return occupied("a directory"),
        SFlag::S_IFIFO => return occupied("a FIFO"),
        SFlag::S_IFLNK => return occupied("a symbolic link"),
        _ => return occupied("a device"),
    }
    place.remove().map_err(|error| SocketError::io("take over the stale socket", path, error))
}

/// Whether a socket has an owner: to connect needs no answer of it, so a busy owner counts as well.
async fn probe(path: &Path) -> Result<(), SocketError> {
    let Err(error) = UnixStream::connect(path).await else {
        return Err(in_use(path));
    };
    match error.raw_os_error().map(Errno::from_raw) {
        // Nobody listens, or it has just gone.
        Some(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
        // Somebody listens, and so many wait already that one more has no room.
        Some(Errno::EAGAIN) => Err(in_use(path)),
        Some(Errno::EPROTOTYPE) => {
            Err(SocketError::Occupied { path: path.to_owned(), what: "another program's datagram socket" })
        }
        Some(_) | None => Err(SocketError::io("see who answers at", path, error)),
    }
}

fn listen(place: Place) -> Result<ControlSocket, SocketError> {
    let failed = |operation, source: io::Error| SocketError::io(operation, &place.path, source);
    let socket = UnixSocket::new_stream().map_err(|error| failed("make the control socket", error))?;
    fchmod(&socket, SOCKET_MODE).map_err(|error| failed("set the mode of", error.into()))?;
    socket.bind(&place.path).map_err(|error| {
        // Made since we looked, so by one that does not know our lock.
        let made = error.kind() == io::ErrorKind::AddrInUse;
        if made { in_use(&place.path) } else { failed("bind the control socket", error) }
    })?;
    let listener = socket.listen(BACKLOG).map_err(|error| failed("listen at", error))?;
    let found = place.look().and_then(|found| found.ok_or(Errno::ENOENT));
    let found = found.map_err(|error| failed("look at", error.into()))?;
    // From here on a failure removes the file.
    let file = OwnFile { place, made: FileId::of(&found) };
    if Mode::from_bits_truncate(found.st_mode) != SOCKET_MODE {
        let Place { directory, path } = &file.place;
        fchmodat(directory, file.place.name(), SOCKET_MODE, FchmodatFlags::NoFollowSymlink)
            .map_err(|error| SocketError::io("set the mode of", path, error))?;
    }
    let path = file.place.path.clone();
    Ok(ControlSocket { path, file: Some(file), listener, access: Access::default() })
}

#[cfg(test)]
mod tests;
