//! What operators write to give dynos a second interface and more routes. Parsing only; nothing is made here.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

/// The longest name of an interface, in bytes: the kernel's, which keeps one of its 16 for the end.
const NAME_MAX: usize = 15;

/// A second interface of each dyno, `eth1`: on an interface of the host, with an address in the host's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraInterface {
    /// The interface of the host.
    pub host: String,
    /// The dyno's address, and how much of it is the network's.
    pub address: Ipv4Net,
}

/// An extra interface that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an extra interface: write an interface of the host, and the dyno's address on it, as in \
     eth1:10.0.0.10/24"
)]
pub struct SettingError(String);

impl FromStr for ExtraInterface {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || SettingError(text.to_owned());
        let (host, address) = text.trim().split_once(':').ok_or_else(error)?;
        if !is_name(host) {
            return Err(error());
        }
        Ok(Self { host: host.to_owned(), address: address.parse().map_err(|_| error())? })
    }
}

/// What the kernel takes for the name of an interface.
fn is_name(text: &str) -> bool {
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    (1..=NAME_MAX).contains(&text.len()) && text != "." && text != ".." && !text.contains(odd)
}

/// An interface of a dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interface {
    /// The one that each dyno has, towards its gateway.
    Eth0,
    /// The extra one.
    Eth1,
}

impl Interface {
    /// Its name in the dyno.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eth0 => "eth0",
            Self::Eth1 => "eth1",
        }
    }
}

/// By what a route goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gateway {
    /// By the dyno's own gateway; on `eth1`, where that one cannot be reached, directly on the link.
    Default,
    /// By this address.
    Address(Ipv4Addr),
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A further route of a dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Net,
    /// By what.
    pub gateway: Gateway,
    /// Out of which interface.
    pub interface: Interface,
}

/// A route that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a route of a dyno: write its destination, gateway (or default) and interface (eth0 or \
     eth1), as in 10.0.0.0/8:10.1.1.1:eth1, and commas between routes"
)]
pub struct RouteError(String);

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || RouteError(text.to_owned());
        let parts: Vec<&str> = text.trim().split(':').collect();
        let [destination, gateway, interface] = parts[..] else { return Err(error()) };
        let destination: Ipv4Net = destination.parse().map_err(|_| error())?;
        let gateway = match gateway {
            "default" => Gateway::Default,
            address => Gateway::Address(address.parse().map_err(|_| error())?),
        };
        let interface = match interface {
            "eth0" => Interface::Eth0,
            "eth1" => Interface::Eth1,
            _ => return Err(error()),
        };
        // The kernel refuses a destination that has bits set beyond its prefix.
        Ok(Self { destination: destination.trunc(), gateway, interface })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.destination, self.gateway, self.interface.name())
    }
}

/// The further routes of each dyno, in the order in which they are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(pub Vec<Route>);

impl Routes {
    /// Whether one goes out of the extra interface, so that there must be one.
    pub fn need_extra(&self) -> bool {
        self.0.iter().any(|route| route.interface == Interface::Eth1)
    }
}

impl FromStr for Routes {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "" => Ok(Self::default()),
            routes => routes.split(',').map(str::parse).collect::<Result<_, _>>().map(Self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_interface_is_read() {
        let extra: ExtraInterface = " eth0:192.168.201.5/24 ".parse().unwrap();
        assert_eq!((extra.host.as_str(), extra.address.prefix_len()), ("eth0", 24));
        assert_eq!(extra.address.addr(), Ipv4Addr::new(192, 168, 201, 5));
    }

    #[test]
    fn what_is_no_extra_interface_says_what_to_write() {
        for text in [
            "",
            "eth0",
            "eth0:",
            ":10.0.0.1/8",
            "eth0:10.0.0.1",
            "eth0:10.0.0.1/33",
            "eth0:fd00::1/64",
            "a name:10.0.0.1/8",
            "../eth0:10.0.0.1/8",
            "sixteen-letters-:10.0.0.1/8",
        ] {
            let error = text.parse::<ExtraInterface>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("{text:?}")) && error.ends_with("as in eth1:10.0.0.10/24"),
                "{error}"
            );
        }
    }

    #[test]
    fn routes_are_read_in_order() {
        let routes: Routes = "10.0.0.0/8:default:eth1, 192.168.1.7/24:192.168.200.1:eth0".parse().unwrap();
        let [first, second] = routes.0[..] else { panic!("{routes:?}") };
        assert_eq!((first.gateway, first.interface), (Gateway::Default, Interface::Eth1));
        assert_eq!(second.gateway, Gateway::Address(Ipv4Addr::new(192, 168, 200, 1)));
        assert_eq!(first.to_string(), "10.0.0.0/8:default:eth1");
        assert_eq!(second.to_string(), "192.168.1.0/24:192.168.200.1:eth0");
        assert!(routes.need_extra() && !Routes(vec![second]).need_extra());
        assert_eq!(" ".parse(), Ok(Routes::default()));
    }

    #[test]
    fn what_is_no_route_says_what_to_write() {
        for text in [
            "10.0.0.0/8",
            "10.0.0.0/8:default",
            "10.0.0.0/8:default:eth2",
            "10.0.0.0:default:eth0",
            "10.0.0.0/8:gateway:eth0",
            "10.0.0.0/8:default:eth0:eth1",
            "10.0.0.0/8:default:eth0,",
            "fd00::/8::eth0",
        ] {
            let error = text.parse::<Routes>().unwrap_err().to_string();
            assert!(error.contains("as in 10.0.0.0/8:10.1.1.1:eth1"), "{error}");
        }
    }
}
