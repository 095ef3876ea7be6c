//! Golden JSON: what users' scripts parse.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use hsup_drivers::Exit;

use super::*;
use crate::dyno;
use crate::logs::DrainStatus;
use crate::model::ReleaseVersion;

fn at(text: &str) -> SystemTime {
    humantime::parse_rfc3339(text).unwrap()
}

fn dyno(name: &str, state: DynoState) -> DynoStatus {
    DynoStatus {
        name: name.parse().unwrap(),
        state,
        health: Default::default(),
        up_since: None,
        release: ReleaseVersion(3),
        pid: None,
        address: "127.0.0.1".parse().unwrap(),
        port: 5000,
        started_at: None,
        restarts: 0,
        crashes: 0,
        last_exit: None,
        next_retry_at: None,
    }
}

fn shown(dynos: Vec<DynoStatus>) -> StatusResponse {
    let dynos = dynos.into_iter().map(Arc::new).collect();
    StatusResponse::new(
        &FormationStatus { app: None, release: None, formation: BTreeMap::new(), dynos },
        &LogsStatus::default(),
        |_| None,
    )
}

const USAGE: Usage = Usage { memory_bytes: 52_428_800, cpu: Duration::from_millis(1250) };

fn troubled_logs() -> LogsStatus {
    let drain = DrainStatus {
        url: "https://logs.example.com/logs".to_owned(),
        taken_lines: 12,
        sent_lines: 7,
        sent_bytes: 700,
        requests: 2,
        retries: 3,
        dropped_lines: 1,
        buffered_bytes: 400,
        trouble: Some("it answers 503 Service Unavailable".to_owned()),
        ..DrainStatus::default()
    };
    LogsStatus { lines: 12, bytes: 340, drains: vec![drain] }
}

#[test]
fn status_is_what_users_know_and_more() {
    let up = DynoStatus {
        pid: Some(4211),
        started_at: Some(at("2026-01-02T03:04:05.678912Z")),
        ..dyno("web.1", DynoState::Up)
    };
    let crashed = DynoStatus {
        address: "172.16.0.30".parse().unwrap(),
        port: 5101,
        restarts: 4,
        last_exit: Some(dyno::LastExit {
            last_lines: std::sync::Arc::from(["oops".to_owned()]),
            how: dyno::Ended::Exited(Exit::Signal(9)),
            why: dyno::Why::ByItself,
            at: at("2026-01-02T03:04:05Z"),
        }),
        next_retry_at: Some(at("2026-01-02T03:04:15.5Z")),
        ..dyno("worker.2", DynoState::Crashed)
    };
    let status = FormationStatus {
        app: Some("myapp".parse().unwrap()),
        release: Some(ReleaseVersion(3)),
        formation: BTreeMap::from([("web".parse().unwrap(), Quantity::ONE)]),
        dynos: vec![Arc::new(up), Arc::new(crashed)],
    };
    let usage = |pid| (pid == 4211).then_some(USAGE);
    let status = StatusResponse::new(&status, &troubled_logs(), usage);
    let golden = json!({
        "Processes": {
            "web": {"Status": "Started", "IPAddress": "127.0.0.1", "Port": 5000, "ProcessID": 1},
            "worker": {"Status": "Stopped", "IPAddress": "172.16.0.30", "Port": 5101, "ProcessID": 2},
        },
        "Dynos": [
            {
                "Name": "web.1", "Type": "web", "State": "up", "Health": null, "Pid": 4211,
                "IPAddress": "127.0.0.1", "Port": 5000, "Release": "v3",
                "StartedAt": "2026-01-02T03:04:05.678Z", "Restarts": 0, "Crashes": 0, "LastExit": null,
                "NextRetryAt": null, "MemoryBytes": 52_428_800, "CpuSeconds": 1.25,
            },
            {
                "Name": "worker.2", "Type": "worker", "State": "crashed", "Health": null, "Pid": null,
                "IPAddress": "172.16.0.30", "Port": 5101, "Release": "v3", "StartedAt": null, "Restarts": 4, "Crashes": 0,
                "LastExit": {"Signal": 9, "Name": "SIGKILL", "Reason": "exited", "At": "2026-01-02T03:04:05.000Z",
                             "LastLines": ["oops"]},
                "NextRetryAt": "2026-01-02T03:04:15.500Z", "MemoryBytes": null, "CpuSeconds": null,
            },
        ],
        "Release": {"App": "myapp", "Version": "v3"},
        "Formation": {"web": 1},
        "Logs": {"Lines": 12, "Bytes": 340, "Drains": [{
            "URL": "https://logs.example.com/logs", "Lines": 12, "Sent": 7, "SentBytes": 700, "Requests": 2,
            "Retries": 3, "Dropped": 1, "Refused": 0, "BufferedBytes": 400, "Spooled": 0, "SpooledBytes": 0,
            "Trouble": "it answers 503 Service Unavailable",
        }]},
    });
    assert_eq!(serde_json::to_value(&status).unwrap(), golden);
    let mut cut = status;
    cut.dynos[0].started_at = Some(Timestamp(at("2026-01-02T03:04:05.678Z")));
    assert_eq!(serde_json::from_value::<StatusResponse>(golden).unwrap(), cut);
}

#[test]
fn without_a_release_there_are_no_dynos() {
    let golden = json!({
        "Processes": {}, "Dynos": [], "Release": {"App": null, "Version": null}, "Formation": {},
        "Logs": {"Lines": 0, "Bytes": 0, "Drains": []},
    });
    assert_eq!(serde_json::to_value(shown(vec![])).unwrap(), golden);
}

#[test]
fn every_state_has_its_old_word() {
    let words = [
        (DynoState::Stopped, "Stopped"),
        (DynoState::Starting, "Started"),
        (DynoState::Up, "Started"),
        (DynoState::Crashed, "Stopped"),
        (DynoState::Restarting, "Started"),
        (DynoState::Stopping, "Retiring"),
        (DynoState::Retired, "Retired"),
    ];
    for (state, word) in words {
        assert_eq!(serde_json::to_value(ProcessState::from(state)).unwrap(), word, "{state:?}");
    }
}

#[test]
fn a_type_is_shown_by_its_lowest_live_dyno() {
    use DynoState::{Crashed, Retired, Stopping, Up};
    type Dynos = &'static [(&'static str, DynoState)];
    let cases: [(Dynos, u32, ProcessState); 6] = [
        (&[("web.2", Up), ("web.1", Up), ("web.3", Up)], 1, ProcessState::Started),
        (&[("web.1", Stopping), ("web.2", Up)], 2, ProcessState::Started),
        (&[("web.1", Crashed), ("web.2", Up)], 2, ProcessState::Started),
        (&[("web.1", Retired), ("web.1", Up)], 1, ProcessState::Started),
        (&[("web.1", Retired), ("web.2", Stopping)], 2, ProcessState::Retiring),
        (&[("web.2", Retired), ("web.1", Retired)], 1, ProcessState::Retired),
    ];
    for (dynos, number, status) in cases {
        let status_of = shown(dynos.iter().map(|(name, state)| dyno(name, *state)).collect());
        let web = &status_of.processes[&"web".parse::<ProcessType>().unwrap()];
        assert_eq!((web.process_id, web.status), (number, status), "{dynos:?}");
    }
}

#[test]
fn each_way_to_end_has_its_form() {
    let forms = [
        (dyno::Ended::Exited(Exit::Code(3)), json!({"Code": 3})),
        (dyno::Ended::Exited(Exit::Signal(9)), json!({"Signal": 9, "Name": "SIGKILL"})),
        (dyno::Ended::Exited(Exit::Signal(40)), json!({"Signal": 40, "Name": "SIG40"})),
        (
            dyno::Ended::NotStarted { why: "no such file".to_owned(), status: 127 },
            json!({"Error": "no such file", "Code": 127}),
        ),
    ];
    for (how, mut form) in forms {
        let (why, last_lines) = (dyno::Why::ByItself, std::sync::Arc::default());
        let last = LastExit::from(&dyno::LastExit { how, why, at: at("2026-01-02T03:04:05Z"), last_lines });
        form["Reason"] = json!("exited");
        form["At"] = json!("2026-01-02T03:04:05.000Z");
        form["LastLines"] = json!([]);
        assert_eq!(serde_json::to_value(&last).unwrap(), form);
        assert_eq!(serde_json::from_value::<LastExit>(form).unwrap(), last);
    }
}

#[test]
fn times_are_rfc_3339_with_milliseconds() {
    let format = |time: SystemTime| Timestamp(time).to_string();
    let epoch = SystemTime::UNIX_EPOCH;
    assert_eq!(format(epoch), "1970-01-01T00:00:00.000Z");
    assert_eq!(format(epoch + Duration::from_millis(951_782_400_001)), "2000-02-29T00:00:00.001Z");
    assert_eq!(format(epoch - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
    assert_eq!(format(epoch + Duration::from_secs(u64::MAX / 4)), "9999-12-31T23:59:59.000Z");
    for bad in [json!("yesterday"), json!(5), json!("2026-02-30T00:00:00Z"), Value::Null] {
        assert!(serde_json::from_value::<Timestamp>(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn versions_are_text() {
    assert_eq!(serde_json::to_value(Version(ReleaseVersion(7))).unwrap(), "v7");
    for bad in ["7", "v", "vv7", "v-1", ""] {
        assert!(serde_json::from_value::<Version>(json!(bad)).is_err(), "{bad}");
    }
}

#[test]
fn a_stopped_dyno_is_named_as_it_was_asked_for() {
    let stopped = |targets: &[&str], dynos: &[&str]| {
        let targets: Vec<Target> = targets.iter().map(|target| target.parse().unwrap()).collect();
        let dynos: Vec<DynoName> = dynos.iter().map(|dyno| dyno.parse().unwrap()).collect();
        serde_json::to_value(StopResponse::new(&targets, &dynos)).unwrap()
    };
    assert_eq!(stopped(&["web"], &["web.1", "web.2"]), json!({"StoppedProcesses": ["web", "web"]}));
    assert_eq!(stopped(&["web.2"], &["web.2"]), json!({"StoppedProcesses": ["web.2"]}));
    assert_eq!(stopped(&["run"], &["run.1"]), json!({"StoppedProcesses": ["run"]}));
    assert_eq!(stopped(&["a.1", "b"], &["a.1", "b.1"]), json!({"StoppedProcesses": ["a.1", "b"]}));
    assert_eq!(
        stopped(&["web.1", "web"], &["web.1", "web.2"]),
        json!({"StoppedProcesses": ["web.1", "web"]})
    );
    assert_eq!(stopped(&["web"], &[]), json!({"StoppedProcesses": []}));
}
