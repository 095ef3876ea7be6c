//! The zygote: the process that inits are cloned from. It is forked before hsup starts a thread and never has a
//! second one, so that what it clones may run any code. It does one thing at a time: a request, a clone, an answer.
//!
//! Each init that it clones is its sibling, a child of hsup proper, which reaps it. The zygote ends when hsup does.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, getpid, getppid, pause, pipe2};

use super::init::{self, Descriptors};
use super::network::Links;
use super::protocol::{Answer, AppDir, Failure, StartRequest, receive, send};
use super::root::IDMAP;
use super::seccomp::Filter;
use crate::StartError;
use crate::sys::{self, Cloned};

/// The namespaces of a dyno: all but that of its network, which may be there already, and that of users, in which a
/// process could become root of its own.
const NAMESPACES: libc::c_int =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;

/// hsup's end of the zygote.
#[derive(Debug)]
pub struct Zygote {
    socket: Mutex<UnixStream>,
}

impl Zygote {
    /// Forks the zygote. To be called before any thread is started.
    ///
    /// # Errors
    /// If the process has several threads already, or the kernel refuses.
    pub fn fork() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        match sys::fork_alone()? {
            ForkResult::Parent { .. } => Ok(Self { socket: Mutex::new(ours) }),
            ForkResult::Child => {
                drop(ours);
                let served =
                    prctl::set_name(c"hsup-zygote").map_err(io::Error::from).and_then(|()| serve(theirs));
                // without a word: when hsup is there it hears that the socket has ended
                std::process::exit(i32::from(served.is_err()))
            }
        }
    }

    /// Has an init cloned; its pid, and its pidfd. The descriptors are the socket to hsup, input, output, errors
    /// and, if the request says so, a cgroup. The caller does something else meanwhile.
    pub(super) fn start<T>(
        &self,
        request: &StartRequest,
        fds: &[OwnedFd],
        meanwhile: impl FnOnce() -> T,
    ) -> Result<(u32, OwnedFd, T), StartError> {
        let system = |source| StartError::System {
            operation: "talk to the zygote, from which dynos are cloned (was it killed? start hsup anew)",
            source,
        };
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        send(&mut socket, request, &borrowed).map_err(system)?;
        let done = meanwhile();
        let answer = receive::<Answer>(&mut socket).map_err(system)?;
        match answer {
            Some((Answer::Init(pid), mut fds)) if fds.len() == 1 => {
                Ok((pid, fds.pop().expect("there is one"), done))
            }
            Some((Answer::Failed(failure), _)) => Err(failure.into()),
            Some((Answer::Init(_), _)) | None => Err(system(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// The zygote's life.
fn serve(mut socket: UnixStream) -> io::Result<()> {
    let filter = Filter::compile();
    // The first dyno finds this done: till there is one, the zygote has nothing else to do.
    let mut spare = Spare { unmapped: Unmapped::begin().ok(), used_up: None, network: make_network()? };
    while let Some((request, fds)) = receive::<StartRequest>(&mut socket)? {
        let cloned = match &filter {
            Ok(filter) => clone_init(&request, fds, &mut spare, filter),
            Err(failure) => Err(failure.clone()),
        };
        match cloned {
            Ok(Init::Cloned { pid, pidfd }) => send(&mut socket, &Answer::Init(pid), &[pidfd.as_fd()])?,
            Ok(Init::Me(fds, links, userns, filter)) => {
                // The zygote's, not its own.
                drop(socket);
                init::run(&request, fds, links, userns.as_ref(), filter)
            }
            Err(failure) => send(&mut socket, &Answer::Failed(failure), &[])?,
        }
        // Nobody waits for this.
        if let Some(unmapped) = spare.used_up.take() {
            unmapped.end();
        }
    }
    Ok(())
}

/// What a clone has made of this process.
enum Init<'a> {
    /// The zygote still: of the new init, its pid and its pidfd.
    Cloned { pid: u32, pidfd: OwnedFd },
    /// The new init, with what it needs.
    Me(Descriptors, Links, Option<OwnedFd>, &'a Filter),
}

fn clone_init<'a>(
    request: &StartRequest,
    fds: Vec<OwnedFd>,
    spare: &mut Spare,
    filter: &'a Filter,
) -> Result<Init<'a>, Failure> {
    let mut fds = fds.into_iter();
    let mut next =
        || fds.next().ok_or_else(|| Failure::step("receive descriptors")(nix::errno::Errno::EBADF));
    let control = next()?;
    let stdio = [next()?, next()?, next()?];
    let cgroup = if request.into_cgroup { Some(next()?) } else { None };
    let userns = match &request.app {
        AppDir::Layers { owner, .. } if *owner != (request.uid, request.uid) => {
            let unmapped = spare.unmapped.take().map_or_else(Unmapped::begin, Ok)?;
            let mapped = unmapped.map(*owner, request.uid);
            spare.used_up = Some(unmapped);
            Some(mapped?)
        }
        AppDir::Layers { .. } | AppDir::Empty | AppDir::Own(_) => None,
    };
    // The host's, which init is not in.
    let links =
        Links::open().map_err(|error| Failure::Step { what: crate::explain(&error), errno: libc::EIO })?;
    let cgroup = cgroup.as_ref().map(AsFd::as_fd);
    let cloned = match spare.network.take() {
        None => sys::clone_sibling(NAMESPACES | libc::CLONE_NEWNET, cgroup),
        Some(network) => within(&network, || sys::clone_sibling(NAMESPACES, cgroup)),
    };
    match cloned.map_err(Failure::io("clone a process into new namespaces"))? {
        Cloned::Caller { pid, pidfd } => Ok(Init::Cloned { pid, pidfd }),
        Cloned::New => Ok(Init::Me(Descriptors { control, stdio }, links, userns, filter)),
    }
}

/// What takes the kernel longest and is the same for each dyno.
struct Spare {
    unmapped: Option<Unmapped>,
    /// One that has been mapped, and whose process is of no more use.
    used_up: Option<Unmapped>,
    network: Option<OwnedFd>,
}

/// Makes a network namespace, if that is allowed: if not, it is the clone that says so.
///
/// # Errors
/// If there is no way back.
fn make_network() -> io::Result<Option<OwnedFd>> {
    let own = own_network()?;
    if unshare(CloneFlags::CLONE_NEWNET).is_err() {
        return Ok(None);
    }
    let made = own_network().ok();
    setns(own, CloneFlags::CLONE_NEWNET)?;
    Ok(made)
}

/// Clones in another network namespace, where the new process stays.
fn within(network: &OwnedFd, clone: impl FnOnce() -> io::Result<Cloned>) -> io::Result<Cloned> {
    let own = own_network()?;
    setns(network, CloneFlags::CLONE_NEWNET)?;
    let cloned = clone();
    match cloned {
        Ok(Cloned::New) => {}
        Ok(Cloned::Caller { .. }) | Err(_) => {
            if setns(own, CloneFlags::CLONE_NEWNET).is_err() {
                // In the wrong place it is of no use to anybody, and hsup hears of its end.
                std::process::exit(1);
            }
        }
    }
    cloned
}

fn own_network() -> io::Result<OwnedFd> {
    std::fs::File::open("/proc/self/ns/net").map(OwnedFd::from)
}

/// A user namespace that maps nobody yet, and the process that is in it: to be mapped it needs one.
struct Unmapped {
    process: Pid,
    /// Ends when the namespace is there.
    ready: OwnedFd,
}

impl Unmapped {
    /// Begins to make one; the process ends when this one does.
    fn begin() -> Result<Self, Failure> {
        let (ready, made) = pipe2(OFlag::O_CLOEXEC).map_err(Failure::step("make a pipe"))?;
        let zygote = getpid();
        match sys::fork_alone().map_err(Failure::io("fork for a user namespace"))? {
            ForkResult::Parent { child } => Ok(Self { process: child, ready }),
            ForkResult::Child => {
                // After the change of namespace, which may undo it.
                let waiting = unshare(CloneFlags::CLONE_NEWUSER)
                    .and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL))
                    .map(|()| drop(made));
                while waiting.is_ok() && getppid() == zygote {
                    pause();
                }
                std::process::exit(1)
            }
        }
    }

    /// Maps one user to another, for files of the one to be shown as the other's. The namespace needs no process then.
    fn map(&self, (user, group): (u32, u32), uid: u32) -> Result<OwnedFd, Failure> {
        let process = self.process;
        let _ended = nix::unistd::read(&self.ready, &mut [0]);
        let written = [("uid_map", user), ("gid_map", group)].iter().try_for_each(|(file, owner)| {
            std::fs::write(format!("/proc/{process}/{file}"), format!("{owner} {uid} 1\n"))
        });
        let opened = written.and_then(|()| std::fs::File::open(format!("/proc/{process}/ns/user")));
        opened.map(OwnedFd::from).map_err(Failure::io(format!("{IDMAP} the app's files")))
    }

    /// Ends its process. Only for the zygote, whose child that is.
    fn end(self) {
        let _gone = kill(self.process, Signal::SIGKILL);
        let _reaped = waitpid(self.process, None);
    }
}
