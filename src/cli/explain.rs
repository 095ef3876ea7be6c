//! What `hsup explain` says of a dyno: how it is, why its last run ended, and what happens next and when. A pure
//! function of the status and the time.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::ps_table::human;
use crate::control::wire::{DynoEntry, Ended, LastExit, Timestamp};

/// Explains a dyno in sentences, one a line.
pub(super) fn explain(dyno: &DynoEntry, now: SystemTime) -> String {
    let mut text = how_it_is(dyno, now);
    match &dyno.last_exit {
        Some(last) => {
            _ = write!(text, "\n{}", why_it_ended(last, now));
            append_last_lines(&mut text, &last.last_lines);
        }
        None => text.push_str("\nNo run of it has ended yet."),
    }
    if let Some(next) = what_comes(dyno, now) {
        _ = write!(text, "\n{next}");
    }
    text
}

fn how_it_is(dyno: &DynoEntry, now: SystemTime) -> String {
    let DynoEntry { name, state, release, .. } = dyno;
    let mut text = format!("{name} is {state}, release {release}");
    if let Some(Timestamp(at)) = dyno.started_at {
        _ = write!(text, ", running for {}", human(now.duration_since(at).unwrap_or_default()));
    }
    if let Some(pid) = dyno.pid {
        _ = write!(text, " as process {pid}");
    }
    text.push('.');
    match (dyno.health.as_deref(), &dyno.missing) {
        (Some("booting"), Some(missing)) => _ = write!(text, " It is not ready: {missing}."),
        (Some("booting"), None) => text.push_str(" It has not said yet that it is ready."),
        (Some(health), _) => _ = write!(text, " It is {health}."),
        (None, _) => {}
    }
    text
}

fn why_it_ended(last: &LastExit, now: SystemTime) -> String {
    let ago = human(now.duration_since(last.at.0).unwrap_or_default());
    let how = match &last.how {
        Ended::Exited { code } => format!("its main process exited with status {code}"),
        Ended::Signal { name, .. } => format!("its main process was killed by {name}"),
        Ended::NotStarted { error, .. } => format!("it could not be started: {error}"),
    };
    let detail = last.detail.as_deref().unwrap_or("no reason is known");
    let why = match last.reason.as_str() {
        "out-of-memory" => "; it had used up the memory that it may use (R15)".to_owned(),
        "boot-timeout" => format!("; hsup had ended it, since it was not ready in time (R10): {detail}"),
        "liveness" => format!("; hsup had ended it, since it was not well: {detail}"),
        "exit-timeout" => {
            "; told to end, it had not within the stop timeout, and was killed (R12)".to_owned()
        }
        "restarted" => "; an operator had asked for a restart".to_owned(),
        "retired" => "; hsup had told it to end".to_owned(),
        _ => String::new(),
    };
    format!("Its last run ended {ago} ago: {how}{why}.")
}

/// Shows what a run has printed last, without what would make a terminal do something.
fn append_last_lines(text: &mut String, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    text.push_str("\nThe last that it printed:");
    for line in lines {
        let printed: String = line.chars().filter(|c| *c == '\t' || !c.is_control()).collect();
        _ = write!(text, "\n    {}", printed.trim_end());
    }
}

fn what_comes(dyno: &DynoEntry, now: SystemTime) -> Option<String> {
    let name = &dyno.name;
    match &*dyno.state {
        "crashed" => {
            let wait =
                dyno.next_retry_at.map(|Timestamp(at)| at.duration_since(now).unwrap_or(Duration::ZERO));
            let when = wait.map_or_else(|| "soon".to_owned(), |wait| format!("in {}", human(wait)));
            let crashes = dyno.crashes;
            Some(format!(
                "It crashed {crashes} times in a row and is started again {when}; `hsup restart {name}` starts it now."
            ))
        }
        "down" => Some(format!("It stays down; `hsup restart {name}` starts it.")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn explained(more: Value) -> String {
        let mut dyno = json!({
            "Name": "web.1", "Type": "web", "State": "up", "Health": null, "Pid": null, "IPAddress": "127.0.0.1",
            "Port": 5000, "Release": "v3", "StartedAt": null, "Restarts": 0, "LastExit": null, "NextRetryAt": null,
            "MemoryBytes": null, "CpuSeconds": null,
        });
        dyno.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let now = humantime::parse_rfc3339("2026-01-01T00:03:12Z").unwrap();
        explain(&serde_json::from_value(dyno).unwrap(), now)
    }

    #[test]
    fn a_dyno_that_is_well_says_so() {
        let text =
            explained(json!({"Pid": 42, "StartedAt": "2026-01-01T00:00:00.000Z", "Health": "healthy"}));
        assert_eq!(
            text,
            "web.1 is up, release v3, running for 3m 12s as process 42. It is healthy.\nNo run of it has ended yet."
        );
    }

    #[test]
    fn a_crash_loop_says_why_and_what_comes() {
        let last = json!({"Signal": 9, "Name": "SIGKILL", "Reason": "out-of-memory", "At": "2026-01-01T00:03:10.000Z"});
        let text = explained(
            json!({"State": "crashed", "Crashes": 3, "NextRetryAt": "2026-01-01T00:03:16.000Z", "LastExit": last}),
        );
        assert_eq!(
            text,
            "web.1 is crashed, release v3.\nIts last run ended 2s ago: its main process was killed by SIGKILL; it had \
             used up the memory that it may use (R15).\nIt crashed 3 times in a row and is started again in 4s; `hsup \
             restart web.1` starts it now."
        );
    }

    #[test]
    fn the_last_lines_are_shown_and_do_nothing_to_the_terminal() {
        let last = json!({"Code": 1, "Reason": "exited", "At": "2026-01-01T00:03:10.000Z",
            "LastLines": ["Traceback:", "\tin main", "\u{1b}[2Jboom\u{7}\r"]});
        let text = explained(json!({"LastExit": last}));
        let shown =
            "exited with status 1.\nThe last that it printed:\n    Traceback:\n    \tin main\n    [2Jboom";
        assert!(text.ends_with(shown), "{text:?}");
    }

    #[test]
    fn one_that_boots_says_what_is_missing() {
        let last = json!({"Signal": 15, "Name": "SIGTERM", "Reason": "boot-timeout", "Detail": "nothing listens on port 5000", "At": "2026-01-01T00:03:10.000Z"});
        let text = explained(
            json!({"State": "starting", "Health": "booting", "Missing": "nothing listens on port 5000", "LastExit": last}),
        );
        assert!(
            text.starts_with(
                "web.1 is starting, release v3. It is not ready: nothing listens on port 5000.\n"
            ),
            "{text}"
        );
        assert!(
            text.ends_with("since it was not ready in time (R10): nothing listens on port 5000."),
            "{text}"
        );
    }
}
