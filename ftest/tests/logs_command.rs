//! `hsup logs` and `/logs`: the newest lines, and those that come.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use hsup_ftest::{Hsup, Room, get};
use serde_json::Value;

fn logs<const N: usize>(room: &Room, args: [&str; N]) -> Vec<String> {
    let ended = room.bare(["logs", "-s"]).arg(room.socket()).args(args).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.stdout.lines().map(str::to_owned).collect()
}

/// Two dynos that have printed what they have to print.
fn two_dynos(room: &Room) -> Hsup {
    let app = room.app().process("web", "seq 1 300; echo oops >&2; exec sleep 600", 1);
    room.release(&app.process("worker", "echo at work; exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | 300");
    hsup.wait_line("web.1 | oops");
    hsup.wait_line("worker.1 | at work");
    hsup.wait_up("web.1");
    hsup.wait_up("worker.1");
    hsup
}

#[test]
fn the_newest_lines_are_shown_as_heroku_shows_them() {
    let room = Room::new();
    let hsup = two_dynos(&room);
    assert_eq!(logs(&room, []).len(), 100);
    let web = logs(&room, ["--dyno", "web.1", "-n", "1000"]);
    let (time, rest) = web
        .iter()
        .find(|line| line.ends_with("]: 300"))
        .and_then(|line| line.split_once(' '))
        .expect("it is there");
    assert_eq!((time.len(), rest), ("2026-11-21T10:00:00.000000+00:00".len(), "app[web.1]: 300"));
    assert!(
        web.iter().any(|line| line.ends_with(" heroku[web.1]: State changed from starting to up")),
        "{web:?}"
    );
    assert!(web.iter().all(|line| line.contains("[web.1]: ")));
    let printed: Vec<&String> =
        web.iter().filter(|line| line.contains(" app[web.1]: ") && !line.ends_with("oops")).collect();
    assert_eq!(printed.len(), 300);
    assert!(logs(&room, ["--type", "worker"]).iter().all(|line| line.contains("[worker.1]: ")));
    assert_eq!(logs(&room, ["-n", "3"]).len(), 3);
    assert!(logs(&room, ["--since", "1h"]).len() > 300);
    assert_eq!(logs(&room, ["--since", "2100-01-01T00:00:00Z"]), [""; 0]);
    let json: Vec<Value> = logs(&room, ["--json", "--since", "1h"])
        .iter()
        .map(|line| serde_json::from_str(line).expect("each line is an object"))
        .collect();
    let oops = json.iter().find(|entry| entry["Message"] == "oops").expect("it is there");
    assert_eq!(
        (&oops["Dyno"], &oops["Stream"], &oops["Source"]),
        (&"web.1".into(), &"stderr".into(), &"app".into())
    );
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_name_that_no_dyno_has_is_warned_of() {
    let room = Room::new();
    let hsup = two_dynos(&room);
    for [command, option] in [["logs", "--type"], ["events", "--dyno"]] {
        let ended =
            room.bare([command, option, "wbe", "--dyno", "web.1", "-n", "1", "-s"]).arg(room.socket());
        let ended = ended.end();
        assert_eq!((ended.code, ended.stdout.lines().count()), (0, 1), "{ended:?}");
        let warning = "hsup: warning: no dyno is called wbe; there are: web, worker\n";
        assert_eq!(ended.stderr, warning, "{command}: {ended:?}");
    }
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn lines_outlive_the_restart_of_their_dyno() {
    let room = Room::new();
    room.release(&room.app().process("web", "echo run; exit 1", 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_nth_line("web.1 | run", 2);
    let lines = logs(&room, []);
    assert!(lines.iter().filter(|line| line.ends_with(" app[web.1]: run")).count() >= 2, "{lines:?}");
    assert!(
        lines.iter().any(|line| line.ends_with(" heroku[web.1]: Process exited with status 1")),
        "{lines:?}"
    );
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn who_follows_sees_what_comes_to_the_last_line() {
    let room = Room::new();
    let line = "trap 'echo bye; exit' TERM; echo ready; while :; do sleep 0.02; echo tick; done";
    room.release(&room.app().process("web", line, 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | ready");
    let follower = room.bare(["logs", "-f", "--dyno", "web.1", "-s"]).arg(room.socket()).spawn();
    follower.wait_line("app[web.1]: ready");
    follower.wait_nth_line("app[web.1]: tick", 20);
    assert_eq!(hsup.stop().code, 0);
    let ended = follower.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("app[web.1]: bye"), "{ended:?}");
    assert!(
        ended.stdout.trim_end().ends_with("heroku[web.1]: State changed from stopping to down"),
        "{ended:?}"
    );
}

#[test]
fn a_reader_that_reads_nothing_holds_up_nobody_and_is_told_what_it_has_missed() {
    let room = Room::new();
    // more than hsup keeps twice, once in its buffer and once on the way to the reader
    let line = "echo ready; sleep 1; seq 1 1000000; echo printed; exec sleep 600";
    room.release(&room.app().process("web", line, 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | ready");
    let mut stream = UnixStream::connect(room.socket()).expect("hsup listens");
    stream.write_all(b"GET /logs?follow HTTP/1.1\r\nHost: ftest\r\n\r\n").expect("hsup reads");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !line.ends_with("]: ready\n") {
        line.clear();
        assert!(reader.read_line(&mut line).expect("hsup answers") > 0);
    }
    hsup.wait_line("web.1 | printed");
    let (mut lines, mut missed) = (0_u64, 0_u64);
    while !line.ends_with("]: printed\n") {
        line.clear();
        assert!(reader.read_line(&mut line).expect("hsup answers") > 0);
        if let Some((_, told)) = line.split_once(" heroku[logs]: ") {
            missed += told.split(' ').next().and_then(|count| count.parse::<u64>().ok()).expect("a number");
        } else if line.contains(" app[web.1]: ") {
            lines += 1;
        }
    }
    assert!(missed > 0);
    // and the one line that the reader began with is none of these
    assert_eq!(lines + missed, 1_000_001, "every line was shown or counted");
    drop(reader);
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn queries_that_make_no_sense_are_refused_with_a_hint() {
    let room = Room::new();
    let hsup = two_dynos(&room);
    for query in ["n=many", "since=yesterday", "colour=yes", "dyno=we%20b"] {
        let answer = get(&room.socket(), &format!("/logs?{query}")).expect("hsup answers");
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert!(answer.json()["hint"].is_string(), "{answer:?}");
    }
    let ended = room.bare(["logs", "--since", "yesterday", "-n", "x", "-s"]).arg(room.socket()).end();
    assert_eq!((ended.code, ended.stderr.lines().count()), (64, 2), "{ended:?}");
    assert_eq!(hsup.post("/logs", "").status, 405);
    assert_eq!(hsup.stop().code, 0);
    let ended = room.bare(["logs", "-s"]).arg(room.socket()).end();
    assert_eq!(ended.code, 69, "{ended:?}");
}

#[test]
fn a_client_that_goes_away_is_forgotten() {
    let room = Room::new();
    let hsup = two_dynos(&room);
    for _ in 0..100 {
        let mut stream = UnixStream::connect(room.socket()).expect("hsup listens");
        stream.write_all(b"GET /logs?follow HTTP/1.1\r\nHost: ftest\r\n\r\n").expect("hsup reads");
        let mut some = [0; 12];
        stream.read_exact(&mut some).expect("hsup answers");
        assert_eq!(&some, b"HTTP/1.1 200", "{}", hsup.printed());
    }
    assert_eq!(hsup.stop().code, 0);
}
