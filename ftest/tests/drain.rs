//! Drains: what reaches a receiver of log lines, in what form, and what becomes of it while the receiver is in trouble.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hsup_ftest::{Hsup, Mood, Room, Sink, eventually, missing, procs};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Prints so many numbered lines, as fast as it can.
fn numbers(count: u64) -> String {
    format!(
        "awk 'BEGIN{{for(i=0;i<{count};i++) printf \"L%dE the quick brown fox jumps over the lazy dog\\n\", i}}'"
    )
}

/// The first drain as `/status` has it.
fn drain(hsup: &Hsup) -> Value {
    hsup.get("/status").json()["Logs"]["Drains"][0].clone()
}

fn wait_drain(hsup: &Hsup, what: &str, look: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || format!("{}; {}", drain(hsup), hsup.printed()), || Some(drain(hsup)).filter(&look))
}

#[test]
fn lines_arrive_as_log_shuttle_sends_them_and_hsups_own_beside_them() {
    let room = Room::new();
    let sink = Sink::new(&room);
    let line = "echo out; echo err >&2; printf 'no newline'; exec sleep 600";
    room.release(&room.app().process("web", line, 1).field("LogplexURL", sink.url()));
    let hsup = room.hsup(["start"]).up();
    let out = sink.wait_line("web.1", "out");
    assert_eq!((out.prival, out.source.as_str(), out.msgid.as_str()), (190, "app", "-"));
    sink.wait_line("web.1", "err");
    let state = sink.wait_line("web.1", "State changed from starting to up");
    assert_eq!((state.prival, state.source.as_str()), (45, "heroku"));
    let numbers = wait_drain(&hsup, "the drain has sent", |drain| drain["Sent"].as_u64() >= Some(4));
    assert_eq!(numbers["URL"], sink.url().replace("token:s3cret@", ""));
    let ended = hsup.stop();
    sink.wait_line("web.1", "State changed from stopping to down");
    assert!(sink.lines("web.1").contains(&"no newline".to_owned()), "{:?}", sink.got());
    assert_eq!(sink.got().authorization, ["Basic dG9rZW46czNjcmV0"]);
    assert!(!format!("{ended:?}").contains("s3cret"), "{ended:?}");
}

#[test]
fn the_output_of_a_one_off_dyno_goes_both_ways_to_the_last_line() {
    let room = Room::new();
    let sink = Sink::new(&room);
    room.release(&room.app().field("LogplexURL", sink.url()));
    let line = "read word; echo got $word; echo oops >&2; printf 'the last line'; exit 3";
    for n in 1..=10 {
        let ended = room.hsup(["run", line]).input("a word\n").end();
        assert_eq!((ended.code, ended.stdout.as_str()), (3, "got a word\nthe last line"), "{ended:?}");
        assert!(ended.stderr.lines().any(|line| line == "oops"), "{ended:?}");
        let lines = sink.lines("run.1");
        let last = lines.iter().filter(|line| *line == "the last line").count();
        assert_eq!((last, lines.len()), (n, 3 * n), "all have arrived when hsup ends: {lines:?}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_a_one_off_dyno_with_a_drain_as_one_without() {
    let room = Room::new();
    let sink = Sink::new(&room).counting();
    room.release(&room.app().field("LogplexURL", sink.url()));
    let out = "exec \"$@\" > >(head -1)";
    let ended = room.hsup(["run", "yes L0"]).through(["bash", "-c", out, "bash"]).end();
    assert_eq!(ended.code, 128 + 13, "{:?}", &ended.stderr);
}

#[test]
fn a_receiver_that_comes_back_has_missed_nothing() {
    for mood in [Mood::Refuse, Mood::Status(503), Mood::Status(429), Mood::Cut, Mood::Hold] {
        let room = Room::new();
        let sink = Sink::new(&room);
        sink.set(mood.clone());
        let line = format!("{}; echo printed; exec sleep 600", numbers(20_000));
        room.release(&room.app().process("web", &line, 2).field("LogplexURL", sink.url()));
        let hsup = room.hsup(["start"]).up();
        hsup.wait_line("web.1 | printed");
        hsup.wait_line("web.2 | printed");
        if mood != Mood::Hold {
            let drain = wait_drain(&hsup, "it is in trouble", |drain| drain["Trouble"].is_string());
            assert_eq!((drain["Sent"].as_u64(), drain["Dropped"].as_u64()), (Some(0), Some(0)), "{mood:?}");
            hsup.wait_line("cannot send log lines");
        }
        sink.set(Mood::Accept);
        sink.wait_line("web.1", "printed");
        sink.wait_line("web.2", "printed");
        let got = sink.got();
        assert_eq!((got.faults.as_slice(), got.missing), ([].as_slice(), 0), "{mood:?}");
        assert_eq!(got.numbered.into_values().collect::<Vec<_>>(), [20_000, 20_000], "{mood:?}");
        wait_drain(&hsup, "it is well", |drain| drain["Trouble"].is_null());
        assert_eq!(hsup.stop().code, 0);
    }
}

#[test]
fn lines_that_the_receiver_does_not_want_are_not_sent_again_and_counted() {
    let room = Room::new();
    let sink = Sink::new(&room);
    sink.set(Mood::Status(403));
    room.release(
        &room.app().process("web", "echo unwanted; exec sleep 600", 1).field("LogplexURL", sink.url()),
    );
    let hsup = room.hsup(["start"]).up();
    let drain = wait_drain(&hsup, "they are refused", |drain| drain["Refused"].as_u64() >= Some(3));
    assert_eq!((drain["Retries"].as_u64(), drain["Dropped"].as_u64()), (Some(0), Some(0)));
    hsup.wait_line("are the user and the password in the URL right?");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn what_cannot_be_sent_is_sent_after_a_restart_in_order() {
    let room = Room::new();
    let sink = Sink::new(&room);
    sink.set(Mood::Refuse);
    let web = room.app().process("web", &format!("{}; echo first; exec sleep 600", numbers(100_000)), 1);
    room.release(&web.field("LogplexURL", sink.url()));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | first");
    let ended = hsup.stop();
    assert!(ended.stderr.contains("wait on disk for the next start"), "{}", ended.stderr);
    assert_eq!(sink.got().requests, 0);
    sink.set(Mood::Accept);
    let web = room.app().version(2).process("web", "echo second; exec sleep 600", 1);
    room.release(&web.field("LogplexURL", sink.url()));
    let hsup = room.hsup(["start"]).up();
    sink.wait_line("web.1", "second");
    let got = sink.got();
    assert_eq!((got.faults.as_slice(), got.missing, got.numbered["web.1"]), ([].as_slice(), 0, 100_000));
    let place = |text: &str| got.frames.iter().position(|frame| frame.text() == text);
    assert!(place("first") < place("second") && place("first").is_some());
    assert_eq!(hsup.stop().code, 0);
    let left = room.state_files_with("quick brown fox");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_waits_on_disk_outlives_a_kill() {
    let room = Room::new();
    let sink = Sink::new(&room);
    sink.set(Mood::Hold);
    let web = room.app().process("web", &format!("{}; echo first; exec sleep 600", numbers(200_000)), 1);
    room.release(&web.field("LogplexURL", sink.url()));
    let hsup = room.hsup(["--log-buffer", "2MiB", "start"]).up();
    hsup.wait_line("web.1 | first");
    let most = |drain: &Value| drain["Spooled"].as_u64() > Some(150_000);
    let spooled = wait_drain(&hsup, "most lines wait on disk", most)["Spooled"].as_u64().expect("a number");
    procs::signal(hsup.proper(), Signal::SIGKILL);
    assert_eq!(hsup.end().code, 128 + 9);
    sink.set(Mood::Accept);
    let web = room.app().version(2).process("web", "echo second; exec sleep 600", 1);
    room.release(&web.field("LogplexURL", sink.url()));
    let hsup = room.hsup(["start"]).up();
    sink.wait_line("web.1", "second");
    let got = sink.got();
    let came = got.frames.iter().filter(|frame| frame.message.starts_with(b"L")).count() as u64;
    assert!(came >= spooled, "{came} of {spooled} lines that were on disk have come");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_formation_that_runs_sends_what_one_off_dynos_have_left() {
    let room = Room::new();
    let sink = Sink::new(&room);
    sink.set(Mood::Refuse);
    room.release(&room.app().process("web", "exec sleep 600", 1).field("LogplexURL", sink.url()));
    let ended = room.hsup(["run", "echo left behind"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "left behind\n"), "{ended:?}");
    sink.set(Mood::Accept);
    let hsup = room.hsup(["start"]).up();
    sink.wait_line("run.1", "left behind");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn lines_that_there_is_no_room_for_are_dropped_oldest_first_counted_and_told_of() {
    let room = Room::new();
    let sink = Sink::new(&room).counting();
    sink.set(Mood::Hold);
    let line = format!("{}; echo printed; exec sleep 600", numbers(100_000));
    room.release(&room.app().process("web", &line, 1).field("LogplexURL", sink.url()));
    let hsup = room.hsup(["--log-buffer", "2MiB", "--log-spool", "0", "start"]).up();
    hsup.wait_line("web.1 | printed");
    let dropped = wait_drain(&hsup, "lines are dropped", |drain| drain["Dropped"].as_u64() > Some(0));
    assert!(dropped["BufferedBytes"].as_u64() < Some(3 << 20), "{dropped}");
    sink.set(Mood::Accept);
    sink.wait_line("web.1", "printed");
    let told = sink.wait_line("logplex", "Error L10 (output buffer overflow): ");
    assert!(told.text().contains(" messages dropped since 20"), "{told:?}");
    let drain = wait_drain(&hsup, "all is sent", |drain| drain["BufferedBytes"] == 0);
    let got = sink.got();
    let dropped = drain["Dropped"].as_u64().expect("a number");
    assert_eq!(
        (got.faults.as_slice(), got.missing),
        ([].as_slice(), dropped),
        "those that are missing were counted"
    );
    assert_eq!(got.numbered["web.1"], 100_000, "the newest ones are there");
    sink.wait("all of them are told of", |got| {
        let told: u64 = got.frames.iter().filter_map(|frame| told_of(&frame.text())).sum();
        (told == dropped).then_some(())
    });
    hsup.wait_line("log lines dropped since");
    assert!(hsup.get("/logs?n=100000").body.contains("Error L10"));
    assert_eq!(hsup.stop().code, 0);
}

/// How many lines a message says were dropped.
fn told_of(text: &str) -> Option<u64> {
    text.strip_prefix("Error L10 (output buffer overflow): ")?.split(' ').next()?.parse().ok()
}

#[test]
fn a_full_spool_loses_its_oldest_lines() {
    let room = Room::new();
    let sink = Sink::new(&room).counting();
    sink.set(Mood::Hold);
    let line = format!("{}; echo printed; exec sleep 600", numbers(200_000));
    room.release(&room.app().process("web", &line, 1).field("LogplexURL", sink.url()));
    let hsup = room.hsup(["--log-buffer", "2MiB", "--log-spool", "4MiB", "start"]).up();
    hsup.wait_line("web.1 | printed");
    let drain = wait_drain(&hsup, "lines are dropped", |drain| drain["Dropped"].as_u64() > Some(50_000));
    assert!(drain["SpooledBytes"].as_u64() <= Some(4 << 20), "{drain}");
    sink.set(Mood::Accept);
    sink.wait_line("web.1", "printed");
    let dropped = drain_at_rest(&hsup)["Dropped"].as_u64().expect("a number");
    let got = sink.got();
    assert_eq!((got.faults.as_slice(), got.numbered["web.1"]), ([].as_slice(), 200_000));
    // what hsup itself has said of the dyno at its start is among the oldest
    assert!((got.missing..=got.missing + 2).contains(&dropped), "{dropped} dropped, {} missing", got.missing);
    assert_eq!(hsup.stop().code, 0);
}

fn drain_at_rest(hsup: &Hsup) -> Value {
    wait_drain(hsup, "all is sent", |drain| drain["BufferedBytes"] == 0 && drain["Spooled"] == 0)
}

#[test]
fn a_drain_that_blocks_loses_nothing_and_holds_up_who_prints() {
    let room = Room::new();
    let sink = Sink::new(&room).counting();
    sink.set(Mood::Hold);
    let line = format!("{}; echo printed; exec sleep 600", numbers(100_000));
    room.release(&room.app().process("web", &line, 1).field("LogplexURL", sink.url()));
    let hsup =
        room.hsup(["--log-overflow", "block", "--log-buffer", "2MiB", "--log-spool", "0", "start"]).up();
    wait_drain(&hsup, "the buffer is full", |drain| drain["BufferedBytes"].as_u64() > Some(1 << 20));
    assert!(hsup.lines("web.1 | printed").is_empty());
    sink.set(Mood::Slow(Duration::from_millis(5)));
    sink.wait_line("web.1", "printed");
    let got = sink.got();
    assert_eq!((got.faults.as_slice(), got.missing, got.numbered["web.1"]), ([].as_slice(), 0, 100_000));
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_release_with_another_drain_restarts_no_dyno() {
    let room = Room::new();
    let (first, second) = (Sink::new(&room), Sink::new(&room));
    let web = room.app().process("web", "while sleep 0.05; do echo tick; done", 1);
    room.release(&web.clone().field("LogplexURL", first.url()));
    let hsup = room.hsup(["start"]).up();
    first.wait_line("web.1", "tick");
    let pid = hsup.wait_up("web.1");
    room.release(&web.clone().field("LogplexURL", second.url()));
    second.wait_line("web.1", "tick");
    assert_eq!(hsup.dyno_pid("web.1"), pid);
    assert_eq!(drain(&hsup)["URL"], second.url().replace("token:s3cret@", ""));
    room.release(&web);
    let none =
        || hsup.get("/status").json()["Logs"]["Drains"].as_array().is_some_and(Vec::is_empty).then_some(());
    eventually("there is no drain", || hsup.printed(), none);
    assert_eq!(hsup.dyno_pid("web.1"), pid);
    assert_eq!(hsup.stop().code, 0);
    assert_eq!((first.got().faults, second.got().faults), (vec![], vec![]));
}

#[test]
fn drains_that_are_named_get_everything_and_that_of_the_release_nothing() {
    let room = Room::new();
    let sinks = [Sink::new(&room), Sink::new(&room), Sink::new(&room)];
    let [one, other, of_release] = &sinks;
    room.release(
        &room.app().process("web", "echo hello; exec sleep 600", 1).field("LogplexURL", of_release.url()),
    );
    let launch =
        room.hsup(["--logplex-url", &one.url(), "--logplex-url", &other.url(), "--log-gzip", "start"]);
    let hsup = launch.up();
    one.wait_line("web.1", "hello");
    other.wait_line("web.1", "hello");
    // one that is down disturbs the other one as little
    one.set(Mood::Refuse);
    let ended = hsup.stop();
    other.wait_line("web.1", "State changed from stopping to down");
    assert_eq!((ended.code, of_release.got().requests), (0, 0), "{ended:?}");
}

#[test]
fn an_end_is_not_held_up_by_a_receiver_that_hangs() {
    let room = Room::new();
    let sink = Sink::new(&room);
    sink.set(Mood::Hold);
    room.release(&room.app().field("LogplexURL", sink.url()));
    let ended = room.hsup(["--log-flush-timeout", "500ms", "run", "echo bye; exit 4"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (4, "bye\n"), "{ended:?}");
    assert!(ended.stderr.contains("wait on disk"), "{ended:?}");
}

#[test]
fn a_url_that_is_none_is_refused_without_being_shown() {
    let room = Room::new();
    let ended = room.hsup(["--logplex-url", "ftp://t:s3cret@h", "start"]).end();
    assert_eq!(ended.code, 64);
    assert!(ended.stderr.starts_with("--logplex-url: ") && !ended.stderr.contains("s3cret"), "{ended:?}");
}

#[test]
fn syslog_gets_the_same_messages() {
    let room = Room::new();
    let sink = Sink::syslog(&room);
    let line = format!("{}; echo printed; exec sleep 600", numbers(20_000));
    let url = format!("syslog://127.0.0.1:{}", sink.port());
    room.release(&room.app().process("web", &line, 1).field("LogplexURL", url));
    let hsup = room.hsup(["start"]).up();
    sink.wait_line("web.1", "printed");
    sink.set(Mood::Refuse);
    sink.set(Mood::Accept);
    assert_eq!(hsup.stop().code, 0);
    sink.wait_line("web.1", "State changed from stopping to down");
    let got = sink.got();
    assert_eq!((got.faults.as_slice(), got.missing, got.numbered["web.1"]), ([].as_slice(), 0, 20_000));
}

#[test]
fn syslog_over_tls_trusts_the_roots_of_the_host_and_nobody_else() {
    let there = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    if !there {
        return missing("openssl");
    }
    let room = Room::new();
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out ca.pem -days 2 -subj /CN=localhost \
                  -addext basicConstraints=critical,CA:FALSE \
                  -addext subjectAltName=IP:127.0.0.1,DNS:localhost 2>/dev/null";
    let made =
        Command::new("sh").args(["-ec", script]).current_dir(room.dir()).status().expect("there is sh");
    assert!(made.success());
    // a port that was free a moment ago, in the room's own network where there is one
    let port = Sink::new(&room).port() + 1;
    let mut words = room.namespaces().map(|own| own.enter(room.dir())).unwrap_or_default();
    let server = format!("exec openssl s_server -quiet -accept {port} -cert ca.pem -key key.pem");
    words.extend(["sh", "-c", &server].map(Into::into));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(room.dir()).stdout(Stdio::piped()).stdin(Stdio::piped());
    let mut server = Server(command.spawn().expect("there is openssl"));
    let connect = || TcpStream::connect(("127.0.0.1", port)).ok();
    let connect = || room.namespaces().map_or_else(connect, |own| own.within(connect));
    drop(eventually("openssl listens", String::new, connect));
    room.release(&room.app().field("LogplexURL", format!("syslog+tls://127.0.0.1:{port}")));
    let trusting = || room.hsup(["--log-flush-timeout", "2s", "run", "echo in secret"]);
    let untrusted = trusting().end();
    assert!(untrusted.stderr.contains("ertificate"), "{untrusted:?}");
    let trusted = trusting().env("SSL_CERT_FILE", room.path("ca.pem")).end();
    assert!(!trusted.stderr.contains("cannot send"), "{trusted:?}");
    let mut lines = BufReader::new(server.0.stdout.take().expect("it is piped")).split(b'S');
    // the frames have no newlines: what hsup says last of the dyno begins with an S
    let came = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|text| String::from_utf8_lossy(&text).contains(" - in secret"));
    assert!(came);
}

/// A server that ends with its test, however that ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _it_has_ended = self.0.kill().and_then(|()| self.0.wait());
    }
}
