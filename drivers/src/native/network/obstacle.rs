//! What of the host's own settings keeps dynos from the world outside. It only looks, and tells nothing of which it cannot
//! be sure that it is there.

use std::fmt;
use std::fs;

use nix::sys::socket::SockProtocol;

use super::link::FORWARDING;
use super::netlink::{Message, NetworkError, Socket, attribute, text_of};

/// The length of `struct nfgenmsg`, whose first byte is the family.
const HEADER_BYTES: usize = 4;

// Attributes of chains, as named in `linux/netfilter/nf_tables.h`.
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;

/// Something in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The host passes on no packets.
    NoForwarding,
    /// A chain of the packet filter drops what none of its rules lets through.
    Drops {
        /// As nft(8) calls it: `ip filter FORWARD`.
        chain: String,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoForwarding => f.write_str(
                "net.ipv4.ip_forward is 0, so that dynos reach nothing outside: something has turned it off since \
                 hsup was started (see /etc/sysctl.d); the next start of a dyno turns it on",
            ),
            Self::Drops { chain } => write!(
                f,
                "the chain {chain} of the host's packet filter drops what it does not let through by a rule: if dynos \
                 reach nothing outside, add one that accepts what comes from and goes to interfaces named hs*"
            ),
        }
    }
}

/// Looks for what is in the way.
///
/// # Errors
/// If the kernel does not list the chains of the packet filter.
pub fn obstacles() -> Result<Vec<Obstacle>, NetworkError> {
    let off = fs::read_to_string(FORWARDING).is_ok_and(|text| text.trim() == "0");
    let mut found: Vec<Obstacle> = off.then_some(Obstacle::NoForwarding).into_iter().collect();
    let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_GETCHAIN) as u16;
    let question = Message::new(kind, 0, &[libc::AF_UNSPEC as u8, 0, 0, 0]);
    let chains = socket.dump("list the chains of nf_tables", question)?;
    found.extend(chains.iter().filter_map(|chain| drops(chain)));
    Ok(found)
}

/// The chain, if it stands in the way of packets that are passed on, and drops those of which no rule speaks.
fn drops(chain: &[u8]) -> Option<Obstacle> {
    let family = match i32::from(*chain.first()?) {
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_INET => "inet",
        _ => return None,
    };
    let attributes = chain.get(HEADER_BYTES..)?;
    let number = |attributes, kind| attribute(attributes, kind)?.try_into().ok().map(i32::from_be_bytes);
    let text = |kind| attribute(attributes, kind).map(text_of);
    let hook = number(attribute(attributes, NFTA_CHAIN_HOOK)?, NFTA_HOOK_HOOKNUM)?;
    let policy = number(attributes, NFTA_CHAIN_POLICY)?;
    let in_the_way = text(NFTA_CHAIN_TYPE)? == "filter" && hook == libc::NF_INET_FORWARD;
    (in_the_way && policy == libc::NF_DROP).then(|| Obstacle::Drops {
        chain: format!(
            "{family} {} {}",
            text(NFTA_CHAIN_TABLE).unwrap_or_default(),
            text(NFTA_CHAIN_NAME).unwrap_or_default()
        ),
    })
}
