//! The addresses of dynos: one /30 for each, out of one block. Pure arithmetic; who has which is not known here.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::Ipv4Net;

/// The prefix of a dyno's subnet: four addresses are the fewest with room for a gateway and a dyno.
const PREFIX: u8 = 30;

/// How many addresses a dyno's subnet has.
const ADDRESSES: u32 = 4;

/// A dyno's subnet: four addresses, of which the second is its gateway (hsup's end) and the third its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet(Ipv4Net);

/// Not a dyno's subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the subnet of a dyno: write four addresses by the first of them, as in 172.16.0.28/30")]
pub struct SubnetError(String);

impl Subnet {
    /// That of these four addresses.
    ///
    /// # Errors
    /// If they are not four, or the address is not the first of them.
    pub fn new(net: Ipv4Net) -> Result<Self, SubnetError> {
        match net.prefix_len() == PREFIX && net.network() == net.addr() {
            true => Ok(Self(net)),
            false => Err(SubnetError(net.to_string())),
        }
    }

    /// The first address, by which the subnet is named.
    pub fn network(self) -> Ipv4Addr {
        self.0.network()
    }

    /// The host's end.
    pub fn gateway(self) -> Ipv4Addr {
        self.at(1)
    }

    /// The dyno's end.
    pub fn dyno(self) -> Ipv4Addr {
        self.at(2)
    }

    /// The last address.
    pub fn broadcast(self) -> Ipv4Addr {
        self.0.broadcast()
    }

    /// How many bits of an address are the subnet's.
    pub fn prefix(self) -> u8 {
        self.0.prefix_len()
    }

    fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network().to_bits() | offset)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map_err(|_| SubnetError(text.to_owned())).and_then(Self::new)
    }
}

/// The addresses that the subnets of dynos are cut from: all of a network from a base address on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    net: Ipv4Net,
    base: u32,
}

/// Not a block of subnets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a block of dyno subnets: write its first address and prefix length, the latter at most 30, \
     as in {default}",
    default = Block::DEFAULT
)]
pub struct BlockError(String);

impl Block {
    /// 172.16/12 is private by RFC 1918 and, of the three such networks, the one least used in datacentres. It
    /// begins here and not at its first address because EC2 may have a DNS server at 172.16.0.23, which dynos
    /// must reach.
    pub const DEFAULT: Self =
        Self { net: Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 28), 12), base: 0xAC10_001C };

    /// The `n`-th subnet, counted from 0; `None` past the end of the block.
    pub fn subnet(&self, n: u32) -> Option<Subnet> {
        let first = (n < self.len()).then(|| Ipv4Addr::from_bits(self.base + n * ADDRESSES))?;
        Some(Subnet(Ipv4Net::new_assert(first, PREFIX)))
    }

    /// All addresses that are in one of the subnets.
    pub fn addresses(&self) -> RangeInclusive<Ipv4Addr> {
        Ipv4Addr::from_bits(self.base)..=self.net.broadcast()
    }

    /// How many subnets there are.
    #[expect(clippy::len_without_is_empty, reason = "a block has one subnet at least")]
    pub fn len(&self) -> u32 {
        (self.net.broadcast().to_bits() - self.base) / ADDRESSES + 1
    }
}

impl Default for Block {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.net.fmt(f)
    }
}

impl FromStr for Block {
    type Err = BlockError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net: Ipv4Net = text.trim().parse().map_err(|_| BlockError(text.to_owned()))?;
        if net.prefix_len() > PREFIX {
            return Err(BlockError(text.to_owned()));
        }
        Ok(Self { net, base: net.addr().to_bits() & !(ADDRESSES - 1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_four_addresses() {
        let subnet: Subnet = "172.16.0.28/30".parse().unwrap();
        assert_eq!(subnet.network(), Ipv4Addr::new(172, 16, 0, 28));
        assert_eq!(subnet.gateway(), Ipv4Addr::new(172, 16, 0, 29));
        assert_eq!(subnet.dyno(), Ipv4Addr::new(172, 16, 0, 30));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(172, 16, 0, 31));
        assert_eq!((subnet.prefix(), subnet.to_string().as_str()), (30, "172.16.0.28/30"));
    }

    #[test]
    fn other_networks_are_no_subnets() {
        for text in ["172.16.0.29/30", "172.16.0.28/29", "172.16.0.28/31", "172.16.0.28", "::1/30", ""] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(text) && error.ends_with("as in 172.16.0.28/30"), "{error}");
        }
    }

    #[test]
    fn the_default_block_begins_above_the_dns_server_of_ec2() {
        let block: Block = "172.16.0.28/12".parse().unwrap();
        assert_eq!(block, Block::default());
        assert_eq!(block.to_string(), "172.16.0.28/12");
        assert_eq!(block.subnet(0).unwrap().to_string(), "172.16.0.28/30");
        assert_eq!(block.subnet(1).unwrap().to_string(), "172.16.0.32/30");
        assert_eq!(block.len(), (1 << 18) - 7);
        assert_eq!(block.subnet(block.len() - 1).unwrap().to_string(), "172.31.255.252/30");
        assert_eq!(block.subnet(block.len()), None);
        assert_eq!(block.subnet(u32::MAX), None);
    }

    #[test]
    fn a_block_of_one_has_one() {
        let block: Block = " 192.168.200.0/30 ".parse().unwrap();
        assert_eq!(block.subnet(0).unwrap().dyno(), Ipv4Addr::new(192, 168, 200, 2));
        assert_eq!((block.len(), block.subnet(1)), (1, None));
    }

    #[test]
    fn a_base_within_a_subnet_is_rounded_down() {
        let block: Block = "10.1.2.7/24".parse().unwrap();
        assert_eq!(block.subnet(0).unwrap().to_string(), "10.1.2.4/30");
        assert_eq!(block.len(), 63);
        let all: Block = "0.0.0.0/0".parse().unwrap();
        assert_eq!(all.subnet(all.len() - 1).unwrap().to_string(), "255.255.255.252/30");
    }

    #[test]
    fn what_is_no_block_says_what_to_write() {
        for text in ["", "172.16.0.0", "172.16.0.0/31", "172.16.0.0/33", "fd00::/8", "dynos"] {
            let error = text.parse::<Block>().unwrap_err().to_string();
            assert!(error.ends_with("as in 172.16.0.28/12"), "{error}");
        }
    }
}
