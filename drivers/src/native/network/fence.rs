//! What a dyno does not reach by its extra interface. Its packets there pass no rule of the host's, and a program chooses
//! for itself by which interface it sends (`SO_BINDTODEVICE` takes no privilege). Pure; the rules are made elsewhere.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use super::link::Allow;
use super::settings::{ExtraInterface, Interface, Routes};
use super::subnet::Block;

/// Addresses from one to another.
pub(super) type Addresses = RangeInclusive<Ipv4Addr>;

/// The link-local addresses, where clouds have their metadata services.
const LINK_LOCAL: Addresses = Ipv4Addr::new(169, 254, 0, 0)..=Ipv4Addr::new(169, 254, 255, 255);

/// What is kept from a dyno on its extra interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Parts of what is closed that the operator has named for the interface: its own network, and its routes.
    pub(super) open: Vec<Addresses>,
    /// What is closed.
    pub(super) closed: Vec<Addresses>,
}

impl Fence {
    /// The fence of a dyno that may reach no more than this, where dynos have the addresses of this block.
    pub fn new(allow: Allow, block: &Block, extra: &ExtraInterface, routes: &Routes) -> Self {
        let link_local = (!allow.metadata).then_some(LINK_LOCAL);
        let dynos = (!allow.dynos).then(|| block.addresses());
        let closed: Vec<Addresses> = link_local.into_iter().chain(dynos).collect();
        let by_extra = routes.0.iter().filter(|route| route.interface == Interface::Eth1);
        let named = std::iter::once(extra.address).chain(by_extra.map(|route| route.destination));
        let is_part = |part: &Addresses| {
            closed.iter().any(|all| all != part && all.contains(part.start()) && all.contains(part.end()))
        };
        Self { open: named.map(all_of).filter(is_part).collect(), closed }
    }
}

fn all_of(net: Ipv4Net) -> Addresses {
    net.network()..=net.broadcast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(allow: Allow, extra: &str, routes: &str) -> Fence {
        let block = "172.16.0.28/12".parse().unwrap();
        Fence::new(allow, &block, &extra.parse().unwrap(), &routes.parse().unwrap())
    }

    fn addresses(first: [u8; 4], last: [u8; 4]) -> Addresses {
        first.into()..=last.into()
    }

    #[test]
    fn what_is_allowed_is_not_closed() {
        let closed = |dynos, metadata| fence(Allow { dynos, metadata }, "eth0:10.0.0.5/8", "").closed;
        let dynos = addresses([172, 16, 0, 28], [172, 31, 255, 255]);
        assert_eq!(closed(false, false), [LINK_LOCAL, dynos.clone()]);
        assert_eq!(closed(true, false), [LINK_LOCAL]);
        assert_eq!(closed(false, true), [dynos]);
        assert_eq!(closed(true, true), []);
    }

    #[test]
    fn what_the_operator_has_named_is_open_if_it_is_a_part_of_what_is_closed() {
        let open = |extra, routes| fence(Allow::default(), extra, routes).open;
        assert_eq!(open("eth0:10.0.0.5/8", "0.0.0.0/0:10.0.0.1:eth1"), []);
        let lan = addresses([172, 20, 0, 0], [172, 20, 255, 255]);
        assert_eq!(open("eth0:172.20.0.5/16", ""), std::slice::from_ref(&lan));
        assert_eq!(open("eth0:10.0.0.5/8", "172.20.0.0/16:10.0.0.1:eth1,172.21.0.0/16:default:eth0"), [lan]);
        assert_eq!(open("eth0:172.16.0.5/12", "169.254.0.0/16:default:eth1"), []);
    }
}
