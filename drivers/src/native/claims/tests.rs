use std::collections::BTreeSet;

use super::*;
use crate::native::ledger::Ledger;
use crate::native::testing::{Helper, block, claim_path, claim_text, dead, foreign, open, plant, record};

fn numbers(claimed: &ClaimedIdentity) -> (u32, u32) {
    let Identity { uid, subnet } = claimed.identity();
    (uid, u32::from(subnet.network().octets()[3]) / 4)
}

/// The number of a subnet of 10.0.0.0/26.
fn subnet(index: u32) -> u32 {
    0x0a00_0000 + 4 * index
}

fn uid_path(state: &tempfile::TempDir, uid: u32) -> PathBuf {
    claim_path(state.path(), Kind::Uid, uid)
}

#[test]
fn a_uid_brings_its_own_subnet_and_is_not_handed_out_again_at_once() {
    let state = tempfile::tempdir().unwrap();
    let claims = open(state.path());
    let claim = || claims.claim_identity(3000..=3003, &block(16)).unwrap();
    let first = claim();
    assert_eq!(numbers(&first), (3000, 0));
    let owner = fs::read_to_string(uid_path(&state, 3000)).unwrap();
    assert_eq!(owner, claim_text(&Owner::me(), state.path()));
    first.release().unwrap();
    assert!(!uid_path(&state, 3000).exists());
    assert!(!claim_path(state.path(), Kind::Subnet, subnet(0)).exists());
    let held = [claim(), claim(), claim()];
    assert_eq!(held.each_ref().map(numbers), [(3001, 1), (3002, 2), (3003, 3)]);
    assert_eq!(numbers(&claim()), (3000, 0));
    drop(held);
    assert_eq!(numbers(&claim()), (3001, 1));
}

#[test]
fn another_subnet_is_taken_where_that_of_the_uid_is_claimed_or_there_is_none() {
    let state = tempfile::tempdir().unwrap();
    let claims = open(state.path());
    let _zero = claims.claim(Kind::Subnet, [subnet(10)]).unwrap();
    let spare = claims.claim_identity(3000..=3003, &block(6)).unwrap();
    assert_eq!(numbers(&spare), (3000, 14));
    let _next = claims.claim(Kind::Subnet, [subnet(11)]).unwrap();
    let other = claims.claim_identity(3000..=3003, &block(6)).unwrap();
    assert_eq!(numbers(&other), (3001, 15));
    let state = tempfile::tempdir().unwrap();
    let claims = open(state.path());
    let few: Vec<_> = (0..2).map(|_| claims.claim_identity(3000..=3003, &block(2)).unwrap()).collect();
    assert_eq!(few.iter().map(numbers).collect::<Vec<_>>(), [(3000, 14), (3001, 15)]);
    drop(few);
    let beyond = claims.claim_identity(3000..=3003, &block(2)).unwrap();
    assert_eq!(numbers(&beyond), (3002, 14));
}

#[test]
fn exhaustion_tells_the_range_and_what_to_widen_and_leaves_nothing_claimed() {
    let state = tempfile::tempdir().unwrap();
    let claims = open(state.path());
    let held = [(); 2].map(|()| claims.claim_identity(3000..=3001, &block(2)).unwrap());
    let text = claims.claim_identity(3000..=3001, &block(2)).unwrap_err().to_string();
    assert_eq!(
        text,
        "all UIDs 3000 to 3001 are claimed (their files below /run/hsup/claims tell by whom): widen \
         LIBCONTAINER_DYNO_UID_MIN and LIBCONTAINER_DYNO_UID_MAX or its HSUP_NATIVE_ name"
    );
    let text = claims.claim_identity(3000..=3009, &block(2)).unwrap_err().to_string();
    assert_eq!(
        text,
        "all /30 networks 10.0.0.56 to 10.0.0.60 are claimed (their files below /run/hsup/claims tell by whom): widen \
         LIBCONTAINER_DYNO_SUBNET or its HSUP_NATIVE_ name"
    );
    assert!(!uid_path(&state, 3002).exists());
    drop(held);
    assert!(matches!(claims.claim(Kind::Uid, []), Err(ClaimError::Exhausted { .. })));
    #[expect(clippy::reversed_empty_ranges, reason = "what a wrong setting is")]
    let wrong = claims.claim_identity(5..=4, &block(16));
    assert!(matches!(wrong, Err(ClaimError::Exhausted { kind: Kind::Uid, .. })));
}

#[test]
fn kept_claims_stay_and_dropped_ones_do_not() {
    let state = tempfile::tempdir().unwrap();
    let claims = open(state.path());
    claims.claim(Kind::Uid, [7]).unwrap().keep();
    drop(claims.claim(Kind::Uid, [8]).unwrap());
    assert!(claims.claim(Kind::Uid, [7]).is_err());
    drop(claims);
    let later = open(state.path());
    assert_eq!(later.claim(Kind::Uid, 7..9).unwrap().number(), 8);
}

#[test]
fn only_a_dead_owners_claims_are_taken_back() {
    let state = tempfile::tempdir().unwrap();
    let lines = |owner: &Owner| claim_text(owner, state.path());
    let booted = Owner { boot: "0123456789ab".to_owned(), ..Owner::me() };
    let texts = [
        lines(&Owner::me()),
        lines(&foreign()),
        "not an owner\n".to_owned(),
        // Cut short it names another.
        dead().to_string(),
        lines(&dead()).trim_end().to_owned(),
        lines(&dead()),
        lines(&booted),
        // What a crash of the host leaves.
        String::new(),
        "\0\0\0\0".to_owned(),
    ];
    for (number, text) in (0..).zip(&texts) {
        plant(state.path(), Kind::Uid, number, text);
    }
    fs::create_dir(uid_path(&state, 9)).unwrap();
    let claims = open(state.path());
    let got: Vec<_> = std::iter::from_fn(|| claims.claim(Kind::Uid, 0..11).ok()).collect();
    assert_eq!(got.iter().map(Claim::number).collect::<Vec<_>>(), [5, 6, 7, 8, 10]);
}

#[test]
fn a_killed_owners_claims_are_taken_back_and_a_living_ones_are_not() {
    let state = tempfile::tempdir().unwrap();
    let mut owner = Helper::start("claim 8", state.path());
    owner.go();
    assert_eq!(owner.hear_numbers().len(), 8);
    let claims = open(state.path());
    assert!(matches!(claims.claim(Kind::Uid, 0..8), Err(ClaimError::Exhausted { .. })));
    owner.kill();
    let got = [(); 8].map(|()| claims.claim(Kind::Uid, 0..8).unwrap());
    assert_eq!(got.each_ref().map(Claim::number), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_dead_owners_claims_stay_as_long_as_a_run_of_it_is_not_undone() {
    let state = tempfile::tempdir().unwrap();
    plant(state.path(), Kind::Uid, 1, &claim_text(&dead(), state.path()));
    let ledger = Ledger::open(state.path()).unwrap();
    let run = format!("web.1-{}-0", dead()).parse().unwrap();
    let entry = ledger.enter(record(&run)).unwrap();
    let claims = open(state.path());
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
        plant(state.path(), Kind::Uid, number, &claim_text(&dead(), state.path()));
    }
    let role = format!("claim {COUNT}");
    let mut helpers = [(); 4].map(|()| Helper::start(&role, state.path()));
    helpers.iter_mut().for_each(Helper::go);
    let got: Vec<u32> = helpers.iter_mut().flat_map(Helper::hear_numbers).collect();
    assert_eq!(got.len(), COUNT as usize);
    assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), (0..COUNT).collect());
    helpers.into_iter().for_each(Helper::let_go);
    let left = fs::read_dir(ClaimsDir::of_test(state.path()).of(Kind::Uid)).unwrap().count();
    assert_eq!(left, 0);
    assert_eq!(fs::read_dir(ClaimsDir::of_test(state.path()).owners()).unwrap().count(), 0);
}

#[test]
fn claims_go_on_when_the_file_that_they_are_links_of_has_been_tidied_away() {
    let state = tempfile::tempdir().unwrap();
    let claims = open(state.path());
    for entry in fs::read_dir(ClaimsDir::of_test(state.path()).owners()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(claims.claim(Kind::Uid, [1]).unwrap().number(), 1);
    // and when all of them have
    let dir = claim_path(state.path(), Kind::Uid, 1);
    let dir = dir.ancestors().nth(2).unwrap();
    fs::remove_dir_all(dir).unwrap();
    assert_eq!(claims.claim(Kind::Uid, [2]).unwrap().number(), 2);
    fs::remove_dir_all(dir).unwrap();
    fs::write(dir, "").unwrap();
    assert!(matches!(claims.claim(Kind::Uid, [3]), Err(ClaimError::Io { .. })));
}

#[test]
fn hsups_with_several_state_dirs_share_no_number_and_those_of_a_dead_one_wait_for_its_own_ledger() {
    let host = tempfile::tempdir().unwrap();
    let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let open =
        |state: &tempfile::TempDir| Claims::open(ClaimsDir::of_test(host.path()), state.path()).unwrap();
    let (first, second) = (open(&one), open(&two));
    let claimed = [&first, &second].map(|claims| claims.claim_identity(3000..=3003, &block(2)).unwrap());
    assert_eq!(claimed.each_ref().map(numbers), [(3000, 14), (3001, 15)]);
    // A run of a dead hsup is in the ledger of the other state dir.
    plant(host.path(), Kind::Uid, 3002, &claim_text(&dead(), two.path()));
    let ledger = Ledger::open(two.path()).unwrap();
    let entry = ledger.enter(record(&format!("web.1-{}-0", dead()).parse().unwrap())).unwrap();
    assert!(first.claim(Kind::Uid, [3002]).is_err());
    entry.close().unwrap();
    assert_eq!(first.claim(Kind::Uid, [3002]).unwrap().number(), 3002);
    // A state dir that is gone tells of no run.
    plant(host.path(), Kind::Uid, 3003, &claim_text(&dead(), two.path()));
    drop((second, claimed));
    two.close().unwrap();
    assert_eq!(first.claim(Kind::Uid, [3003]).unwrap().number(), 3003);
}
