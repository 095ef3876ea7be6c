//! Why the native driver cannot be used at all.

use std::io;
use std::path::PathBuf;

use super::cgroup::CgroupError;
use super::claims::ClaimError;
use super::ledger::LedgerError;
use super::network::NetworkError;

/// The native driver cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// hsup is not root.
    #[error(
        "the native driver makes namespaces, cgroups and networks, which takes root: start hsup as root, or use -d simple"
    )]
    NotRoot,
    /// The cgroups of the host.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The users and networks of dynos.
    #[error(transparent)]
    Claims(#[from] ClaimError),
    /// What runs hold.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The lock of those who use the network.
    #[error("failed to lock the network that dynos share, in /run/hsup")]
    Network {
        /// Why.
        source: io::Error,
    },
    /// The packet filter that dynos share.
    #[error("failed to watch the packet filter of dynos")]
    Filter {
        /// Why.
        source: NetworkError,
    },
    /// The state dir, or the places of layers in it.
    #[error("failed to create {}", path.display())]
    Scratch {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
