//! The network of dynos as the kernel does it, in network namespaces of their own.

mod world;

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;

use super::link::set_link;
use super::netlink::{Message, Step};
use super::*;
use world::{HOST, METADATA, NOTHING, Netns, OUTSIDE, PORT, STUB, World, is_quiet, links, name, subnet};

#[test]
fn the_host_and_a_dyno_reach_each_other() {
    let Some(world) = World::new() else { return };
    world.install(None);
    let dyno = world.dyno(0, NOTHING);
    let port = dyno.listen(subnet(0).dyno(), PORT);
    assert_eq!(world.host.reaches(&port, subnet(0).dyno()), subnet(0).gateway());
    let port = world.host.listen(Ipv4Addr::UNSPECIFIED, PORT);
    assert_eq!(dyno.reaches(&port, subnet(0).gateway()), subnet(0).dyno());
    let port = dyno.listen(Ipv4Addr::LOCALHOST, PORT);
    assert_eq!(dyno.reaches(&port, Ipv4Addr::LOCALHOST), Ipv4Addr::LOCALHOST);
}

#[test]
fn a_dyno_reaches_the_outside_from_the_address_of_the_host() {
    let Some(world) = World::new() else { return };
    let dyno = world.dyno(0, NOTHING);
    let port = world.outside.listen(OUTSIDE, PORT);
    assert_eq!(dyno.reaches(&port, OUTSIDE), subnet(0).dyno());
    world.install(None);
    assert_eq!(dyno.reaches(&port, OUTSIDE), HOST);
}

#[test]
fn a_dyno_opens_connections_to_others_if_allowed_only() {
    let Some(world) = World::new() else { return };
    world.install(None);
    let shy = world.dyno(0, Allow { dynos: false, metadata: true });
    let open = world.dyno(1, Allow { dynos: true, metadata: false });
    let (port_of_shy, port_of_open) =
        (shy.listen(subnet(0).dyno(), PORT), open.listen(subnet(1).dyno(), PORT));
    assert!(shy.is_kept_from(&port_of_open, subnet(1).dyno()));
    assert_eq!(open.reaches(&port_of_shy, subnet(0).dyno()), subnet(1).dyno());
    // What is behind the gateway of the other is the host, and not that dyno.
    assert!(shy.is_refused(subnet(1).gateway()));
}

#[test]
fn a_dyno_reaches_the_metadata_service_if_allowed_only() {
    let Some(world) = World::new() else { return };
    world.install(None);
    let (without, with) = (world.dyno(0, NOTHING), world.dyno(1, Allow { dynos: false, metadata: true }));
    // Once behind another link, once on the host itself.
    world.outside.add("eth0", "169.254.169.254/16");
    world.host.add("out0", "169.254.0.1/16");
    let service = world.outside.listen(METADATA, PORT);
    assert_eq!(with.reaches(&service, METADATA), Ipv4Addr::from([169, 254, 0, 1]));
    assert!(without.is_kept_from(&service, METADATA));
    world.host.add("lo", "169.254.169.254/32");
    let service = world.host.listen(METADATA, PORT);
    assert_eq!(with.reaches(&service, METADATA), subnet(1).dyno());
    assert!(without.is_kept_from(&service, METADATA));
}

#[test]
fn a_dyno_sends_from_its_own_address_only() {
    let Some(world) = World::new() else { return };
    let dyno = world.dyno(0, NOTHING);
    dyno.add("eth0", "192.0.2.1/32");
    let (received, sent) = (world.outside.udp(OUTSIDE, PORT), dyno.udp([192, 0, 2, 1], 0));
    sent.send_to(b"without rules", (OUTSIDE, PORT)).unwrap();
    assert_eq!(received.recv_from(&mut [0; 99]).unwrap().1, sent.local_addr().unwrap());
    world.install(None);
    sent.send_to(b"with them", (OUTSIDE, PORT)).unwrap();
    assert!(is_quiet(&received));
    dyno.udp(subnet(0).dyno(), 0).send_to(b"from its own", (OUTSIDE, PORT)).unwrap();
    assert_eq!(received.recv_from(&mut [0; 99]).unwrap().1.ip(), HOST);
}

#[test]
fn what_a_dyno_asks_its_gateway_is_handed_on_to_the_stub() {
    let Some(world) = World::new() else { return };
    world.install(Some(STUB));
    let dyno = world.dyno_with(0, NOTHING, Some(STUB), "", None);
    let (server, asking) = (world.host.udp(STUB, 53), dyno.udp(subnet(0).dyno(), 0));
    asking.connect((subnet(0).gateway(), 53)).unwrap();
    asking.send(b"where?").unwrap();
    let (length, from) = server.recv_from(&mut [0; 99]).unwrap();
    assert_eq!((length, from.ip()), (6, subnet(0).dyno().into()));
    server.send_to(b"here", from).unwrap();
    assert_eq!(asking.recv(&mut [0; 99]).unwrap(), 4);
    let server = world.host.listen(STUB, 53);
    assert_eq!(dyno.reaches(&server, subnet(0).gateway()), subnet(0).dyno());
    // Other ports are the host's own.
    let _port = world.host.listen(STUB, PORT);
    assert!(dyno.is_refused(subnet(0).gateway()));
}

#[test]
fn a_stub_at_the_metadata_service_is_handed_questions_and_nothing_else() {
    let Some(world) = World::new() else { return };
    world.install(Some(METADATA));
    let dyno = world.dyno_with(0, NOTHING, Some(METADATA), "", None);
    world.outside.add("eth0", "169.254.169.254/16");
    world.host.add("out0", "169.254.0.1/16");
    let (server, service) = (world.outside.listen(METADATA, 53), world.outside.listen(METADATA, 80));
    assert_eq!(dyno.reaches(&server, subnet(0).gateway()), Ipv4Addr::from([169, 254, 0, 1]));
    assert!(dyno.is_kept_from(&service, METADATA));
    assert!(dyno.is_kept_from(&server, METADATA));
}

#[test]
fn the_loopback_addresses_of_the_host_stay_closed() {
    let Some(world) = World::new() else { return };
    let dyno = world.dyno_with(0, NOTHING, Some(STUB), "", None);
    // A dyno that has no loopback addresses sends what is for them by its default route.
    dyno.perform(|| {
        let header =
            [libc::AF_INET as u8, 8, 0, 0].into_iter().chain(1_u32.to_ne_bytes()).collect::<Vec<_>>();
        let remove = Message::new(libc::RTM_DELADDR, 0, &header).with(libc::IFA_LOCAL, &[127, 0, 0, 1]);
        vec![Step::new("remove 127.0.0.1/8 from lo", remove)]
    });
    let (received, sent) = (world.host.udp(STUB, PORT), dyno.udp(subnet(0).dyno(), 0));
    sent.send_to(b"without rules", (STUB, PORT)).unwrap();
    received.recv(&mut [0; 99]).unwrap();
    world.install(Some(STUB));
    sent.send_to(b"with them", (STUB, PORT)).unwrap();
    assert!(is_quiet(&received));
}

#[test]
fn links_are_listed_and_removed() {
    let Some(world) = World::new() else { return };
    let _dynos = [world.dyno(0, NOTHING), world.dyno(1, Allow { dynos: true, metadata: true })];
    let (there, left) = world.host.run(|| {
        let links = links();
        let there = links.host_links().unwrap();
        for _ in 0..2 {
            links.disconnect(&name(0)).unwrap();
            links.disconnect(&name(1)).unwrap();
        }
        (there, links.host_links().unwrap())
    });
    assert_eq!((there, left), (vec![name(0), name(1)], vec![]));
    let error = world.host.run(|| links().settle(&name(0)).unwrap_err());
    assert_eq!(error.to_string(), format!("failed to look for the link {}", name(0)));
}

#[test]
fn links_are_those_of_the_namespace_in_which_they_were_opened() {
    let Some(world) = World::new() else { return };
    let dyno = Netns::new();
    let (of_host, netns) = (world.host.run(links), dyno.dup());
    dyno.run(move || {
        of_host.connect(&HostLink::new(subnet(0), NOTHING, None), netns.as_fd()).unwrap();
        links().configure(&subnet(0), &Routes::default(), None).unwrap();
        of_host.settle(&name(0)).unwrap();
    });
    assert_eq!(
        (world.host.run(interfaces), dyno.run(interfaces)),
        (vec![name(0), "lo".to_owned(), "out0".to_owned()], vec!["eth0".to_owned(), "lo".to_owned()],)
    );
    let port = dyno.listen(subnet(0).dyno(), PORT);
    assert_eq!(world.host.reaches(&port, subnet(0).dyno()), subnet(0).gateway());
}

#[test]
fn a_link_settles_when_both_ends_are_up() {
    let Some(world) = World::new() else { return };
    let netns = Netns::new().dup();
    let error = world.host.run(move || {
        links().connect(&HostLink::new(subnet(0), NOTHING, None), netns.as_fd()).unwrap();
        links().settle(&name(0)).unwrap_err()
    });
    assert_eq!(error.to_string(), format!("the other end of the link {} is down", name(0)));
    world.dyno(1, NOTHING);
    world.host.run(|| links().settle(&name(1)).unwrap());
}

#[test]
fn the_link_that_a_dyno_before_has_left_is_replaced() {
    let Some(world) = World::new() else { return };
    drop(world.dyno(0, NOTHING));
    let dyno = world.dyno(0, NOTHING);
    let port = dyno.listen(subnet(0).dyno(), PORT);
    assert_eq!(world.host.reaches(&port, subnet(0).dyno()), subnet(0).gateway());
    drop((port, dyno));
    world.host.run(|| {
        let links = links();
        // The thread in the namespace is about to end.
        while links.remove_remains(&name(0)).unwrap() == Remains::Living {
            std::thread::yield_now();
        }
        assert_eq!(links.remove_remains(&name(0)).unwrap(), Remains::Nothing);
    });
}

#[test]
fn the_link_of_a_dyno_that_lives_is_left_alone() {
    let Some(world) = World::new() else { return };
    let dyno = world.dyno(0, NOTHING);
    let netns = Netns::new().dup();
    let (error, remains) = world.host.run(move || {
        let error = links().connect(&HostLink::new(subnet(0), NOTHING, None), netns.as_fd()).unwrap_err();
        (error, links().remove_remains(&name(0)).unwrap())
    });
    assert!(matches!(&error, NetworkError::Taken { name: taken } if *taken == name(0)), "{error}");
    assert_eq!(remains, Remains::Living);
    let port = dyno.listen(subnet(0).dyno(), PORT);
    assert_eq!(world.host.reaches(&port, subnet(0).dyno()), subnet(0).gateway());
}

#[test]
fn links_of_others_are_left_alone() {
    let Some(world) = World::new() else { return };
    let dyno = world.dyno(0, NOTHING);
    world.host.perform(|| {
        let other = set_link(&name(0), 0).with(libc::IFLA_GROUP, &7_u32.to_ne_bytes());
        vec![Step::new("join another group", other)]
    });
    let netns = Netns::new().dup();
    let (links, error) = world.host.run(move || {
        let link = HostLink::new(subnet(0), NOTHING, None);
        (links().host_links().unwrap(), links().connect(&link, netns.as_fd()).unwrap_err())
    });
    assert!(links.is_empty() && matches!(error, NetworkError::Foreign { .. }), "{error}");
    assert_eq!(dyno.run(interfaces), ["eth0", "lo"]);
}

#[test]
fn what_fails_is_named_and_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let dyno = world.dyno(0, NOTHING);
    let netns = dyno.dup();
    let (error, extra, there) = world.host.run(move || {
        let taken = links().connect(&HostLink::new(subnet(1), NOTHING, None), netns.as_fd()).unwrap_err();
        (taken, links().connect_extra("none0", netns.as_fd()).unwrap_err(), links().host_links().unwrap())
    });
    assert!(error.to_string().starts_with(&format!("failed to create the link {}", name(1))), "{error}");
    assert!(extra.to_string().starts_with("there is no interface none0 on this host"), "{extra}");
    assert_eq!(there, [name(0)]);
    let empty = Netns::new();
    let error = empty.run(|| links().configure(&subnet(0), &Routes::default(), None).unwrap_err());
    assert_eq!(error.to_string(), "there is no interface eth0 in the dyno");
    let routes = "10.0.0.0/8:192.0.2.1:eth0".parse().unwrap();
    let error = dyno.run(move || links().configure(&subnet(1), &routes, None).unwrap_err());
    assert!(error.to_string().starts_with("failed to add the route 10.0.0.0/8:192.0.2.1:eth0"), "{error}");
}

#[test]
fn an_extra_interface_is_in_the_network_of_the_host() {
    let Some(world) = World::new() else { return };
    world.install(None);
    world.outside.add("eth0", "10.8.0.1/24");
    let routes = "10.7.0.0/16:10.8.0.1:eth1,10.6.0.0/16:default:eth1,10.5.0.0/16:default:eth0";
    let extra = "out0:10.8.0.5/24".parse().unwrap();
    let dyno = world.dyno_with(0, NOTHING, None, routes, Some(extra));
    let port = world.outside.listen([10, 8, 0, 1], PORT);
    assert_eq!(dyno.reaches(&port, [10, 8, 0, 1]), Ipv4Addr::from([10, 8, 0, 5]));
    let route = |interface: &str, to: [u8; 4], by: [u8; 4]| {
        format!("{interface} {:08X} {:08X}", u32::from_ne_bytes(to), u32::from_ne_bytes(by))
    };
    let gateway = subnet(0).gateway().octets();
    let mut expected = [
        route("eth0", [0, 0, 0, 0], gateway),
        route("eth1", [10, 7, 0, 0], [10, 8, 0, 1]),
        route("eth1", [10, 6, 0, 0], [0, 0, 0, 0]),
        route("eth0", [10, 5, 0, 0], gateway),
        route("eth1", [10, 8, 0, 0], [0, 0, 0, 0]),
        route("eth0", subnet(0).network().octets(), [0, 0, 0, 0]),
    ];
    let table = dyno.run(|| fs::read_to_string("/proc/thread-self/net/route").unwrap());
    let mut routes: Vec<String> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        .collect();
    routes.sort();
    expected.sort();
    assert_eq!(routes, expected);
}

#[test]
fn dynos_have_no_ipv6() {
    let Some(world) = World::new() else { return };
    let dyno = world.dyno_with(0, NOTHING, None, "", Some("out0:10.8.0.5/24".parse().unwrap()));
    let addresses = || fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    for text in [world.host.run(addresses), dyno.run(addresses)] {
        assert!(text.lines().all(|line| line.ends_with(" lo")), "{text}");
    }
}

#[test]
fn the_rules_are_replaced_as_a_whole_and_removed() {
    let Some(world) = World::new() else { return };
    let states = world.host.run(|| {
        let mut states = vec![nft::is_installed().unwrap()];
        let filter = || nft::Filter::open().unwrap();
        filter().uninstall().unwrap();
        let installed = filter().install(None).unwrap().install(Some(STUB)).unwrap();
        // who needs no stub leaves that of others
        installed.install(None).unwrap().leave();
        states.push(nft::is_installed().unwrap());
        states
    });
    assert_eq!(states, [false, true]);
    let ruleset = world.host.run(rules);
    let left = world.host.run(|| {
        nft::Filter::open().unwrap().uninstall().unwrap();
        (nft::is_installed().unwrap(), rules())
    });
    assert!(!left.0);
    // A second opinion, where there is one to be had.
    if let (Some(ruleset), Some(left)) = (ruleset, left.1) {
        for rule in RULES {
            assert!(ruleset.contains(rule), "{rule} is not in {ruleset}");
        }
        // with that of the table
        assert_eq!((ruleset.matches("comment").count(), left.as_str()), (8, ""));
    }
}

/// Parts of the rules as nft(8) reads them, which its versions write alike.
const RULES: [&str; 12] = [
    "table ip hsup {",
    "type filter hook prerouting priority raw; policy accept;",
    "ip daddr 127.0.0.0/8 drop comment \"no loopback addresses\"",
    "fib saddr . iif oif",
    "ip daddr 169.254.0.0/16 drop comment \"no metadata service\"",
    "type filter hook forward priority filter; policy accept;",
    "drop comment \"no other dynos\"",
    "type nat hook prerouting priority dstnat; policy accept;",
    "udp dport 53 fib daddr type local dnat to 127.0.0.53 comment \"name servers\"",
    "tcp dport 53 fib daddr type local dnat to 127.0.0.53 comment \"name servers\"",
    "type nat hook postrouting priority srcnat; policy accept;",
    "masquerade comment \"to the world outside\"",
];

fn rules() -> Option<String> {
    let output = Command::new("/usr/sbin/nft").args(["list", "ruleset"]).output().ok()?;
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The interfaces of the caller's namespace.
fn interfaces() -> Vec<String> {
    let mut names = nix::net::if_::if_nameindex()
        .unwrap()
        .iter()
        .map(|interface| interface.name().to_str().unwrap().to_owned())
        .collect::<Vec<_>>();
    names.sort();
    names
}
