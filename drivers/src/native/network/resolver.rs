//! A dyno's `/etc/resolv.conf`, made from the host's. Pure: files are read and written by the caller.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// Where the C library asks when no name server is named.
const UNNAMED: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// How a dyno resolves names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// The text of its `/etc/resolv.conf`.
    pub text: String,
    /// The name server of the host that a dyno cannot reach by its own address (it is on loopback or link-local)
    /// and that what dynos ask their gateway is to be handed on to.
    pub stub: Option<Ipv4Addr>,
}

/// The resolver of a dyno whose gateway this is, on a host with this `/etc/resolv.conf` and, if there is one,
/// this `/run/systemd/resolve/resolv.conf`, in which systemd-resolved names the servers behind its stub.
///
/// Name servers that a dyno reaches are kept. If there are none, those behind systemd's stub are taken, and else
/// the gateway is named. Lines that say how to resolve (`search`, `options`) are kept in each case.
pub fn resolver(host: &str, systemd: Option<&str>, gateway: Ipv4Addr) -> Resolver {
    for text in [Some(host), systemd].into_iter().flatten() {
        let reached: Vec<IpAddr> = servers(text).filter(|server| is_reached(*server)).collect();
        if !reached.is_empty() {
            return Resolver { text: compose(&reached, text), stub: None };
        }
    }
    let stub = servers(host).find_map(|server| match server {
        IpAddr::V4(address) if !address.is_unspecified() => Some(address),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    });
    Resolver { text: compose(&[gateway.into()], host), stub: Some(stub.unwrap_or(UNNAMED)) }
}

/// A dyno has no IPv6 and a loopback of its own, and 169.254/16 is where clouds have their metadata services,
/// which dynos are kept from: on some, the name server is at the very same address.
fn is_reached(server: IpAddr) -> bool {
    match server {
        IpAddr::V4(address) => {
            !address.is_loopback() && !address.is_unspecified() && !address.is_link_local()
        }
        IpAddr::V6(_) => false,
    }
}

fn servers(text: &str) -> impl Iterator<Item = IpAddr> {
    lines(text).filter(|(word, _)| *word == "nameserver").filter_map(|(_, rest)| {
        let address = rest.split_whitespace().next()?;
        address.split('%').next()?.parse().ok()
    })
}

/// The lines of a file by their first word; those of comments are left out.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    lines.map(|line| line.split_once(char::is_whitespace).unwrap_or((line, "")))
}

/// Name servers, and how to resolve from a file.
fn compose(servers: &[IpAddr], file: &str) -> String {
    let mut text = String::new();
    for server in servers {
        writeln!(text, "nameserver {server}").expect("a string takes all that is written to it");
    }
    let ways = lines(file).filter(|(word, _)| matches!(*word, "search" | "domain" | "options" | "sortlist"));
    for (word, rest) in ways {
        writeln!(text, "{word} {}", rest.trim()).expect("a string takes all that is written to it");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 29);

    fn of(host: &str, systemd: Option<&str>) -> (String, Option<[u8; 4]>) {
        let Resolver { text, stub } = resolver(host, systemd, GATEWAY);
        (text, stub.map(|stub| stub.octets()))
    }

    #[test]
    fn servers_that_are_reached_are_kept() {
        let host = "# made by hand\nsearch a.example b.example\n nameserver\t10.0.0.2 \nnameserver 127.0.0.1\n\
                    nameserver fd00::2\nnameserver 10.0.0.3\n; more\noptions timeout:1 edns0\nsortlist 10.0.0.0";
        let kept = "nameserver 10.0.0.2\nnameserver 10.0.0.3\nsearch a.example b.example\n\
                    options timeout:1 edns0\nsortlist 10.0.0.0\n";
        assert_eq!(of(host, Some("nameserver 9.9.9.9")), (kept.to_owned(), None));
    }

    #[test]
    fn behind_the_stub_of_systemd_are_its_servers() {
        let host = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
        let systemd = "nameserver 192.168.1.1\nsearch lan\n";
        assert_eq!(of(host, Some(systemd)), ("nameserver 192.168.1.1\nsearch lan\n".to_owned(), None));
    }

    #[test]
    fn a_stub_is_asked_by_way_of_the_gateway() {
        let text = "nameserver 172.16.0.29\nsearch lan\n".to_owned();
        assert_eq!(of("search lan\nnameserver 127.0.0.54", None), (text.clone(), Some([127, 0, 0, 54])));
        let systemd = Some("nameserver ::1\n");
        assert_eq!(of("search lan\nnameserver 127.0.0.54", systemd), (text.clone(), Some([127, 0, 0, 54])));
        assert_eq!(of("nameserver ::1\nsearch lan", None), (text, Some([127, 0, 0, 1])));
    }

    #[test]
    fn a_server_at_the_metadata_service_is_asked_by_way_of_the_gateway() {
        let text = "nameserver 172.16.0.29\n".to_owned();
        assert_eq!(of("nameserver 169.254.169.254", None), (text, Some([169, 254, 169, 254])));
    }

    #[test]
    fn no_server_means_the_local_one() {
        let text = "nameserver 172.16.0.29\n".to_owned();
        for host in
            ["", "nameserver", "nameserver 0.0.0.0", "nameserver fe80::1%eth0", "nameservers 10.0.0.1"]
        {
            assert_eq!(of(host, None), (text.clone(), Some([127, 0, 0, 1])), "{host}");
        }
    }
}
