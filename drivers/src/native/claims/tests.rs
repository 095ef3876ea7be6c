use std::collections::BTreeSet;

use super::*;
use crate::native::ledger::Ledger;
use crate::native::testing::{Helper, dead, foreign, record};

fn numbers(claimed: &ClaimedIdentity) -> (u32, u32) {
    let Identity { uid, subnet_index } = claimed.identity();
    (uid, subnet_index)
}

/// A claim as another hsup would have made it.
fn plant(state_dir: &Path, kind: Kind, number: u32, text: &str) {
    let dir = files::claims_dir(state_dir).join(kind.as_str());
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(number.to_string()), text).unwrap();
}

#[test]
fn a_uid_brings_its_own_subnet_and_is_not_handed_out_again_at_once() {
    let state = tempfile::tempdir().unwrap();
    let claims = Claims::open(state.path()).unwrap();
    let claim = || claims.claim_identity(3000..=3003, 16).unwrap();
    let first = claim();
    assert_eq!(numbers(&first), (3000, 0));
    let owner = fs::read_to_string(state.path().join("native/claims/uid/3000")).unwrap();
    assert_eq!(owner, format!("{}\n", Owner::me()));
    first.release().unwrap();
    assert!(!state.path().join("native/claims/uid/3000").exists());
    assert!(!state.path().join("native/claims/subnet/0").exists());
    let held = [claim(), claim(), claim()];
    assert_eq!(held.each_ref().map(numbers), [(3001, 1), (3002, 2), (3003, 3)]);
    assert_eq!(numbers(&claim()), (3000, 0));
    drop(held);
    assert_eq!(numbers(&claim()), (3001, 1));
}

#[test]
fn another_subnet_is_taken_where_that_of_the_uid_is_claimed_or_there_is_none() {
    let state = tempfile::tempdir().unwrap();
    let claims = Claims::open(state.path()).unwrap();
    let _zero = claims.claim(Kind::Subnet, [0]).unwrap();
    let spare = claims.claim_identity(3000..=3003, 6).unwrap();
    assert_eq!(numbers(&spare), (3000, 4));
    let _next = claims.claim(Kind::Subnet, [1]).unwrap();
    let other = claims.claim_identity(3000..=3003, 6).unwrap();
    assert_eq!(numbers(&other), (3001, 5));
    let state = tempfile::tempdir().unwrap();
    let claims = Claims::open(state.path()).unwrap();
    let few: Vec<_> = (0..2).map(|_| claims.claim_identity(3000..=3003, 2).unwrap()).collect();
    assert_eq!(few.iter().map(numbers).collect::<Vec<_>>(), [(3000, 0), (3001, 1)]);
    drop(few);
    let beyond = claims.claim_identity(3000..=3003, 2).unwrap();
    assert_eq!(numbers(&beyond), (3002, 0));
}

#[test]
fn exhaustion_tells_the_range_and_what_to_widen_and_leaves_nothing_claimed() {
    let state = tempfile::tempdir().unwrap();
    let claims = Claims::open(state.path()).unwrap();
    let held = [(); 2].map(|()| claims.claim_identity(3000..=3001, 16).unwrap());
    let text = claims.claim_identity(3000..=3001, 16).unwrap_err().to_string();
    assert_eq!(
        text,
        "all UIDs 3000 to 3001 are claimed (hsup doctor tells by whom): widen LIBCONTAINER_DYNO_UID_MIN and \
         LIBCONTAINER_DYNO_UID_MAX or its HSUP_NATIVE_ name"
    );
    let text = claims.claim_identity(3000..=3009, 2).unwrap_err().to_string();
    assert_eq!(
        text,
        "all /30 networks 0 to 1 are claimed (hsup doctor tells by whom): widen LIBCONTAINER_DYNO_SUBNET or its \
         HSUP_NATIVE_ name"
    );
    assert!(!state.path().join("native/claims/uid/3002").exists());
    drop(held);
    assert!(matches!(claims.claim(Kind::Uid, []), Err(ClaimError::Exhausted { .. })));
    #[expect(clippy::reversed_empty_ranges, reason = "what a wrong setting is")]
    let wrong = claims.claim_identity(5..=4, 16);
    assert!(matches!(wrong, Err(ClaimError::Exhausted { kind: Kind::Uid, .. })));
}

#[test]
fn kept_claims_stay_and_dropped_ones_do_not() {
    let state = tempfile::tempdir().unwrap();
    let claims = Claims::open(state.path()).unwrap();
    claims.claim(Kind::Uid, [7]).unwrap().keep();
    drop(claims.claim(Kind::Uid, [8]).unwrap());
    assert!(claims.claim(Kind::Uid, [7]).is_err());
    drop(claims);
    let later = Claims::open(state.path()).unwrap();
    assert_eq!(later.claim(Kind::Uid, 7..9).unwrap().number(), 8);
}

#[test]
fn only_a_dead_owners_claims_are_taken_back() {
    let state = tempfile::tempdir().unwrap();
    let lines = |owner: &Owner| format!("{owner}\n");
    let booted = Owner { boot: "0123456789ab".to_owned(), ..Owner::me() };
    let texts = [
        lines(&Owner::me()),
        lines(&foreign()),
        "not an owner\n".to_owned(),
        // Cut short it names another.
        dead().to_string(),
        lines(&dead()),
        lines(&booted),
        // What a crash of the host leaves.
        String::new(),
        "\0\0\0\0".to_owned(),
    ];
    for (number, text) in (0..).zip(&texts) {
        plant(state.path(), Kind::Uid, number, text);
    }
    fs::create_dir(state.path().join("native/claims/uid/8")).unwrap();
    let claims = Claims::open(state.path()).unwrap();
    let got: Vec<_> = std::iter::from_fn(|| claims.claim(Kind::Uid, 0..10).ok()).collect();
    assert_eq!(got.iter().map(Claim::number).collect::<Vec<_>>(), [4, 5, 6, 7, 9]);
}

#[test]
fn a_killed_owners_claims_are_taken_back_and_a_living_ones_are_not() {
    let state = tempfile::tempdir().unwrap();
    let mut owner = Helper::start("claim 8", state.path());
    owner.go();
    assert_eq!(owner.hear_numbers().len(), 8);
    let claims = Claims::open(state.path()).unwrap();
    assert!(matches!(claims.claim(Kind::Uid, 0..8), Err(ClaimError::Exhausted { .. })));
    owner.kill();
    let got = [(); 8].map(|()| claims.claim(Kind::Uid, 0..8).unwrap());
    assert_eq!(got.each_ref().map(Claim::number), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_dead_owners_claims_stay_as_long_as_a_run_of_it_is_not_undone() {
    let state = tempfile::tempdir().unwrap();
    plant(state.path(), Kind::Uid, 1, &format!("{}\n", dead()));
    let ledger = Ledger::open(state.path()).unwrap();
    let run = format!("web.1-{}-0", dead()).parse().unwrap();
    let entry = ledger.enter(record(&run)).unwrap();
    let claims = Claims::open(state.path()).unwrap();
    assert!(claims.claim(Kind::Uid, [1]).is_err());
    entry.close().unwrap();
    assert_eq!(claims.claim(Kind::Uid, [1]).unwrap().number(), 1);
}

#[test]
fn each_number_goes_to_one_of_many_processes_and_threads() {
    const COUNT: u32 = 200;
    let state = tempfile::tempdir().unwrap();
    // Every other one is to be taken back from a dead owner.
    for number in (0..COUNT).step_by(2) {
        plant(state.path(), Kind::Uid, number, &format!("{}\n", dead()));
    }
    let role = format!("claim {COUNT}");
    let mut helpers = [(); 4].map(|()| Helper::start(&role, state.path()));
    helpers.iter_mut().for_each(Helper::go);
    let got: Vec<u32> = helpers.iter_mut().flat_map(Helper::hear_numbers).collect();
    assert_eq!(got.len(), COUNT as usize);
    assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), (0..COUNT).collect());
    helpers.into_iter().for_each(Helper::let_go);
    let left = fs::read_dir(state.path().join("native/claims/uid")).unwrap().count();
    assert_eq!(left, 0);
    assert_eq!(fs::read_dir(state.path().join("native/claims/owners")).unwrap().count(), 0);
}

#[test]
fn claims_go_on_when_the_file_that_they_are_links_of_has_been_tidied_away() {
    let state = tempfile::tempdir().unwrap();
    let claims = Claims::open(state.path()).unwrap();
    for entry in fs::read_dir(state.path().join("native/claims/owners")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(claims.claim(Kind::Uid, [1]).unwrap().number(), 1);
    fs::remove_dir_all(state.path()).unwrap();
    assert!(matches!(claims.claim(Kind::Uid, [1]), Err(ClaimError::Io { .. })));
}
