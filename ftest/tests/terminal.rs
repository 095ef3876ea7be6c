//! One-off dynos at a terminal, which `script` of util-linux is for hsup.

use std::ffi::OsString;
use std::process::Command;

use hsup_ftest::{Driver, FakeHeroku, Hsup, Launch, Room, Sink, driver, missing, procs};

/// Whether there is `script`.
fn has_script() -> bool {
    let there = Command::new("script").arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        missing("script of util-linux");
    }
    there
}

/// hsup at a terminal: `script` runs it there, hands on what is typed and ends with its code.
fn at_a_terminal(room: &Room, launch: &Launch<'_>) -> Hsup {
    let quoted = |word: &OsString| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    let line = launch.words().iter().map(quoted).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["-qe", "-E", "never", "-c", &format!("exec {line}"), "/dev/null"]).env_clear();
    let hsup = launch.command();
    script.envs(hsup.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("SHELL", "/bin/sh");
    script.current_dir(room.path("work"));
    Hsup::type_at(script, room)
}

#[test]
fn a_dyno_has_a_terminal_of_its_own() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let hsup =
        at_a_terminal(&room, &room.hsup(["run", "tty; test -t 0 -a -t 1 -a -t 2 && echo all three; exit 6"]));
    hsup.wait_line(match driver() {
        Driver::Simple | Driver::Abspath | Driver::Docker => "/dev/pts/",
        // which has a /dev/pts of its own
        Driver::Native => "/dev/console",
    });
    hsup.wait_line("all three");
    let ended = hsup.end();
    assert_eq!(ended.code, 6, "{ended:?}");
}

#[test]
fn what_is_typed_reaches_the_dyno_and_ctrl_c_only_it() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    // a signal that comes right before bash begins to read is heard when it comes back from that
    let line = "trap 'echo interrupted' INT; echo ready; read word; echo got $word; \
                echo go on; while ! read -r -t 1 word; do :; done; echo then $word; exit 4";
    let hsup = at_a_terminal(&room, &room.hsup(["run", line]));
    hsup.wait_line("ready");
    hsup.type_text("first\n");
    hsup.wait_line("got first");
    hsup.wait_line("go on");
    hsup.type_text("\x03");
    hsup.wait_line("interrupted");
    hsup.type_text("second\n");
    hsup.wait_line("then second");
    let ended = hsup.end();
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(!ended.stdout.contains("stopping"), "hsup has taken it for itself: {ended:?}");
    room.assert_nothing_left();
}

#[test]
fn ctrl_c_ends_a_program_that_does_not_mind_it() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let hsup = at_a_terminal(&room, &room.hsup(["run", "echo ready; exec sleep 600"]));
    hsup.wait_line("ready");
    hsup.type_text("\x03");
    let ended = hsup.end();
    assert_eq!(ended.code, 128 + 2, "{ended:?}");
    room.assert_nothing_left();
}

#[test]
fn ctrl_c_ends_a_program_that_prints_without_end() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let hsup = at_a_terminal(&room, &room.hsup(["run", "exec yes flood"]));
    hsup.wait_line("flood");
    hsup.type_text("\x03");
    let ended = hsup.end();
    assert_eq!(ended.code, 128 + 2, "{}", ended.stderr);
    room.assert_nothing_left();
}

#[test]
fn a_shell_has_job_control() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let hsup = at_a_terminal(&room, &room.hsup(["run", "bash", "--norc", "-i"]));
    hsup.type_text("echo $((40+2)) $-\n");
    let line = hsup.wait_line("42 ");
    assert!(line.contains('m') && line.contains('i'), "{line}");
    hsup.type_text("exit 9\n");
    let ended = hsup.end();
    assert!(!ended.stdout.contains("no job control"), "{ended:?}");
    assert_eq!(ended.code, 9, "{ended:?}");
}

#[test]
fn in_the_background_of_a_shell_it_ends_and_is_not_stopped() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "exit 200", 1));
    let shell = ["bash", "--norc", "-ic", r#""$@" & wait $!; echo "it ended with $?.""#, "bash"];
    let hsup = at_a_terminal(&room, &room.hsup(["start", "--oneshot"]).through(shell));
    hsup.wait_line("it ended with 200.");
    hsup.end();
    room.assert_nothing_left();
}

#[test]
fn a_terminal_that_closes_ends_hsup_and_the_dyno() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let hsup = at_a_terminal(&room, &room.hsup(["run", "echo ready; exec sleep 600"]));
    hsup.wait_line("ready");
    procs::signal(hsup.pid(), nix::sys::signal::Signal::SIGKILL);
    room.wait_nothing_left();
}

#[test]
fn the_dyno_has_its_terminal_and_nothing_else_of_hsups() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let hsup =
        at_a_terminal(&room, &room.hsup(["run", "for fd in /proc/$$/fd/*; do echo fd=${fd##*/}=; done"]));
    hsup.wait_line("fd=2=");
    hsup.end();
    let hsup = at_a_terminal(&room, &room.hsup(["run", "readlink /proc/$$/fd/* | grep -c ptmx; exit 5"]));
    hsup.wait_line("0");
    assert_eq!(hsup.end().code, 5);
}

#[test]
fn a_daemon_that_holds_on_to_the_terminal_does_not_hold_up_the_end() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let hsup = at_a_terminal(&room, &room.hsup(["run", "setsid -f env -i sleep 600; echo bye; exit 7"]));
    hsup.wait_line("bye");
    let ended = hsup.end();
    assert_eq!(ended.code, 7, "{ended:?}");
}

#[test]
fn what_a_terminal_shows_is_sent_to_the_drain() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    let sink = Sink::new(&room);
    room.release(&room.app().field("LogplexURL", sink.url()));
    let line = "tty -s && echo a terminal; printf 'the last line'; exit 6";
    let held = format!("setsid -f env -i sleep 30; {line}");
    for (run, line) in [("run.1", line), ("run.2", &held)] {
        let words = ["run", "--start-number", &run[4..], line];
        let ended = at_a_terminal(&room, &room.hsup(words)).end();
        assert_eq!(ended.code, 6, "{ended:?}");
        assert!(ended.stdout.contains("the last line"), "{ended:?}");
        assert_eq!(sink.lines(run), ["a terminal", "the last line"]);
    }
}

#[test]
fn a_dyno_of_an_app_of_the_heroku_api_has_a_terminal_too() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[("version", "one\n")], &[("web", "exec sleep 600")], &[("N", "forty")]);
    let line = "test -t 0 -a -t 1 -a -t 2 && echo all three; read word; echo $N $word; exit 6";
    let hsup = at_a_terminal(&room, &room.heroku(&api, ["run", line]));
    hsup.wait_line("all three");
    hsup.type_text("two\n");
    hsup.wait_line("forty two");
    let ended = hsup.end();
    assert_eq!(ended.code, 6, "{ended:?}");
    assert!(!ended.stdout.contains(api.token()), "{ended:?}");
    room.assert_nothing_left();
}

#[test]
fn ps_watches_within_its_window() {
    if !has_script() {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 5));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("web.5");
    // What a shell starts in the background ignores ctrl-C, these tests maybe among it.
    let window = ["env", "--default-signal=INT", "sh", "-c", "stty cols 30 rows 4; exec \"$@\"", "sh"];
    let watching = at_a_terminal(&room, &room.hsup(["ps", "--watch"]).through(window));
    watching.wait_line("... and 4 more lines");
    for line in watching.lines("web.") {
        let row = line.trim_end();
        assert!(row.starts_with("web.1 ") && row.len() <= 30, "{row:?}");
    }
    watching.type_text("\x03");
    watching.end();
    assert_eq!(hsup.stop().code, 0);
}
