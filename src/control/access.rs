//! Who may ask for what. Who asks is what the kernel says of the process that has connected (`SO_PEERCRED`,
//! `SO_PEERGROUPS`); nothing of it comes from the client.
//!
//! There are two roles. *Control* may do everything; *read* may look at what holds no secret. Where no group is named,
//! the file of the socket alone says who may connect, and whoever may has control.

use std::fmt;
use std::os::fd::AsFd;

use hsup_drivers::sys::peer_groups;
use nix::unistd::geteuid;
use tokio::net::UnixStream;

use crate::users::{self, Group};

/// What somebody may do. The greater one includes the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look at what holds no secret.
    Read,
    /// Everything.
    Control,
}

/// Who has which role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    /// Whose members have control, beside root and the user that hsup runs as; everybody who may connect where none is
    /// named.
    pub(super) control: Option<Group>,
    /// Whose members may look.
    pub(super) read: Option<Group>,
}

impl Access {
    /// The role of a process.
    fn role(&self, peer: &Peer, own_uid: u32) -> Option<Role> {
        let Some(control) = &self.control else { return Some(Role::Control) };
        let has = |group: &Group| peer.gid == group.gid || peer.groups.contains(&group.gid);
        match &self.read {
            _ if peer.uid == 0 || peer.uid == own_uid || has(control) => Some(Role::Control),
            Some(read) if has(read) => Some(Role::Read),
            Some(_) | None => None,
        }
    }

    /// Who has connected. One of whom the kernel tells nothing is a stranger.
    pub(super) fn admit(&self, stream: &UnixStream) -> Asker {
        let credentials = match stream.peer_cred() {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::warn!(%error, "the kernel does not say who has connected to the control socket");
                return Asker { peer: None, role: self.control.is_none().then_some(Role::Control) };
            }
        };
        let groups = peer_groups(stream.as_fd()).unwrap_or_else(|error| {
            tracing::debug!(%error, "the kernel does not say which groups a client is in");
            Vec::new()
        });
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let peer = Peer { uid, gid, groups, pid: credentials.pid() };
        let role = self.role(&peer, geteuid().as_raw());
        Asker { peer: Some(peer), role }
    }

    /// What to tell one who may not.
    pub(super) fn hint(&self) -> String {
        let name = |group: &Option<Group>| group.as_ref().map(|group| group.name.clone());
        let control = name(&self.control).unwrap_or_default();
        let read = name(&self.read).map(|read| format!(", and members of group {read} may read"));
        format!(
            "root, the user that hsup runs as and members of group {control} may{}",
            read.unwrap_or_default()
        )
    }
}

/// A process that has connected.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Peer {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    pid: Option<i32>,
}

/// Who asks, and what it may. Shown as `alice (uid 1000, pid 42)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    peer: Option<Peer>,
    role: Option<Role>,
}

impl Asker {
    /// Whether it may do what takes this role.
    pub(super) fn may(&self, role: Role) -> bool {
        self.role >= Some(role)
    }

    /// Notes in hsup's log what it asks for.
    pub(super) fn says(&self, what: fmt::Arguments<'_>) {
        tracing::info!("control: {self} asks: {what}");
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Peer { uid, pid, .. }) = &self.peer else { return f.write_str("somebody") };
        match users::user_name(*uid) {
            Some(name) => write!(f, "{name} (uid {uid}")?,
            None => write!(f, "somebody (uid {uid}")?,
        }
        match pid {
            Some(pid) => write!(f, ", pid {pid})"),
            None => f.write_str(")"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, gid: u32) -> Option<Group> {
        Some(Group { name: name.to_owned(), gid })
    }

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { uid, gid, groups: groups.to_vec(), pid: Some(42) }
    }

    #[test]
    fn without_groups_whoever_may_connect_may_do_everything() {
        assert_eq!(Access::default().role(&peer(1000, 1000, &[]), 1), Some(Role::Control));
    }

    #[test]
    fn groups_say_who_may_do_what() {
        let access = Access { control: group("ops", 7), read: group("staff", 8) };
        for (who, role) in [
            (peer(0, 0, &[]), Some(Role::Control)),
            (peer(500, 500, &[]), Some(Role::Control)),
            (peer(1000, 7, &[]), Some(Role::Control)),
            (peer(1000, 1000, &[1, 7]), Some(Role::Control)),
            (peer(1000, 8, &[7]), Some(Role::Control)),
            (peer(1000, 8, &[]), Some(Role::Read)),
            (peer(1000, 1000, &[8]), Some(Role::Read)),
            (peer(1000, 1000, &[9]), None),
        ] {
            assert_eq!(access.role(&who, 500), role, "{who:?}");
        }
        let access = Access { read: None, ..access };
        assert_eq!(access.role(&peer(1000, 8, &[8]), 500), None);
    }

    #[test]
    fn a_greater_role_includes_the_other() {
        let may = |role, wanted| Asker { peer: None, role }.may(wanted);
        assert!(may(Some(Role::Control), Role::Read) && may(Some(Role::Control), Role::Control));
        assert!(may(Some(Role::Read), Role::Read) && !may(Some(Role::Read), Role::Control));
        assert!(!may(None, Role::Read) && !may(None, Role::Control));
    }

    #[tokio::test]
    async fn the_kernel_says_who_has_connected() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let asker = Access { control: group("ops", 7), read: None }.admit(&ours);
        // the tests may run as any user, who is the one that this hsup runs as
        assert!(asker.may(Role::Control));
        let pid = format!("pid {})", std::process::id());
        let uid = format!("uid {}", geteuid());
        assert!(asker.to_string().contains(&pid) && asker.to_string().contains(&uid), "{asker}");
    }
}
