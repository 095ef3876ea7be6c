//! Lines that are hard to carry: very many, very long, binary, torn; and receivers that stall.

use std::time::Duration;

use hsup_ftest::{Frame, Mood, Room, Sink};

/// How long five million lines may take, with a build that is not optimised on a busy machine.
const LONG: Duration = Duration::from_secs(240);

#[test]
fn five_million_lines_arrive_in_order() {
    const LINES: u64 = 5_000_000;
    let room = Room::new();
    let sink = Sink::new(&room).counting();
    let line =
        format!("awk 'BEGIN{{for(i=0;i<{LINES};i++) printf \"L%dE\\n\", i}}'; echo printed; exec sleep 600");
    room.release(&room.app().process("web", &line, 1).field("LogplexURL", sink.url()));
    // a build that is not optimised is slower than awk, and what is tested is that nothing gets lost on the way
    let quiet = ["sh", "-c", "exec \"$@\" >/dev/null", "sh"];
    let hsup = room.hsup(["--log-overflow", "block", "start"]).through(quiet).up();
    sink.wait_long("the last line", LONG, |got| (got.numbered.get("web.1") == Some(&LINES)).then_some(()));
    let got = sink.got();
    assert_eq!((got.faults.as_slice(), got.missing, got.again), ([].as_slice(), 0, 0));
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn ten_megabytes_without_a_newline_arrive_in_pieces_that_say_so() {
    let room = Room::new();
    let sink = Sink::new(&room);
    let line = "head -c 10000000 /dev/zero | tr '\\0' x; echo; echo next; exec sleep 600";
    room.release(&room.app().process("web", line, 1).field("LogplexURL", sink.url()));
    let hsup = room.hsup(["start"]).up();
    sink.wait_line("web.1", "next");
    let frames: Vec<Frame> = sink.got().frames.into_iter().filter(|frame| frame.source == "app").collect();
    let (long, next) = frames.split_at(frames.len() - 1);
    let (parts, last) = long.split_at(long.len() - 1);
    assert!(parts.iter().all(|part| part.msgid == "part" && part.message.len() == 10_000));
    assert_eq!((last[0].msgid.as_str(), next[0].msgid.as_str(), next[0].text().as_str()), ("-", "-", "next"));
    assert_eq!(long.iter().map(|part| part.message.len()).sum::<usize>(), 10_000_000);
    assert_eq!(sink.got().faults, [""; 0]);
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn bytes_that_are_no_text_pass_through() {
    let room = Room::new();
    let sink = Sink::new(&room);
    let line = "for i in $(seq 0 255); do [ $i = 10 ] || printf \"\\\\$(printf %03o $i)\"; done; echo; exec sleep 600";
    room.release(&room.app().process("web", line, 1).field("LogplexURL", sink.url()));
    let hsup = room.hsup(["start"]).up();
    let all: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    sink.wait("every byte", |got| got.frames.iter().any(|frame| frame.message == all).then_some(()));
    assert_eq!(sink.got().faults, [""; 0]);
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_dyno_that_is_killed_in_the_middle_of_a_line_leaves_what_it_has_printed() {
    let room = Room::new();
    let sink = Sink::new(&room);
    room.release(
        &room.app().process("web", "printf 'half a'; kill -9 $$", 1).field("LogplexURL", sink.url()),
    );
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | half a");
    assert_eq!(sink.wait_line("web.1", "half a").text(), "half a");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn what_daemons_print_after_the_main_process_has_ended_is_read() {
    let room = Room::new();
    let sink = Sink::new(&room);
    room.release(&room.app().field("LogplexURL", sink.url()));
    // told to end after the main process has ended, and slow to do so
    let daemon = "(trap 'sleep 0.2; echo late; exit' TERM; touch ready; while :; do sleep 0.05; done) &";
    let line =
        format!("cd \"$(mktemp -d)\"; {daemon} until [ -e ready ]; do sleep 0.01; done; echo early; exit 3");
    let ended = room.hsup(["run", &line]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (3, "early\nlate\n"), "{ended:?}");
    let lines = sink.lines("run.1");
    assert_eq!(
        (lines.first().map(String::as_str), lines.last().map(String::as_str)),
        (Some("early"), Some("late"))
    );
}

#[test]
fn a_receiver_that_stalls_for_half_a_minute_holds_up_nobody_and_misses_nothing() {
    const STALL: Duration = Duration::from_secs(30);
    let room = Room::new();
    let sink = Sink::new(&room);
    sink.set(Mood::Hold);
    let line = "i=0; while sleep 0.01; do echo \"L${i}E\"; i=$((i+1)); done";
    room.release(&room.app().process("web", line, 3).field("LogplexURL", sink.url()));
    let hsup = room.hsup(["start"]).up();
    let began = std::time::Instant::now();
    let mut printed = 0;
    while began.elapsed() < STALL {
        // nobody is slowed down meanwhile
        let next = printed + 50;
        hsup.wait_line(&format!("web.2 | L{next}E"));
        printed = next;
    }
    sink.set(Mood::Accept);
    sink.wait("everything that was printed", |got| {
        (got.numbered.len() == 3 && got.numbered.values().all(|next| *next > printed)).then_some(())
    });
    assert_eq!(hsup.stop().code, 0);
    let got = sink.got();
    assert_eq!((got.faults.as_slice(), got.missing), ([].as_slice(), 0));
}
