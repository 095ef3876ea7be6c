//! What a release would change, dyno by dyno, before it does: a pure comparison of what should be now with what should
//! be then. Of config vars it tells names, and never values.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Desired;
use crate::model::{ConfigVars, DynoName, Process, Release, ReleaseVersion, VarName};

/// What would become of a dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// There is none of that name, and there would be.
    Started,
    /// One that runs something else would take its place.
    Replaced,
    /// One that runs the same code by the same command would take its place.
    Restarted,
    /// It would be stopped.
    Stopped,
    /// It would go on.
    Unchanged,
}

impl Change {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Replaced => "replaced",
            Self::Restarted => "restarted",
            Self::Stopped => "stopped",
            Self::Unchanged => "unchanged",
        }
    }
}

/// A dyno, what would become of it, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynoChange {
    /// Its name.
    pub name: DynoName,
    /// What would become of it.
    pub change: Change,
    /// Why, in a word or two each.
    pub why: Vec<&'static str>,
}

/// How config vars differ, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VarChanges {
    /// Those that would come.
    pub added: Vec<VarName>,
    /// Those that would have another value.
    pub changed: Vec<VarName>,
    /// Those that would go.
    pub removed: Vec<VarName>,
}

impl VarChanges {
    fn between(now: &ConfigVars, then: &ConfigVars) -> Self {
        let mut changes = Self::default();
        for (name, value) in then.iter() {
            match now.get(name.as_str()) {
                None => changes.added.push(name.clone()),
                Some(before) if before != value => changes.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        let gone = now.iter().filter(|(name, _)| then.get(name.as_str()).is_none());
        changes.removed = gone.map(|(name, _)| name.clone()).collect();
        changes
    }
}

/// What a release would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// What would run.
    pub release: ReleaseVersion,
    /// What runs.
    pub live: Option<ReleaseVersion>,
    /// Whether what would run is not what was asked about: that was rolled back, and stays so.
    pub rolled_back: bool,
    /// Whether the command of its release phase would be run first.
    pub release_phase: bool,
    /// Whether log lines would go elsewhere.
    pub drain: bool,
    /// How the config vars would differ.
    pub config: VarChanges,
    /// Every dyno that there is or would be, sorted by name.
    pub dynos: Vec<DynoChange>,
}

/// A release, and the dynos that should be of it.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) release: &'a Release,
    pub(super) desired: &'a [Desired],
}

/// Compares what should be now with what should be then; `down` are dynos that should be now and are not to run.
pub(super) fn dyno_changes(
    now: Option<Side<'_>>,
    down: &BTreeSet<DynoName>,
    then: Side<'_>,
) -> Vec<DynoChange> {
    let by_name = |side: Side<'_>| -> BTreeMap<DynoName, u16> {
        side.desired.iter().map(|dyno| (dyno.name.clone(), dyno.port)).collect()
    };
    let (before, after) = (now.map(by_name).unwrap_or_default(), by_name(then));
    let names: BTreeSet<&DynoName> = before.keys().chain(after.keys()).collect();
    let stays = now.is_some_and(|now| now.release.needs_no_restart(then.release));
    let change = |name: &DynoName| match (before.get(name), after.get(name), now) {
        (Some(_), _, _) if stays && down.contains(name) => {
            (Change::Unchanged, vec!["stopped by an operator"])
        }
        (Some(from), Some(to), Some(_)) if stays && from == to => (Change::Unchanged, Vec::new()),
        (Some(_), Some(_), Some(_)) if stays => (Change::Restarted, vec!["port"]),
        (Some(_), Some(_), Some(_)) if down.contains(name) => (Change::Started, vec!["release"]),
        (Some(_), Some(_), Some(now)) => taken_over(now.release, then.release, name),
        (None, Some(_), None) => (Change::Started, vec!["first release"]),
        (_, Some(_), _) => (Change::Started, vec!["scale"]),
        (_, None, _) => (Change::Stopped, vec!["scale"]),
    };
    let of_dyno = |name: &DynoName| {
        let (change, why) = change(name);
        DynoChange { name: name.clone(), change, why }
    };
    names.into_iter().map(of_dyno).collect()
}

/// A dyno of another release takes the place of this one: what is different for it.
fn taken_over(now: &Release, then: &Release, name: &DynoName) -> (Change, Vec<&'static str>) {
    let process = |release: &Release| release.formation.find(&name.process_type).cloned();
    let (before, after) = (process(now), process(then));
    let of_process = |differs: fn(&Process, &Process) -> bool| match (&before, &after) {
        (Some(before), Some(after)) => differs(before, after),
        (None, _) | (_, None) => false,
    };
    let other = [
        (now.app != then.app, "app"),
        (now.slug != then.slug || now.slug_checksum != then.slug_checksum, "code"),
        (now.stack != then.stack, "stack"),
        (of_process(|a, b| a.command != b.command), "command"),
    ];
    let same = [
        (now.config != then.config, "config vars"),
        (of_process(|a, b| a.limits != b.limits), "limits"),
        (of_process(|a, b| a.checks != b.checks), "health checks"),
        (of_process(|a, b| a.rollout != b.rollout), "rollout"),
    ];
    let given = |differences: &[(bool, &'static str)]| -> Vec<&'static str> {
        differences.iter().filter(|(differs, _)| *differs).map(|(_, what)| *what).collect()
    };
    let (other, same) = (given(&other), given(&same));
    let change = if other.is_empty() { Change::Restarted } else { Change::Replaced };
    match [other, same].concat() {
        // A release is a whole: what is new of it elsewhere is new for all.
        why if why.is_empty() => (change, vec!["release"]),
        why => (change, why),
    }
}

/// What else is different.
pub(super) fn preview(now: Option<Side<'_>>, down: &BTreeSet<DynoName>, then: Side<'_>) -> Preview {
    let none = ConfigVars::default();
    let vars = now.map_or(&none, |now| &now.release.config);
    let config = VarChanges::between(vars, &then.release.config);
    Preview {
        release: then.release.version,
        live: now.map(|now| now.release.version),
        rolled_back: false,
        release_phase: false,
        drain: now.is_some_and(|now| now.release.logplex_url != then.release.logplex_url),
        config,
        dynos: dyno_changes(now, down, then),
    }
}

#[cfg(test)]
mod tests {
    use hsup_drivers::Network;

    use super::super::ports::{Shape, desired_dynos};
    use super::*;
    use crate::listen::Listeners;
    use crate::model::{AppName, Rollout};
    use crate::sources::control_file;

    fn release(json: &str) -> Release {
        control_file::parse(json.as_bytes(), &AppName::unnamed()).unwrap().release
    }

    fn desired(release: &Release) -> Vec<Desired> {
        let shape = |process: &Process| Shape {
            quantity: process.quantity,
            rollout: Rollout::Replace,
            held_port: None,
        };
        desired_dynos(release, shape, &Listeners::default(), 1, Network::Host).unwrap()
    }

    fn changes(now: Option<&Release>, down: &[&str], then: &Release) -> Vec<String> {
        let (before, after) = (now.map(desired).unwrap_or_default(), desired(then));
        let now = now.map(|release| Side { release, desired: &before });
        let down = down.iter().map(|name| name.parse().unwrap()).collect();
        let preview = preview(now, &down, Side { release: then, desired: &after });
        let text =
            |dyno: &DynoChange| format!("{} {} {}", dyno.name, dyno.change.word(), dyno.why.join(", "));
        preview.dynos.iter().map(text).collect()
    }

    const ONE: &str = r#"{"Version": 1, "Env": {"A": "1", "B": "2"}, "Slug": "a.tgz", "Processes": [
        {"Type": "web", "Quantity": 2, "Args": ["serve"]}, {"Type": "worker", "Quantity": 1, "Args": ["work"]}]}"#;

    #[test]
    fn the_first_release_starts_everything() {
        let started =
            ["web.1 started first release", "web.2 started first release", "worker.1 started first release"];
        assert_eq!(changes(None, &[], &release(ONE)), started);
    }

    #[test]
    fn a_scale_touches_what_comes_and_goes_only() {
        let one = release(ONE);
        let three = release(&ONE.replace("\"Quantity\": 2", "\"Quantity\": 3").replace("y\": 1", "y\": 0"));
        assert_eq!(
            changes(Some(&one), &["web.2"], &three),
            [
                "web.1 unchanged ",
                "web.2 unchanged stopped by an operator",
                "web.3 started scale",
                "worker.1 stopped scale"
            ]
        );
    }

    #[test]
    fn another_release_replaces_or_restarts_and_says_why() {
        let one = release(ONE);
        let of = |from: &str, to: &str| changes(Some(&one), &["web.2"], &release(&ONE.replace(from, to)));
        let all = |what: &str| {
            vec![format!("web.1 {what}"), "web.2 started release".to_owned(), format!("worker.1 {what}")]
        };
        assert_eq!(of("a.tgz", "b.tgz"), all("replaced code"));
        assert_eq!(of("\"A\": \"1\"", "\"A\": \"x\""), all("restarted config vars"));
        assert_eq!(of("\"Version\": 1", "\"Version\": 2"), all("restarted release"));
        assert_eq!(
            of("\"work\"", "\"labour\""),
            ["web.1 restarted release", "web.2 started release", "worker.1 replaced command"]
        );
    }

    #[test]
    fn config_vars_are_named_and_their_values_are_not() {
        let (one, then) =
            (release(ONE), release(&ONE.replace(r#""A": "1", "B": "2""#, r#""A": "s3cret", "C": "3""#)));
        let (before, after) = (desired(&one), desired(&then));
        let now = Side { release: &one, desired: &before };
        let preview = preview(Some(now), &BTreeSet::new(), Side { release: &then, desired: &after });
        let names = |names: &[VarName]| names.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
        let VarChanges { added, changed, removed } = &preview.config;
        assert_eq!(
            (names(added), names(changed), names(removed)),
            (vec!["C".into()], vec!["A".into()], vec!["B".into()])
        );
        assert!(!format!("{preview:?}").contains("s3cret"));
    }
}
