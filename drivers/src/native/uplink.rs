//! What all dynos of a host share of its network: forwarding, the packet filter, the resolver. Several hsups use the
//! same; the last one to end removes it.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, Once, PoisonError};

use super::error::NativeError;
use super::network::{ExtraKind, NetworkError, forwarding, nft, resolver};
use super::network_users::Users;

/// Where the host says who resolves names for it.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd says whom its own resolver asks.
const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// The host's side of the network of all dynos.
pub(super) struct Uplink {
    /// Held shared by each hsup that has native dynos.
    users: Mutex<Option<Users>>,
    host: String,
    systemd: Option<String>,
    /// The first installation of the packet filter, for the first dyno.
    begun: Mutex<Option<Receiver<Installed>>>,
    extra: Once,
}

type Installed = Result<(), NetworkError>;

/// The packet filter, on its way.
pub(super) enum Filter {
    Seen(Installed),
    Begun(Receiver<Installed>),
}

impl Filter {
    /// Waits until packets are filtered.
    pub(super) fn wait(self) -> Installed {
        match self {
            Self::Seen(installed) => installed,
            Self::Begun(installed) => installed.recv().unwrap_or_else(|_| {
                let step = "install the packet filter".into();
                Err(NetworkError::NoAnswer { step })
            }),
        }
    }
}

impl Uplink {
    /// Joins those who use it.
    pub(super) fn join() -> Result<Self, NativeError> {
        let users = Users::join().map_err(|source| NativeError::Network { source })?;
        let host = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let systemd = fs::read_to_string(SYSTEMD_RESOLV_CONF).ok();
        let (users, begun) = (Mutex::new(Some(users)), Mutex::new(None));
        Ok(Self { users, host, systemd, begun, extra: Once::new() })
    }

    /// Begins to install the packet filter, beside the caller: where one has been removed shortly before, the kernel
    /// keeps whoever comes next waiting for some milliseconds. To be called within the runtime.
    pub(super) fn begin(&self) {
        let (done, installed) = mpsc::channel();
        let stub = self.stub();
        tokio::task::spawn_blocking(move || {
            let _nobody_waits = done.send(install(stub));
        });
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(installed);
    }

    /// Looks at the packet filter, for each dyno: others than hsup may have removed it with all that the host has, as
    /// `nft flush ruleset` does.
    pub(super) fn filter(&self) -> Filter {
        match self.begun.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(installed) => Filter::Begun(installed),
            None => Filter::Seen(install(self.stub())),
        }
    }

    /// The loopback address at which the host's own resolver listens, where it has no other.
    pub(super) fn stub(&self) -> Option<Ipv4Addr> {
        resolver(&self.host, self.systemd.as_deref(), Ipv4Addr::UNSPECIFIED).stub
    }

    /// The `resolv.conf` of a dyno with this gateway.
    pub(super) fn resolver(&self, gateway: Ipv4Addr) -> String {
        resolver(&self.host, self.systemd.as_deref(), gateway).text
    }

    /// Says once what the extra interfaces of dynos are.
    pub(super) fn note_extra(&self, kind: ExtraKind) {
        self.extra.call_once(|| match kind {
            ExtraKind::Ipvlan => {}
            ExtraKind::Macvlan => {
                tracing::warn!("this kernel has no ipvlan: the extra interfaces of dynos are macvlans, each with a hardware address of its own");
            }
        });
    }
}

/// Has the host pass packets on, and filter them.
fn install(stub: Option<Ipv4Addr>) -> Installed {
    forwarding()?;
    nft::install(stub)
}

impl Drop for Uplink {
    fn drop(&mut self) {
        // What was begun ends first, or it would stay.
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _installed = begun.map(|installed| installed.recv());
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(users) = users else { return };
        // Whoever comes next waits, and sets it up anew.
        let Some(_alone) = users.leave() else {
            tracing::debug!("other hsups have native dynos: the packet filter stays");
            return;
        };
        if let Err(error) = nft::uninstall() {
            tracing::error!("failed to remove the packet filter: {}", crate::explain(&error));
        }
    }
}
