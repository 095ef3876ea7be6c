//! The language of the packet filter: chains, rules and what they are made of, as messages to nf_tables. Which rules
//! there are is said elsewhere.

use std::net::Ipv4Addr;

use super::TABLE;
use crate::native::network::fence::Addresses;
use crate::native::network::link::{DYNOS, GROUP, METADATA};
use crate::native::network::netlink::{APPEND, CREATE, Message};
use crate::native::network::settings::Interface;

/// The length of `struct nfgenmsg`.
pub(super) const HEADER_BYTES: usize = 4;

/// The bits of a group that are the same for all dynos.
pub(super) const ANY: u32 = !(DYNOS | METADATA);

// Attributes, as named in `linux/netfilter/nf_tables.h`.
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
pub(super) const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFTA_FIB_F_SADDR: i32 = 1;
const NFTA_FIB_F_DADDR: i32 = 2;
const NFTA_FIB_F_IIF: i32 = 8;
const NFT_FIB_RESULT_OIF: i32 = 1;
const NFT_FIB_RESULT_ADDRTYPE: i32 = 3;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;

/// The states of a connection that has been let through before: `ESTABLISHED` and `RELATED`, as `NF_CT_STATE_BIT`
/// numbers them. What has no connection is in neither.
const LET_THROUGH: u32 = 2 | 4;

/// Where the destination address is in an IPv4 header.
const DESTINATION: i32 = 16;
/// Where the destination port is in the headers of TCP and UDP.
const DESTINATION_PORT: i32 = 2;

/// A chain: a name, and where in a packet's way through the kernel it stands.
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) hook: i32,
    pub(super) priority: i32,
}

impl Chain {
    fn message(&self) -> Message {
        message(libc::NFT_MSG_NEWCHAIN, CREATE)
            .text(NFTA_CHAIN_TABLE, TABLE)
            .text(NFTA_CHAIN_NAME, self.name)
            .nested(NFTA_CHAIN_HOOK, |hook| {
                hook.with(NFTA_HOOK_HOOKNUM, &self.hook.to_be_bytes())
                    .with(NFTA_HOOK_PRIORITY, &self.priority.to_be_bytes())
            })
            .text(NFTA_CHAIN_TYPE, self.kind)
    }
}

/// A chain with its rules, and what each message does, for errors.
pub(super) fn messages((chain, rules): (Chain, Vec<Rule>)) -> Vec<(String, Message)> {
    let create = (format!("create the chain {} of nf_tables", chain.name), chain.message());
    let rules = rules.into_iter().map(|rule| {
        let name = format!("create the rule {:?} of nf_tables", rule.0);
        (name, rule.message(&chain))
    });
    std::iter::once(create).chain(rules).collect()
}

/// A rule: what is said of it to who lists the rules, and its expressions, each the end of all if it does not hold.
pub(super) struct Rule(&'static str, Vec<Expression>);

impl Rule {
    pub(super) fn new(comment: &'static str, expressions: &[Vec<Expression>]) -> Self {
        Self(comment, expressions.concat())
    }

    fn message(self, chain: &Chain) -> Message {
        let Self(text, expressions) = self;
        message(libc::NFT_MSG_NEWRULE, CREATE | APPEND)
            .text(NFTA_RULE_TABLE, TABLE)
            .text(NFTA_RULE_CHAIN, chain.name)
            .nested(NFTA_RULE_EXPRESSIONS, |list| {
                expressions.into_iter().fold(list, |list, Expression(name, attributes)| {
                    list.nested(NFTA_LIST_ELEM, |element| {
                        element.text(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, |data| {
                            attributes.into_iter().fold(data, |data, value| value.write(data))
                        })
                    })
                })
            })
            .with(NFTA_RULE_USERDATA, &comment(text))
    }
}

/// An instruction of the packet filter's machine. All work on one register.
#[derive(Clone)]
pub(super) struct Expression(&'static str, Vec<Value>);

/// An attribute of an expression.
#[derive(Clone)]
enum Value {
    /// A number.
    Number(u16, i32),
    /// What a register is compared or combined with, or filled with.
    Data(u16, Vec<u8>),
    /// What becomes of the packet.
    Verdict(u16, i32),
}

impl Value {
    fn write(self, message: Message) -> Message {
        match self {
            Self::Number(kind, number) => message.with(kind, &number.to_be_bytes()),
            Self::Data(kind, bytes) => message.nested(kind, |data| data.with(NFTA_DATA_VALUE, &bytes)),
            Self::Verdict(kind, code) => message.nested(kind, |data| {
                data.nested(NFTA_DATA_VERDICT, |verdict| verdict.with(NFTA_VERDICT_CODE, &code.to_be_bytes()))
            }),
        }
    }
}

use Value::{Data, Number, Verdict};

/// The packet comes from a dyno, and these bits of its group are those of [`GROUP`].
pub(super) fn from_dynos(bits: u32) -> Vec<Expression> {
    vec![meta(libc::NFT_META_IIFGROUP), and(bits), compare(libc::NFT_CMP_EQ, &GROUP.to_ne_bytes())]
}

/// The packet goes to a dyno, or does not.
pub(super) fn to_dynos(does: bool) -> Vec<Expression> {
    let operator = if does { libc::NFT_CMP_EQ } else { libc::NFT_CMP_NEQ };
    vec![meta(libc::NFT_META_OIFGROUP), and(ANY), compare(operator, &GROUP.to_ne_bytes())]
}

/// It goes to an address that begins with these bytes.
pub(super) fn destination(bytes: &[u8]) -> Vec<Expression> {
    let base = libc::NFT_PAYLOAD_NETWORK_HEADER;
    vec![payload(base, DESTINATION, bytes.len()), compare(libc::NFT_CMP_EQ, bytes)]
}

/// It goes to one of these addresses.
pub(super) fn to_addresses(addresses: &Addresses) -> Vec<Expression> {
    let bound = |operator, address: &Ipv4Addr| compare(operator, &address.octets());
    let [least, most] =
        [bound(libc::NFT_CMP_GTE, addresses.start()), bound(libc::NFT_CMP_LTE, addresses.end())];
    vec![payload(libc::NFT_PAYLOAD_NETWORK_HEADER, DESTINATION, size_of::<Ipv4Addr>()), least, most]
}

/// It goes out by this interface.
pub(super) fn by(interface: Interface) -> Vec<Expression> {
    let mut name = interface.name().as_bytes().to_vec();
    name.resize(libc::IFNAMSIZ, 0);
    vec![meta(libc::NFT_META_OIFNAME), compare(libc::NFT_CMP_EQ, &name)]
}

/// It goes to a port.
pub(super) fn to_port(protocol: i32, port: u16) -> Vec<Expression> {
    let port = port.to_be_bytes();
    vec![
        meta(libc::NFT_META_L4PROTO),
        compare(libc::NFT_CMP_EQ, &[protocol as u8]),
        payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, DESTINATION_PORT, port.len()),
        compare(libc::NFT_CMP_EQ, &port),
    ]
}

/// It goes to an address of this host.
pub(super) fn to_host() -> Vec<Expression> {
    let local = u32::from(libc::RTN_LOCAL).to_ne_bytes();
    vec![fib(NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR), compare(libc::NFT_CMP_EQ, &local)]
}

/// An answer to it would not go out by the link that it came in by.
pub(super) fn no_way_back() -> Vec<Expression> {
    let none = 0_u32.to_ne_bytes();
    vec![fib(NFT_FIB_RESULT_OIF, NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF), compare(libc::NFT_CMP_EQ, &none)]
}

/// It belongs to no connection that has been let through before.
pub(super) fn not_let_through() -> Vec<Expression> {
    let register = Number(NFTA_CT_DREG, libc::NFT_REG_1);
    let state = Expression("ct", vec![register, Number(NFTA_CT_KEY, libc::NFT_CT_STATE)]);
    vec![state, and(LET_THROUGH), compare(libc::NFT_CMP_EQ, &0_u32.to_ne_bytes())]
}

/// It goes to this address instead.
pub(super) fn hand_on(address: Ipv4Addr) -> Vec<Expression> {
    let register = Number(NFTA_IMMEDIATE_DREG, libc::NFT_REG_1);
    let fill = Expression("immediate", vec![register, Data(NFTA_IMMEDIATE_DATA, address.octets().to_vec())]);
    let translate = vec![
        Number(NFTA_NAT_TYPE, libc::NFT_NAT_DNAT),
        Number(NFTA_NAT_FAMILY, libc::NFPROTO_IPV4),
        Number(NFTA_NAT_REG_ADDR_MIN, libc::NFT_REG_1),
    ];
    vec![fill, Expression("nat", translate)]
}

/// It comes from the address of the link that it goes out by instead.
pub(super) fn masquerade() -> Expression {
    Expression("masq", Vec::new())
}

pub(super) fn drop_it() -> Expression {
    verdict(libc::NF_DROP)
}

pub(super) fn let_it_pass() -> Expression {
    verdict(libc::NF_ACCEPT)
}

fn verdict(code: i32) -> Expression {
    let register = Number(NFTA_IMMEDIATE_DREG, libc::NFT_REG_VERDICT);
    Expression("immediate", vec![register, Verdict(NFTA_IMMEDIATE_DATA, code)])
}

fn meta(key: i32) -> Expression {
    Expression("meta", vec![Number(NFTA_META_DREG, libc::NFT_REG_1), Number(NFTA_META_KEY, key)])
}

fn payload(base: i32, offset: i32, length: usize) -> Expression {
    let length = i32::try_from(length).expect("no field of a packet's header is that long");
    let part = [
        Number(NFTA_PAYLOAD_BASE, base),
        Number(NFTA_PAYLOAD_OFFSET, offset),
        Number(NFTA_PAYLOAD_LEN, length),
    ];
    Expression("payload", [vec![Number(NFTA_PAYLOAD_DREG, libc::NFT_REG_1)], part.to_vec()].concat())
}

fn fib(result: i32, flags: i32) -> Expression {
    let register = Number(NFTA_FIB_DREG, libc::NFT_REG_1);
    Expression("fib", vec![register, Number(NFTA_FIB_RESULT, result), Number(NFTA_FIB_FLAGS, flags)])
}

/// Keeps these bits of a register of 4 bytes.
fn and(bits: u32) -> Expression {
    let registers = [Number(NFTA_BITWISE_SREG, libc::NFT_REG_1), Number(NFTA_BITWISE_DREG, libc::NFT_REG_1)];
    let operands = [Data(NFTA_BITWISE_MASK, bits.to_ne_bytes().to_vec()), Data(NFTA_BITWISE_XOR, vec![0; 4])];
    Expression("bitwise", [&registers[..], &[Number(NFTA_BITWISE_LEN, 4)], &operands].concat())
}

fn compare(operator: i32, with: &[u8]) -> Expression {
    let operands = [Number(NFTA_CMP_SREG, libc::NFT_REG_1), Number(NFTA_CMP_OP, operator)];
    Expression("cmp", [&operands[..], &[Data(NFTA_CMP_DATA, with.to_vec())]].concat())
}

pub(super) fn message(kind: i32, flags: u16) -> Message {
    Message::new((libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16, flags, &header(libc::NFPROTO_IPV4, 0))
}

/// What nft(8) shows as a comment, an entry of an encoding of its own: its kind (0), its length and the text with a NUL.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).expect("comments are short");
    [&[0, length], text.as_bytes(), &[0]].concat()
}

/// The text of such an entry.
pub(super) fn comment_text(entry: &[u8]) -> Option<&str> {
    str::from_utf8(entry.get(2..)?.strip_suffix(&[0])?).ok()
}

/// `struct nfgenmsg`.
pub(super) fn header(family: i32, resource: u16) -> [u8; HEADER_BYTES] {
    let [high, low] = resource.to_be_bytes();
    [family as u8, 0, high, low]
}
