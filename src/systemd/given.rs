//! What a service manager has told this process by its environment. It reads variables and opens nothing.

use std::ffi::OsString;
use std::time::Duration;

/// The descriptor that the first of the given sockets has (sd_listen_fds(3)).
pub const FIRST_DESCRIPTOR: i32 = 3;

/// More sockets than anybody gives, and fewer than there may be descriptors.
const MOST_SOCKETS: i32 = 1024;

/// What a service manager has told this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenByManager {
    /// Where it hears how the process is: a path, or `@` and the name of an abstract socket.
    pub notify_socket: Option<OsString>,
    /// How long the process may be silent before it counts as hung.
    pub watchdog: Option<Duration>,
    /// The sockets that it has opened for the process, in the order of their descriptors.
    pub sockets: Vec<GivenSocket>,
}

/// A socket that a service manager has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenSocket {
    /// The number of the descriptor.
    pub descriptor: i32,
    /// Its name, where it has one.
    pub name: Option<String>,
}

impl GivenByManager {
    /// Reads the variables. What was meant for another process than the one of this pid does not count: a variable is
    /// inherited by processes that have no right to it.
    pub fn read(variables: &dyn Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let text = |name: &str| variables(name)?.into_string().ok().filter(|text| !text.is_empty());
        let mine = |name: &str| text(name).map(|text| text.parse() == Ok(pid));
        let usec = text("WATCHDOG_USEC").and_then(|usec| usec.parse().ok()).filter(|usec| *usec > 0);
        let count: i32 = text("LISTEN_FDS").and_then(|count| count.parse().ok()).unwrap_or(0);
        let count = if mine("LISTEN_PID") == Some(true) { count.clamp(0, MOST_SOCKETS) } else { 0 };
        let names = text("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').map(|name| Some(name.to_owned()).filter(|name| !name.is_empty()));
        let sockets = (FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + count).zip(names.chain(std::iter::repeat(None)));
        Self {
            notify_socket: variables("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()),
            watchdog: usec.filter(|_| mine("WATCHDOG_PID") != Some(false)).map(Duration::from_micros),
            sockets: sockets.map(|(descriptor, name)| GivenSocket { descriptor, name }).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> GivenByManager {
        let find = |name: &str| vars.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into());
        GivenByManager::read(&find, 42)
    }

    fn socket(descriptor: i32, name: Option<&str>) -> GivenSocket {
        GivenSocket { descriptor, name: name.map(str::to_owned) }
    }

    #[test]
    fn without_a_manager_there_is_nothing() {
        assert_eq!(read(&[]), GivenByManager::default());
        assert_eq!(read(&[("NOTIFY_SOCKET", ""), ("LISTEN_FDS", "")]), GivenByManager::default());
    }

    #[test]
    fn sockets_have_names_or_none() {
        let vars = [("LISTEN_PID", "42"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "control")];
        assert_eq!(read(&vars).sockets, [socket(3, Some("control")), socket(4, None)]);
        assert_eq!(read(&vars[..2]).sockets, [socket(3, None), socket(4, None)]);
    }

    #[test]
    fn what_is_meant_for_another_process_does_not_count() {
        for pid in ["41", "", "x"] {
            assert!(read(&[("LISTEN_PID", pid), ("LISTEN_FDS", "1")]).sockets.is_empty(), "{pid}");
        }
        assert!(read(&[("LISTEN_FDS", "1")]).sockets.is_empty());
        assert_eq!(read(&[("WATCHDOG_PID", "41"), ("WATCHDOG_USEC", "1000000")]).watchdog, None);
    }

    #[test]
    fn the_watchdog_is_for_this_process_or_for_whom_it_may_concern() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(read(&[("WATCHDOG_USEC", "1000000")]).watchdog, second);
        assert_eq!(read(&[("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", "42")]).watchdog, second);
        for usec in ["0", "-1", "soon", "18446744073709551616"] {
            assert_eq!(read(&[("WATCHDOG_USEC", usec)]).watchdog, None, "{usec}");
        }
    }

    #[test]
    fn no_number_of_sockets_is_too_much() {
        assert_eq!(read(&[("LISTEN_PID", "42"), ("LISTEN_FDS", "2147483647")]).sockets.len(), 1024);
        assert!(read(&[("LISTEN_PID", "42"), ("LISTEN_FDS", "-7")]).sockets.is_empty());
    }
}
