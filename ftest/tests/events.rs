//! `/events` and `hsup events`: what happens, in order, for who asks, who follows and who comes back.

use hsup_ftest::{App, EventStream, Hsup, Room, get, min_healthy, request};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn version(room: &Room, version: u64, line: &str) -> App {
    room.app().version(version).env("V", &version.to_string()).process("worker", line, 1)
}

/// One good dyno.
fn one_dyno(room: &Room) -> Hsup {
    room.release(&version(room, 1, "exec sleep 600"));
    let hsup = room.hsup(["start", "--min-healthy-time", min_healthy()]).up();
    hsup.wait_up("worker.1");
    hsup
}

fn follow(room: &Room) -> EventStream {
    EventStream::open(&room.socket(), "/events", None)
}

/// All that is kept.
fn kept(room: &Room, query: &str, last: Option<u64>) -> Vec<Value> {
    EventStream::open(&room.socket(), &format!("/events?follow=no{query}"), last).collect()
}

fn is(kind: &'static str) -> impl Fn(&Value) -> bool {
    move |event| event["Type"] == kind
}

fn ids(events: &[Value]) -> Vec<u64> {
    events.iter().filter_map(|event| event["Id"].as_u64()).collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["Type"].as_str()).collect()
}

/// Shows events by the command; what it prints.
fn shown<const N: usize>(room: &Room, args: [&str; N]) -> Vec<String> {
    let ended = room.bare(["events", "-s"]).arg(room.socket()).args(args).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_rollout_that_fails_is_told_step_by_step() {
    let room = Room::new();
    let hsup = one_dyno(&room);
    let mut events = follow(&room);
    let good = events.until("v1 is good", is("release.good"));
    let steps = types(&good);
    assert_eq!(steps[..2], ["release.preparing", "release.live"], "{good:#?}");
    let up = good.iter().find(|event| event["State"] == "up").expect("it came up");
    assert_eq!((&up["Dyno"], &up["Release"]), (&json!("worker.1"), &json!("v1")));
    assert!(up["StartSeconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{up}");
    let line = "echo first; { seq 1 20; echo 'cannot go on'; } >&2; exit 3";
    room.release(&version(&room, 2, line));
    let bad = events.until("v1 is back", is("release.rolled-back"));
    assert_eq!(bad.last().map(|event| (&event["Release"], &event["To"])), Some((&json!("v2"), &json!("v1"))));
    let crashes: Vec<&Value> =
        bad.iter().filter(|event| event["Type"] == "dyno.exit" && event["Release"] == "v2").collect();
    assert!(crashes.len() >= 2, "{bad:#?}");
    for crash in crashes {
        let exit = &crash["LastExit"];
        assert_eq!((&exit["Code"], &exit["Reason"]), (&json!(3), &json!("exited")), "{crash}");
        let lines = exit["LastLines"].as_array().expect("it has printed something");
        assert_eq!(lines.len(), 10, "{crash}");
        assert!(lines.contains(&json!("20")) && lines.contains(&json!("cannot go on")), "{crash}");
        assert!(!lines.contains(&json!("1")), "{crash}");
    }
    let restart = bad.iter().find(|event| event["Type"] == "dyno.restart").expect("the first crash restarts");
    assert_eq!((&restart["Reason"], &restart["Restarts"]), (&json!("exited"), &json!(1)));
    let why = bad.iter().find(|event| event["Type"] == "release.bad").expect("it is bad")["Why"].clone();
    assert!(why.as_str().is_some_and(|why| why.contains("exit status 3")), "{why}");
    events.until("v1 runs", |event| event["State"] == "up" && event["Release"] == "v1");
    let all = ids(&kept(&room, "", None));
    assert!(all.windows(2).all(|two| two[1] == two[0] + 1), "{all:?}");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn the_last_lines_say_why_a_dyno_died() {
    let room = Room::new();
    room.release(&version(&room, 1, "echo starting; echo 'no database at db:5432' >&2; exit 1"));
    let hsup = room.hsup(["start"]).up();
    let dyno = hsup.wait_dyno("worker.1", "crash-loops", |dyno| dyno["State"] == "crashed");
    let lines = dyno["LastExit"]["LastLines"].as_array().expect("there are lines");
    // out and err are two pipes
    assert!(lines.len() == 2 && lines.contains(&json!("no database at db:5432")), "{dyno}");
    let ended = room.bare(["explain", "worker.1", "-s"]).arg(room.socket()).end();
    assert!(ended.stdout.contains("\nThe last that it printed:\n    "), "{ended:?}");
    assert!(ended.stdout.contains("\n    no database at db:5432\n"), "{ended:?}");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn who_comes_back_has_missed_nothing_or_is_told() {
    let room = Room::new();
    let hsup = one_dyno(&room);
    let mut first = follow(&room);
    let seen = first.until("v1 is good", is("release.good"));
    drop(first);
    let last = ids(&seen).last().copied();
    hsup.post("/control/restart", r#"{"Processes":["worker"]}"#);
    let mut again = EventStream::open(&room.socket(), "/events", last);
    let rest = again.until("it is up again", |event| event["State"] == "up");
    assert_eq!(rest[0]["Id"].as_u64(), last.map(|id| id + 1), "{rest:#?}");
    assert_eq!(types(&rest)[0], "command");
    assert_eq!(rest[0]["Arguments"], json!(["worker"]));
    let last = ids(&rest).last().copied();
    assert_eq!(hsup.stop().code, 0);
    let left: Vec<Value> = again.collect();
    assert_eq!(
        left.last().map(|event| &event["State"]),
        Some(&json!("down")),
        "hsup ends the stream: {left:#?}"
    );

    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("worker.1");
    let of_another = kept(&room, "", last);
    assert_eq!((types(&of_another)[0], &of_another[0]["Missed"]), ("gap", &Value::Null), "{of_another:#?}");
    assert!(ids(&of_another)[0] > last.unwrap_or(u64::MAX), "ids grow from one hsup to the next");
    let newest = ids(&of_another).last().copied();
    assert!(kept(&room, "", newest).iter().all(|event| event["Type"] != "gap"));
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_reader_that_reads_nothing_holds_up_nobody_and_is_told_what_it_has_missed() {
    let room = Room::new();
    let hsup = one_dyno(&room);
    let mut slow = follow(&room);
    let first = slow.next().and_then(|event| event["Id"].as_u64()).expect("there is an event");
    let names: Vec<String> = (0..400).map(|n| format!("none.{n}")).collect();
    let body = json!({"Processes": names}).to_string();
    for _ in 0..500 {
        assert_eq!(hsup.post("/control/stop", &body).status, 200);
    }
    hsup.post("/control/restart", r#"{"Processes":["worker.1"]}"#);
    let (mut seen, mut missed, mut newest) = (1, 0, first);
    for event in slow.by_ref() {
        match event["Id"].as_u64() {
            Some(id) => (seen, newest) = (seen + 1, id),
            None => missed += event["Missed"].as_u64().expect("it says how many"),
        }
        if event["State"] == "up" && newest > first + 500 {
            break;
        }
    }
    assert!(missed > 0);
    assert_eq!(seen + missed, newest - first + 1, "every event was shown or counted");
    drop(slow);
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_source_that_fails_says_so_and_when_it_is_well_again() {
    let room = Room::new();
    let hsup = one_dyno(&room);
    let mut events = follow(&room);
    room.put(b"{\"Version\": }");
    let failed = events.until("the file is refused", is("source.failed"));
    let why = failed.last().and_then(|event| event["Why"].as_str()).expect("it says why");
    assert!(why.contains("line 1, column 13"), "{why}");
    room.release(&version(&room, 2, "exec sleep 600"));
    let well = events.until("v2 comes", |event| event["Type"] == "release.good" && event["Release"] == "v2");
    let recovered: Vec<&Value> = well.iter().filter(|event| event["Type"] == "source.recovered").collect();
    assert_eq!(recovered.len(), 1, "{well:#?}");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn what_an_operator_asks_for_is_told_done_or_not() {
    let room = Room::new();
    let hsup = one_dyno(&room);
    hsup.post("/control/scale", r#"{"Quantities":{"worker":2}}"#);
    hsup.wait_up("worker.2");
    hsup.post("/control/rollback", r#"{"Release":"v9"}"#);
    hsup.post("/control/stop", r#"{"Processes":["worker.2"]}"#);
    let commands = kept(&room, "&type=command", None);
    let said =
        |event: &Value| (event["Command"].clone(), event["Arguments"].clone(), event["Refused"].clone());
    let unknown = json!("there is no release v9 in the history; there are: v1");
    let expected = [
        (json!("scale"), json!(["worker=2"]), Value::Null),
        (json!("rollback"), json!(["v9"]), Value::Null),
        (json!("rollback"), json!(["v9"]), unknown),
        (json!("stop"), json!(["worker.2"]), Value::Null),
    ];
    assert_eq!(commands.iter().map(said).collect::<Vec<_>>(), expected);
    let (by, message) = (&commands[2]["By"], commands[2]["Message"].as_str().unwrap_or_default());
    let who = by.as_str().expect("it says who asked");
    assert!(who.contains(&format!("(uid {}, pid ", nix::unistd::getuid())), "{who}");
    let expected =
        " asks: rollback v9, and it is not done: there is no release v9 in the history; there are: v1";
    assert_eq!(message, format!("{who}{expected}"));
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn the_command_shows_lines_and_ends_when_hsup_does() {
    let room = Room::new();
    let hsup = one_dyno(&room);
    let lines = shown(&room, []);
    let live = lines.iter().find(|line| line.contains(" release.live "));
    assert!(live.is_some_and(|line| line.ends_with(" release v1 is live")), "{lines:?}");
    assert_eq!(shown(&room, ["-n", "1"]).len(), 1);
    assert!(shown(&room, ["--type", "release"]).iter().all(|line| line.contains(" release.")));
    assert!(shown(&room, ["--dyno", "worker.1"]).iter().all(|line| line.contains(" worker.1: ")));
    assert_eq!(shown(&room, ["--dyno", "clock"]), [""; 0]);
    for line in shown(&room, ["--json"]) {
        let event: Value = serde_json::from_str(&line).expect("each line is an object");
        assert!(event["Id"].is_u64(), "{event}");
    }
    let follower = room.bare(["events", "-f", "-s"]).arg(room.socket()).spawn();
    follower.wait_line("worker.1: State changed from starting to up");
    hsup.post("/control/restart", r#"{"Processes":["worker.1"]}"#);
    follower.wait_nth_line("worker.1: State changed from starting to up", 2);
    assert_eq!(hsup.stop().code, 0);
    let ended = follower.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    let last = "worker.1: State changed from stopping to down";
    assert!(ended.stdout.trim_end().ends_with(last), "{ended:?}");
    assert_eq!(room.bare(["events", "-s"]).arg(room.socket()).end().code, 69);
}

#[test]
fn when_hsup_is_killed_who_follows_is_told() {
    let room = Room::new();
    let hsup = one_dyno(&room);
    let follower = room.bare(["events", "-f", "-s"]).arg(room.socket()).spawn();
    follower.wait_line("release v1 is live");
    hsup_ftest::procs::signal(hsup.proper(), Signal::SIGKILL);
    let ended = follower.end();
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.stderr.contains("it may have ended meanwhile"), "{ended:?}");
    hsup.end();
}

#[test]
fn questions_that_make_no_sense_are_refused_with_a_hint() {
    let room = Room::new();
    let hsup = one_dyno(&room);
    let queries =
        ["n=many", "n=-1", "follow=perhaps", "type=dyno.died", "type=", "dyno=we%20b", "colour=yes", "%ff"];
    for query in queries {
        let answer = get(&room.socket(), &format!("/events?{query}")).expect("hsup answers");
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert!(answer.json()["hint"].is_string(), "{answer:?}");
    }
    for last in ["x", "-1", "1.5", "18446744073709551616", "1,2"] {
        let head = format!("GET /events?follow=no HTTP/1.0\r\nLast-Event-ID: {last}\r\n\r\n");
        let answer = request(&room.socket(), head.as_bytes()).expect("hsup answers");
        assert_eq!(answer.status, 400, "{last}: {answer:?}");
        let error = answer.json()["error"].as_str().map(str::to_owned).unwrap_or_default();
        assert!(error.contains("Last-Event-ID"), "{error}");
    }
    assert_eq!(kept(&room, "", Some(u64::MAX))[0]["Type"], "gap");
    assert_eq!(hsup.post("/events", "").status, 405);
    assert_eq!(hsup.post("/metrics", "").status, 405);
    let ended =
        room.bare(["events", "-n", "x", "--type", "y", "--dyno", "z 1", "-s"]).arg(room.socket()).end();
    assert_eq!((ended.code, ended.stderr.lines().count()), (64, 3), "{ended:?}");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn so_many_may_follow_and_no_more() {
    let room = Room::new();
    let hsup = one_dyno(&room);
    let mut followers: Vec<EventStream> = (0..32).map(|_| follow(&room)).collect();
    let refused = get(&room.socket(), "/events").expect("hsup answers");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(get(&room.socket(), "/logs?follow").expect("hsup answers").status, 503);
    assert!(!kept(&room, "", None).is_empty(), "who does not follow is answered");
    followers.pop();
    let free = || get(&room.socket(), "/events?n=0&follow=no").filter(|answer| answer.status == 200);
    assert!(free().is_some());
    hsup_ftest::eventually(
        "there is a place again",
        || hsup.printed(),
        || {
            let head = b"GET /events HTTP/1.0\r\n\r\n";
            let mut stream = std::os::unix::net::UnixStream::connect(room.socket()).ok()?;
            std::io::Write::write_all(&mut stream, head).ok()?;
            let mut begin = [0; 12];
            std::io::Read::read_exact(&mut stream, &mut begin).ok()?;
            begin.ends_with(b"200").then_some(())
        },
    );
    assert_eq!(hsup.stop().code, 0);
}
