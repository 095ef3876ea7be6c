//! The control API: HTTP/1.1 and JSON on a unix socket, for operators and for other programs of the host.
//!
//! It reaches the dynos through [`FormationHandle`](crate::formation::FormationHandle) only and owns none of
//! their state. [`bind`] and [`adopt`] take the socket, [`serve`] answers on it, [`Client`] is the other end.

mod access;
mod body;
mod client;
mod events;
mod inspect;
mod logs;
mod metrics;
mod places;
mod refusal;
mod routes;
mod server;
mod socket;
mod stall;
#[cfg(test)]
mod tests;
mod usage;
pub mod wire;

pub use client::{Client, ClientError};
pub use events::{EventType, EventsQuery, InvalidEventType};
pub use inspect::Here;
pub use logs::LogsQuery;
pub use routes::Api;
pub use server::serve;
pub use socket::{ControlSocket, SocketError, adopt, bind};
