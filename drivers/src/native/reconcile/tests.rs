use std::os::unix::fs::symlink;
use std::sync::Mutex;

use super::*;
use crate::native::claims::Identity;
use crate::native::ledger::{Entry, Init, Ledger};
use crate::native::testing::{
    Fake, Helper, block, claim_path, claim_text, dead, foreign, open, plant, record, sleep,
};
use crate::process;

/// A run of another hsup.
fn run_of(owner: &Owner) -> RunId {
    format!("web.1-{owner}-0").parse().unwrap()
}

fn enter(state_dir: &Path, record: Record) -> Entry {
    Ledger::open(state_dir).unwrap().enter(record).unwrap()
}

fn dir_of(state_dir: &Path, run: &RunId) -> PathBuf {
    let dir = state_dir.join("native/dynos").join(run.as_str());
    fs::create_dir_all(dir.join("upper/app")).unwrap();
    dir
}

fn found(what: What, place: impl fmt::Display, state: State) -> Finding {
    Finding { what, place: place.to_string(), state }
}

fn claim_exists(state_dir: &Path, kind: &str, number: u32) -> bool {
    let kind = if kind == "uid" { Kind::Uid } else { Kind::Subnet };
    claim_path(state_dir, kind, number).exists()
}

fn record_path(state_dir: &Path, run: &RunId) -> PathBuf {
    state_dir.join(format!("native/runs/{run}.json"))
}

/// Claims of a dead hsup, as it has left them.
fn plant_claims(state_dir: &Path, owner: &Owner, numbers: [(Kind, u32); 2]) {
    for (kind, number) in numbers {
        plant(state_dir, kind, number, &claim_text(owner, state_dir));
    }
}

/// The entry of an hsup, held as it does.
fn entry_of(state_dir: &Path, owner: &Owner) -> files::Lock {
    let running = state_dir.join("running");
    fs::create_dir(&running).unwrap();
    let entry = running.join(owner.to_string());
    fs::write(&entry, format!("{owner}\n")).unwrap();
    files::try_lock(&entry).unwrap().unwrap()
}

#[test]
fn where_nothing_is_left_nothing_is_found_or_made() {
    let state = tempfile::tempdir().unwrap();
    assert_eq!(look(state.path(), &ClaimsDir::of_test(state.path()), &Fake::default()), []);
    assert_eq!(mend(state.path(), &ClaimsDir::of_test(state.path()), &Fake::default()), []);
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn a_run_of_a_dead_hsup_is_undone_in_order() {
    let state = tempfile::tempdir().unwrap();
    let run = run_of(&dead());
    let dir = dir_of(state.path(), &run);
    let mut init = sleep();
    let pid = init.id();
    let dirs = vec![dir.clone()];
    let entry = enter(state.path(), Record { dirs, init: Init::of(pid), ..record(&run) });
    plant_claims(state.path(), &dead(), numbers(entry.record()));
    let fake = Fake::default();

    assert_eq!(
        look(state.path(), &ClaimsDir::of_test(state.path()), &fake),
        [found(What::Run, &run, State::Found)]
    );
    assert_eq!(fake.take_calls(), [""; 0]);
    assert!(init.try_wait().unwrap().is_none() && claim_exists(state.path(), "uid", 3000));

    let findings = mend(state.path(), &ClaimsDir::of_test(state.path()), &fake);

    let link = format!("link-{run}");
    let cgroup = format!("/cgroup/{run}");
    let expected = [
        found(What::Init, pid, State::Mended),
        found(What::Cgroup, &cgroup, State::Mended),
        found(What::Link, &link, State::Mended),
        found(What::Dir, dir.display(), State::Mended),
        found(What::Run, &run, State::Mended),
    ];
    assert_eq!(findings, expected);
    let calls = [format!("kill {pid}"), format!("cgroup {cgroup}"), format!("link {link}")];
    assert_eq!(fake.take_calls(), [calls.as_slice(), &[format!("dir {}", dir.display())]].concat());
    assert!(!init.wait().unwrap().success());
    assert!(!dir.exists() && !record_path(state.path(), &run).exists());
    assert!(!claim_exists(state.path(), "uid", 3000) && !claim_exists(state.path(), "subnet", 0));
    assert_eq!(mend(state.path(), &ClaimsDir::of_test(state.path()), &fake), []);
}

#[test]
fn one_failure_stops_nothing_else_and_keeps_the_record_and_the_claims() {
    let state = tempfile::tempdir().unwrap();
    let run = run_of(&dead());
    let dir = dir_of(state.path(), &run);
    let dirs = vec![state.path().join("native/runs"), dir.clone()];
    let entry = enter(state.path(), Record { dirs, ..record(&run) });
    plant_claims(state.path(), &dead(), numbers(entry.record()));
    let link = format!("link-{run}");
    let fake = Fake { failing: [format!("link {link}")].into(), ..Fake::default() };

    let findings = mend(state.path(), &ClaimsDir::of_test(state.path()), &fake);

    let kept = |finding: &&Finding| matches!(finding.state, State::Kept(_));
    let kept: Vec<_> = findings.iter().filter(kept).map(|finding| finding.what).collect();
    assert_eq!(kept, [What::Link, What::Dir, What::Run]);
    assert!(findings.contains(&found(What::Link, &link, State::Kept("it is stuck".to_owned()))));
    assert!(!dir.exists());
    assert!(record_path(state.path(), &run).exists() && claim_exists(state.path(), "uid", 3000));

    fs::write(record_path(state.path(), &run), {
        let text = fs::read_to_string(record_path(state.path(), &run)).unwrap();
        text.replace("native/runs\"", "native/gone\"")
    })
    .unwrap();
    let findings = mend(state.path(), &ClaimsDir::of_test(state.path()), &Fake::default());
    assert_eq!(findings.last(), Some(&found(What::Run, &run, State::Mended)));
    assert!(!claim_exists(state.path(), "uid", 3000));
}

#[test]
fn a_directory_stays_while_processes_may_use_it() {
    let state = tempfile::tempdir().unwrap();
    let run = run_of(&dead());
    let dir = dir_of(state.path(), &run);
    let _entry = enter(state.path(), Record { dirs: vec![dir.clone()], ..record(&run) });
    let fake = Fake { failing: [format!("cgroup /cgroup/{run}")].into(), ..Fake::default() };
    let findings = mend(state.path(), &ClaimsDir::of_test(state.path()), &fake);
    assert!(findings.iter().any(|finding| finding.what == What::Dir), "{findings:?}");
    assert!(dir.exists());
}

#[test]
fn what_is_alive_is_left_alone_in_another_pid_namespace_too() {
    let state = tempfile::tempdir().unwrap();
    let held = entry_of(state.path(), &foreign());
    let claims = open(state.path());
    let _claimed = claims.claim_identity(3000..=3003, &block(8)).unwrap();
    let ledger = Ledger::open(state.path()).unwrap();
    let _mine = ledger.enter(record(&ledger.new_run("web.1"))).unwrap();
    let theirs = enter(state.path(), Record { uid: 3001, subnet: 1, ..record(&run_of(&foreign())) });
    plant_claims(state.path(), &foreign(), numbers(theirs.record()));
    let handed_over = Record { owner: Owner::me(), uid: 3002, subnet: 2, ..record(&run_of(&dead())) };
    let handed_over = enter(state.path(), handed_over);
    plant_claims(state.path(), &dead(), numbers(handed_over.record()));
    let fake = Fake {
        links: vec![
            Seen { name: "mine".to_owned(), owner: Some(Owner::me()) },
            Seen { name: "theirs".to_owned(), owner: Some(foreign()) },
            Seen { name: format!("link-{}", handed_over.record().run), owner: Some(dead()) },
        ],
        ..Fake::default()
    };
    assert_eq!(look(state.path(), &ClaimsDir::of_test(state.path()), &fake), []);
    assert_eq!(mend(state.path(), &ClaimsDir::of_test(state.path()), &fake), []);
    assert_eq!(fake.take_calls(), [""; 0]);
    for number in 0..3 {
        assert!(claim_exists(state.path(), "uid", 3000 + number), "{number}");
    }
    drop(held);
    assert!(mend(state.path(), &ClaimsDir::of_test(state.path()), &fake).contains(&found(
        What::Run,
        &theirs.record().run,
        State::Mended
    )));
    assert_eq!([3000, 3001, 3002].map(|uid| claim_exists(state.path(), "uid", uid)), [true, false, true]);
    // A link may be of an hsup with another state dir; that of the record was.
    assert!(!fake.take_calls().contains(&"link theirs".to_owned()));
}

#[test]
fn what_may_be_alive_is_kept_and_said_so() {
    let state = tempfile::tempdir().unwrap();
    let theirs = enter(state.path(), record(&run_of(&foreign())));
    plant_claims(state.path(), &foreign(), numbers(theirs.record()));
    let claims = ClaimsDir::of_test(state.path());
    for findings in
        [look(state.path(), &claims, &Fake::default()), mend(state.path(), &claims, &Fake::default())]
    {
        let [Finding { what: What::Record, place: _, state: State::Kept(why) }] = findings.as_slice() else {
            panic!("{findings:#?}");
        };
        assert!(why.contains("pid namespace"), "{why}");
    }
    assert!(claim_exists(state.path(), "uid", 3000));
}

#[test]
fn a_reused_pid_is_not_killed() {
    let state = tempfile::tempdir().unwrap();
    let run = run_of(&dead());
    let mut other = sleep();
    let init = Init::of(other.id()).unwrap();
    let init = Init { start_time: init.start_time + 1, ..init };
    let _entry = enter(state.path(), Record { init: Some(init), ..record(&run) });
    let findings = mend(state.path(), &ClaimsDir::of_test(state.path()), &Fake::default());
    assert!(!findings.iter().any(|finding| finding.what == What::Init), "{findings:?}");
    assert_eq!(findings.last(), Some(&found(What::Run, &run, State::Mended)));
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn of_another_boot_only_directories_and_claims_are_left() {
    let state = tempfile::tempdir().unwrap();
    let owner = Owner { boot: "0123456789ab".to_owned(), ..Owner::me() };
    let run = run_of(&owner);
    let dir = dir_of(state.path(), &run);
    let mut other = sleep();
    let init = Init::of(other.id());
    let entry = enter(state.path(), Record { dirs: vec![dir.clone()], init, ..record(&run) });
    plant_claims(state.path(), &owner, numbers(entry.record()));
    let fake = Fake::default();
    mend(state.path(), &ClaimsDir::of_test(state.path()), &fake);
    assert_eq!(fake.take_calls(), [format!("dir {}", dir.display())]);
    assert!(other.try_wait().unwrap().is_none());
    assert!(!dir.exists() && !claim_exists(state.path(), "uid", 3000));
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn files_that_are_no_records_are_set_aside_and_those_of_other_versions_stay() {
    let state = tempfile::tempdir().unwrap();
    let runs = state.path().join("native/runs");
    fs::create_dir_all(&runs).unwrap();
    let half = format!("{}.json", run_of(&dead()));
    fs::write(runs.join(&half), "{\"format\":1,\"run\":\"we").unwrap();
    fs::write(runs.join("empty.json"), "").unwrap();
    fs::write(runs.join("zeros"), "\0\0\0").unwrap();
    fs::write(runs.join("newer.json"), "{\"format\":2}\n").unwrap();
    fs::create_dir(runs.join("dir.json")).unwrap();
    // Of the living.
    fs::write(runs.join(format!("{}.json", run_of(&Owner::me()))), "").unwrap();
    let fake = Fake { links: vec![Seen { name: "stray".to_owned(), owner: None }], ..Fake::default() };

    assert_eq!(look(state.path(), &ClaimsDir::of_test(state.path()), &fake).len(), 6);
    let findings = mend(state.path(), &ClaimsDir::of_test(state.path()), &fake);

    assert_eq!(findings.len(), 6, "{findings:#?}");
    assert!(findings.iter().all(|finding| matches!(finding.state, State::Kept(_))), "{findings:#?}");
    let aside = state.path().join("native/unreadable");
    for name in [half.as_str(), "empty.json", "zeros"] {
        assert!(aside.join(name).exists() && !runs.join(name).exists(), "{name}");
    }
    assert!(runs.join("newer.json").exists() && runs.join("dir.json").exists());
    // Whatever cannot be read may be of the link.
    assert_eq!(fake.take_calls(), [""; 0]);
}

#[test]
fn what_no_record_names_is_undone() {
    let state = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(state.path()).unwrap();
    let mine = ledger.enter(record(&ledger.new_run("web.1"))).unwrap();
    let stray = run_of(&dead());
    let dir = dir_of(state.path(), &stray);
    plant_claims(state.path(), &dead(), [(Kind::Uid, 3007), (Kind::Subnet, 7)]);
    let nobodys = |name: &str| Seen { name: PathBuf::from(name), owner: None };
    let fake = Fake {
        cgroups: vec![nobodys("/cgroup/x"), nobodys(mine.record().cgroups[0].to_str().unwrap())],
        links: vec![
            Seen { name: "x".to_owned(), owner: Some(dead()) },
            Seen { name: mine.record().link.clone().unwrap(), owner: None },
        ],
        mounts: vec![nobodys("/mnt/x")],
        dirs: vec![
            Seen { name: dir.clone(), owner: Some(dead()) },
            Seen { name: state.path().join("native"), owner: Some(dead()) },
        ],
        ..Fake::default()
    };

    let looked = look(state.path(), &ClaimsDir::of_test(state.path()), &fake);
    assert!(looked.iter().all(|finding| finding.state == State::Found), "{looked:#?}");
    assert!(fake.take_calls().is_empty() && dir.exists());

    let findings = mend(state.path(), &ClaimsDir::of_test(state.path()), &fake);

    assert_eq!(findings.len(), looked.len());
    let kept: Vec<_> = findings.iter().filter(|finding| finding.state != State::Mended).collect();
    assert!(matches!(kept.as_slice(), [Finding { what: What::Dir, .. }]), "{kept:?}");
    let dir_call = format!("dir {}", dir.display());
    assert_eq!(fake.take_calls(), ["cgroup /cgroup/x", "link x", "unmount /mnt/x", &dir_call]);
    assert!(!dir.exists() && record_path(state.path(), &mine.record().run).exists());
    assert!(!claim_exists(state.path(), "uid", 3007) && !claim_exists(state.path(), "subnet", 7));
}

#[test]
fn a_record_that_names_the_state_dir_otherwise_is_undone() {
    let temporary = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(temporary.path()).unwrap();
    let state = place.join("state");
    fs::create_dir_all(place.join("work")).unwrap();
    let run = run_of(&dead());
    let dir = dir_of(&state, &run);
    symlink(&state, place.join("by-symlink")).unwrap();
    let by_dots = place.join("work/../state/native/dynos").join(run.as_str());
    let gone = place.join("before-it-was-moved/native/dynos/web.1");
    let by_symlink = dir_of(&place.join("by-symlink"), &format!("x{run}").parse().unwrap());
    let dirs = vec![by_dots, gone, by_symlink.clone()];
    let entry = enter(&state, Record { dirs, ..record(&run) });
    plant_claims(&state, &dead(), numbers(entry.record()));

    let findings = mend(&state, &ClaimsDir::of_test(&state), &Fake::default());

    assert!(findings.iter().all(|finding| finding.state == State::Mended), "{findings:#?}");
    assert!(!dir.exists() && !by_symlink.exists() && !record_path(&state, &run).exists());
    assert!(!claim_exists(&state, "uid", 3000) && !claim_exists(&state, "subnet", 0));
}

#[test]
fn claims_for_another_state_dir_are_left_to_those_who_have_it() {
    let [state, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    fs::create_dir_all(state.path().join("native")).unwrap();
    plant(state.path(), Kind::Uid, 3007, &claim_text(&dead(), other.path()));
    let claims = ClaimsDir::of_test(state.path());
    assert_eq!(look(state.path(), &claims, &Fake::default()), []);
    assert_eq!(mend(state.path(), &claims, &Fake::default()), []);
    assert!(claim_exists(state.path(), "uid", 3007));
    assert_eq!(mend(other.path(), &claims, &Fake::default()), [found(What::Uid, 3007, State::Mended)]);
}

#[test]
fn directories_that_lead_out_of_the_state_dir_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("dir")).unwrap();
    let state = tempfile::tempdir().unwrap();
    symlink(outside.path(), state.path().join("out")).unwrap();
    let run = run_of(&dead());
    let inside = dir_of(state.path(), &run);
    symlink(outside.path(), inside.join("upper/out")).unwrap();
    let by_dots = Path::new("..").join(outside.path().file_name().unwrap()).join("dir");
    let refused = [
        outside.path().to_owned(),
        PathBuf::from("/"),
        state.path().to_owned(),
        state.path().join("out"),
        state.path().join("out/dir"),
        state.path().join(by_dots),
        state.path().join("native"),
        state.path().join("native/runs"),
    ];
    let dirs = refused.iter().chain([&inside]).cloned().collect();
    let _entry = enter(state.path(), Record { dirs, ..record(&run) });
    let fake = Fake::default();
    let findings = mend(state.path(), &ClaimsDir::of_test(state.path()), &fake);
    let dirs_asked_for = fake.take_calls().into_iter().filter(|call| call.starts_with("dir ")).count();
    // A symlink at the end is for the kernel to refuse.
    assert_eq!(dirs_asked_for, 2);
    for dir in &refused {
        let place = dir.display().to_string();
        let kept = findings.iter().any(|f| f.place == place && matches!(f.state, State::Kept(_)));
        assert!(kept, "{place}: {findings:#?}");
    }
    assert!(findings.contains(&found(What::Dir, inside.display(), State::Mended)));
    assert!(outside.path().join("dir").exists());
}

#[test]
fn all_of_a_killed_hsup_is_undone_once_by_several_reconcilers_at_once() {
    let state = tempfile::tempdir().unwrap();
    let log = state.path().join("log");
    let mut hsups =
        ["web.1", "web.2", "worker.1"].map(|dyno| Helper::start(&format!("run {dyno}"), state.path()));
    hsups.iter_mut().for_each(Helper::go);
    let runs = hsups.each_mut().map(Helper::hear_numbers);
    let inits: Vec<Owner> = runs.iter().map(|run| Owner::of(run[2])).collect();
    assert!(inits.iter().all(|init| init.state() == OwnerState::Alive));
    let [first, second, alive] = hsups;
    first.kill();
    second.kill();

    let role = format!("mend {}", log.display());
    let mut menders = [(); 4].map(|()| Helper::start(&role, state.path()));
    menders.iter_mut().for_each(Helper::go);
    assert!(menders.iter_mut().all(|mender| mender.hear() == "done"));

    let log = fs::read_to_string(&log).unwrap();
    let mut calls: Vec<&str> = log.lines().collect();
    let count = calls.len();
    calls.sort_unstable();
    calls.dedup();
    assert_eq!((calls.len(), count), (8, 8), "{log}");
    let states = inits.iter().map(Owner::state).collect::<Vec<_>>();
    assert_eq!(states, [OwnerState::Dead, OwnerState::Dead, OwnerState::Alive]);
    for (run, there) in runs.iter().zip([false, false, true]) {
        assert_eq!(claim_exists(state.path(), "uid", run[0]), there);
        assert_eq!(claim_exists(state.path(), "subnet", run[1]), there);
    }
    assert_eq!(fs::read_dir(state.path().join("native/dynos")).unwrap().count(), 1);
    assert_eq!(ledger::run_ids(&state.path().join("native/runs")).unwrap().len(), 1);
    assert_eq!(fs::read_dir(ClaimsDir::of_test(state.path()).owners()).unwrap().count(), 1);

    alive.kill();
    mend(state.path(), &ClaimsDir::of_test(state.path()), &Fake::default());
    assert!(!process::is_alive(runs[2][2]));
    assert_eq!(ledger::run_ids(&state.path().join("native/runs")).unwrap(), []);
    menders.into_iter().for_each(Helper::let_go);
}

#[test]
fn an_hsup_that_starts_meanwhile_gets_no_number_that_has_yet_to_be_undone() {
    let state = tempfile::tempdir().unwrap();
    let mut hsup = Helper::start("run web.1", state.path());
    hsup.go();
    let run = hsup.hear_numbers();
    hsup.kill();
    let claims = open(state.path());
    let other = claims.claim_identity(3000..=3003, &block(8)).unwrap();
    let subnet = |index| block(8).subnet(index).unwrap();
    assert_eq!((run[0], run[1]), (3000, subnet(0).network().to_bits()));
    assert_eq!(other.identity(), Identity { uid: 3001, subnet: subnet(1) });
    mend(state.path(), &ClaimsDir::of_test(state.path()), &Fake::default());
    assert_eq!(claims.claim(Kind::Uid, [3000]).unwrap().number(), 3000);
}

#[test]
fn what_an_hsup_leaves_that_dies_meanwhile_stays_together() {
    let state = tempfile::tempdir().unwrap();
    let mut hsup = Helper::start("run web.1", state.path());
    hsup.go();
    let run = hsup.hear_numbers();
    let fake = Fake {
        mounts: vec![Seen { name: PathBuf::from("/mnt/x"), owner: None }],
        on_unmount: Mutex::new(Some(Box::new(|| hsup.kill()))),
        ..Fake::default()
    };
    assert_eq!(mend(state.path(), &ClaimsDir::of_test(state.path()), &fake).len(), 1);
    assert_eq!(ledger::run_ids(&state.path().join("native/runs")).unwrap().len(), 1);
    assert!(claim_exists(state.path(), "uid", run[0]) && claim_exists(state.path(), "subnet", run[1]));
    mend(state.path(), &ClaimsDir::of_test(state.path()), &Fake::default());
    assert!(!claim_exists(state.path(), "uid", run[0]) && !process::is_alive(run[2]));
}
