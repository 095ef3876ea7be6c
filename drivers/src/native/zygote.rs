//! The zygote: the process that inits are cloned from. It has one thread, so that what it clones may run any code.
//! It does one thing at a time: a request, a clone, an answer.
//!
//! Each init that it clones is its sibling, a child of hsup proper, which reaps it. The zygote ends when hsup does.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

use super::init::{self, Descriptors};
use super::network::Links;
use super::protocol::{Answer, AppDir, Failure, Received, StartRequest, receive, send};
use super::seccomp::Filter;
use crate::sys::{self, Cloned, Sleeper};

/// The namespaces of a dyno: all but that of its network, which may be there already, and that of users, in which a
/// process could become root of its own.
const NAMESPACES: libc::c_int =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;

/// The zygote's life.
///
/// # Errors
/// If hsup cannot be heard, or told, any more.
pub(super) fn serve(mut socket: UnixStream) -> io::Result<()> {
    let filter = Filter::compile();
    // The first dyno finds this done: till there is one, the zygote has nothing else to do.
    let mut spare = Spare { unmapped: Unmapped::begin().ok(), used_up: None, network: make_network()? };
    while let Some(received) = receive::<StartRequest>(&mut socket)? {
        let (request, fds) = match understood(received) {
            Ok(understood) => understood,
            Err(failure) => {
                send(&mut socket, &Answer::Failed(failure), &[])?;
                continue;
            }
        };
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

/// A request that can be carried out, as far as can be told from it alone.
fn understood(received: Received<StartRequest>) -> Result<(StartRequest, Vec<OwnedFd>), Failure> {
    let Received { message, fds, all } = received;
    let request = message
        .map_err(|error| Failure::step(format!("read the request of hsup ({error})"))(Errno::EBADMSG))?;
    if all {
        Ok((request, fds))
    } else {
        Err(Failure::step("receive what the dyno is to hold")(Errno::EMFILE))
    }
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
        || fds.next().ok_or_else(|| Failure::step("receive what the dyno is to hold")(Errno::EBADF));
    let control = next()?;
    let stdio = [next()?, next()?, next()?];
    let cgroup = if request.into_cgroup { Some(next()?) } else { None };
    let userns = match &request.app {
        AppDir::Layers { owner, .. } if *owner != (request.uid, request.uid) => {
            let mut unmapped = spare.unmapped.take().map_or_else(Unmapped::begin, Ok)?;
            let mut mapped = unmapped.map(*owner, request.uid);
            if mapped.is_err() {
                // The one that was kept may have been killed.
                unmapped.end();
                unmapped = Unmapped::begin()?;
                mapped = unmapped.map(*owner, request.uid);
            }
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
struct Unmapped(Sleeper);

impl Unmapped {
    /// Makes one; its process ends when this one does.
    fn begin() -> Result<Self, Failure> {
        Sleeper::begin(libc::CLONE_NEWUSER).map(Self).map_err(Failure::sharing(MAKE))
    }

    /// Maps one user to another, for files of the one to be shown as the other's. The namespace needs no process then.
    fn map(&self, (user, group): (u32, u32), uid: u32) -> Result<OwnedFd, Failure> {
        let process = self.0.pid();
        let written = [("uid_map", user), ("gid_map", group)].iter().try_for_each(|(file, owner)| {
            std::fs::write(format!("/proc/{process}/{file}"), format!("{owner} {uid} 1\n"))
        });
        let opened = written.and_then(|()| std::fs::File::open(format!("/proc/{process}/ns/user")));
        opened.map(OwnedFd::from).map_err(Failure::io(MAKE))
    }

    /// Ends its process. Only for the zygote, whose child that is.
    fn end(self) {
        self.0.end();
    }
}

/// What the namespace is made for.
const MAKE: &str = "make a user namespace, to show the app's files as the dyno's,";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_none_is_answered_and_the_next_one_heard() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let zygote = std::thread::spawn(|| serve(theirs));
        for _ in 0..2 {
            send(&mut ours, &"no request", &[]).unwrap();
            let answer = receive::<Answer>(&mut ours).unwrap().unwrap().message.unwrap();
            assert!(
                matches!(&answer, Answer::Failed(Failure::Step { what, errno: libc::EBADMSG }) if what.contains("read the request")),
                "{answer:?}"
            );
        }
        drop(ours);
        zygote.join().unwrap().unwrap();
    }
}
