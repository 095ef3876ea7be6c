//! A dyno's own network: a /30, a veth pair, routes, the rules between dynos and the world, and its resolver.
//!
//! Everything here is synchronous, talks to the kernel over netlink and runs no program. Nothing here decides
//! which dyno gets which subnet, and nothing remembers what was made: that is the ledger's.

mod fence;
mod link;
mod netlink;
pub mod nft;
mod obstacle;
mod remains;
mod resolver;
mod settings;
mod subnet;
#[cfg(test)]
mod tests;

pub use fence::Fence;
pub use link::{Allow, ExtraKind, HostLink, Links, forwarding};
pub use netlink::NetworkError;
pub use obstacle::{Obstacle, obstacles};
pub use remains::Remains;
pub use resolver::{Resolver, resolver};
pub use settings::{ExtraInterface, Gateway, Interface, Route, RouteError, Routes, SettingError};
pub use subnet::{Block, BlockError, Subnet, SubnetError};
