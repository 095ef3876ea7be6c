//! Which port each dyno listens on: foreman's convention where dynos share the host's ports.

use hsup_drivers::Network;

use super::plan::{Desired, Generation};
use crate::listen::Listeners;
use crate::model::{DynoName, Process, ProcessType, Quantity, Release, Rollout};

/// The port where the release names none.
const DEFAULT_PORT: u16 = 5000;

/// How far the ports of one process type are from those of the next.
const TYPE_STRIDE: u32 = 100;

/// There is no port for a dyno.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPort {
    /// It would need one above the last.
    #[error(
        "no port is left for {dyno}: from PORT={first} on, ports end at 65535; give a lower PORT or fewer dynos"
    )]
    Left {
        /// The dyno.
        dyno: DynoName,
        /// The port of the first one.
        first: u16,
    },
    /// It would need one that hsup itself has.
    #[error(
        "port {port} is that of {dyno}, and hsup listens on it for {of}: give another PORT, or another port to --listen"
    )]
    Held {
        /// The dyno.
        dyno: DynoName,
        /// Its port.
        port: u16,
        /// The type for whose dynos hsup holds a socket there.
        of: ProcessType,
    },
}

/// What is to be of a process type on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many dynos there are to be.
    pub quantity: Quantity,
    /// How they are replaced.
    pub rollout: Rollout,
    /// The port of the socket that hsup holds for them.
    pub held_port: Option<u16>,
}

/// The dynos that a release should have on this host, with their ports. With an isolated network all have the
/// release's; otherwise each has its own, by [`offset`].
///
/// # Errors
/// If the ports do not suffice, or hsup itself listens on one of them.
pub fn desired_dynos(
    release: &Release,
    shape: impl Fn(&Process) -> Shape,
    listeners: &Listeners,
    start_number: u32,
    network: Network,
) -> Result<Vec<Desired>, NoPort> {
    let first = release.config.port().unwrap_or(DEFAULT_PORT);
    let types = u32::try_from(release.formation.iter().len()).unwrap_or(u32::MAX);
    let mut dynos = Vec::new();
    for (index, process) in (0..).zip(release.formation.iter()) {
        if process.process_type.is_release_phase() {
            continue;
        }
        let Shape { quantity, rollout, held_port } = shape(process);
        for n in 0..quantity.get() {
            let number = start_number.saturating_add(n);
            let name = DynoName { process_type: process.process_type.clone(), number };
            let offset = match network {
                Network::Isolated => 0,
                Network::Host => offset(index, types, number),
            };
            let own = || {
                let own = u16::try_from(u32::from(first).saturating_add(offset));
                let port = own.map_err(|_| NoPort::Left { dyno: name.clone(), first })?;
                match listeners.holder_of(port).filter(|_| network == Network::Host) {
                    Some(of) => Err(NoPort::Held { dyno: name.clone(), port, of: of.clone() }),
                    None => Ok(port),
                }
            };
            let port = held_port.map_or_else(own, Ok)?;
            let (shares_port, generation) = (held_port.is_some(), Generation::default());
            dynos.push(Desired { name, port, shares_port, generation, rollout });
        }
    }
    Ok(dynos)
}

/// How far the port of a dyno is from the first one. The first hundred of a type are together, and each further
/// type begins 100 higher. Those after the hundredth stand behind all of these, the types taking turns, so that
/// no two dynos share a port and none changes with the scale.
fn offset(index: u32, types: u32, number: u32) -> u32 {
    let n = number.saturating_sub(1);
    match n.checked_sub(TYPE_STRIDE) {
        None => index * TYPE_STRIDE + n,
        Some(beyond) => {
            (TYPE_STRIDE * types).saturating_add(beyond.saturating_mul(types)).saturating_add(index)
        }
    }
}

/// The port of a one-off dyno.
pub fn one_off_port(release: &Release) -> u16 {
    release.config.port().unwrap_or(DEFAULT_PORT)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::AppName;
    use crate::sources::control_file;

    #[test]
    fn the_first_hundred_are_as_foreman_has_them() {
        assert_eq!([offset(0, 2, 1), offset(0, 2, 100), offset(1, 2, 1), offset(1, 2, 3)], [0, 99, 100, 102]);
        assert_eq!([offset(0, 1, 101), offset(0, 1, 300)], [100, 299]);
    }

    #[test]
    fn a_port_that_hsup_listens_on_is_no_dynos() {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let listeners = Listeners::bind(&[format!("web={free}").parse().unwrap()]).unwrap();
        let json = format!(
            r#"{{"Version":1,"Env":{{"PORT":"{}"}},"Processes":[{{"Type":"worker","Args":["x"]}}]}}"#,
            free.port()
        );
        let release = control_file::parse(json.as_bytes(), &AppName::unnamed()).unwrap().release;
        let shape =
            |_: &Process| Shape { quantity: Quantity::ONE, rollout: Rollout::Replace, held_port: None };
        let desired = |network| desired_dynos(&release, shape, &listeners, 1, network);
        let error = desired(Network::Host).unwrap_err().to_string();
        assert!(error.contains("is that of worker.1, and hsup listens on it for web"), "{error}");
        assert!(desired(Network::Isolated).is_ok());
    }

    #[test]
    fn no_two_dynos_share_a_port() {
        let mut seen = HashSet::new();
        for (index, number) in (0..5).flat_map(|index| (1..=400).map(move |number| (index, number))) {
            assert!(seen.insert(offset(index, 5, number)), "{index} {number}");
        }
    }
}
