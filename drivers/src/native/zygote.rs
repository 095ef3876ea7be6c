//! The zygote: the process that inits are cloned from, and the attendants of commands. It has one thread, so that what it
//! clones may run any code. It does one thing at a time: a request, a clone, and what it answers.
//!
//! Each process that it clones is its sibling, a child of hsup proper, which reaps it. The zygote ends when hsup does.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

use super::attendant;
use super::init::{self, Descriptors};
use super::network::Links;
use super::protocol::{
    Answer, AppDir, Failure, ProcessRequest, Received, Request, StartRequest, receive, send,
};
use super::seccomp::Filter;
use crate::sys::{self, Cloned, Sleeper};

/// The namespaces of a dyno: all but that of its network, which is there before it, and that of users, in which a process
/// could become root of its own.
const NAMESPACES: libc::c_int =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;

/// The zygote's life.
///
/// # Errors
/// If hsup cannot be heard, or told, any more.
pub(super) fn serve(mut socket: UnixStream) -> io::Result<()> {
    let filter = Filter::compile();
    // The first dyno finds this done: till there is one, the zygote has nothing else to do.
    let mut spare = Spare { unmapped: Unmapped::begin().ok(), used_up: None, network: Network::make().ok() };
    while let Some(received) = receive::<Request>(&mut socket)? {
        let (request, fds) = match understood(received) {
            Ok(understood) => understood,
            Err(failure) => {
                send(&mut socket, &Answer::<u32>::Err(failure), &[])?;
                continue;
            }
        };
        let cloned = match (&filter, &request) {
            (Ok(filter), Request::Init(request)) => match spare.network() {
                Ok(network) => {
                    // All that hsup has to have to make the network, beside what is done here and by init.
                    let Network { namespace, links } = &network;
                    send(&mut socket, &Answer::Ok(()), &[namespace.as_fd(), links.as_fd()])?;
                    clone_init(request, fds, &network, &mut spare, filter)
                }
                Err(failure) => Err(failure),
            },
            (Ok(filter), Request::Attendant(request)) => clone_attendant(request, fds, filter),
            (Err(failure), _) => Err(failure.clone()),
        };
        match cloned {
            Ok(Side::Zygote { pid, pidfd }) => send(&mut socket, &Answer::Ok(pid), &[pidfd.as_fd()])?,
            Ok(Side::New(live)) => {
                // The zygote's, not its own: of the next dyno's network it would be one more that holds it.
                drop((socket, spare));
                std::process::exit(live())
            }
            Err(failure) => send(&mut socket, &Answer::<u32>::Err(failure), &[])?,
        }
        // Nobody waits for this.
        if let Some(unmapped) = spare.used_up.take() {
            unmapped.end();
        }
    }
    if let Some(unmapped) = spare.unmapped {
        unmapped.end();
    }
    Ok(())
}

/// A request that can be carried out, as far as can be told from it alone.
fn understood(received: Received<Request>) -> Result<(Request, Vec<OwnedFd>), Failure> {
    let Received { message, fds, all } = received;
    let request = message
        .map_err(|error| Failure::step(format!("read the request of hsup ({error})"))(Errno::EBADMSG))?;
    if all {
        Ok((request, fds))
    } else {
        Err(Failure::step("receive what the dyno is to hold")(Errno::EMFILE))
    }
}

/// Which side of a clone this process is on.
enum Side<'a> {
    /// The zygote still: of the new process, its pid and its pidfd.
    Zygote { pid: u32, pidfd: OwnedFd },
    /// The new process, and its life, which gives its exit status.
    New(Box<dyn FnOnce() -> i32 + 'a>),
}

/// The next of the descriptors that have come with a request.
fn next(fds: &mut impl Iterator<Item = OwnedFd>) -> Result<OwnedFd, Failure> {
    fds.next().ok_or_else(|| Failure::step("receive what the dyno is to hold")(Errno::EBADF))
}

/// The first ones, with every request.
fn descriptors(fds: &mut impl Iterator<Item = OwnedFd>) -> Result<Descriptors, Failure> {
    Ok(Descriptors { control: next(fds)?, stdio: [next(fds)?, next(fds)?, next(fds)?] })
}

fn clone_attendant<'a>(
    request: &'a ProcessRequest,
    fds: Vec<OwnedFd>,
    filter: &'a Filter,
) -> Result<Side<'a>, Failure> {
    let mut fds = fds.into_iter();
    let (own, init) = (descriptors(&mut fds)?, next(&mut fds)?);
    let cgroup = if request.into_cgroup { Some(next(&mut fds)?) } else { None };
    let cgroup = cgroup.as_ref().map(AsFd::as_fd);
    let cloned = within(&init, CloneFlags::CLONE_NEWPID, || sys::clone_sibling(0, cgroup));
    match cloned.map_err(Failure::io("clone a process into the dyno (which takes Linux 5.8)"))? {
        Cloned::Caller { pid, pidfd } => Ok(Side::Zygote { pid, pidfd }),
        Cloned::New => Ok(Side::New(Box::new(move || attendant::run(request, own, init, filter)))),
    }
}

fn clone_init<'a>(
    request: &'a StartRequest,
    fds: Vec<OwnedFd>,
    network: &Network,
    spare: &mut Spare,
    filter: &'a Filter,
) -> Result<Side<'a>, Failure> {
    let mut fds = fds.into_iter();
    let own = descriptors(&mut fds)?;
    let cgroup = if request.main.into_cgroup { Some(next(&mut fds)?) } else { None };
    let uid = request.main.uid;
    let userns = match &request.app {
        AppDir::Layers { owner, .. } if *owner != (uid, uid) => {
            let mut unmapped = spare.unmapped.take().map_or_else(Unmapped::begin, Ok)?;
            let mut mapped = unmapped.map(*owner, uid);
            if mapped.is_err() {
                // The one that was kept may have been killed.
                unmapped.end();
                unmapped = Unmapped::begin()?;
                mapped = unmapped.map(*owner, uid);
            }
            spare.used_up = Some(unmapped);
            Some(mapped?)
        }
        AppDir::Layers { .. } | AppDir::Empty | AppDir::Own(_) => None,
    };
    let cgroup = cgroup.as_ref().map(AsFd::as_fd);
    let cloned =
        within(&network.namespace, CloneFlags::CLONE_NEWNET, || sys::clone_sibling(NAMESPACES, cgroup));
    match cloned.map_err(Failure::io("clone a process into new namespaces"))? {
        Cloned::Caller { pid, pidfd } => Ok(Side::Zygote { pid, pidfd }),
        Cloned::New => Ok(Side::New(Box::new(move || init::run(request, own, userns.as_ref(), filter)))),
    }
}

/// What takes the kernel longest and is the same for each dyno.
struct Spare {
    unmapped: Option<Unmapped>,
    /// One that has been mapped, and whose process is of no more use.
    used_up: Option<Unmapped>,
    network: Option<Network>,
}

impl Spare {
    /// A network namespace for the next dyno.
    fn network(&mut self) -> Result<Network, Failure> {
        self.network.take().map_or_else(Network::make, Ok)
    }
}

/// A network namespace that is a dyno's alone.
struct Network {
    namespace: OwnedFd,
    /// The way to its links, from wherever that is used.
    links: Links,
}

impl Network {
    fn make() -> Result<Self, Failure> {
        let step = |what: &str| Failure::io(format!("{what} a network namespace"));
        let host = own(CloneFlags::CLONE_NEWNET).map_err(step("be back from"))?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from).map_err(step("make"))?;
        let made = own(CloneFlags::CLONE_NEWNET).map_err(step("hold")).and_then(|namespace| {
            let failed = |error| Failure::Step { what: crate::explain(&error), errno: libc::EIO };
            Ok(Self { namespace, links: Links::open().map_err(failed)? })
        });
        go_back(host, CloneFlags::CLONE_NEWNET);
        made
    }
}

/// Goes back to a namespace of this kind.
fn go_back(own: OwnedFd, kind: CloneFlags) {
    if setns(own, kind).is_err() {
        // In the wrong place it is of no use to anybody, and hsup hears of its end.
        std::process::exit(1);
    }
}

/// Clones in a namespace of this kind, or that of this pidfd's process, where the new process stays.
fn within(
    place: &OwnedFd,
    kind: CloneFlags,
    clone: impl FnOnce() -> io::Result<Cloned>,
) -> io::Result<Cloned> {
    let own = own(kind)?;
    setns(place, kind)?;
    let cloned = clone();
    match cloned {
        Ok(Cloned::New) => {}
        Ok(Cloned::Caller { .. }) | Err(_) => go_back(own, kind),
    }
    cloned
}

/// The namespace of this kind that this process is in.
fn own(kind: CloneFlags) -> io::Result<OwnedFd> {
    let name = if kind == CloneFlags::CLONE_NEWPID { "pid" } else { "net" };
    std::fs::File::open(format!("/proc/self/ns/{name}")).map(OwnedFd::from)
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
            let answer = receive::<Answer<u32>>(&mut ours).unwrap().unwrap().message.unwrap();
            assert!(
                matches!(&answer, Err(Failure::Step { what, errno: libc::EBADMSG }) if what.contains("read the request")),
                "{answer:?}"
            );
        }
        drop(ours);
        zygote.join().unwrap().unwrap();
    }

    #[test]
    fn an_attendant_without_a_dyno_is_not_cloned() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let zygote = std::thread::spawn(|| serve(theirs));
        let request = Request::of_attendant();
        let null = std::fs::File::open("/dev/null").unwrap();
        for (fds, said) in [(4, "receive what the dyno is to hold"), (5, "clone a process into the dyno")] {
            send(&mut ours, &request, &vec![null.as_fd(); fds]).unwrap();
            let answer = receive::<Answer<u32>>(&mut ours).unwrap().unwrap().message.unwrap();
            assert!(
                matches!(&answer, Err(Failure::Step { what, .. }) if what.starts_with(said)),
                "{answer:?}"
            );
        }
        drop(ours);
        zygote.join().unwrap().unwrap();
    }
}
