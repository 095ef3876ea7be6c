//! posix_spawn(3).

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use nix::unistd::Pid;

/// What a spawned process has as input, output and errors.
#[derive(Clone, Copy, Debug)]
pub enum SpawnStdio<'a> {
    /// These three descriptors.
    Descriptors([BorrowedFd<'a>; 3]),
    /// This terminal, opened by the new process, whose controlling terminal it becomes.
    Terminal(&'a CStr),
}

/// A process to be spawned.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program: a path with a slash.
    pub program: &'a CStr,
    /// Its arguments, the name of the program first.
    pub args: &'a [CString],
    /// Its whole environment.
    pub env: &'a [CString],
    /// Its working directory; `None` for ours.
    pub dir: Option<&'a CStr>,
    /// Its input, output and errors.
    pub stdio: SpawnStdio<'a>,
    /// What it has as descriptor 3.
    pub passed: Option<BorrowedFd<'a>>,
}

/// Spawns a process as the leader of a new session and process group, with default signal handling and an
/// empty signal mask.
///
/// This is posix_spawn(3): the C library shares our memory with the child until it has exec'd (no copy of page
/// tables, no code of ours after the fork) and reports a failed exec as an error of the call.
///
/// # Errors
/// The error of whatever step failed, that of exec among them.
pub fn spawn(request: &Spawn<'_>) -> io::Result<Pid> {
    let mut actions = FileActions::new()?;
    match request.stdio {
        SpawnStdio::Descriptors(fds) => {
            for (fd, target) in fds.iter().zip(0..) {
                actions.dup(fd.as_raw_fd(), target)?;
            }
        }
        SpawnStdio::Terminal(path) => {
            actions.open(0, path)?;
            actions.dup(0, 1)?;
            actions.dup(0, 2)?;
        }
    }
    if let Some(fd) = request.passed {
        actions.dup(fd.as_raw_fd(), 3)?;
    }
    if let Some(dir) = request.dir {
        actions.chdir(dir)?;
    }
    let attributes = Attributes::new_session()?;
    let args = null_terminated(request.args);
    let env = null_terminated(request.env);
    let mut pid = 0;
    // SAFETY: all pointers are to NUL-terminated strings and NULL-terminated arrays of them that live until
    // the call returns, and to initialised actions and attributes; the child only reads them.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            request.program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            args.as_ptr(),
            env.as_ptr(),
        )
    })?;
    Ok(Pid::from_raw(pid))
}

fn null_terminated(texts: &[CString]) -> Vec<*mut c_char> {
    texts.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// The posix_spawn family returns error numbers.
fn check(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: init fills the place it is given, and has when it returns 0.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: as above.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn dup(&mut self, fd: RawFd, target: RawFd) -> io::Result<()> {
        // SAFETY: the actions are initialised; descriptors are checked when the child uses them.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, fd, target) })
    }

    fn open(&mut self, target: RawFd, path: &CStr) -> io::Result<()> {
        // SAFETY: the actions are initialised and copy the path.
        check(unsafe {
            libc::posix_spawn_file_actions_addopen(&raw mut self.0, target, path.as_ptr(), libc::O_RDWR, 0)
        })
    }

    fn chdir(&mut self, dir: &CStr) -> io::Result<()> {
        // SAFETY: the actions are initialised and copy the path.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, dir.as_ptr()) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: they are initialised and are not used again.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// A new session, all signals at their defaults, none blocked.
    fn new_session() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: init fills the place it is given, and has when it returns 0.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: as above.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both calls fill the set they are given and cannot fail; the setters copy the sets.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(none.as_mut_ptr());
            check(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, all.as_ptr()))?;
            check(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, none.as_ptr()))?;
        }
        let flags = libc::c_short::try_from(libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK)
            .map_err(io::Error::other)?
            | libc::POSIX_SPAWN_SETSID;
        // SAFETY: the attributes are initialised.
        check(unsafe { libc::posix_spawnattr_setflags(&raw mut attributes.0, flags) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: they are initialised and are not used again.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}
