//! The plan: what is to be done so that the dynos that are there become those that should be. Pure; it knows
//! no time, and is made anew whenever anything has changed.

use std::collections::{HashMap, HashSet};

use hsup_drivers::Network;

use crate::model::{DynoName, Rollout};

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
    /// Whether the port is a socket that hsup holds, and all dynos of its type share.
    pub shares_port: bool,
    /// What it is to be made from.
    pub generation: Generation,
    /// How it takes the place of one that was made from something else.
    pub rollout: Rollout,
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
    /// Whether it is up.
    pub up: bool,
    /// Whether it has been up for long enough to count as good.
    pub healthy: bool,
    /// What speaks against what it was made from: it crashes again and again, or was not ready in time.
    pub failing: Option<String>,
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

/// What there is under one name.
struct Place<'a, Id> {
    /// The dyno that should be.
    current: Option<&'a Observed<Id>>,
    /// Dynos that are to make room, and have not been told.
    old: Vec<&'a Observed<Id>>,
    /// Whether some have been told, and are not gone.
    leaving: bool,
}

impl<Id> Place<'_, Id> {
    /// Whether it is the one of those that are to make room that serves best until then: the newest that is healthy,
    /// else the newest that is up.
    fn is_best(&self, dyno: &Observed<Id>) -> bool {
        let rank = |dyno: &Observed<Id>| (dyno.healthy, dyno.generation);
        let best = self.old.iter().filter(|old| old.up).map(|old| rank(old)).max();
        dyno.up && best.is_none_or(|best| rank(dyno) >= best)
    }
}

type Places<'a, Id> = HashMap<&'a DynoName, Place<'a, Id>>;

/// Compares what should be with what is.
///
/// A dyno that should be and is not starts as soon as nobody is in its way: with an isolated network as soon as its
/// predecessor has been told to end; on the host's network when no dyno of its name or its port is left. One that
/// overlaps starts beside its predecessor, which ends when the new one is healthy; of those that roll, one of each
/// type is replaced at a time. A predecessor that is not up is replaced at once, since nothing is lost with it; of
/// several that overlap the best one stays. So is one with another port, whatever was asked for, since each of two
/// dynos may have the port that the other waits for.
pub fn plan<Id: Copy>(desired: &[Desired], observed: &[Observed<Id>], network: Network) -> Plan<Id> {
    let wanted: HashMap<&DynoName, &Desired> = desired.iter().map(|new| (&new.name, new)).collect();
    let places = places(&wanted, observed);
    let turns = turns(desired, &places);
    let goes = |dyno: &Observed<Id>| match wanted.get(&dyno.name) {
        Some(new) if new.port == dyno.port => match new.rollout {
            Rollout::Replace => true,
            Rollout::Overlap => {
                let place = &places[&dyno.name];
                place.current.is_some_and(|current| current.healthy) || !place.is_best(dyno)
            }
            Rollout::Rolling => !dyno.up || turns.contains(&dyno.name),
        },
        Some(_) | None => true,
    };
    let retire =
        places.values().flat_map(|place| &place.old).filter(|dyno| goes(dyno)).map(|dyno| dyno.id).collect();
    let (mut names_taken, mut ports_taken) = (HashSet::new(), HashMap::<u16, &DynoName>::new());
    if network == Network::Host {
        for dyno in observed {
            names_taken.insert(&dyno.name);
            ports_taken.insert(dyno.port, &dyno.name);
        }
    }
    let free = |new: &&Desired| {
        let place = places.get(&new.name);
        let there = place.is_some_and(|place| place.current.is_some());
        let name_taken = match new.rollout {
            Rollout::Overlap => false,
            Rollout::Replace | Rollout::Rolling => {
                names_taken.contains(&new.name)
                    || place.is_some_and(|place| place.old.iter().any(|old| !goes(old)))
            }
        };
        let others_port = ports_taken.get(&new.port).is_some_and(|name| **name != new.name);
        let port_taken = others_port && !new.shares_port;
        !there && !name_taken && !port_taken
    };
    Plan { retire, start: desired.iter().filter(free).cloned().collect() }
}

fn places<'a, Id>(wanted: &HashMap<&DynoName, &Desired>, observed: &'a [Observed<Id>]) -> Places<'a, Id> {
    let mut places = Places::with_capacity(observed.len());
    for dyno in observed {
        let empty = || Place { current: None, old: Vec::new(), leaving: false };
        let place = places.entry(&dyno.name).or_insert_with(empty);
        match wanted.get(&dyno.name) {
            _ if dyno.leaving => place.leaving = true,
            Some(new) if is_current(dyno, new) => place.current = Some(dyno),
            Some(_) | None => place.old.push(dyno),
        }
    }
    places
}

fn is_current<Id>(dyno: &Observed<Id>, new: &Desired) -> bool {
    dyno.generation == new.generation && dyno.port == new.port
}

/// The dynos whose predecessors are to go now: of each type that rolls the first one, once all others of it are
/// either healthy or still to be replaced.
fn turns<'a, Id>(desired: &'a [Desired], places: &Places<'_, Id>) -> HashSet<&'a DynoName> {
    let (mut first, mut busy) = (HashMap::new(), HashSet::new());
    for new in desired.iter().filter(|new| new.rollout == Rollout::Rolling) {
        let process_type = &new.name.process_type;
        match places.get(&new.name) {
            // one that is down is being replaced now
            Some(Place { leaving: false, old, .. }) if !old.is_empty() && old.iter().all(|old| old.up) => {
                first.entry(process_type).or_insert(&new.name);
            }
            Some(Place { leaving: false, current: Some(dyno), .. }) if dyno.healthy => {}
            Some(_) | None => {
                busy.insert(process_type);
            }
        }
    }
    first.into_iter().filter(|(process_type, _)| !busy.contains(process_type)).map(|(_, name)| name).collect()
}

/// What is to be thought of what dynos are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is too early to tell.
    Pending,
    /// Every dyno that should be is there, and healthy; and there is one at least.
    Good,
    /// A dyno speaks against it.
    Bad {
        /// Which one.
        dyno: DynoName,
        /// What it says.
        why: String,
    },
}

/// Judges what the dynos that should be are made from by those that are there.
pub fn judge<Id>(desired: &[Desired], observed: &[Observed<Id>]) -> Verdict {
    let wanted: HashMap<&DynoName, &Desired> = desired.iter().map(|new| (&new.name, new)).collect();
    let mut healthy = 0;
    for dyno in observed.iter().filter(|dyno| !dyno.leaving) {
        match wanted.get(&dyno.name) {
            Some(new) if is_current(dyno, new) => match &dyno.failing {
                // what it once failed at counts no longer
                _ if dyno.healthy => healthy += 1,
                Some(why) => return Verdict::Bad { dyno: dyno.name.clone(), why: why.clone() },
                None => {}
            },
            Some(_) | None => {}
        }
    }
    if healthy == desired.len() && healthy > 0 { Verdict::Good } else { Verdict::Pending }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
