//! Which port each dyno listens on: foreman's convention where dynos share the host's ports.

use hsup_drivers::Network;

use super::plan::Desired;
use crate::model::{DynoName, Quantities, Release};

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
/// release's; otherwise each has its own, by [`offset`].
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
    let types = u32::try_from(release.formation.iter().len()).unwrap_or(u32::MAX);
    let mut dynos = Vec::new();
    for (index, process) in (0..).zip(release.formation.iter()) {
        for n in 0..quantities.of(process).get() {
            let number = start_number.saturating_add(n);
            let name = DynoName { process_type: process.process_type.clone(), number };
            let offset = match network {
                Network::Isolated => 0,
                Network::Host => offset(index, types, number),
            };
            let port = u16::try_from(u32::from(first).saturating_add(offset));
            let port = port.map_err(|_| NoPortLeft { dyno: name.clone(), first })?;
            dynos.push(Desired { name, port });
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

    #[test]
    fn the_first_hundred_are_as_foreman_has_them() {
        assert_eq!([offset(0, 2, 1), offset(0, 2, 100), offset(1, 2, 1), offset(1, 2, 3)], [0, 99, 100, 102]);
        assert_eq!([offset(0, 1, 101), offset(0, 1, 300)], [100, 299]);
    }

    #[test]
    fn no_two_dynos_share_a_port() {
        let mut seen = HashSet::new();
        for (index, number) in (0..5).flat_map(|index| (1..=400).map(move |number| (index, number))) {
            assert!(seen.insert(offset(index, 5, number)), "{index} {number}");
        }
    }
}
