//! What is there by the name of a dyno's link: what is left of a dyno that is gone, or the link of one that lives,
//! whichever hsup's it is. Only the former is ever removed.

use nix::errno::Errno;

use super::link::{LINK_HEADER, ask_for_link, is_group_of_dynos, link_header};
use super::netlink::{Message, NetworkError, Socket, Step, attribute};

/// The number of loopback in every network namespace.
const LOOPBACK: u32 = 1;

// What libc does not name: `linux/if_link.h`.
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_TARGET_NETNSID: u16 = 46;

/// What was there by the name of a dyno's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// Nothing.
    Nothing,
    /// The link of a dyno whose network namespace is gone. The kernel removes these some time after; now it is.
    Removed,
    /// The link of one that lives. It has been left alone.
    Living,
}

/// Removes a link, if the namespace of its other end is gone.
///
/// # Errors
/// If it is none that hsup made, or the kernel refuses.
pub(super) fn remove(socket: &Socket, name: &str) -> Result<Remains, NetworkError> {
    let question = ask_for_link().text(libc::IFLA_IFNAME, name);
    let link = match socket.get(format!("look for the link {name}"), question) {
        Err(error) if error.is(Errno::ENODEV) => return Ok(Remains::Nothing),
        link => link?,
    };
    let foreign = || NetworkError::Foreign { name: name.to_owned() };
    let (header, attributes) = link.split_at_checked(LINK_HEADER).ok_or_else(foreign)?;
    if !is_group_of_dynos(attributes) {
        return Err(foreign());
    }
    if lives(socket, name, attributes)? {
        return Ok(Remains::Living);
    }
    // By its index, which no other has after it: somebody else may have made one of that name meanwhile.
    let index = header[4..].first_chunk().map_or(0, |index| u32::from_ne_bytes(*index));
    let delete = Message::new(libc::RTM_DELLINK, 0, &link_header(index, 0));
    let delete = Step::new(format!("remove the link {name} of a dyno that is gone"), delete);
    socket.perform(vec![delete.tolerating(Errno::ENODEV)])?;
    Ok(Remains::Removed)
}

/// Whether the namespace of the other end lives: the kernel answers for it as long as anybody is in it or holds it.
fn lives(socket: &Socket, name: &str, attributes: &[u8]) -> Result<bool, NetworkError> {
    // Without a number both ends are in this one, which lives.
    let Some(id) = attribute(attributes, IFLA_LINK_NETNSID).and_then(|id| id.first_chunk()) else {
        return Ok(true);
    };
    // Those that go have lost theirs.
    if i32::from_ne_bytes(*id) < 0 {
        return Ok(false);
    }
    let question =
        Message::new(libc::RTM_GETLINK, 0, &link_header(LOOPBACK, 0)).with(IFLA_TARGET_NETNSID, id);
    match socket.get(format!("look for the other end of the link {name}"), question) {
        Ok(_) => Ok(true),
        Err(error) if error.is(Errno::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}
