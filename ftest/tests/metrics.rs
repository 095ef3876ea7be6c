//! `/metrics`: what is told of a running hsup. That Prometheus understands it is tested in `prometheus.rs`.

use std::collections::BTreeMap;

use hsup_ftest::{Hsup, Room, eventually, get, procs};
use nix::sys::signal::Signal;

/// Every sample by its name and labels.
fn samples(hsup: &Hsup) -> BTreeMap<String, f64> {
    let answer = hsup.get("/metrics");
    assert_eq!(answer.status, 200);
    let content_type = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(answer.head.lines().any(|line| line == content_type), "{answer:?}");
    assert!(answer.body.ends_with("# EOF\n"), "{answer:?}");
    let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
            (name.to_owned(), value.parse().expect("the value is a number"))
        })
        .collect()
}

fn wait(hsup: &Hsup, name: &str, value: f64) {
    let look = || (samples(hsup).get(name).copied().unwrap_or_default() == value).then_some(());
    eventually(&format!("{name} is {value}"), || format!("{:#?}", samples(hsup)), look);
}

#[test]
fn a_crash_is_counted_where_it_belongs() {
    let room = Room::new();
    room.release(&room.app().process("worker", "echo hello; exec sleep 600", 2));
    let hsup = room.hsup(["start", "--min-healthy-time", "100ms"]).up();
    hsup.wait_up("worker.1");
    hsup.wait_up("worker.2");
    wait(&hsup, r#"hsup_releases_total{verdict="good"}"#, 1.0);
    let before = samples(&hsup);
    let value = |samples: &BTreeMap<String, f64>, name: &str| samples.get(name).copied();
    let restarts = r#"hsup_dyno_restarts_total{process_type="worker",reason="exited"}"#;
    let starts = r#"hsup_dyno_start_seconds_count{process_type="worker"}"#;
    assert_eq!(value(&before, restarts), None);
    assert_eq!(value(&before, starts), Some(2.0));
    assert_eq!(value(&before, r#"hsup_dynos{process_type="worker",state="up"}"#), Some(2.0));
    assert_eq!(value(&before, r#"hsup_dynos{process_type="worker",state="crashed"}"#), Some(0.0));
    assert_eq!(value(&before, r#"hsup_dynos_wanted{process_type="worker"}"#), Some(2.0));
    assert_eq!(value(&before, r#"hsup_release_info{app="app",version="v1"}"#), Some(1.0));
    assert!(value(&before, r#"hsup_source_polls_total{result="success"}"#) >= Some(1.0));
    assert!(value(&before, "hsup_log_lines_total") >= Some(2.0));
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"] {
        assert!(value(&before, name) > Some(1.0), "{name}: {before:#?}");
    }
    hsup.post("/control/restart", r#"{"Processes":["worker.2"]}"#);
    procs::signal(hsup.dyno_pid("worker.1"), Signal::SIGKILL);
    wait(&hsup, restarts, 1.0);
    wait(&hsup, r#"hsup_dyno_restarts_total{process_type="worker",reason="restarted"}"#, 1.0);
    wait(&hsup, starts, 4.0);
    wait(&hsup, r#"hsup_dynos{process_type="worker",state="up"}"#, 2.0);
    room.put(b"no release");
    wait(&hsup, r#"hsup_source_polls_total{result="failure"}"#, 1.0);
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn without_a_release_there_are_metrics_all_the_same() {
    let room = Room::new();
    let hsup = room.hsup(["start"]).up();
    let samples = samples(&hsup);
    assert!(samples.contains_key("process_start_time_seconds"), "{samples:#?}");
    assert!(!samples.keys().any(|name| name.starts_with("hsup_dynos")), "{samples:#?}");
    let head = get(&room.socket(), "/metrics?x=1").expect("hsup answers");
    assert_eq!(head.status, 200);
    assert_eq!(hsup.stop().code, 0);
}
