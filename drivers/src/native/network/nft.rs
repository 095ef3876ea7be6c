//! The packet filter's rules for dynos: one table of nf_tables, the same for all dynos and replaced as a whole.
//!
//! A dyno is known by the [group](super::Allow::group) of its link, so that the rules do not change when dynos
//! start and stop. Other tables are not touched, and what they drop stays dropped.

mod closing;
mod label;
mod rule;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use self::closing::close_after_exit;
use self::label::Label;
use self::rule::{
    ANY, Chain, Expression, HEADER_BYTES, NFTA_RULE_TABLE, Rule, by, comment, comment_text, destination,
    drop_it, from_dynos, hand_on, header, let_it_pass, masquerade, message, messages, no_way_back,
    not_let_through, to_addresses, to_dynos, to_host, to_port,
};
use super::fence::{Addresses, Fence};
use super::link::{DYNOS, METADATA};
use super::netlink::{CREATE, EXCLUSIVE, Message, NetworkError, Socket, Step, attribute};
use super::settings::Interface;

/// The table's name.
const TABLE: &str = "hsup";

// Attributes, as named in `linux/netfilter/nf_tables.h`.
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_USERDATA: u16 = 6;

/// The port of name servers.
const DOMAIN: u16 = 53;

/// The rules for dynos of a network namespace.
#[derive(Debug)]
pub struct Filter(Socket);

impl Filter {
    /// Those of the network namespace of this thread.
    ///
    /// # Errors
    /// If the kernel cannot be spoken to.
    pub fn open() -> Result<Self, NetworkError> {
        Socket::open(SockProtocol::NetlinkNetFilter).map(Self)
    }

    /// Installs them, in one step: in place of others that are there, and not at all if they are there already.
    ///
    /// - A dyno sends from its own address only, and to none of the host's loopback addresses.
    /// - Unless it is [allowed](super::Allow), it reaches no link-local address, and opens no connection to a dyno.
    /// - What it sends to the world outside comes from the host's address.
    /// - With a [stub](super::Resolver::stub), what it asks the host on the port of name servers is handed on to that.
    ///   Where there is none, one that is installed stays: dynos of another hsup, or of an earlier day, may have no other.
    ///
    /// # Errors
    /// If the kernel refuses a step, which is named; the rules are as they were then. What it has said of that may not
    /// all have been heard, so that this is of no more use.
    pub fn install(self, stub: Option<Ipv4Addr>) -> Result<Self, NetworkError> {
        self.put(stub)?;
        Ok(self)
    }

    fn put(&self, stub: Option<Ipv4Addr>) -> Result<(), NetworkError> {
        let socket = &self.0;
        loop {
            let found = Found::look(socket)?;
            let stub = stub.or(found.label().and_then(|label| label.stub));
            let ruleset = ruleset(stub);
            let count = ruleset.iter().map(|(_, rules)| rules.len()).sum();
            let rules: Vec<(String, Message)> = ruleset.into_iter().flat_map(messages).collect();
            let label = Label { count, hash: hash(&rules), stub };
            let comment = comment(&label.to_string());
            let create = |flags| {
                let table = table(libc::NFT_MSG_NEWTABLE, flags).with(NFTA_TABLE_USERDATA, &comment);
                Step::new("create the table hsup of nf_tables", table)
            };
            let (steps, alone) = match found {
                // To delete is what takes the kernel its time.
                Found::Nothing => (vec![create(CREATE | EXCLUSIVE)], true),
                Found::Table(Some(theirs)) if theirs == label && count_rules(socket)? == count => {
                    return Ok(());
                }
                // It may be gone by now: to delete a table that is not there is an error, to create one twice is none.
                Found::Table(_) => {
                    let clear = Step::new(
                        "clear the table hsup of nf_tables",
                        self::table(libc::NFT_MSG_DELTABLE, 0),
                    );
                    (vec![create(CREATE), clear, create(CREATE)], false)
                }
            };
            let rules = rules.into_iter().map(|(name, message)| Step::new(name, message));
            match commit(socket, steps.into_iter().chain(rules)) {
                // Another hsup was quicker.
                Err(error) if alone && error.is(Errno::EEXIST) => {}
                committed => return committed,
            }
        }
    }

    /// Leaves them as they are.
    pub fn leave(self) {
        close_after_exit(self.0.into());
    }

    /// Removes them, if they are there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn uninstall(self) -> Result<(), NetworkError> {
        let steps = [
            Step::new("prepare the table hsup of nf_tables", table(libc::NFT_MSG_NEWTABLE, CREATE)),
            Step::new("remove the table hsup of nf_tables", table(libc::NFT_MSG_DELTABLE, 0)),
        ];
        let committed = commit(&self.0, steps);
        self.leave();
        committed
    }
}

/// Installs what keeps a dyno, in whose network namespace this is, from what its [`Fence`] says.
///
/// # Errors
/// If the kernel refuses a step, which is named.
pub fn install_fence(fence: &Fence) -> Result<(), NetworkError> {
    let to = |addresses: &Addresses, comment, verdict: Expression| {
        Rule::new(comment, &[by(Interface::Eth1), to_addresses(addresses), vec![verdict]])
    };
    let open = fence.open.iter().map(|open| to(open, "named by the operator", let_it_pass()));
    let closed = fence.closed.iter().map(|closed| to(closed, "not by the extra interface", drop_it()));
    let create = Step::new("create the table hsup of nf_tables", table(libc::NFT_MSG_NEWTABLE, CREATE));
    let rules = messages((OUTPUT, open.chain(closed).collect()));
    let rules = rules.into_iter().map(|(name, message)| Step::new(name, message));
    commit(&Socket::open(SockProtocol::NetlinkNetFilter)?, std::iter::once(create).chain(rules))
}

/// Whether rules are there.
///
/// # Errors
/// If the kernel does not tell.
pub fn is_installed() -> Result<bool, NetworkError> {
    let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
    Found::look(&socket).map(|found| matches!(found, Found::Table { .. }))
}

/// Whether the rules are there as an hsup has installed them, of whatever version, and with some stub where dynos need one.
///
/// # Errors
/// If the kernel does not tell.
pub fn is_whole(with_stub: bool) -> Result<bool, NetworkError> {
    let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
    loop {
        let found = Found::look(&socket)?;
        let Some(label) = found.label() else { return Ok(false) };
        if count_rules(&socket)? == label.count {
            return Ok(label.stub.is_some() || !with_stub);
        }
        // Another hsup may have replaced the table between the one question and the other.
        if Found::look(&socket)? == found {
            return Ok(false);
        }
    }
}

/// What tells of changes to the rules of dynos, by whomever.
#[derive(Debug)]
pub struct Changes(Socket);

impl Changes {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the kernel does not let it.
    pub fn listen() -> Result<Self, NetworkError> {
        Socket::listen(SockProtocol::NetlinkNetFilter, libc::NFNLGRP_NFTABLES).map(Self)
    }

    /// Reads what has been told; whether there may be a change among it.
    ///
    /// # Errors
    /// If nothing can be read any more.
    pub fn heard(&self) -> Result<bool, NetworkError> {
        let heard = self.0.heard()?;
        Ok(heard.is_none_or(|bodies| bodies.iter().any(|body| is_of_table(body))))
    }
}

impl AsFd for Changes {
    /// Readable when something has been told.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is there.
#[derive(PartialEq, Eq)]
enum Found {
    Nothing,
    /// A table, with what it says of itself if it is that of an hsup.
    Table(Option<Label>),
}

impl Found {
    fn look(socket: &Socket) -> Result<Self, NetworkError> {
        let question = table(libc::NFT_MSG_GETTABLE, 0);
        match socket.get("look for the table hsup of nf_tables", question) {
            Ok(answer) => {
                let attributes = answer.get(HEADER_BYTES..).unwrap_or_default();
                let comment = attribute(attributes, NFTA_TABLE_USERDATA).and_then(comment_text);
                Ok(Self::Table(comment.and_then(|text| text.parse().ok())))
            }
            Err(error) if error.is(Errno::ENOENT) => Ok(Self::Nothing),
            Err(error) => Err(error),
        }
    }

    fn label(&self) -> Option<Label> {
        match self {
            Self::Nothing => None,
            Self::Table(label) => *label,
        }
    }
}

/// How many rules the table has.
fn count_rules(socket: &Socket) -> Result<usize, NetworkError> {
    let question = message(libc::NFT_MSG_GETRULE, 0).text(NFTA_RULE_TABLE, TABLE);
    let rules = socket.dump("list the rules of the table hsup of nf_tables", question)?;
    Ok(rules.iter().filter(|rule| is_of_table(rule)).count())
}

/// Whether the body of a message of nf_tables is about the table. All kinds but one have the name in the same attribute;
/// that one has a number there.
fn is_of_table(body: &[u8]) -> bool {
    let is_ours = |name: &[u8]| name.strip_suffix(&[0]) == Some(TABLE.as_bytes());
    let family = body.first().map(|family| i32::from(*family));
    family == Some(libc::NFPROTO_IPV4)
        && body
            .get(HEADER_BYTES..)
            .and_then(|attributes| attribute(attributes, NFTA_RULE_TABLE))
            .is_some_and(is_ours)
}

fn hash(rules: &[(String, Message)]) -> u64 {
    let mut hasher = DefaultHasher::new();
    rules.hash(&mut hasher);
    hasher.finish()
}

/// Performs all steps or none.
fn commit(socket: &Socket, steps: impl IntoIterator<Item = Step>) -> Result<(), NetworkError> {
    let bound =
        |kind: i32| Message::new(kind as u16, 0, &header(libc::AF_UNSPEC, libc::NFNL_SUBSYS_NFTABLES as u16));
    let begin = Step::new("change nf_tables", bound(libc::NFNL_MSG_BATCH_BEGIN));
    let end = Step::new("finish the change of nf_tables", bound(libc::NFNL_MSG_BATCH_END)).unanswered();
    let steps = std::iter::once(begin).chain(steps).chain([end]).collect();
    socket.perform(steps)
}

/// Before connections are tracked and addresses translated, so that it sees what the dyno has sent.
const PREROUTING: Chain = Chain {
    name: "prerouting",
    kind: "filter",
    hook: libc::NF_INET_PRE_ROUTING,
    priority: libc::NF_IP_PRI_RAW,
};
/// On the way out of a dyno.
const OUTPUT: Chain =
    Chain { name: "output", kind: "filter", hook: libc::NF_INET_LOCAL_OUT, priority: libc::NF_IP_PRI_FILTER };
/// On the way from one link to another.
const FORWARD: Chain =
    Chain { name: "forward", kind: "filter", hook: libc::NF_INET_FORWARD, priority: libc::NF_IP_PRI_FILTER };
/// Before it is decided where a packet goes.
const RESOLVER: Chain = Chain {
    name: "resolver",
    kind: "nat",
    hook: libc::NF_INET_PRE_ROUTING,
    priority: libc::NF_IP_PRI_NAT_DST,
};
/// On the way out of the host.
const POSTROUTING: Chain = Chain {
    name: "postrouting",
    kind: "nat",
    hook: libc::NF_INET_POST_ROUTING,
    priority: libc::NF_IP_PRI_NAT_SRC,
};

/// All rules, by their chains.
fn ruleset(stub: Option<Ipv4Addr>) -> Vec<(Chain, Vec<Rule>)> {
    let resolver = |stub: Ipv4Addr| {
        let ask = |protocol: i32| {
            Rule::new("name servers", &[from_dynos(ANY), to_port(protocol, DOMAIN), to_host(), hand_on(stub)])
        };
        (RESOLVER, vec![ask(libc::IPPROTO_UDP), ask(libc::IPPROTO_TCP)])
    };
    let prerouting = vec![
        // With routes to loopback addresses, which a stub needs, all of the host's services there would be open.
        Rule::new("no loopback addresses", &[from_dynos(ANY), destination(&[127]), vec![drop_it()]]),
        Rule::new("no addresses of others", &[from_dynos(ANY), no_way_back(), vec![drop_it()]]),
        Rule::new(
            "no metadata service",
            &[from_dynos(ANY | METADATA), destination(&[169, 254]), vec![drop_it()]],
        ),
    ];
    // Replies pass, so that who is allowed to reach dynos is answered by those that are not.
    let between = Rule::new(
        "no other dynos",
        &[from_dynos(ANY | DYNOS), to_dynos(true), not_let_through(), vec![drop_it()]],
    );
    let outside = Rule::new("to the world outside", &[from_dynos(ANY), to_dynos(false), vec![masquerade()]]);
    let mut ruleset = vec![(PREROUTING, prerouting), (FORWARD, vec![between])];
    ruleset.extend(stub.map(resolver));
    ruleset.push((POSTROUTING, vec![outside]));
    ruleset
}

fn table(kind: i32, flags: u16) -> Message {
    message(kind, flags).text(NFTA_TABLE_NAME, TABLE)
}
