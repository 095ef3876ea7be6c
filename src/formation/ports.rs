//! Which port each dyno listens on: foreman's convention where dynos share the host's ports.

use hsup_drivers::Network;

use super::plan::Desired;
use crate::model::{DynoName, Process, Quantities, Release};

/// The port where the release names none.
const DEFAULT_PORT: u16 = 5000;

/// How far the ports of one process type are from those of the next.
const TYPE_STRIDE: u32 = 100;

/// A dyno would need a port above the last one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no port is left for {dyno}: from PORT={first} on, ports end at 65535; give a lower PORT or fewer dynos"
)]
pub struct NoPortLeft {
    dyno: DynoName,
    first: u16,
}

/// The dynos that a release should have on this host, with their ports. With an isolated network all have the
/// release's; otherwise the n-th of a type has PORT + n - 1, each further type beginning 100 higher.
///
/// # Errors
/// If the ports do not suffice.
pub fn desired_dynos(
    release: &Release,
    quantities: &Quantities,
    start_number: u32,
    network: Network,
) -> Result<Vec<Desired>, NoPortLeft> {
    let first = release.config.port().unwrap_or(DEFAULT_PORT);
    let mut dynos = Vec::new();
    for (index, process) in (0..).zip(release.formation.iter()) {
        for n in 0..quantities.of(process).get() {
            let name = dyno_name(process, start_number, n);
            let port = match network {
                Network::Isolated => Ok(first),
                Network::Host => u16::try_from(u32::from(first) + index * TYPE_STRIDE + start_number - 1 + n),
            };
            let port = port.map_err(|_| NoPortLeft { dyno: name.clone(), first })?;
            dynos.push(Desired { name, port });
        }
    }
    Ok(dynos)
}

fn dyno_name(process: &Process, start_number: u32, n: u32) -> DynoName {
    DynoName { process_type: process.process_type.clone(), number: start_number.saturating_add(n) }
}

/// The port of a one-off dyno.
pub fn one_off_port(release: &Release) -> u16 {
    release.config.port().unwrap_or(DEFAULT_PORT)
}
