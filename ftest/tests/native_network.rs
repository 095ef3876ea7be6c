//! The network of native dynos: an address of its own, the world outside by NAT, and neither the other dynos nor
//! what only the host may ask.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use hsup_ftest::{Driver, Hsup, Namespaces, Room, is_about, procs};
use nix::sys::signal::Signal;

/// Echoes the name of the dyno to whoever connects.
const SERVER: &str = "import os, socket; s = socket.create_server((\"\", int(os.environ[\"PORT\"]))); \
    print(\"listening\", flush=True)\nwhile True:\n c, a = s.accept(); c.sendall(os.environ[\"DYNO\"].encode()); c.close()";

/// How long a connection may take that is to come about, and one that is not.
const SOON: Duration = Duration::from_secs(5);

fn network(room: &Room) -> &Namespaces {
    room.namespaces().expect("the driver is native")
}

/// A line of shell that says whether a connection comes about, and what is read from it.
fn try_connect(address: &str, port: u16) -> String {
    format!(
        "if timeout 1 bash -c 'exec 3<>/dev/tcp/{address}/{port} && echo reached: $(cat <&3)' 2>/dev/null; \
         then :; else echo no way to {address}:{port}; fi"
    )
}

/// The world outside: a host at 10.9.0.1, which the room's host (10.9.0.2) has as its gateway, and which knows
/// of no dyno.
fn outside(room: &Room) -> Namespaces {
    let outside = Namespaces::new();
    network(room).sh(&format!(
        "ip link add up0 type veth peer name out0 netns {}; ip addr add 10.9.0.2/24 dev up0; ip link set up0 up",
        outside.pid()
    ));
    outside
        .sh("ip addr add 10.9.0.1/24 dev out0; ip addr add 169.254.169.254/32 dev lo; ip link set out0 up");
    network(room).sh("ip route add default via 10.9.0.1");
    outside
}

/// Answers connections with the address that they come from, until the test ends.
fn serve(network: &Namespaces, address: &str) -> u16 {
    let listener = network.within(|| TcpListener::bind((address, 0)).expect("the address is there"));
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let from = stream.peer_addr().expect("it is connected").ip().to_string();
            let _hung_up = stream.write_all(from.as_bytes());
        }
    });
    port
}

/// What is read from an address by the room's host.
fn read(room: &Room, address: SocketAddr) -> std::io::Result<String> {
    network(room).within(|| {
        let mut stream = TcpStream::connect_timeout(&address, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

fn address(hsup: &Hsup, dyno: &str) -> IpAddr {
    let dyno = hsup.dyno(dyno);
    dyno["IPAddress"].as_str().and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("{dyno}"))
}

fn released() -> Room {
    let room = Room::new();
    room.release(&room.app());
    room
}

#[test]
fn the_block_of_addresses_can_be_set() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let line =
        "ip -4 -o addr show eth0; ip route; ping -c 1 -W 1 127.0.0.1 >/dev/null 2>&1; ip -o link | wc -l";
    let run = || room.hsup(["run", line]).env("LIBCONTAINER_DYNO_SUBNET", "192.168.200.0/30");
    let ended = run().end();
    assert!(ended.stdout.contains("inet 192.168.200.2/30 "), "{ended:?}");
    assert!(ended.stdout.contains("default via 192.168.200.1 dev eth0"), "{ended:?}");
    assert!(ended.stdout.ends_with("\n2\n"), "lo and eth0: {ended:?}");
    let ended = run().env("HSUP_NATIVE_DYNO_SUBNET", "192.168.201.0/24").end();
    assert!(ended.stdout.contains("inet 192.168.201.2/30 "), "the own name beats the other: {ended:?}");
}

#[test]
fn the_host_reaches_dynos_and_dynos_reach_each_other_only_if_allowed() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", &format!("exec python3 -c '{SERVER}'"), 2));
    for allowed in [false, true] {
        let hsup = if allowed { room.hsup(["--allow", "dynos", "start"]) } else { room.hsup(["start"]) }.up();
        for dyno in ["web.1", "web.2"] {
            hsup.wait_line(&format!("{dyno} | listening"));
            assert_eq!(hsup.dyno(dyno)["Port"], 5000);
            let answer = read(&room, (address(&hsup, dyno), 5000).into());
            assert_eq!(answer.expect("the host reaches its dynos"), dyno);
        }
        let web = address(&hsup, "web.2").to_string();
        let line = try_connect(&web, 5000);
        let args = ["-s", "none", "run", &line];
        let args = room.hsup(args);
        let args = if allowed { args.env("HSUP_ALLOW", "dynos") } else { args };
        let ended = args.end();
        let expected =
            if allowed { "reached: web.2\n".to_owned() } else { format!("no way to {web}:5000\n") };
        assert_eq!(ended.stdout, expected, "allowed: {allowed}: {ended:?}");
        assert_eq!(hsup.stop().code, 0);
    }
}

#[test]
fn a_dyno_reaches_the_world_by_the_address_of_the_host_and_the_metadata_only_if_allowed() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let outside = outside(&room);
    let (world, metadata) = (serve(&outside, "10.9.0.1"), serve(&outside, "169.254.169.254"));
    assert_eq!(
        read(&room, SocketAddr::from(([169, 254, 169, 254], metadata))).expect("the host may"),
        "10.9.0.2"
    );
    let line = [try_connect("10.9.0.1", world), try_connect("169.254.169.254", metadata)].join("\n");
    let ended = room.hsup(["run", &line]).end();
    let expected = format!("reached: 10.9.0.2\nno way to 169.254.169.254:{metadata}\n");
    assert_eq!(ended.stdout, expected, "{ended:?}");
    let ended = room.hsup(["--allow", "metadata", "run", &line]).end();
    assert_eq!(ended.stdout, "reached: 10.9.0.2\nreached: 10.9.0.2\n", "{ended:?}");
}

#[test]
fn a_dyno_does_not_reach_what_listens_on_the_loopback_of_the_host() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let port = serve(network(&room), "127.0.0.1");
    assert_eq!(read(&room, ([127, 0, 0, 1], port).into()).expect("the host may"), "127.0.0.1");
    let line = format!(
        "{}\n{}",
        try_connect("127.0.0.1", port),
        "gateway=$(ip route | awk '/^default/ {print $3}'); timeout 1 bash -c \"exec 3<>/dev/tcp/$gateway/PORT\" \
         2>/dev/null || echo nor by the gateway"
            .replace("PORT", &port.to_string())
    );
    let ended = room.hsup(["run", &line]).end();
    assert_eq!(ended.stdout, format!("no way to 127.0.0.1:{port}\nnor by the gateway\n"), "{ended:?}");
}

/// A network beyond the host's interface ext0, where its other end is far0.
fn beyond_ext0(room: &Room) -> Namespaces {
    let outside = Namespaces::new();
    network(room).sh(&format!(
        "ip link add ext0 type veth peer name far0 netns {}; ip link set ext0 up",
        outside.pid()
    ));
    outside
}

#[test]
fn an_extra_interface_and_extra_routes_are_there() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let outside = beyond_ext0(&room);
    outside.sh("ip addr add 10.8.0.1/24 dev far0; ip addr add 10.7.0.1/32 dev lo; ip link set far0 up");
    let (near, far) = (serve(&outside, "10.8.0.1"), serve(&outside, "10.7.0.1"));
    let line = [
        "ip -4 -o addr show eth1",
        "ip route",
        &try_connect("10.8.0.1", near),
        &try_connect("10.7.0.1", far),
    ]
    .join("\n");
    for prefix in ["LIBCONTAINER", "HSUP_NATIVE"] {
        let run =
            room.hsup(["run", &line]).env(&format!("{prefix}_DYNO_EXTRA_INTERFACE"), "ext0:10.8.0.10/24");
        let ended = run.env(&format!("{prefix}_DYNO_EXTRA_ROUTES"), "10.7.0.0/16:10.8.0.1:eth1").end();
        assert!(ended.stdout.contains("inet 10.8.0.10/24 "), "{prefix}: {ended:?}");
        assert!(ended.stdout.contains("10.7.0.0/16 via 10.8.0.1 dev eth1"), "{prefix}: {ended:?}");
        assert!(ended.stdout.ends_with("reached: 10.8.0.10\nreached: 10.8.0.10\n"), "{prefix}: {ended:?}");
    }
    // one that is not there
    let ended = room.hsup(["run", "true"]).env("LIBCONTAINER_DYNO_EXTRA_INTERFACE", "no0:10.8.0.10/24").end();
    assert!(ended.code != 0 && ended.stderr.contains("no0"), "{ended:?}");
    // a route by one that is not asked for
    let ended =
        room.hsup(["run", "true"]).env("LIBCONTAINER_DYNO_EXTRA_ROUTES", "10.7.0.0/16:10.8.0.1:eth1").end();
    assert!(ended.code == 64 && ended.stderr.contains("EXTRA_INTERFACE"), "{ended:?}");
}

#[test]
fn by_an_extra_interface_a_dyno_reaches_no_more_than_by_its_own() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let outside = beyond_ext0(&room);
    let others = "ip addr add 169.254.169.254/32 dev lo; ip addr add 172.31.0.1/32 dev lo; ip addr add 172.20.0.1/32 dev lo";
    outside.sh(&format!("ip addr add 10.8.0.1/24 dev far0; {others}; ip link set far0 up"));
    let lan = ("10.8.0.1", serve(&outside, "10.8.0.1"));
    let metadata = ("169.254.169.254", serve(&outside, "169.254.169.254"));
    let dynos = ("172.31.0.1", serve(&outside, "172.31.0.1"));
    let named = ("172.20.0.1", serve(&outside, "172.20.0.1"));
    // whatever the routes say, a program may choose its interface
    let ask = [lan, metadata, dynos, named].map(|(address, port)| {
        format!(
            "s = socket.socket(); s.settimeout(1); s.setsockopt(socket.SOL_SOCKET, 25, b\"eth1\")\n\
             try: s.connect((\"{address}\", {port})); print(s.recv(99).decode())\nexcept OSError: print(\"no way\")"
        )
    });
    let line = format!("python3 -c 'import socket\n{}'", ask.join("\n"));
    let run = |allow: &str| {
        let run = room.hsup(["run", &line]).env("LIBCONTAINER_DYNO_EXTRA_INTERFACE", "ext0:10.8.0.10/24");
        let run = run.env("LIBCONTAINER_DYNO_EXTRA_ROUTES", "172.20.0.0/16:10.8.0.1:eth1");
        let ended = run.env("HSUP_ALLOW", allow).end();
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    };
    let [by, no] = ["10.8.0.10", "no way"];
    for (allow, seen) in
        [("", [by, no, no, by]), ("metadata", [by, by, no, by]), ("dynos,metadata", [by, by, by, by])]
    {
        assert_eq!(run(allow), seen.map(|seen| format!("{seen}\n")).concat(), "{allow}");
    }
}

#[test]
fn a_dyno_cannot_take_the_address_of_another_nor_see_its_packets() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let line = "for c in 'ip addr add 10.1.2.3/32 dev eth0' 'ip link set eth0 down' 'ip route add 10.3.0.0/16 dev eth0' \
                'python3 -c \"import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\"' \
                'python3 -c \"import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\"'; do \
                if sh -c \"$c\" 2>/dev/null; then echo can: $c; else echo cannot; fi; done";
    let ended = room.hsup(["run", line]).end();
    assert_eq!(ended.stdout, "cannot\n".repeat(5), "{ended:?}");
}

#[test]
fn a_dyno_that_listens_on_every_address_of_ipv6_is_reached_by_ipv4() {
    if !is_about(Driver::Native) {
        return;
    }
    let server = "import os, socket; s = socket.create_server((\"::\", int(os.environ[\"PORT\"])), \
                  family=socket.AF_INET6, dualstack_ipv6=True); print(\"listening\", flush=True)\nwhile True:\n \
                  c, a = s.accept(); c.sendall(a[0].encode()); c.close()";
    let room = Room::new();
    room.release(&room.app().process("web", &format!("exec python3 -c '{server}'"), 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | listening");
    let from = read(&room, (address(&hsup, "web.1"), 5000).into()).expect("the host reaches its dynos");
    let gateway = address(&hsup, "web.1").to_string().rsplit_once('.').map(|(net, _)| net.to_owned());
    assert!(from.starts_with(&format!("::ffff:{}.", gateway.expect("an IPv4 address"))), "{from}");
    // and its own loopback has both
    let line = "python3 -c 'import socket\nfor a, f in ((\"::1\", socket.AF_INET6), (\"127.0.0.1\", socket.AF_INET)): \
                s = socket.create_server((a, 0), family=f); c = socket.create_connection(s.getsockname()[:2]); print(a)'; \
                ip -6 -o route show default | wc -l";
    let ended = room.hsup(["-s", "none", "run", line]).end();
    assert_eq!(ended.stdout, "::1\n127.0.0.1\n0\n", "{ended:?}");
}

/// Answers a question for names with 192.0.2.7.
fn answer(question: &[u8]) -> Vec<u8> {
    let name_end = 12 + question[12..].iter().position(|byte| *byte == 0).expect("a name ends with a root");
    let header = [&question[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]].concat();
    let asked = &question[12..name_end + 5];
    [&header, asked, &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]].concat()
}

#[test]
fn a_dyno_resolves_names_by_a_resolver_on_the_loopback_of_the_host() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = released();
    let resolv = room.path("work/resolv.conf");
    std::fs::write(&resolv, "nameserver 127.0.0.53\noptions edns0 trust-ad\n")
        .expect("a file can be written");
    network(&room).sh(&format!(
        "mount --bind {} $(readlink -f /etc/resolv.conf); if [ -d /run/systemd ]; then mount -t tmpfs run /run/systemd; fi",
        resolv.display()
    ));
    let (udp, tcp) = network(&room).within(|| {
        let udp = UdpSocket::bind("127.0.0.53:53").expect("the address is there");
        (udp, TcpListener::bind("127.0.0.53:53").expect("the address is there"))
    });
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut question) {
            let _gone = udp.send_to(&answer(&question[..length]), from);
        }
    });
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut question = [0; 512];
            let length = stream.read(&mut question).unwrap_or_default();
            let answer = answer(&question[2..length.max(32)]);
            let length = u16::try_from(answer.len()).expect("it is short").to_be_bytes();
            let _gone = stream.write_all(&[&length[..], &answer].concat());
        }
    });
    let line = "getent ahostsv4 app.example | head -1; RES_OPTIONS=use-vc getent ahostsv4 other.example | head -1; \
                grep -c 127 /etc/resolv.conf";
    let ended = room.hsup(["run", line]).end();
    let words: Vec<&str> = ended.stdout.split_whitespace().collect();
    let found = ["192.0.2.7", "STREAM", "app.example", "192.0.2.7", "STREAM", "other.example", "0"];
    assert_eq!(words, found, "{ended:?}");
    // nothing else of that loopback
    let port = serve(network(&room), "127.0.0.53");
    let ended =
        room.hsup(["run", &try_connect("$(awk '/^nameserver/ {print $2}' /etc/resolv.conf)", port)]).end();
    assert!(ended.stdout.starts_with("no way"), "{ended:?}");
}

#[test]
fn a_dyno_asks_whom_the_host_asks_when_it_starts_and_others_go_on_asking() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let resolv = room.path("work/resolv.conf");
    let host_asks = |server: &str| {
        std::fs::write(&resolv, format!("nameserver {server}\n")).expect("a file can be written")
    };
    host_asks("10.9.0.1");
    network(&room).sh(&format!(
        "mount --bind {} $(readlink -f /etc/resolv.conf); if [ -d /run/systemd ]; then mount -t tmpfs run /run/systemd; fi",
        resolv.display()
    ));
    let hsup = room.hsup(["start"]).up();
    let asks =
        |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/root/etc/resolv.conf")).expect("it lives");
    let pid = hsup.wait_up("web.1");
    assert_eq!(asks(pid), "nameserver 10.9.0.1\n");
    let handed_on = || network(&room).sh("nft list ruleset").contains("dnat to 127.0.0.53");
    assert!(!handed_on());
    // a resolver of its own comes to the host after hsup
    host_asks("127.0.0.53");
    procs::signal(pid, Signal::SIGKILL);
    hsup.wait_line("Process was killed by SIGKILL");
    let up = hsup.wait_dyno("web.1", "is up again", |dyno| dyno["State"] == "up" && dyno["Pid"] != pid);
    let pid = up["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("it has a pid");
    assert!(asks(pid).starts_with("nameserver 172.") && handed_on(), "{}", asks(pid));
    // and goes again: the dyno that asks it still may
    host_asks("10.9.0.1");
    let ended = room.hsup(["-s", "none", "run", "cat /etc/resolv.conf"]).end();
    assert_eq!(ended.stdout, "nameserver 10.9.0.1\n", "{ended:?}");
    assert!(handed_on());
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn the_packet_filter_is_put_back_when_it_was_flushed() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let outside = outside(&room);
    let metadata = serve(&outside, "169.254.169.254");
    let hsup = room.hsup(["start"]).up();
    let pid = hsup.wait_up("web.1");
    let before = network(&room).sh("nft list ruleset");
    network(&room).sh("nft flush ruleset; echo 0 > /proc/sys/net/ipv4/ip_forward");
    procs::signal(pid, Signal::SIGKILL);
    hsup.wait_line("Process was killed by SIGKILL");
    hsup.wait_dyno("web.1", "is up again", |dyno| dyno["State"] == "up" && dyno["Pid"] != pid);
    assert_eq!(network(&room).sh("nft list ruleset; cat /proc/sys/net/ipv4/ip_forward"), before + "1\n");
    let ended = room.hsup(["-s", "none", "run", &try_connect("169.254.169.254", metadata)]).end();
    assert_eq!(ended.stdout, format!("no way to 169.254.169.254:{metadata}\n"), "{ended:?}");
}

#[test]
fn the_packet_filter_is_put_back_for_dynos_that_run_on() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let outside = outside(&room);
    let (world, metadata) = (serve(&outside, "10.9.0.1"), serve(&outside, "169.254.169.254"));
    let hsup = room.hsup(["start"]).up();
    let pid = hsup.wait_up("web.1");
    let before = network(&room).sh("nft list ruleset");
    let mut times = 0;
    for change in [
        "flush ruleset",
        "delete table ip hsup",
        "flush chain ip hsup forward",
        "delete chain ip hsup postrouting",
        "insert rule ip hsup forward accept",
    ] {
        network(&room).sh(&format!("nft '{change}'"));
        times += 1;
        hsup.wait_nth_line("it has been put back", times);
        assert_eq!(network(&room).sh("nft list ruleset"), before, "{change}");
    }
    let line = [try_connect("10.9.0.1", world), try_connect("169.254.169.254", metadata)].join("\n");
    let seen = network(&room)
        .sh(&format!("nsenter --net=/proc/{pid}/ns/net bash -c '{}'", line.replace('\'', "'\\''")));
    assert_eq!(seen, format!("reached: 10.9.0.2\nno way to 169.254.169.254:{metadata}\n"));
    // What others have is theirs, and when hsup ends its own goes for good.
    network(&room).sh("nft 'add table ip other; add chain ip other hsup; delete table ip other'");
    let ended = hsup.stop();
    assert_eq!((ended.code, ended.stderr.matches("it has been put back").count()), (0, times), "{ended:?}");
    assert_eq!(network(&room).sh("nft list ruleset"), "");
}

#[test]
fn doctor_tells_what_keeps_dynos_from_the_world_outside() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let outside = outside(&room);
    let world = serve(&outside, "10.9.0.1");
    // What else it finds may be of others, who share the cgroups of this host.
    let hints = || {
        let told = room.bare(["doctor"]).end().stdout;
        told.lines().filter(|line| line.starts_with("hint: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("web.1");
    assert_eq!(hints(), Vec::<String>::new());
    // as Docker, firewalld and others do; the last one is of another hook, and the one before lets all through
    network(&room).sh("nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
         add chain ip filter OTHER { type filter hook forward priority 1; policy accept; }; \
         add chain ip filter INPUT { type filter hook input priority 0; policy drop; }'");
    let ended = room.hsup(["-s", "none", "run", &try_connect("10.9.0.1", world)]).end();
    assert_eq!(ended.stdout, format!("no way to 10.9.0.1:{world}\n"), "{ended:?}");
    network(&room).sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
    let told = hints();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("net.ipv4.ip_forward") && told[1].contains("ip filter FORWARD"), "{told:?}");
    let json: serde_json::Value =
        serde_json::from_str(&room.bare(["doctor", "--json"]).end().stdout).expect("it is JSON");
    assert_eq!(json["Hints"].as_array().map(Vec::len), Some(2), "{json}");
    // a rule as the hint has it
    network(&room).sh("nft 'add rule ip filter FORWARD iifname \"hs*\" accept; add rule ip filter FORWARD oifname \"hs*\" accept'");
    let ended = room.hsup(["-s", "none", "run", &try_connect("10.9.0.1", world)]).end();
    assert_eq!(ended.stdout, "reached: 10.9.0.2\n", "{ended:?}");
    assert_eq!(hsup.stop().code, 0);
    // nobody wants to go anywhere
    assert_eq!(hints(), Vec::<String>::new());
}
