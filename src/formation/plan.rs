//! The plan: what is to be done so that the dynos that are there become those that should be. Pure; it knows
//! no time, and is made anew whenever anything has changed.

use std::collections::{HashMap, HashSet};

use hsup_drivers::Network;

use crate::model::DynoName;

/// Which making of dynos: each release that is more than a change of scale is a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// A dyno that should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Its name.
    pub name: DynoName,
    /// The port that it is to listen on.
    pub port: u16,
}

/// A dyno that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed<Id> {
    /// What names this one among all that ever were.
    pub id: Id,
    /// Its name.
    pub name: DynoName,
    /// The port that it has.
    pub port: u16,
    /// What it was made from.
    pub generation: Generation,
    /// Whether it has been told to end, for good.
    pub leaving: bool,
}

/// What is to be done now. What has to wait for something else is not in it: it will be in a later plan.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<Id> {
    /// The dynos to be told to end, for good.
    pub retire: Vec<Id>,
    /// The dynos to be started.
    pub start: Vec<Desired>,
}

/// Compares what should be, all of one generation, with what is.
///
/// A dyno that should be and is not starts as soon as nobody is in its way: with an isolated network as soon as
/// its predecessor has been told to end; on the host's network when no dyno of its name or its port is left.
pub fn plan<Id: Copy>(
    desired: &[Desired],
    generation: Generation,
    observed: &[Observed<Id>],
    network: Network,
) -> Plan<Id> {
    let ports: HashMap<&DynoName, u16> = desired.iter().map(|new| (&new.name, new.port)).collect();
    let wanted = |dyno: &Observed<Id>| {
        dyno.generation == generation && ports.get(&dyno.name).is_some_and(|port| *port == dyno.port)
    };
    let (mut there, mut names_taken, mut ports_taken) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut retire = Vec::new();
    for dyno in observed {
        match (dyno.leaving, wanted(dyno)) {
            (false, true) => {
                there.insert(&dyno.name);
            }
            (false, false) => retire.push(dyno.id),
            (true, _) => {}
        }
        if network == Network::Host {
            names_taken.insert(&dyno.name);
            ports_taken.insert(dyno.port);
        }
    }
    let free = |new: &&Desired| {
        !there.contains(&new.name) && !names_taken.contains(&new.name) && !ports_taken.contains(&new.port)
    };
    Plan { retire, start: desired.iter().filter(free).cloned().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G1: Generation = Generation(1);
    const G2: Generation = Generation(2);

    fn desired(names: &[(&str, u16)]) -> Vec<Desired> {
        names.iter().map(|(name, port)| Desired { name: name.parse().unwrap(), port: *port }).collect()
    }

    fn observed(id: u32, name: &str, port: u16, generation: Generation, leaving: bool) -> Observed<u32> {
        Observed { id, name: name.parse().unwrap(), port, generation, leaving }
    }

    fn names(plan: &Plan<u32>) -> (Vec<u32>, Vec<String>) {
        (plan.retire.clone(), plan.start.iter().map(|new| new.name.to_string()).collect())
    }

    #[test]
    fn scaling_touches_only_what_comes_and_goes() {
        let there = [observed(1, "web.1", 5000, G1, false), observed(2, "web.2", 5001, G1, false)];
        let up =
            plan(&desired(&[("web.1", 5000), ("web.2", 5001), ("web.3", 5002)]), G1, &there, Network::Host);
        assert_eq!(names(&up), (vec![], vec!["web.3".into()]));
        let down = plan(&desired(&[("web.1", 5000)]), G1, &there, Network::Host);
        assert_eq!(names(&down), (vec![2], vec![]));
        let same = plan(&desired(&[("web.1", 5000), ("web.2", 5001)]), G1, &there, Network::Host);
        assert_eq!(names(&same), (vec![], vec![]));
    }

    #[test]
    fn a_new_release_waits_for_the_port_on_the_host_and_not_in_isolation() {
        let new = desired(&[("web.1", 5000)]);
        let old = [observed(1, "web.1", 5000, G1, false)];
        assert_eq!(names(&plan(&new, G2, &old, Network::Host)), (vec![1], vec![]));
        assert_eq!(names(&plan(&new, G2, &old, Network::Isolated)), (vec![1], vec!["web.1".into()]));
        let leaving = [observed(1, "web.1", 5000, G1, true)];
        assert_eq!(names(&plan(&new, G2, &leaving, Network::Host)), (vec![], vec![]));
        assert_eq!(names(&plan::<u32>(&new, G2, &[], Network::Host)), (vec![], vec!["web.1".into()]));
    }

    #[test]
    fn a_port_that_another_name_still_has_is_waited_for() {
        let new = desired(&[("worker.1", 5000)]);
        let old = [observed(1, "web.1", 5000, G1, true)];
        assert_eq!(names(&plan(&new, G2, &old, Network::Host)), (vec![], vec![]));
    }

    #[test]
    fn a_dyno_that_leaves_is_started_anew_once_it_is_gone() {
        let new = desired(&[("web.1", 5000)]);
        let leaving = [observed(1, "web.1", 5000, G1, true)];
        assert_eq!(names(&plan(&new, G1, &leaving, Network::Host)), (vec![], vec![]));
        assert_eq!(names(&plan(&new, G1, &leaving, Network::Isolated)), (vec![], vec!["web.1".into()]));
    }
}
