//! The links of dynos: their veth pairs, extra interfaces, addresses and routes.
//!
//! What is done on the host's side leaves nothing behind when it fails; what is inside a dyno's network namespace
//! goes with that.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::netlink::{CREATE, EXCLUSIVE, Message, NetworkError, REPLACE, Socket, Step, attribute, text_of};
use super::remains::{self, Remains};
use super::settings::{ExtraInterface, Gateway, Interface, Route, Routes};
use super::subnet::Subnet;

/// What the names of host ends begin with; the address of the subnet follows, in 8 hexadecimal digits.
const PREFIX: &str = "hs";

/// Whether this host passes on what is not for itself.
pub(super) const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// How long the kernel may take to tell one end of a link of the other: some milliseconds if it is busy with links.
const SETTLED: Duration = Duration::from_secs(1);
/// How often it is asked meanwhile; it takes some 20 microseconds if it is not busy.
const SETTLED_POLL: Duration = Duration::from_micros(100);

/// The group of the host ends of all dynos ("hs" in ASCII), to which the bits of [`Allow`] are added. The packet
/// filter knows dynos by nothing else, so that its rules need no change when one starts or stops.
pub(super) const GROUP: u32 = 0x6873_0000;
/// The bit of [`Allow::dynos`].
pub(super) const DYNOS: u32 = 1;
/// The bit of [`Allow::metadata`].
pub(super) const METADATA: u32 = 2;

// What libc does not name: `linux/veth.h`, `linux/if_link.h`, `linux/ip.h`.
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IPV4_DEVCONF_ROUTE_LOCALNET: u16 = 26;
const IFLA_IPVLAN_MODE: u16 = 1;
const IPVLAN_MODE_L3: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_BRIDGE: u32 = 4;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IF_OPER_UP: u8 = 6;

/// How long a link of the same name may stay whose dyno still lives: that dyno has given its subnet back, and is about to
/// be gone with all that is held of it.
const GONE: Duration = Duration::from_secs(1);
/// How often it is looked at meanwhile.
const GONE_POLL: Duration = Duration::from_millis(1);

/// The length of `struct ifinfomsg`.
pub(super) const LINK_HEADER: usize = 16;

/// What a dyno may reach beyond the world outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Other dynos of this host.
    pub dynos: bool,
    /// The link-local addresses, where clouds have their metadata services.
    pub metadata: bool,
}

impl Allow {
    /// The interface group that says so.
    pub fn group(self) -> u32 {
        GROUP | if self.dynos { DYNOS } else { 0 } | if self.metadata { METADATA } else { 0 }
    }
}

/// The host's end of a dyno's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// Its name.
    pub name: String,
    /// The subnet, whose gateway it is.
    pub subnet: Subnet,
    /// What the dyno may reach.
    pub allow: Allow,
    /// Whether packets from the dyno may be handed on to a loopback address of the host, as those to a
    /// [resolver's stub](super::Resolver::stub) are. The packet filter sees to it that no others are.
    pub route_localnet: bool,
}

impl HostLink {
    /// The end of a subnet's link, on a host whose resolver has this stub.
    pub fn new(subnet: Subnet, allow: Allow, stub: Option<Ipv4Addr>) -> Self {
        let name = format!("{PREFIX}{:08x}", subnet.network().to_bits());
        Self { name, subnet, allow, route_localnet: stub.is_some_and(|stub| stub.is_loopback()) }
    }
}

/// What an extra interface has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtraKind {
    /// An ipvlan in its L3 mode: the dyno shares the address of the host's hardware.
    Ipvlan,
    /// A macvlan in its bridge mode, where the kernel has no ipvlan: the dyno has a hardware address of its own,
    /// which not every switch or cloud lets through.
    Macvlan,
}

/// A way to the links of one network namespace: that of the thread that has opened it, in whichever the one that
/// uses it is. Not to be used by two at once, which would get each other's answers.
#[derive(Debug)]
pub struct Links(Socket);

impl Links {
    /// To the links of the caller's network namespace.
    ///
    /// # Errors
    /// If there is no netlink.
    pub fn open() -> Result<Self, NetworkError> {
        Socket::open(SockProtocol::NetlinkRoute).map(Self)
    }

    /// By a socket that was opened as one of these, and has been handed on.
    pub fn by(socket: OwnedFd) -> Self {
        Self(Socket::of(socket))
    }

    /// Links a dyno's network namespace to this one, the host's: the dyno's end is `eth0`, still down.
    ///
    /// What is left of a dyno that is gone is replaced: the kernel removes its link only some time after it. That of one
    /// that lives is left alone.
    ///
    /// # Errors
    /// If the kernel refuses a step, which is named; nothing is left then. If there is such a link of a dyno that lives.
    pub fn connect(&self, link: &HostLink, netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let deadline = Instant::now() + GONE;
        let mut cleared = false;
        while let Err(error) = self.connect_at_once(link, netns) {
            if !error.is(Errno::EEXIST) {
                return Err(error);
            }
            match self.remove_remains(&link.name)? {
                // It is the dyno's end that exists already.
                Remains::Nothing if cleared => return Err(error),
                Remains::Nothing | Remains::Removed => cleared = true,
                Remains::Living if Instant::now() >= deadline => {
                    return Err(NetworkError::Taken { name: link.name.clone() });
                }
                Remains::Living => thread::sleep(GONE_POLL),
            }
        }
        Ok(())
    }

    /// [`Self::connect`] where nothing is left of a dyno that had the same link.
    ///
    /// # Errors
    /// If the kernel refuses a step; nothing is left then.
    pub fn connect_at_once(&self, link: &HostLink, netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
        create_pair(&self.0, link, netns)?;
        set_up_host_end(&self.0, link).inspect_err(|_| {
            if let Err(error) = self.disconnect(&link.name) {
                tracing::warn!(link = link.name, %error, "cannot remove the link of a dyno that did not start");
            }
        })
    }

    /// Gives a dyno's network namespace an interface `eth1`, still down, on an interface of this one, the host's.
    ///
    /// # Errors
    /// If there is no such interface, or it cannot carry others.
    pub fn connect_extra(&self, host_if: &str, netns: BorrowedFd<'_>) -> Result<ExtraKind, NetworkError> {
        let index =
            index_of(&self.0, host_if, "on this host for an extra interface: name one of those that are")?;
        let create = |kind: &str, mode: u16, value: &[u8]| {
            let link = Message::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0))
                .text(libc::IFLA_IFNAME, Interface::Eth1.name())
                .with(libc::IFLA_LINK, &index.to_ne_bytes())
                .with(libc::IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes())
                .nested(libc::IFLA_LINKINFO, |info| {
                    let info = info.with(libc::IFLA_INFO_KIND, kind.as_bytes());
                    info.nested(libc::IFLA_INFO_DATA, |data| data.with(mode, value))
                });
            self.0.perform(vec![Step::new(format!("create eth1 of a dyno as {kind} on {host_if}"), link)])
        };
        match create("ipvlan", IFLA_IPVLAN_MODE, &IPVLAN_MODE_L3.to_ne_bytes()) {
            Ok(()) => Ok(ExtraKind::Ipvlan),
            Err(error) if error.is(Errno::EOPNOTSUPP) => {
                create("macvlan", IFLA_MACVLAN_MODE, &MACVLAN_MODE_BRIDGE.to_ne_bytes())?;
                Ok(ExtraKind::Macvlan)
            }
            Err(error) => Err(error),
        }
    }

    /// Sets up the network of a dyno, whose network namespace is that of these links: loopback, `eth0` and `eth1` with
    /// their addresses, and the routes. [`Links::connect`] and [`Links::connect_extra`] have returned before.
    ///
    /// # Errors
    /// If the kernel refuses a step, which is named, or an interface is not there.
    pub fn configure(
        &self,
        subnet: &Subnet,
        routes: &Routes,
        extra: Option<&ExtraInterface>,
    ) -> Result<(), NetworkError> {
        let mut steps = vec![up("lo")];
        let mut addresses = vec![(Interface::Eth0, Ipv4Net::new_assert(subnet.dyno(), subnet.prefix()))];
        addresses.extend(extra.map(|extra| (Interface::Eth1, extra.address)));
        for (interface, address) in addresses {
            let name = interface.name();
            let address = add_address(&self.0, name, address, "in the dyno")?;
            steps.extend([no_link_local(name), address, up(name)]);
        }
        let all = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        let default = Route { destination: all, gateway: Gateway::Default, interface: Interface::Eth0 };
        for route in std::iter::once(&default).chain(&routes.0) {
            steps.push(add_route(&self.0, route, subnet)?);
        }
        self.0.perform(steps)
    }

    /// Waits for a host end to send what it is given, once the dyno's end is up.
    ///
    /// The kernel tells the end that was up first of the other in the background, and till then it drops all
    /// packets to the dyno, to be sent again a second later. A kernel from 6.8 on does it now when it is asked for
    /// the link's state; an older one is asked again.
    ///
    /// # Errors
    /// If there is no such link, or the other end stays down.
    pub fn settle(&self, name: &str) -> Result<(), NetworkError> {
        let deadline = Instant::now() + SETTLED;
        loop {
            let question = ask_for_link().text(libc::IFLA_IFNAME, name);
            let link = self.0.get(format!("look for the link {name}"), question)?;
            let state =
                link.get(LINK_HEADER..).and_then(|attributes| attribute(attributes, libc::IFLA_OPERSTATE));
            if state == Some(&[IF_OPER_UP]) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(NetworkError::Down { name: name.to_owned() });
            }
            thread::sleep(SETTLED_POLL);
        }
    }

    /// Removes a dyno's link by the name of the host's end. One that is gone is no error.
    ///
    /// # Errors
    /// If the name is none that hsup gives, or the kernel refuses.
    pub fn disconnect(&self, name: &str) -> Result<(), NetworkError> {
        if !is_host_link(name) {
            return Err(NetworkError::Foreign { name: name.to_owned() });
        }
        let delete = Message::new(libc::RTM_DELLINK, 0, &link_header(0, 0)).text(libc::IFLA_IFNAME, name);
        self.0.perform(vec![Step::new(format!("remove the link {name}"), delete).tolerating(Errno::ENODEV)])
    }

    /// Removes what is left of a dyno's link, by the name of the host's end, unless the dyno lives.
    ///
    /// # Errors
    /// If the link is none that hsup made, or the kernel refuses.
    pub fn remove_remains(&self, name: &str) -> Result<Remains, NetworkError> {
        remains::remove(&self.0, name)
    }

    /// The names of all host ends that are there, by whichever hsup they were made.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn host_links(&self) -> Result<Vec<String>, NetworkError> {
        let links = self.0.dump("list the links", ask_for_link())?;
        let ours = links.iter().filter_map(|link| {
            let attributes = link.get(LINK_HEADER..)?;
            let name = attribute(attributes, libc::IFLA_IFNAME).map(text_of)?;
            (is_group_of_dynos(attributes) && is_host_link(&name)).then_some(name)
        });
        Ok(ours.collect())
    }
}

impl AsFd for Links {
    /// What [`Links::by`] takes.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn create_pair(socket: &Socket, link: &HostLink, netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
    let pair = Message::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0))
        .text(libc::IFLA_IFNAME, &link.name)
        .with(libc::IFLA_GROUP, &link.allow.group().to_ne_bytes());
    let pair = one_queue(pair).nested(libc::IFLA_LINKINFO, |info| {
        info.with(libc::IFLA_INFO_KIND, b"veth").nested(libc::IFLA_INFO_DATA, |data| {
            data.nested(VETH_INFO_PEER, |peer| {
                let peer = peer.header(&link_header(0, 0)).text(libc::IFLA_IFNAME, Interface::Eth0.name());
                one_queue(peer).with(libc::IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes())
            })
        })
    });
    socket.perform(vec![Step::new(format!("create the link {} to eth0 of a dyno", link.name), pair)])
}

/// By default a veth has a queue for each CPU of the machine at each end, and with each come objects in sysfs,
/// memory and time. It has no hardware that could serve several, and is as fast with one.
fn one_queue(link: Message) -> Message {
    link.with(libc::IFLA_NUM_TX_QUEUES, &1_u32.to_ne_bytes())
        .with(libc::IFLA_NUM_RX_QUEUES, &1_u32.to_ne_bytes())
}

fn set_up_host_end(socket: &Socket, link: &HostLink) -> Result<(), NetworkError> {
    let address = Ipv4Net::new_assert(link.subnet.gateway(), link.subnet.prefix());
    let mut steps = vec![no_link_local(&link.name)];
    if link.route_localnet {
        let setting = set_link(&link.name, 0).nested(libc::IFLA_AF_SPEC, |families| {
            families.nested(libc::AF_INET as u16, |inet| {
                inet.nested(IFLA_INET_CONF, |conf| {
                    conf.with(IPV4_DEVCONF_ROUTE_LOCALNET, &1_u32.to_ne_bytes())
                })
            })
        });
        steps.push(Step::new(format!("route loopback addresses by {}", link.name), setting));
    }
    steps.extend([add_address(socket, &link.name, address, "that was just made")?, up(&link.name)]);
    socket.perform(steps)
}

/// Makes this host pass on what is not for itself, if it does not yet.
///
/// # Errors
/// If the setting cannot be read or written.
pub fn forwarding() -> Result<(), NetworkError> {
    let path = Path::new(FORWARDING);
    let failed = |operation| move |source| NetworkError::Setting { operation, path: path.to_owned(), source };
    if fs::read_to_string(path).map_err(failed("read"))?.trim() == "0" {
        fs::write(path, "1").map_err(failed("write 1 to"))?;
    }
    Ok(())
}

/// What asks for links, without the numbers that make an answer long.
pub(super) fn ask_for_link() -> Message {
    Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0))
        .with(libc::IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes())
}

/// Whether these attributes are those of a link in the group of dynos.
pub(super) fn is_group_of_dynos(attributes: &[u8]) -> bool {
    let group = attribute(attributes, libc::IFLA_GROUP).and_then(|group| group.first_chunk());
    group.is_some_and(|group| u32::from_ne_bytes(*group) & !(DYNOS | METADATA) == GROUP)
}

/// Whether a name has the form of those that hsup gives.
fn is_host_link(name: &str) -> bool {
    let digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    name.strip_prefix(PREFIX).is_some_and(|address| address.len() == 8 && address.chars().all(digit))
}

fn index_of(socket: &Socket, name: &str, place: &'static str) -> Result<u32, NetworkError> {
    let name = name.to_owned();
    socket.index(&name).map_err(|source| NetworkError::NoInterface { name, place, source })
}

/// `struct ifinfomsg`; the flags given are those to change.
pub(super) fn link_header(index: u32, flags: i32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&flags.to_ne_bytes());
    header
}

pub(super) fn set_link(name: &str, flags: i32) -> Message {
    Message::new(libc::RTM_SETLINK, 0, &link_header(0, flags)).text(libc::IFLA_IFNAME, name)
}

pub(super) fn up(name: &str) -> Step {
    Step::new(format!("set {name} up"), set_link(name, libc::IFF_UP))
}

/// Dynos have no IPv6, so that what goes for IPv4 cannot be got round with it. The kernel takes this setting only
/// for links that are there, and has nothing to set where it has no IPv6 itself.
fn no_link_local(name: &str) -> Step {
    let setting = set_link(name, 0).nested(libc::IFLA_AF_SPEC, |families| {
        families.nested(libc::AF_INET6 as u16, |inet6| {
            inet6.with(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
        })
    });
    Step::new(format!("keep {name} without IPv6 addresses"), setting).tolerating(Errno::EAFNOSUPPORT)
}

/// `struct ifaddrmsg`, which knows interfaces by their index only.
pub(super) fn add_address(
    socket: &Socket,
    name: &str,
    address: Ipv4Net,
    place: &'static str,
) -> Result<Step, NetworkError> {
    let mut header = [0; 8];
    header[..2].copy_from_slice(&[libc::AF_INET as u8, address.prefix_len()]);
    header[4..].copy_from_slice(&index_of(socket, name, place)?.to_ne_bytes());
    let octets = address.addr().octets();
    let message = Message::new(libc::RTM_NEWADDR, CREATE | EXCLUSIVE, &header)
        .with(libc::IFA_LOCAL, &octets)
        .with(libc::IFA_ADDRESS, &octets);
    Ok(Step::new(format!("add the address {address} to {name}"), message))
}

/// `struct rtmsg`. A later route to the same destination replaces an earlier one, be it the default route.
fn add_route(socket: &Socket, route: &Route, subnet: &Subnet) -> Result<Step, NetworkError> {
    let index =
        index_of(socket, route.interface.name(), "in the dyno for a route: give it an extra interface")?;
    let gateway = match (route.gateway, route.interface) {
        (Gateway::Address(address), Interface::Eth0 | Interface::Eth1) => Some(address),
        (Gateway::Default, Interface::Eth0) => Some(subnet.gateway()),
        (Gateway::Default, Interface::Eth1) => None,
    };
    let scope = if gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    let (length, table) = (route.destination.prefix_len(), libc::RT_TABLE_MAIN);
    let header =
        [libc::AF_INET as u8, length, 0, 0, table, libc::RTPROT_BOOT, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
    let mut message = Message::new(libc::RTM_NEWROUTE, CREATE | REPLACE, &header)
        .with(libc::RTA_DST, &route.destination.addr().octets())
        .with(libc::RTA_OIF, &index.to_ne_bytes());
    if let Some(gateway) = gateway {
        message = message.with(libc::RTA_GATEWAY, &gateway.octets());
    }
    Ok(Step::new(format!("add the route {route}"), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_host_end_tells_its_subnet() {
        let link = HostLink::new("172.16.0.28/30".parse().unwrap(), Allow::default(), None);
        assert_eq!(link.name, "hsac10001c");
        assert!(is_host_link(&link.name));
        for name in ["hsac10001", "hsac10001cd", "hsAC10001C", "eth0", "xxac10001c", "hs"] {
            assert!(!is_host_link(name), "{name}");
            let disconnected = Links::open().unwrap().disconnect(name);
            assert!(matches!(disconnected, Err(NetworkError::Foreign { .. })), "{name}");
        }
    }

    #[test]
    fn the_group_tells_what_is_allowed() {
        let group = |dynos, metadata| Allow { dynos, metadata }.group();
        assert_eq!(group(false, false), 0x6873_0000);
        assert_eq!(group(true, false), 0x6873_0001);
        assert_eq!(group(false, true), 0x6873_0002);
        assert_eq!(group(true, true), 0x6873_0003);
    }

    #[test]
    fn only_a_stub_on_loopback_needs_its_routes() {
        let localnet = |stub: [u8; 4]| {
            HostLink::new("10.0.0.0/30".parse().unwrap(), Allow::default(), Some(stub.into())).route_localnet
        };
        assert!(localnet([127, 0, 0, 53]) && !localnet([169, 254, 169, 254]));
    }
}
