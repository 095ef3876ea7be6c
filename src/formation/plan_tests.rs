//! The plan: single cases, and every way in which a rollout can go.

use std::collections::{HashSet, VecDeque};

use super::*;

const G1: Generation = Generation(1);
const G2: Generation = Generation(2);
const G3: Generation = Generation(3);

fn desired(generation: Generation, rollout: Rollout, names: &[(&str, u16)]) -> Vec<Desired> {
    let new = |(name, port): &(&str, u16)| Desired {
        name: name.parse().unwrap(),
        port: *port,
        shares_port: false,
        generation,
        rollout,
    };
    names.iter().map(new).collect()
}

fn observed(id: u32, name: &str, port: u16, generation: Generation) -> Observed<u32> {
    let name = name.parse().unwrap();
    Observed { id, name, port, generation, leaving: false, up: true, healthy: true, failing: None }
}

fn leaving(dyno: Observed<u32>) -> Observed<u32> {
    Observed { leaving: true, ..dyno }
}

fn unhealthy(dyno: Observed<u32>) -> Observed<u32> {
    Observed { healthy: false, ..dyno }
}

fn not_up(dyno: Observed<u32>) -> Observed<u32> {
    Observed { up: false, healthy: false, ..dyno }
}

fn names(desired: &[Desired], observed: &[Observed<u32>], network: Network) -> (Vec<u32>, Vec<String>) {
    let mut plan = plan(desired, observed, network);
    plan.retire.sort_unstable();
    (plan.retire, plan.start.iter().map(|new| new.name.to_string()).collect())
}

fn nothing() -> (Vec<u32>, Vec<String>) {
    (vec![], vec![])
}

#[test]
fn scaling_touches_only_what_comes_and_goes() {
    let there = [observed(1, "web.1", 5000, G1), observed(2, "web.2", 5001, G1)];
    for rollout in [Rollout::Replace, Rollout::Rolling, Rollout::Overlap] {
        let desired = |names| desired(G1, rollout, names);
        let up = desired(&[("web.1", 5000), ("web.2", 5001), ("web.3", 5002)]);
        assert_eq!(names(&up, &there, Network::Host), (vec![], vec!["web.3".into()]));
        assert_eq!(names(&desired(&[("web.1", 5000)]), &there, Network::Host), (vec![2], vec![]));
        let same = desired(&[("web.1", 5000), ("web.2", 5001)]);
        assert_eq!(names(&same, &there, Network::Host), nothing());
    }
}

#[test]
fn a_new_release_waits_for_the_port_on_the_host_and_not_in_isolation() {
    let new = desired(G2, Rollout::Replace, &[("web.1", 5000)]);
    let old = observed(1, "web.1", 5000, G1);
    let there = [old.clone()];
    assert_eq!(names(&new, &there, Network::Host), (vec![1], vec![]));
    assert_eq!(names(&new, &there, Network::Isolated), (vec![1], vec!["web.1".into()]));
    assert_eq!(names(&new, &[leaving(old)], Network::Host), nothing());
    assert_eq!(names(&new, &[], Network::Host), (vec![], vec!["web.1".into()]));
}

#[test]
fn a_port_that_another_name_still_has_is_waited_for() {
    for rollout in [Rollout::Replace, Rollout::Rolling, Rollout::Overlap] {
        let new = desired(G2, rollout, &[("worker.1", 5000)]);
        let old = leaving(observed(1, "web.1", 5000, G1));
        assert_eq!(names(&new, &[old], Network::Host), nothing());
    }
}

#[test]
fn a_dyno_that_leaves_is_started_anew_once_it_is_gone() {
    let new = desired(G1, Rollout::Replace, &[("web.1", 5000)]);
    let leaving = [leaving(observed(1, "web.1", 5000, G1))];
    assert_eq!(names(&new, &leaving, Network::Host), nothing());
    assert_eq!(names(&new, &leaving, Network::Isolated), (vec![], vec!["web.1".into()]));
}

#[test]
fn a_port_that_hsup_holds_is_in_nobodys_way() {
    let held = |dyno: Desired| Desired { shares_port: true, ..dyno };
    let new = desired(G2, Rollout::Replace, &[("web.1", 5000), ("web.2", 5000)]);
    let new: Vec<_> = new.into_iter().map(held).collect();
    let there = [leaving(observed(1, "web.1", 5000, G1))];
    assert_eq!(names(&new, &there, Network::Host), (vec![], vec!["web.2".into()]));
}

#[test]
fn what_overlaps_goes_when_its_successor_is_healthy() {
    let new = desired(G2, Rollout::Overlap, &[("web.1", 5000)]);
    let old = observed(1, "web.1", 5000, G1);
    let next = observed(2, "web.1", 5000, G2);
    for network in [Network::Host, Network::Isolated] {
        assert_eq!(names(&new, std::slice::from_ref(&old), network), (vec![], vec!["web.1".into()]));
        assert_eq!(names(&new, &[old.clone(), unhealthy(next.clone())], network), nothing());
        assert_eq!(names(&new, &[old.clone(), next.clone()], network), (vec![1], vec![]));
    }
}

#[test]
fn what_rolls_is_replaced_one_by_one() {
    let new = desired(G2, Rollout::Rolling, &[("web.1", 5000), ("web.2", 5001), ("worker.1", 5100)]);
    let old = [(1, "web.1", 5000), (2, "web.2", 5001), (3, "worker.1", 5100)]
        .map(|(id, n, p)| observed(id, n, p, G1));
    let [web_1, web_2, worker] = old.clone();
    assert_eq!(names(&new, &old, Network::Host), (vec![1, 3], vec![]));
    let there = [leaving(web_1), web_2.clone(), leaving(worker)];
    assert_eq!(names(&new, &there, Network::Host), nothing());
    let next = observed(4, "web.1", 5000, G2);
    let there = [unhealthy(next.clone()), web_2.clone(), observed(5, "worker.1", 5100, G2)];
    assert_eq!(names(&new, &there, Network::Host), nothing());
    assert_eq!(names(&new, &[next, web_2], Network::Host), (vec![2], vec!["worker.1".into()]));
}

#[test]
fn what_is_down_is_replaced_without_waiting_for_others() {
    let new = desired(G2, Rollout::Rolling, &[("web.1", 5000), ("web.2", 5001), ("web.3", 5002)]);
    let there = [
        unhealthy(observed(4, "web.1", 5000, G2)),
        observed(2, "web.2", 5001, G1),
        not_up(observed(3, "web.3", 5002, G1)),
    ];
    assert_eq!(names(&new, &there, Network::Host), (vec![3], vec![]));
}

#[test]
fn of_several_that_overlap_the_best_one_stays() {
    let new = desired(G3, Rollout::Overlap, &[("web.1", 5000)]);
    let good = observed(1, "web.1", 5000, G1);
    let unproven = unhealthy(observed(2, "web.1", 5000, G2));
    let newest = unhealthy(observed(3, "web.1", 5000, G3));
    let there = [good.clone(), unproven.clone(), newest.clone()];
    assert_eq!(names(&new, &there, Network::Host), (vec![2], vec![]));
    assert_eq!(names(&new, &[not_up(unproven.clone()), newest.clone()], Network::Host), (vec![2], vec![]));
    assert_eq!(names(&new, &[unproven, newest], Network::Host), nothing());
}

#[test]
fn ports_that_change_places_hold_nothing_up() {
    for rollout in [Rollout::Rolling, Rollout::Overlap] {
        let new = desired(G2, rollout, &[("web.1", 5100), ("worker.1", 5000)]);
        let there = [observed(1, "web.1", 5000, G1), observed(2, "worker.1", 5100, G1)];
        assert_eq!(names(&new, &there, Network::Host), (vec![1, 2], vec![]));
    }
}

#[test]
fn what_dynos_are_made_from_is_good_when_all_are_healthy_and_bad_when_one_says_so() {
    let new = desired(G2, Rollout::Overlap, &[("web.1", 5000), ("web.2", 5001)]);
    let [one, two] = [observed(1, "web.1", 5000, G2), observed(2, "web.2", 5001, G2)];
    assert_eq!(judge(&new, std::slice::from_ref(&one)), Verdict::Pending);
    assert_eq!(judge(&new, &[one.clone(), unhealthy(two.clone())]), Verdict::Pending);
    assert_eq!(judge(&new, &[one.clone(), two.clone()]), Verdict::Good);
    let bad = |dyno: Observed<u32>| Observed { failing: Some("it crashes".into()), ..dyno };
    let why = Verdict::Bad { dyno: "web.2".parse().unwrap(), why: "it crashes".into() };
    assert_eq!(judge(&new, &[one.clone(), bad(unhealthy(two.clone()))]), why);
    // what it failed at once is over when it is healthy
    assert_eq!(judge(&new, &[one.clone(), bad(two.clone())]), Verdict::Good);
    assert_eq!(judge(&new, &[one.clone(), bad(observed(3, "web.2", 5001, G1)), two]), Verdict::Good);
    // where nothing is to run nothing has been shown
    assert_eq!(judge::<u32>(&[], &[one]), Verdict::Pending);
}

/// The dynos of a rollout: each is what it is, and the next things that can happen to them are tried in every order.
type World = Vec<(u32, &'static str, u16, Generation, bool, bool)>;

fn seen(world: &World) -> Vec<Observed<u32>> {
    let one = |&(id, name, port, generation, leaving, healthy): &(
        u32,
        &'static str,
        u16,
        Generation,
        bool,
        bool,
    )| {
        let name = name.parse().unwrap();
        Observed { id, name, port, generation, leaving, up: healthy, healthy, failing: None }
    };
    world.iter().map(one).collect()
}

/// Every order of exits and of getting healthy ends with all dynos replaced; on the way no two share a port of the
/// host unless they overlap, and what overlaps or rolls has the dynos up that it promises.
#[test]
fn every_rollout_ends_whatever_the_order() {
    let names: [(&'static str, u16); 3] = [("web.1", 5000), ("web.2", 5001), ("worker.1", 5100)];
    for network in [Network::Host, Network::Isolated] {
        for rollout in [Rollout::Replace, Rollout::Rolling, Rollout::Overlap] {
            let new = desired(G2, rollout, &names);
            let start: World =
                (0..).zip(names).map(|(id, (name, port))| (id, name, port, G1, false, true)).collect();
            let (mut queue, mut visited) = (VecDeque::from([start.clone()]), HashSet::from([start]));
            let mut ended = 0;
            while let Some(mut world) = queue.pop_front() {
                let plan = plan(&new, &seen(&world), network);
                let idle = plan.retire.is_empty() && plan.start.is_empty();
                for dyno in world.iter_mut().filter(|dyno| plan.retire.contains(&dyno.0)) {
                    dyno.4 = true;
                }
                for started in &plan.start {
                    let (name, port) =
                        *names.iter().find(|(name, _)| started.name.to_string() == *name).unwrap();
                    let id = 10 + u32::from(port);
                    assert!(world.iter().all(|dyno| dyno.0 != id), "{name} was started twice");
                    world.push((id, name, port, G2, false, false));
                }
                check(&world, rollout, network);
                let mut next = Vec::new();
                for index in 0..world.len() {
                    let (.., leaving, healthy) = world[index];
                    let mut other = world.clone();
                    match (leaving, healthy) {
                        (true, _) => drop(other.remove(index)),
                        (false, false) => other[index].5 = true,
                        (false, true) => continue,
                    }
                    other.sort_unstable();
                    next.push(other);
                }
                if next.is_empty() && idle {
                    assert!(
                        world.len() == names.len() && world.iter().all(|dyno| dyno.3 == G2),
                        "stuck: {world:?}"
                    );
                    ended += 1;
                }
                if next.is_empty() && !idle {
                    next.push(world);
                }
                for other in next {
                    if visited.insert(other.clone()) {
                        queue.push_back(other);
                    }
                }
            }
            assert!(ended > 0, "{rollout} never ended");
        }
    }
}

fn check(world: &World, rollout: Rollout, network: Network) {
    let up = |process_type: &str| {
        let up = world.iter().filter(|dyno| dyno.1.starts_with(process_type) && !dyno.4 && dyno.5);
        up.map(|dyno| dyno.1).collect::<HashSet<_>>().len()
    };
    match rollout {
        Rollout::Replace => {}
        Rollout::Rolling => assert!(up("web") >= 1, "all were down: {world:?}"),
        Rollout::Overlap => assert!(up("web") == 2 && up("worker") == 1, "one was down: {world:?}"),
    }
    let ports: HashSet<_> = world.iter().map(|dyno| dyno.2).collect();
    if network == Network::Host && rollout != Rollout::Overlap {
        assert_eq!(ports.len(), world.len(), "two dynos share a port: {world:?}");
    }
}

fn down(dyno: Observed<u32>) -> Observed<u32> {
    Observed { up: false, healthy: false, ..dyno }
}

#[test]
fn what_rolls_and_is_down_is_replaced_at_once_and_nothing_with_it() {
    let new = desired(G2, Rollout::Rolling, &[("web.1", 5000), ("web.2", 5001), ("web.3", 5002)]);
    let there = [
        observed(1, "web.1", 5000, G1),
        down(observed(2, "web.2", 5001, G1)),
        unhealthy(observed(3, "web.3", 5002, G1)),
    ];
    assert_eq!(names(&new, &there, Network::Isolated), (vec![2], vec!["web.2".into()]));
    let there = [
        observed(1, "web.1", 5000, G1),
        unhealthy(observed(4, "web.2", 5001, G2)),
        down(observed(3, "web.3", 5002, G1)),
    ];
    assert_eq!(names(&new, &there, Network::Isolated), (vec![3], vec!["web.3".into()]));
}

#[test]
fn of_those_that_overlap_the_newest_healthy_one_stays_and_what_is_down_does_not() {
    let new = desired(Generation(4), Rollout::Overlap, &[("web.1", 5000)]);
    let current = unhealthy(observed(4, "web.1", 5000, Generation(4)));
    let [one, two, three] =
        [1, 2, 3].map(|n| observed(u32::try_from(n).unwrap(), "web.1", 5000, Generation(n)));
    let retired = |old: &[&Observed<u32>]| {
        let there: Vec<_> = old.iter().map(|dyno| (*dyno).clone()).chain([current.clone()]).collect();
        names(&new, &there, Network::Isolated).0
    };
    assert_eq!(retired(&[&one, &two, &unhealthy(three.clone())]), [1, 3]);
    assert_eq!(retired(&[&unhealthy(one.clone()), &unhealthy(two.clone())]), [1]);
    assert_eq!(retired(&[&down(one.clone())]), [1]);
    assert_eq!(retired(&[&one]), Vec::<u32>::new());
}

#[test]
fn what_a_dyno_failed_at_counts_until_it_is_healthy() {
    let new = desired(G1, Rollout::Replace, &[("web.1", 5000)]);
    let failed = Observed { failing: Some("slow".to_owned()), ..observed(1, "web.1", 5000, G1) };
    assert_eq!(judge(&new, std::slice::from_ref(&failed)), Verdict::Good);
    assert!(matches!(judge(&new, &[unhealthy(failed)]), Verdict::Bad { .. }));
    assert_eq!(judge::<u32>(&[], &[]), Verdict::Pending);
}
