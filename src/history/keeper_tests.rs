//! The keeper between a source and a supervisor that the test plays.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::super::slugs_of_all;
use super::*;
use crate::model::Sha256Digest;
use crate::slug::remove_unneeded;
use crate::sources::control_file;

struct Bench {
    releases: watch::Sender<Option<Published>>,
    arrivals: watch::Receiver<Option<Arrival>>,
    notes: Notes,
    handle: HistoryHandle,
}

fn release(version: u64) -> Arc<Release> {
    let json = format!(
        r#"{{"Version":{version},"Name":"myapp","Env":{{"V":"{version}"}},"Processes":[{{"Type":"web","Quantity":1,"Args":["x"]}}]}}"#
    );
    Arc::new(control_file::parse(json.as_bytes(), &AppName::unnamed()).unwrap().release)
}

fn two_webs() -> BTreeMap<ProcessType, Quantity> {
    BTreeMap::from([("web".parse().unwrap(), 2.try_into().unwrap())])
}

impl Bench {
    fn start(place: Place) -> Self {
        Self::with(Settings { place, forget_scale: false, newest_only: false })
    }

    fn with(settings: Settings) -> Self {
        let (releases, newest) = watch::channel(None);
        let (arrivals, notes, handle, keeping) = Keeper::start(settings, newest, Events::new());
        tokio::spawn(keeping);
        Self { releases, arrivals, notes, handle }
    }

    /// The source has this release, and it goes to the supervisor.
    async fn come(&mut self, version: u64) {
        self.send(version, false);
        self.next().await;
    }

    fn send(&self, version: u64, stale: bool) {
        self.releases.send_replace(Some(Published { release: release(version), stale }));
    }

    /// The version that goes to the supervisor next.
    async fn next(&mut self) -> u64 {
        self.arrivals.changed().await.unwrap();
        self.published()
    }

    fn published(&mut self) -> u64 {
        self.arrivals.borrow_and_update().as_ref().unwrap().release.version.0
    }

    fn bad(&self, version: u64, fallback: Option<u64>) {
        let (release, fallback) = (release(version), fallback.map(release));
        self.notes.tell(Note::Bad { release, why: "it crashes".to_owned(), fallback });
    }

    /// Whether each of the releases that are known is in place of another one, once all has been heard.
    async fn heard(&self) -> Vec<u64> {
        let (entries, _) = self.handle.list().await.unwrap();
        entries.iter().map(|entry| entry.release.version.0).collect()
    }
}

#[tokio::test]
async fn a_scale_after_a_rollback_does_not_bring_the_bad_release_back() {
    let mut bench = Bench::start(Place::Memory);
    bench.come(1).await;
    bench.notes.tell(Note::Good(release(1)));
    bench.come(2).await;
    bench.bad(2, Some(1));
    assert_eq!(bench.next().await, 1);
    bench.handle.scale(two_webs()).await.unwrap();
    assert_eq!(bench.next().await, 1);
    assert_eq!(bench.arrivals.borrow().as_ref().unwrap().scale, two_webs());
}

#[tokio::test]
async fn a_newer_release_is_not_held_back_by_what_was_wrong_with_the_one_before() {
    let mut bench = Bench::start(Place::Memory);
    bench.come(1).await;
    bench.notes.tell(Note::Good(release(1)));
    bench.come(2).await;
    bench.come(3).await;
    bench.bad(2, Some(1));
    bench.heard().await;
    assert_eq!(bench.published(), 3);
    // as a source that gives the same again does
    bench.send(3, false);
    bench.heard().await;
    assert_eq!(bench.published(), 3);
}

#[tokio::test]
async fn with_nothing_running_before_the_last_good_one_of_the_history_takes_over_once() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("releases");
    let mut bench = Bench::start(Place::Keep(dir.clone()));
    for good in [1, 2] {
        bench.come(good).await;
        bench.notes.tell(Note::Good(release(good)));
    }
    assert_eq!(bench.heard().await, [1, 2]);
    let mut bench = Bench::start(Place::Keep(dir));
    bench.come(3).await;
    bench.bad(3, None);
    assert_eq!(bench.next().await, 2);
    // what is wrong may be the host's
    bench.bad(2, None);
    bench.heard().await;
    assert_eq!(bench.published(), 2);
}

#[tokio::test]
async fn a_release_that_was_good_is_not_gone_back_from_however_often_hsup_starts_in_vain() {
    let temp = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(Place::Keep(temp.path().to_owned()));
    for good in [1, 2] {
        bench.come(good).await;
        bench.notes.tell(Note::Good(release(good)));
    }
    bench.heard().await;
    for _ in 0..2 {
        // its database is down
        bench = Bench::start(Place::Keep(temp.path().to_owned()));
        bench.come(2).await;
        bench.bad(2, None);
        bench.heard().await;
        assert_eq!(bench.published(), 2);
    }
}

#[tokio::test]
async fn a_start_while_the_source_cannot_be_asked_forgets_no_way_back() {
    let temp = tempfile::tempdir().unwrap();
    for stale in [1, 2] {
        let dir = temp.path().join(stale.to_string());
        let mut bench = Bench::start(Place::Keep(dir.clone()));
        bench.come(1).await;
        bench.come(2).await;
        bench.handle.rollback(Some(ReleaseVersion(1))).await.unwrap();
        assert_eq!(bench.next().await, 1);
        bench.heard().await;
        // that which went live last may be kept a moment later than that it was rolled back
        bench = Bench::start(Place::Keep(dir));
        bench.send(stale, true);
        assert_eq!(bench.next().await, 1);
        // as it is when an operator goes elsewhere meanwhile
        bench.handle.rollback(Some(ReleaseVersion(1))).await.unwrap();
        bench.next().await;
        bench.send(2, false);
        bench.heard().await;
        assert_eq!(bench.published(), 1);
        bench.come(3).await;
        assert_eq!(bench.published(), 3);
    }
}

#[tokio::test]
async fn a_source_that_can_be_asked_again_is_believed() {
    let mut bench = Bench::start(Place::Memory);
    bench.send(1, true);
    assert_eq!(bench.next().await, 1);
    bench.send(1, false);
    bench.heard().await;
    assert!(!bench.arrivals.has_changed().unwrap(), "what runs is what it has");
    bench.come(2).await;
    assert_eq!(bench.published(), 2);
}

#[tokio::test]
async fn the_history_of_an_app_without_a_name_is_not_on_disk() {
    let temp = tempfile::tempdir().unwrap();
    for (app, kept) in [(AppName::unnamed(), false), ("myapp".parse().unwrap(), true)] {
        let mut bench = Bench::start(Place::Keep(temp.path().to_owned()));
        let release = Release { app, ..Release::clone(&release(1)) };
        bench.releases.send_replace(Some(Published { release: Arc::new(release), stale: false }));
        bench.next().await;
        bench.heard().await;
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().next().is_some(), kept);
    }
}

/// An hsup that was ended while release 3 was on its way; 1 and 2 were good.
async fn ended_before_3_was_live(dir: &Path) {
    let mut bench = Bench::start(Place::Keep(dir.to_owned()));
    for good in [1, 2] {
        bench.come(good).await;
        bench.notes.tell(Note::Live(release(good)));
        bench.notes.tell(Note::Good(release(good)));
    }
    bench.come(3).await;
    bench.heard().await;
}

/// A release with a release phase.
fn migration(version: u64) -> Arc<Release> {
    let json = format!(
        r#"{{"Version":{version},"Name":"myapp","Processes":[{{"Type":"web","Quantity":1,"Args":["x"]}},{{"Type":"release","Quantity":0,"Args":["y"]}}]}}"#
    );
    Arc::new(control_file::parse(json.as_bytes(), &AppName::unnamed()).unwrap().release)
}

#[tokio::test]
async fn what_ran_beside_a_release_phase_runs_beside_it_when_hsup_is_started_anew() {
    let publish = |bench: &Bench| {
        bench.releases.send_replace(Some(Published { release: migration(4), stale: false }));
    };
    for (live, phase_done, first) in [(true, false, 2), (true, true, 4), (false, false, 4)] {
        let temp = tempfile::tempdir().unwrap();
        ended_before_3_was_live(temp.path()).await;
        let mut bench = Bench::start(Place::Keep(temp.path().to_owned()));
        if live {
            bench.come(2).await;
            bench.notes.tell(Note::Live(release(2)));
        }
        publish(&bench);
        assert_eq!(bench.next().await, 4);
        if phase_done {
            bench.notes.tell(Note::PhaseDone(migration(4)));
        }
        bench.heard().await;
        drop(bench);
        let mut bench = Bench::start(Place::Keep(temp.path().to_owned()));
        publish(&bench);
        assert_eq!(bench.next().await, first);
        if first == 2 {
            bench.notes.tell(Note::Live(release(2)));
            assert_eq!(bench.next().await, 4);
        }
    }
}

fn failed(version: u64) -> Note {
    Note::Failed { release: release(version), why: "its slug is gone".to_owned() }
}

#[tokio::test]
async fn what_was_good_stands_in_for_a_release_that_cannot_be_live_at_the_start() {
    let bad = Note::Bad { release: release(2), why: "its release phase".to_owned(), fallback: None };
    for note in [Note::Live(release(2)), failed(2), bad] {
        let temp = tempfile::tempdir().unwrap();
        ended_before_3_was_live(temp.path()).await;
        let mut bench = Bench::start(Place::Keep(temp.path().to_owned()));
        bench.come(3).await;
        assert_eq!(bench.published(), 3);
        bench.notes.tell(failed(3));
        assert_eq!(bench.next().await, 2);
        // the source does not wait
        bench.send(4, false);
        bench.heard().await;
        assert!(!bench.arrivals.has_changed().unwrap());
        bench.notes.tell(note);
        assert_eq!(bench.next().await, 4);
        // once, for else two that fail would take turns
        bench.notes.tell(failed(4));
        bench.heard().await;
        assert_eq!(bench.published(), 4);
    }
}

#[tokio::test]
async fn nothing_stands_in_where_something_runs_or_nothing_else_may() {
    let temp = tempfile::tempdir().unwrap();
    ended_before_3_was_live(temp.path()).await;
    let place = Place::Keep(temp.path().to_owned());
    let once = Settings { place: place.clone(), forget_scale: false, newest_only: true };
    for (settings, live) in [(once.clone(), false), (Settings { newest_only: false, ..once }, true)] {
        let mut bench = Bench::with(settings);
        bench.come(3).await;
        if live {
            bench.notes.tell(Note::Live(release(3)));
            bench.come(4).await;
        }
        let newest = bench.published();
        bench.notes.tell(failed(newest));
        bench.heard().await;
        assert_eq!(bench.published(), newest);
    }
}

#[tokio::test]
async fn what_stands_in_stays_if_an_operator_says_so() {
    let temp = tempfile::tempdir().unwrap();
    ended_before_3_was_live(temp.path()).await;
    let mut bench = Bench::start(Place::Keep(temp.path().to_owned()));
    bench.come(3).await;
    bench.notes.tell(failed(3));
    assert_eq!(bench.next().await, 2);
    bench.handle.rollback(Some(ReleaseVersion(2))).await.unwrap();
    assert_eq!(bench.next().await, 2);
    bench.notes.tell(Note::Live(release(2)));
    bench.heard().await;
    assert_eq!(bench.published(), 2);
}

fn digest(byte: u8) -> Sha256Digest {
    Sha256Digest([byte; 32])
}

#[tokio::test]
async fn the_slugs_of_a_history_in_memory_stay_for_as_long_as_that_has_their_releases() {
    let temp = tempfile::tempdir().unwrap();
    let slugs = temp.path().join("slugs");
    let mut bench = Bench::start(Place::Memory);
    for byte in 1..=12 {
        bench.come(byte.into()).await;
        let slug = Slug::for_tests(slugs.clone(), digest(byte));
        bench.notes.tell(Note::Unpacked { release: release(byte.into()), slug });
    }
    assert_eq!(bench.heard().await.len(), 10);
    remove_unneeded(slugs.clone(), || Some(BTreeSet::new())).await;
    let there: BTreeSet<_> =
        fs::read_dir(slugs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, (3..=12).map(|byte| digest(byte).to_string()).collect());
}

#[tokio::test]
async fn whoever_hears_of_a_good_release_finds_its_slug_in_the_history() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("releases");
    let mut bench = Bench::start(Place::Keep(dir.clone()));
    let mut good = bench.handle.good();
    bench.come(1).await;
    let slug = Slug::for_tests(temp.path().join("slugs"), digest(1));
    bench.notes.tell(Note::Unpacked { release: release(1), slug });
    bench.notes.tell(Note::Live(release(1)));
    assert!(!good.has_changed().unwrap());
    bench.notes.tell(Note::Good(release(1)));
    good.changed().await.unwrap();
    assert_eq!(slugs_of_all(&dir).unwrap(), BTreeSet::from([digest(1)]));
}
