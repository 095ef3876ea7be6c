//! Events as JSON. Each has an id, a time, a type, a sentence for people, and what belongs to its type.

use serde::{Deserialize, Serialize};

use super::{LastExit, Timestamp, Version};
use crate::events::{DynoNews, Event, Missed, ReleaseNews, What};

/// An event.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EventEntry {
    /// Its number; none for a gap. Below 2^53, so that every reader of JSON can hold it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// When.
    pub time: Timestamp,
    /// What: `dyno.state`, ..., `gap`.
    pub r#type: &'static str,
    /// The same for people.
    pub message: String,
    #[serde(flatten)]
    detail: Detail,
}

/// What belongs to a type.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Detail {
    #[serde(rename_all = "PascalCase")]
    State {
        dyno: String,
        release: Version,
        from: &'static str,
        state: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        start_seconds: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ready_seconds: Option<f64>,
    },
    #[serde(rename_all = "PascalCase")]
    Exit { dyno: String, release: Version, last_exit: LastExit },
    #[serde(rename_all = "PascalCase")]
    Restart { dyno: String, release: Version, reason: &'static str, restarts: u64 },
    #[serde(rename_all = "PascalCase")]
    Memory { dyno: String, release: Version },
    #[serde(rename_all = "PascalCase")]
    Release {
        release: Version,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<Version>,
    },
    #[serde(rename_all = "PascalCase")]
    SourceFailed { why: String },
    #[serde(rename_all = "PascalCase")]
    SourceRecovered { failures: u64 },
    #[serde(rename_all = "PascalCase")]
    Command {
        by: String,
        command: &'static str,
        arguments: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
    },
    #[serde(rename_all = "PascalCase")]
    Gap { missed: Option<u64> },
}

/// The word for events that a reader should have had and will not get.
pub const GAP: &str = "gap";

impl EventEntry {
    /// In place of events that are no longer kept.
    pub fn gap(missed: Missed, time: Timestamp) -> Self {
        let (message, missed) = match missed {
            Missed::Events(count) => {
                (format!("{count} events missed: they came faster than they were read"), Some(count))
            }
            Missed::OfAnEarlierHsup => {
                ("events may be missed: what came last is not of this hsup".to_owned(), None)
            }
        };
        Self { id: None, time, r#type: GAP, message, detail: Detail::Gap { missed } }
    }
}

impl From<&Event> for EventEntry {
    fn from(event: &Event) -> Self {
        Self {
            id: Some(event.id),
            time: Timestamp(event.at),
            r#type: event.what.word(),
            message: event.what.to_string(),
            detail: Detail::from(&event.what),
        }
    }
}

impl From<&What> for Detail {
    fn from(what: &What) -> Self {
        match what {
            What::Dyno { dyno, release, news } => Self::of_dyno(dyno.to_string(), Version(*release), news),
            What::Release { release, news } => Self::of_release(Version(*release), news),
            What::SourceFailed { why } => Self::SourceFailed { why: why.clone() },
            What::SourceRecovered { failures } => Self::SourceRecovered { failures: *failures },
            What::Command { by, command, arguments, refused } => Self::Command {
                by: by.clone(),
                command,
                arguments: arguments.clone(),
                refused: refused.clone(),
            },
        }
    }
}

impl Detail {
    fn of_dyno(dyno: String, release: Version, news: &DynoNews) -> Self {
        match news {
            DynoNews::State { from, to, started_in, ready_in } => Self::State {
                dyno,
                release,
                from: from.word(),
                state: to.word(),
                start_seconds: started_in.map(|time| time.as_secs_f64()),
                ready_seconds: ready_in.map(|time| time.as_secs_f64()),
            },
            DynoNews::Exit(exit) => Self::Exit { dyno, release, last_exit: exit.into() },
            DynoNews::Restart { reason, restarts } => {
                Self::Restart { dyno, release, reason, restarts: *restarts }
            }
            DynoNews::Memory => Self::Memory { dyno, release },
        }
    }

    fn of_release(release: Version, news: &ReleaseNews) -> Self {
        let (why, to) = match news {
            ReleaseNews::Preparing | ReleaseNews::Live | ReleaseNews::Good => (None, None),
            ReleaseNews::Failed { why } | ReleaseNews::Bad { why } => (Some(why.clone()), None),
            ReleaseNews::RolledBack { to } => (None, Some(Version(*to))),
        };
        Self::Release { release, why, to }
    }
}

/// What every event has for people, whatever its type: a client understands those of a newer hsup.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EventHead {
    /// When.
    pub time: Timestamp,
    /// What: `dyno.state`, ..., `gap`.
    pub r#type: String,
    /// A sentence.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use hsup_drivers::Exit;
    use serde_json::{Value, json};

    use super::*;
    use crate::dyno::{self, DynoState};
    use crate::model::ReleaseVersion;

    fn shown(what: What) -> Value {
        let mut shown =
            serde_json::to_value(EventEntry::from(&Event { id: 7, at: SystemTime::UNIX_EPOCH, what }))
                .unwrap();
        let head: EventHead = serde_json::from_value(shown.clone()).unwrap();
        let fields = shown.as_object_mut().unwrap();
        assert_eq!(
            (fields.remove("Id"), fields.remove("Message")),
            (Some(7.into()), Some(head.message.into()))
        );
        assert_eq!(fields.remove("Time").unwrap(), "1970-01-01T00:00:00.000Z");
        assert_eq!(fields["Type"], head.r#type);
        shown
    }

    #[test]
    fn each_type_has_its_fields() {
        let dyno = |news| What::Dyno { dyno: "web.1".parse().unwrap(), release: ReleaseVersion(3), news };
        let release = |news| What::Release { release: ReleaseVersion(3), news };
        let (from, to, started_in) = (DynoState::Starting, DynoState::Up, Some(Duration::from_millis(2)));
        assert_eq!(
            shown(dyno(DynoNews::State { from, to, started_in, ready_in: None })),
            json!({"Type": "dyno.state", "Dyno": "web.1", "Release": "v3", "From": "starting", "State": "up", "StartSeconds": 0.002})
        );
        let exit = dyno::LastExit {
            how: dyno::Ended::Exited(Exit::Code(3)),
            why: dyno::Why::ByItself,
            at: SystemTime::UNIX_EPOCH,
            last_lines: Arc::from(["oops".to_owned()]),
        };
        assert_eq!(
            shown(dyno(DynoNews::Exit(exit))),
            json!({"Type": "dyno.exit", "Dyno": "web.1", "Release": "v3", "LastExit": {
                "Code": 3, "Reason": "exited", "At": "1970-01-01T00:00:00.000Z", "LastLines": ["oops"]}})
        );
        assert_eq!(
            shown(dyno(DynoNews::Restart { reason: "exited", restarts: 2 })),
            json!({"Type": "dyno.restart", "Dyno": "web.1", "Release": "v3", "Reason": "exited", "Restarts": 2})
        );
        assert_eq!(
            shown(release(ReleaseNews::Bad { why: "it crashes".to_owned() })),
            json!({"Type": "release.bad", "Release": "v3", "Why": "it crashes"})
        );
        assert_eq!(
            shown(release(ReleaseNews::RolledBack { to: ReleaseVersion(2) })),
            json!({"Type": "release.rolled-back", "Release": "v3", "To": "v2"})
        );
        assert_eq!(
            shown(What::Command {
                by: "root (uid 0)".to_owned(),
                command: "stop",
                arguments: vec!["web".to_owned()],
                refused: None
            }),
            json!({"Type": "command", "By": "root (uid 0)", "Command": "stop", "Arguments": ["web"]})
        );
        assert_eq!(
            shown(What::SourceRecovered { failures: 2 }),
            json!({"Type": "source.recovered", "Failures": 2})
        );
    }

    #[test]
    fn a_gap_has_no_id() {
        let gap = EventEntry::gap(Missed::Events(3), Timestamp(SystemTime::UNIX_EPOCH));
        let gap = serde_json::to_value(gap).unwrap();
        assert_eq!((&gap["Type"], &gap["Missed"], gap.get("Id")), (&"gap".into(), &3.into(), None));
    }
}
