//! The table of `hsup ps`: a pure function of the status and the time.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::control::wire::{DrainEntry, DynoEntry, Ended, LastExit, LogsEntry, StatusResponse, Timestamp};

const HEADINGS: [&str; 12] = [
    "DYNO",
    "STATE",
    "HEALTH",
    "UP",
    "RELEASE",
    "PID",
    "ADDRESS",
    "CPU",
    "MEMORY",
    "RESTARTS",
    "LAST EXIT",
    "NEXT RETRY",
];

/// What stands where there is nothing to say, so that columns can be cut apart.
pub(super) const NOTHING: &str = "-";

/// The dynos as a table for people; each line ends with a newline.
pub fn table(status: &StatusResponse, now: SystemTime) -> String {
    if status.dynos.is_empty() {
        return "no dynos\n".to_owned();
    }
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(status.dynos.iter().map(|dyno| row(dyno, now)));
    let drains = status.logs.drains.iter().filter_map(drain);
    std::iter::once(align(&rows)).chain(drains).collect()
}

/// What of a text fits into a window of a terminal, whose last row is the cursor's; each line ends with a newline.
pub(super) fn fit(text: &str, columns: usize, rows: usize) -> String {
    let (all, room) = (text.lines().count(), rows.saturating_sub(1).max(1));
    let shown = if all > room { room - 1 } else { all };
    let rest = (shown < all).then(|| format!("... and {} more lines", all - shown));
    let cut = |line: &str| line.chars().take(columns).chain(['\n']).collect::<String>();
    text.lines().take(shown).chain(rest.as_deref()).map(cut).collect()
}

/// A drain, where there is something about it that an operator should know.
fn drain(drain: &DrainEntry) -> Option<String> {
    let lost = |lines: u64, how: &str| (lines > 0).then(|| format!("{lines} lines {how}"));
    let waiting = drain.trouble.as_ref().and_then(|_| lost(drain.spooled, "wait on disk"));
    let all =
        [drain.trouble.clone(), waiting, lost(drain.dropped, "dropped"), lost(drain.refused, "refused")];
    let all: Vec<String> = all.into_iter().flatten().collect();
    (!all.is_empty()).then(|| format!("drain {}: {}\n", drain.url, all.join("; ")))
}

/// A table whose columns are as wide as they need to be; each line ends with a newline.
pub(super) fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    rows.iter().map(|row| line(row, &widths)).collect()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
    let mut line = cells.collect::<Vec<_>>().join("  ");
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

fn row(dyno: &DynoEntry, now: SystemTime) -> [String; HEADINGS.len()] {
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    [
        dyno.name.to_string(),
        dyno.state.to_string(),
        or_nothing(dyno.health.as_deref().map(str::to_owned)),
        or_nothing(dyno.started_at.map(|at| human(since(at, now)))),
        dyno.release.to_string(),
        or_nothing(dyno.pid.map(|pid| pid.to_string())),
        SocketAddr::new(dyno.ip_address, dyno.port).to_string(),
        or_nothing(dyno.cpu_seconds.map(cpu)),
        or_nothing(dyno.memory_bytes.map(size)),
        dyno.restarts.to_string(),
        or_nothing(dyno.last_exit.as_ref().map(|last| last_exit(last, now))),
        or_nothing(
            dyno.next_retry_at
                .map(|Timestamp(at)| format!("in {}", human(at.duration_since(now).unwrap_or_default()))),
        ),
    ]
}

/// Processor time: `0.3s`, `12s`, `3m 12s`.
fn cpu(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time.as_secs() >= 10 => human(time),
        Ok(_) | Err(_) => format!("{seconds:.1}s"),
    }
}

/// An amount of memory: `812K`, `50M`, `1.5G`.
fn size(bytes: u64) -> String {
    let kib = bytes / 1024;
    match kib {
        0..10_000 => format!("{kib}K"),
        10_000..1_048_576 => format!("{}M", kib / 1024),
        // tenths are exact enough, and a float that is shown as such holds them
        _ => format!("{:.1}G", kib as f64 / 1_048_576.0),
    }
}

/// The status without what changes by itself as time passes, so that two of them are the same if nothing has happened.
pub(super) fn without_passing_time(mut status: StatusResponse) -> StatusResponse {
    for dyno in &mut status.dynos {
        (dyno.cpu_seconds, dyno.memory_bytes) = (None, None);
    }
    status.logs = LogsEntry::default();
    status
}

/// A clock that was set back gives no time at all rather than a negative one.
fn since(Timestamp(at): Timestamp, now: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}

fn last_exit(last: &LastExit, now: SystemTime) -> String {
    let how = match &last.how {
        Ended::Exited { code } => format!("exit {code}"),
        Ended::Signal { name, .. } => name.clone(),
        Ended::NotStarted { code, .. } => format!("no start ({code})"),
    };
    let why = match last.reason.as_str() {
        "out-of-memory" => " (out of memory)",
        "boot-timeout" => " (boot timeout)",
        "liveness" => " (not well)",
        "exit-timeout" => " (exit timeout)",
        _ => "",
    };
    format!("{how}{why}, {} ago", human(since(last.at, now)))
}

/// The two largest units: `45s`, `3m 12s`, `2h 5m`, `4d 3h`.
pub(super) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn durations_have_at_most_two_units() {
        let human = |seconds| human(Duration::from_secs(seconds));
        assert_eq!(human(0), "0s");
        assert_eq!(human(59), "59s");
        assert_eq!(human(60), "1m 0s");
        assert_eq!(human(192), "3m 12s");
        assert_eq!(human(3599), "59m 59s");
        assert_eq!(human(7500), "2h 5m");
        assert_eq!(human(86_399), "23h 59m");
        assert_eq!(human(90 * 86_400 + 3 * 3600), "90d 3h");
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!([0.0, 9.96, 10.4, 192.0].map(cpu), ["0.0s", "10.0s", "10s", "3m 12s"]);
        assert_eq!([831_488, 52_428_800, 1_610_612_736].map(size), ["812K", "50M", "1.5G"]);
    }

    #[test]
    fn what_does_not_fit_into_a_window_is_cut() {
        let text = "DYNO   STATE\nweb.1  up\nweb.2  up\n";
        assert_eq!(fit(text, 80, 4), text);
        assert_eq!(fit(text, 8, 24), "DYNO   S\nweb.1  u\nweb.2  u\n");
        assert_eq!(fit(text, 80, 3), "DYNO   STATE\n... and 2 more lines\n");
        assert_eq!(fit(text, 80, 1), "... and 3 more lines\n");
    }

    #[test]
    fn drains_are_shown_that_lose_lines_or_are_in_trouble() {
        let entry = |trouble: Option<&str>, dropped: u64| DrainEntry {
            url: "https://h/logs".to_owned(),
            lines: 9,
            sent: 1,
            sent_bytes: 90,
            requests: 1,
            retries: 2,
            dropped,
            refused: 0,
            buffered_bytes: 0,
            spooled: 5,
            spooled_bytes: 50,
            trouble: trouble.map(str::to_owned),
        };
        assert_eq!(drain(&entry(None, 0)), None);
        assert_eq!(drain(&entry(None, 3)).unwrap(), "drain https://h/logs: 3 lines dropped\n");
        let text = drain(&entry(Some("connection refused"), 0)).unwrap();
        assert_eq!(text, "drain https://h/logs: connection refused; 5 lines wait on disk\n");
    }

    #[test]
    fn no_dynos_are_said_to_be_none() {
        let status = serde_json::from_value(json!({"Processes": {}})).unwrap();
        assert_eq!(table(&status, at("2026-01-01T00:00:00Z")), "no dynos\n");
    }

    #[test]
    fn the_table_is_aligned_and_has_no_trailing_blanks() {
        let dyno = |name: &str, state: &str, more: serde_json::Value| {
            let mut dyno = json!({
                "Name": name, "Type": "web", "State": state, "Health": null, "Pid": null,
                "IPAddress": "127.0.0.1", "Port": 5000, "Release": "v3", "StartedAt": null, "Restarts": 0,
                "LastExit": null, "NextRetryAt": null, "MemoryBytes": null, "CpuSeconds": null,
            });
            dyno.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            dyno
        };
        let status = serde_json::from_value(json!({"Processes": {}, "Dynos": [
            dyno("web.1", "up", json!({
                "Pid": 4211, "StartedAt": "2026-01-01T00:00:00.000Z", "Health": "healthy", "CpuSeconds": 1.24,
                "MemoryBytes": 52_428_800,
            })),
            dyno("web.2", "crashed", json!({
                "Restarts": 12, "NextRetryAt": "2026-01-01T00:03:20.000Z",
                "LastExit": {"Signal": 9, "Name": "SIGKILL", "At": "2026-01-01T00:03:10.000Z"},
            })),
            dyno("web.3", "up", json!({
                "IPAddress": "::1", "StartedAt": "2026-02-01T00:00:00.000Z",
                "LastExit": {"Error": "bash: not found", "Code": 127, "At": "2025-12-31T00:00:00.000Z"},
            })),
        ]}));
        let expected = "\
DYNO   STATE    HEALTH   UP      RELEASE  PID   ADDRESS         CPU   MEMORY  RESTARTS  LAST EXIT                  NEXT RETRY
web.1  up       healthy  3m 12s  v3       4211  127.0.0.1:5000  1.2s  50M     0         -                          -
web.2  crashed  -        -       v3       -     127.0.0.1:5000  -     -       12        SIGKILL, 2s ago            in 8s
web.3  up       -        0s      v3       -     [::1]:5000      -     -       0         no start (127), 1d 0h ago  -
";
        assert_eq!(table(&status.unwrap(), at("2026-01-01T00:03:12Z")), expected);
    }
}
