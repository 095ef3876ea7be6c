//! Listening sockets that hsup holds for the dynos of a process type: they are bound once and passed to each dyno, as
//! systemd passes them (sd_listen_fds(3)), so that connections wait in the kernel while dynos come and go.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::Arc;

use nix::sys::socket::{Backlog, listen};

use crate::model::{InvalidName, ProcessType};

/// What an operator asks for: `web=5000`, `web=127.0.0.1:5000`, `web=[::1]:5000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The dynos that get the socket.
    pub process_type: ProcessType,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Why a text is none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidListen {
    /// The part before `=`.
    #[error(transparent)]
    Type(#[from] InvalidName),
    /// The part after it.
    #[error("{0:?} is no place to listen: write TYPE=PORT or TYPE=ADDRESS:PORT, for instance web=5000")]
    Address(String),
}

impl FromStr for Listen {
    type Err = InvalidListen;

    fn from_str(given: &str) -> Result<Self, InvalidListen> {
        let invalid = || InvalidListen::Address(given.to_owned());
        let (name, place) = given.split_once('=').ok_or_else(invalid)?;
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let address = match place.parse::<u16>() {
            Ok(port) => SocketAddr::new(any, port),
            Err(_) => place.parse().map_err(|_| invalid())?,
        };
        if address.port() == 0 {
            return Err(invalid());
        }
        Ok(Self { process_type: name.parse()?, address })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.process_type, self.address)
    }
}

/// A socket that is held.
#[derive(Clone, Debug)]
pub struct Held {
    /// The socket.
    pub socket: Arc<OwnedFd>,
    /// Its port.
    pub port: u16,
}

/// The sockets of all process types that have one.
#[derive(Clone, Debug, Default)]
pub struct Listeners(BTreeMap<ProcessType, Held>);

impl Listeners {
    /// Binds the sockets.
    ///
    /// # Errors
    /// The first one that cannot be bound, and why.
    pub fn bind(places: &[Listen]) -> Result<Self, (Listen, io::Error)> {
        let mut held = BTreeMap::new();
        for place in places {
            let bound = TcpListener::bind(place.address).and_then(|socket| {
                // as many as the host allows: they wait for as long as no dyno accepts
                listen(&socket, Backlog::MAXALLOWABLE)?;
                Ok(socket)
            });
            let socket = bound.map_err(|error| (place.clone(), error))?;
            let socket = Held { socket: Arc::new(socket.into()), port: place.address.port() };
            held.insert(place.process_type.clone(), socket);
        }
        Ok(Self(held))
    }

    /// The types that have one.
    pub fn types(&self) -> impl Iterator<Item = &ProcessType> {
        self.0.keys()
    }

    /// The type whose dynos have the socket on this port.
    pub fn holder_of(&self, port: u16) -> Option<&ProcessType> {
        self.0.iter().find(|(_, held)| held.port == port).map(|(process_type, _)| process_type)
    }

    /// The socket of the dynos of this type.
    pub fn of(&self, process_type: &ProcessType) -> Option<&Held> {
        self.0.get(process_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_port_or_an_address_with_one() {
        let read = |text: &str| text.parse::<Listen>().map(|listen| listen.to_string());
        assert_eq!(read("web=5000"), Ok("web=0.0.0.0:5000".to_owned()));
        assert_eq!(read("web=127.0.0.1:80"), Ok("web=127.0.0.1:80".to_owned()));
        assert_eq!(read("web=[::1]:80"), Ok("web=[::1]:80".to_owned()));
        for bad in ["web", "web=", "web=0", "web=localhost:80", "we b=80", "web=70000", "=80"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = format!("web={}", taken.local_addr().unwrap()).parse().unwrap();
        let (place, error) = Listeners::bind(std::slice::from_ref(&place)).unwrap_err();
        assert_eq!((place.process_type.as_str(), error.kind()), ("web", io::ErrorKind::AddrInUse));
    }
}
