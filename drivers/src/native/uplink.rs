//! What all dynos of a host share of its network: forwarding, the packet filter, the resolver. Several hsups use the
//! same; the last one to end removes it.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, Once, PoisonError};

use super::driver::beside;
use super::error::NativeError;
use super::network::{ExtraKind, NetworkError, Resolver, forwarding, nft, resolver};
use super::network_users::Users;
use crate::sys;

/// Where the host says who resolves names for it.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd says whom its own resolver asks.
const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// The host's side of the network of all dynos.
pub(super) struct Uplink {
    /// Held shared by each hsup that has native dynos.
    users: Mutex<Option<Users>>,
    /// The packet filter, once it was needed.
    filter: Mutex<Option<nft::Filter>>,
    /// The stub that was needed last: dynos that live may have no other resolver.
    stub: Mutex<Option<Ipv4Addr>>,
    extra: Once,
}

impl Uplink {
    /// Joins those who use it.
    pub(super) fn join() -> Result<Self, NativeError> {
        let users = Users::join().map_err(|source| NativeError::Network { source })?;
        let (filter, stub) = (Mutex::default(), Mutex::default());
        Ok(Self { users: Mutex::new(Some(users)), filter, stub, extra: Once::new() })
    }

    /// Has the host pass packets on, and filter them, with what the resolver of a dyno needs of that. To be called for
    /// each dyno: others than hsup may have removed the packet filter with all that the host has, as `nft flush ruleset`
    /// does.
    pub(super) fn install(&self, stub: Option<Ipv4Addr>) -> Result<(), NetworkError> {
        let stub = {
            let mut needed = self.stub.lock().unwrap_or_else(PoisonError::into_inner);
            *needed = stub.or(*needed);
            *needed
        };
        forwarding()?;
        self.put_filter(stub)
    }

    fn put_filter(&self, stub: Option<Ipv4Addr>) -> Result<(), NetworkError> {
        let mut filter = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = filter.take().map_or_else(nft::Filter::open, Ok)?;
        *filter = Some(ready.install(stub)?);
        Ok(())
    }

    /// Puts the packet filter back whenever others have removed it or a part of it, for dynos that are to live on without
    /// another start.
    ///
    /// # Errors
    /// If the kernel does not tell of changes.
    pub(super) fn keep(uplink: &Arc<Self>) -> Result<impl Future<Output = ()> + use<>, NativeError> {
        let changes = nft::Changes::listen().map_err(|source| NativeError::Filter { source })?;
        let told = changes.as_fd().try_clone_to_owned().and_then(sys::watch);
        let told = told.map_err(|source| NativeError::Network { source })?;
        // It is not to keep the network from being left.
        let uplink = Arc::downgrade(uplink);
        Ok(async move {
            while let Ok(mut ready) = told.readable().await {
                ready.clear_ready();
                let Some(uplink) = uplink.upgrade() else { return };
                match changes.heard() {
                    Ok(true) => beside(false, move || uplink.restore()).await,
                    Ok(false) => {}
                    Err(error) => {
                        let error = crate::explain(&error);
                        return tracing::error!(
                            "the packet filter of dynos is not watched any more: {error}"
                        );
                    }
                }
            }
        })
    }

    /// Puts the packet filter back, if it is to be there and is not whole.
    fn restore(&self) {
        // As long as this is held nobody leaves, and whoever has left has removed the filter himself.
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.is_none() {
            return;
        }
        let stub = *self.stub.lock().unwrap_or_else(PoisonError::into_inner);
        let restored = nft::is_whole(stub.is_some()).and_then(|whole| {
            if !whole {
                self.put_filter(stub)?;
            }
            Ok(!whole)
        });
        match restored {
            Ok(false) => {}
            Ok(true) => tracing::warn!(
                "the packet filter of dynos was removed or changed by something other than hsup (a reload of nftables \
                 does that): it has been put back"
            ),
            Err(error) => {
                let error = crate::explain(&error);
                tracing::error!(
                    "failed to put the packet filter of dynos back, which something has removed: {error}"
                );
            }
        }
    }

    /// How a dyno with this gateway is to resolve names. To be asked for each dyno: what the host says comes with its
    /// network, which may be there only some time after hsup, and changes with that.
    pub(super) fn resolver(gateway: Ipv4Addr) -> Resolver {
        let host = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let systemd = fs::read_to_string(SYSTEMD_RESOLV_CONF).ok();
        resolver(&host, systemd.as_deref(), gateway)
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

    /// Leaves those who use it, once no dyno is to come; the last one removes it.
    pub(super) fn leave(&self) {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(users) = users else { return };
        let filter = self.filter.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Whoever comes next waits, and sets it up anew.
        let Some(_alone) = users.leave() else {
            tracing::debug!("other hsups have native dynos: the packet filter stays");
            return filter.map_or((), nft::Filter::leave);
        };
        let removed = filter.map_or_else(nft::Filter::open, Ok).and_then(nft::Filter::uninstall);
        if let Err(error) = removed {
            tracing::error!("failed to remove the packet filter: {}", crate::explain(&error));
        }
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.leave();
    }
}
