//! The history of an app's releases as a value: what is remembered, and which release is to run. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{Process, ProcessType, Quantity, Release, ReleaseVersion, Sha256Digest};

/// How many releases are remembered. Whoever goes back goes back by one or two; each has its config vars on disk.
const KEPT: usize = 10;

/// What became of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is too early to tell, or something else came before it could be told.
    Pending,
    /// All its dynos were healthy at one time.
    Good,
    /// It made way for the last good one.
    Bad {
        /// Why.
        why: String,
    },
}

/// A release that was to run on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The release.
    pub release: Arc<Release>,
    /// What became of it.
    pub verdict: Verdict,
    /// When it was first to run.
    pub at: SystemTime,
    /// Whether the command of its release phase has succeeded.
    pub phase_done: bool,
    /// Whether another one was live when it came, or when it came again after it had been bad.
    pub beside_another: bool,
    /// The slug that it was unpacked to, once it was. A release need not name it, and what is at its location may change.
    pub slug: Option<Sha256Digest>,
}

/// A release that runs in place of the one that the source has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// What the source has. Once it has something else, that runs.
    pub instead_of: Arc<Release>,
    /// What runs.
    pub release: Arc<Release>,
}

/// How many dynos of a type an operator has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// So many.
    pub to: Quantity,
    /// What the source had then. Once it has something else, that counts.
    pub instead_of: Option<Quantity>,
}

/// The releases of one app on this host, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub(super) entries: Vec<Entry>,
    pub(super) pin: Option<Pin>,
    pub(super) scale: BTreeMap<ProcessType, Scaled>,
}

impl History {
    /// The releases, the oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What the source had when it was last asked, where this release is the last one that went live.
    pub fn last_known(&self, live: Arc<Release>) -> Arc<Release> {
        self.pin.as_ref().map_or(live, |pin| Arc::clone(&pin.instead_of))
    }

    /// What is to run now that the source has this release.
    pub fn choose(&mut self, newest: &Arc<Release>) -> Arc<Release> {
        match &self.pin {
            Some(pin) if pin.instead_of.needs_no_restart(newest) => {
                let release = Arc::new(like(&pin.release, newest));
                self.pin = Some(Pin { instead_of: Arc::clone(newest), release: Arc::clone(&release) });
                release
            }
            Some(_) | None => {
                self.pin = None;
                Arc::clone(newest)
            }
        }
    }

    /// What runs after a start of hsup until this release can: the last one that was good, at this one's scale and with its
    /// drain.
    pub fn stand_in_for(&self, next: &Release) -> Option<Arc<Release>> {
        self.find_target(None, Some(next)).map(|entry| Arc::new(like(&entry.release, next)))
    }

    /// Makes this release run in place of the one that the source has, at that one's scale and with its drain.
    pub fn pin(&mut self, release: &Release, newest: &Arc<Release>) -> Arc<Release> {
        let release = Arc::new(like(release, newest));
        self.pin = (!release.needs_no_restart(newest))
            .then(|| Pin { instead_of: Arc::clone(newest), release: Arc::clone(&release) });
        release
    }

    /// An operator asks for other quantities.
    pub fn scale(&mut self, quantities: BTreeMap<ProcessType, Quantity>, newest: &Release) {
        for (process_type, to) in quantities {
            let instead_of = newest.formation.find(&process_type).map(|process| process.quantity);
            self.scale.insert(process_type, Scaled { to, instead_of });
        }
    }

    /// The quantities that an operator has asked for, now that the source has this release.
    pub fn scale_of(&mut self, newest: &Release) -> BTreeMap<ProcessType, Quantity> {
        self.scale.retain(|process_type, scaled| {
            scaled.instead_of == newest.formation.find(process_type).map(|process| process.quantity)
        });
        self.scale.iter().map(|(process_type, scaled)| (process_type.clone(), scaled.to)).collect()
    }

    /// Whether the command of the release phase of this release has succeeded before.
    pub fn phase_done(&self, release: &Release) -> bool {
        self.find(release).is_some_and(|entry| entry.phase_done)
    }

    /// Whether this release has been on its way while another one was live, and not come to the end of its release phase.
    pub fn is_in_release_phase(&self, release: &Release) -> bool {
        let on_its_way =
            |entry: &Entry| entry.beside_another && !entry.phase_done && entry.verdict == Verdict::Pending;
        release.release_phase().is_some() && self.find(release).is_some_and(on_its_way)
    }

    /// This release is to run, while another one may be live.
    pub fn begin(&mut self, release: &Arc<Release>, live: Option<&Release>, now: SystemTime) {
        let entry = match self.position(release) {
            // what it is like is known from the last time, unless that was bad
            Some(index) => {
                let mut entry = self.entries.remove(index);
                if let Verdict::Bad { .. } = entry.verdict {
                    (entry.verdict, entry.beside_another) = (Verdict::Pending, live.is_some());
                }
                Entry { release: Arc::clone(release), ..entry }
            }
            None => {
                let (release, beside_another) = (Arc::clone(release), live.is_some());
                let verdict = Verdict::Pending;
                Entry { release, verdict, at: now, phase_done: false, beside_another, slug: None }
            }
        };
        self.entries.push(entry);
        while self.entries.len() > KEPT {
            // neither the newest good one, which is the way back, nor what is live; what has just come is the last of all
            let way_back = self.entries.iter().rposition(|entry| entry.verdict == Verdict::Good);
            let live = live.and_then(|live| self.position(live));
            let oldest = (0..).find(|index| Some(*index) != way_back && Some(*index) != live);
            self.entries.remove(oldest.unwrap_or(0));
        }
    }

    /// Whether all dynos of this release were healthy at one time.
    pub fn was_good(&self, release: &Release) -> bool {
        self.find(release).is_some_and(|entry| entry.verdict == Verdict::Good)
    }

    /// Notes what became of a release.
    pub fn judge(&mut self, release: &Release, verdict: Verdict) {
        if let Some(entry) = self.find_mut(release) {
            entry.verdict = verdict;
        }
    }

    /// Notes that the command of the release phase of a release has succeeded.
    pub fn finish_phase(&mut self, release: &Release) {
        if let Some(entry) = self.find_mut(release) {
            entry.phase_done = true;
        }
    }

    /// Notes the slug that a release was unpacked to; says whether that is news.
    pub fn unpack(&mut self, release: &Release, slug: Sha256Digest) -> bool {
        self.find_mut(release).is_some_and(|entry| entry.slug.replace(slug) != Some(slug))
    }

    /// The slugs that a start or a rollback may need: those that the releases name, and those that they were unpacked to.
    pub fn slugs(&self) -> impl Iterator<Item = Sha256Digest> {
        let of_pin = self.pin.iter().flat_map(|pin| [&pin.instead_of, &pin.release]);
        let releases = self.entries.iter().map(|entry| &entry.release).chain(of_pin);
        let unpacked = self.entries.iter().filter_map(|entry| entry.slug);
        releases.filter_map(|release| release.slug_checksum).chain(unpacked)
    }

    /// The release with this version; without one the newest good release but the one that is live.
    pub fn find_target(&self, version: Option<ReleaseVersion>, live: Option<&Release>) -> Option<&Entry> {
        let newest_first = || self.entries.iter().rev();
        let is_live = |entry: &&Entry| live.is_some_and(|live| entry.release.needs_no_restart(live));
        match version {
            Some(version) => newest_first().find(|entry| entry.release.version == version),
            None => newest_first().find(|entry| entry.verdict == Verdict::Good && !is_live(entry)),
        }
    }

    fn position(&self, release: &Release) -> Option<usize> {
        self.entries.iter().position(|entry| entry.release.needs_no_restart(release))
    }

    fn find(&self, release: &Release) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.release.needs_no_restart(release))
    }

    fn find_mut(&mut self, release: &Release) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.release.needs_no_restart(release))
    }
}

/// The release with as many dynos of each type as the other has, and its drain; a type that only this one has keeps its
/// own quantity.
fn like(release: &Release, other: &Release) -> Release {
    let quantity = |process: &Process| -> Quantity {
        other.formation.find(&process.process_type).map_or(process.quantity, |other| other.quantity)
    };
    let formation = release.formation.with_quantities(quantity);
    Release { formation, logplex_url: other.logplex_url.clone(), ..release.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AppName;
    use crate::sources::control_file;

    fn release(version: u64, web: u32) -> Arc<Release> {
        let json = format!(
            r#"{{"Version":{version},"Env":{{"V":"{version}"}},"Processes":[{{"Type":"web","Quantity":{web},"Args":["x"]}}]}}"#
        );
        Arc::new(control_file::parse(json.as_bytes(), &AppName::unnamed()).unwrap().release)
    }

    fn history(verdicts: &[(u64, Verdict)]) -> History {
        let mut history = History::default();
        for (version, verdict) in verdicts {
            history.begin(&release(*version, 1), None, SystemTime::UNIX_EPOCH);
            history.judge(&release(*version, 1), verdict.clone());
        }
        history
    }

    fn bad() -> Verdict {
        Verdict::Bad { why: "it crashes".to_owned() }
    }

    #[test]
    fn the_newest_runs_until_something_is_pinned_and_again_when_there_is_a_newer_one() {
        let mut history = history(&[(1, Verdict::Good), (2, bad())]);
        assert_eq!(history.choose(&release(2, 1)).version.0, 2);
        history.pin(&release(1, 1), &release(2, 3));
        let chosen = history.choose(&release(2, 3));
        assert_eq!((chosen.version.0, chosen.formation.iter().next().unwrap().quantity.get()), (1, 3));
        let scaled = history.choose(&release(2, 5));
        assert_eq!((scaled.version.0, scaled.formation.iter().next().unwrap().quantity.get()), (1, 5));
        assert_eq!(history.choose(&release(3, 1)).version.0, 3);
        assert_eq!(history.choose(&release(2, 1)).version.0, 2);
    }

    #[test]
    fn lines_go_where_the_newest_release_says_whatever_runs() {
        let to = |version, url: &str| {
            Arc::new(Release { logplex_url: Some(url.to_owned()), ..Release::clone(&release(version, 1)) })
        };
        let mut history = History::default();
        let pinned = history.pin(&to(1, "http://old/"), &to(2, "http://new/"));
        assert_eq!((pinned.version.0, pinned.logplex_url.as_deref()), (1, Some("http://new/")));
        let chosen = history.choose(&to(2, "http://newest/"));
        assert_eq!((chosen.version.0, chosen.logplex_url.as_deref()), (1, Some("http://newest/")));
    }

    #[test]
    fn what_is_pinned_in_place_of_itself_is_not() {
        let mut history = history(&[(1, Verdict::Good)]);
        history.pin(&release(1, 1), &release(1, 2));
        assert_eq!(history.pin, None);
    }

    #[test]
    fn the_way_back_leads_to_the_newest_good_release_that_is_not_live() {
        let history = history(&[(1, Verdict::Good), (2, Verdict::Good), (3, bad()), (4, Verdict::Pending)]);
        let target = |version, live: Option<&Release>| {
            history.find_target(version, live).map(|entry| entry.release.version.0)
        };
        let (four, two) = (release(4, 1), release(2, 9));
        assert_eq!(target(None, Some(&four)), Some(2));
        assert_eq!(target(None, Some(&two)), Some(1));
        assert_eq!(target(Some(ReleaseVersion(3)), None), Some(3));
        assert_eq!(target(Some(ReleaseVersion(9)), None), None);
    }

    #[test]
    fn the_latest_word_on_a_quantity_counts() {
        let mut history = History::default();
        let web = |n: u32| BTreeMap::from([("web".parse().unwrap(), n.try_into().unwrap())]);
        history.scale(web(4), &release(1, 1));
        assert_eq!(history.scale_of(&release(1, 1)), web(4));
        assert_eq!(history.scale_of(&release(2, 1)), web(4));
        assert_eq!(history.scale_of(&release(2, 2)), BTreeMap::new());
        assert_eq!(history.scale_of(&release(2, 1)), BTreeMap::new());
    }

    #[test]
    fn only_so_many_are_kept_and_one_that_runs_again_is_the_newest() {
        let mut history = History::default();
        for version in 1..=12 {
            history.begin(&release(version, 1), None, SystemTime::UNIX_EPOCH);
        }
        history.finish_phase(&release(5, 1));
        history.begin(&release(5, 2), None, SystemTime::UNIX_EPOCH);
        let versions: Vec<u64> = history.entries().iter().map(|entry| entry.release.version.0).collect();
        assert_eq!(versions, [3, 4, 6, 7, 8, 9, 10, 11, 12, 5]);
        assert!(history.phase_done(&release(5, 7)) && !history.phase_done(&release(6, 1)));
    }

    #[test]
    fn what_is_live_is_not_forgotten_whatever_comes_and_fails() {
        let mut history = history(&[(1, Verdict::Good), (2, Verdict::Pending)]);
        let live = release(2, 3);
        for version in 3..=30 {
            history.begin(&release(version, 1), Some(&live), SystemTime::UNIX_EPOCH);
            history.judge(&release(version, 1), bad());
        }
        let versions: Vec<u64> = history.entries().iter().map(|entry| entry.release.version.0).collect();
        assert_eq!(versions, [1, 2, 23, 24, 25, 26, 27, 28, 29, 30]);
    }

    #[test]
    fn the_only_good_release_is_never_forgotten() {
        let mut history = history(&[(1, Verdict::Good)]);
        for version in 2..=30 {
            history.begin(&release(version, 1), None, SystemTime::UNIX_EPOCH);
            history.judge(&release(version, 1), bad());
        }
        assert_eq!(history.entries().len(), KEPT);
        assert_eq!(history.find_target(None, None).unwrap().release.version.0, 1);
    }
}
