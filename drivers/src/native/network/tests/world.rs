//! Hosts, dynos and the world outside, as network namespaces made here. Nothing but them is touched: each is that
//! of a thread of its own, and all that is said to the kernel is said from such a thread.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::SockProtocol;

use crate::native::network::link::{add_address, set_link, up};
use crate::native::network::netlink::{Socket, Step};
use crate::native::network::{
    Allow, Block, ExtraInterface, HostLink, Links, Routes, Subnet, forwarding, nft,
};

/// What arrives does so at once; what does not by then was dropped.
const DROPPED: Duration = Duration::from_millis(300);
/// For what arrives on a machine that is busy.
const ARRIVED: Duration = Duration::from_secs(5);

pub(super) const PORT: u16 = 5000;

/// A network namespace, with a thread that lives in it.
pub(super) struct Netns {
    fd: OwnedFd,
    jobs: Sender<Box<dyn FnOnce() + Send>>,
}

impl Netns {
    pub(super) fn new() -> Self {
        let (jobs, received) = channel::<Box<dyn FnOnce() + Send>>();
        let (fds, fd) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            fds.send(File::open("/proc/thread-self/ns/net").unwrap().into()).unwrap();
            received.into_iter().for_each(|job| job());
        });
        Self { fd: fd.recv().unwrap(), jobs }
    }

    pub(super) fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (results, result) = channel();
        self.jobs.send(Box::new(move || results.send(job()).unwrap())).unwrap();
        result.recv().expect("the job in the namespace does not panic")
    }

    pub(super) fn dup(&self) -> OwnedFd {
        self.fd.try_clone().unwrap()
    }

    pub(super) fn perform(&self, steps: impl FnOnce() -> Vec<Step> + Send + 'static) {
        self.run(|| Socket::open(SockProtocol::NetlinkRoute).unwrap().perform(steps()).unwrap());
    }

    pub(super) fn add(&self, link: &'static str, address: &'static str) {
        self.run(move || {
            let socket = Socket::open(SockProtocol::NetlinkRoute).unwrap();
            let step = add_address(&socket, link, address.parse().unwrap(), "here").unwrap();
            socket.perform(vec![step]).unwrap();
        });
    }

    pub(super) fn listen(&self, address: impl Into<IpAddr>, port: u16) -> TcpListener {
        let address = SocketAddr::new(address.into(), port);
        self.run(move || TcpListener::bind(address).unwrap())
    }

    pub(super) fn udp(&self, address: impl Into<IpAddr>, port: u16) -> UdpSocket {
        let address = SocketAddr::new(address.into(), port);
        let socket = self.run(move || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(ARRIVED)).unwrap();
        socket
    }

    /// The address that this namespace has for a listener that it reaches.
    pub(super) fn reaches(&self, listener: &TcpListener, to: impl Into<IpAddr>) -> IpAddr {
        self.connect(listener, to, ARRIVED).unwrap();
        listener.accept().unwrap().1.ip()
    }

    pub(super) fn is_kept_from(&self, listener: &TcpListener, to: impl Into<IpAddr>) -> bool {
        self.connect(listener, to, DROPPED).is_err_and(|error| error.kind() == ErrorKind::TimedOut)
    }

    pub(super) fn connect(
        &self,
        listener: &TcpListener,
        to: impl Into<IpAddr>,
        within: Duration,
    ) -> io::Result<TcpStream> {
        let address = SocketAddr::new(to.into(), listener.local_addr().unwrap().port());
        self.run(move || TcpStream::connect_timeout(&address, within))
    }

    pub(super) fn is_refused(&self, to: Ipv4Addr) -> bool {
        let connected =
            self.run(move || TcpStream::connect_timeout(&SocketAddr::new(to.into(), PORT), ARRIVED));
        connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }
}

/// Whether nothing arrives.
pub(super) fn is_quiet(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(DROPPED)).unwrap();
    let received = socket.recv_from(&mut [0; 99]);
    socket.set_read_timeout(Some(ARRIVED)).unwrap();
    received.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// A host with its link `out0` to a machine outside.
pub(super) struct World {
    pub(super) host: Netns,
    pub(super) outside: Netns,
}

pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 1);
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 2);
pub(super) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
pub(super) const STUB: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

impl World {
    /// `None` where such worlds cannot be made.
    pub(super) fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "the network of dynos is tested as root");
            eprintln!("skipped: network namespaces are made by root only");
            return None;
        }
        let world = Self { host: Netns::new(), outside: Netns::new() };
        let subnet: Subnet = "10.9.9.0/30".parse().unwrap();
        let link = HostLink { name: "out0".to_owned(), ..HostLink::new(subnet, Allow::default(), None) };
        let outside = world.outside.dup();
        world.host.run(move || {
            links().connect(&link, outside.as_fd()).unwrap();
            forwarding().unwrap();
        });
        world.host.perform(|| {
            let no_dyno = set_link("out0", 0).with(libc::IFLA_GROUP, &0_u32.to_ne_bytes());
            vec![up("lo"), Step::new("leave the group", no_dyno)]
        });
        world.outside.run(move || links().configure(&subnet, &Routes::default(), None).unwrap());
        world.host.run(|| links().settle("out0").unwrap());
        Some(world)
    }

    pub(super) fn install(&self, stub: Option<Ipv4Addr>) {
        self.host.run(move || nft::Filter::open().unwrap().install(stub).unwrap().leave());
    }

    pub(super) fn dyno(&self, n: u32, allow: Allow) -> Netns {
        self.dyno_with(n, allow, None, "", None)
    }

    pub(super) fn dyno_with(
        &self,
        n: u32,
        allow: Allow,
        stub: Option<Ipv4Addr>,
        routes: &str,
        extra: Option<ExtraInterface>,
    ) -> Netns {
        let dyno = Netns::new();
        let (netns, routes) = (dyno.dup(), routes.parse().unwrap());
        let on = extra.as_ref().map(|extra| extra.host.clone());
        self.host.run(move || {
            links().connect(&HostLink::new(subnet(n), allow, stub), netns.as_fd()).unwrap();
            on.map(|on| links().connect_extra(&on, netns.as_fd()).unwrap());
        });
        dyno.run(move || links().configure(&subnet(n), &routes, extra.as_ref()).unwrap());
        self.host.run(move || links().settle(&name(n)).unwrap());
        dyno
    }
}

/// The way to the links of the network namespace that this thread is in.
pub(super) fn links() -> Links {
    Links::open().unwrap()
}

pub(super) fn subnet(n: u32) -> Subnet {
    Block::DEFAULT.subnet(n).unwrap()
}

pub(super) fn name(n: u32) -> String {
    HostLink::new(subnet(n), Allow::default(), None).name
}

pub(super) const NOTHING: Allow = Allow { dynos: false, metadata: false };
