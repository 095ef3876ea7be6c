//! Where hsup's own output goes may be slow, stuck or gone: that holds up nothing but itself.

use std::fs;
use std::io;
use std::process::Child;

use hsup_ftest::{Room, eventually, procs};
use nix::sys::signal::Signal;

/// Waits for a process to end and gives its exit code.
fn code(mut child: Child) -> Option<i32> {
    let ended = || child.try_wait().expect("a child can be waited for");
    eventually("hsup has ended", String::new, ended).code()
}

#[test]
fn a_stderr_that_nobody_reads_freezes_nothing() {
    let room = Room::new();
    // more log than a pipe holds
    room.release(&room.app().process("web", "exit 1", 200).process("worker", "exec sleep 600", 100));
    let (reader, writer) = io::pipe().expect("a pipe can be made");
    let mut command = room.hsup(["start"]).env("HSUP_LOG", "debug").command();
    let child = command.stderr(writer).spawn().expect("hsup can be started");
    drop(command);
    let answers = || {
        (room.hsup(["ps"]).end().stdout.lines().filter(|line| line.contains("crashed")).count() > 150)
            .then_some(())
    };
    eventually("hsup answers, with a crash loop going on", String::new, answers);
    procs::signal(child.id(), Signal::SIGTERM);
    assert_eq!(code(child), Some(0));
    room.assert_nothing_left();
    drop(reader);
}

#[test]
fn the_guardian_kills_everything_even_if_it_cannot_say_so() {
    let room = Room::new();
    room.release(&room.app().process("web", "exec sleep 600", 2));
    let (reader, writer) = io::pipe().expect("a pipe can be made");
    let mut command = room.hsup(["start"]).command();
    let child = command.stderr(writer).spawn().expect("hsup can be started");
    drop((command, reader));
    let up = || (procs::marked(room.mark()).len() >= 2).then_some(());
    eventually("two dynos are there", String::new, up);
    let proper = procs::children(child.id()).into_iter().next().expect("the guardian has a child");
    procs::signal(proper, Signal::SIGKILL);
    assert_eq!(code(child), Some(128 + 9));
    room.assert_nothing_left();
}

#[test]
fn a_child_that_hsup_was_started_with_is_not_killed() {
    let room = Room::new();
    room.release(&room.app());
    let out = room.path("out");
    let shell = "exec \"$@\" > >(sleep 0.3; cat > \"$OUT\")";
    let ended =
        room.hsup(["run", "seq 1 5000"]).through(["bash", "-c", shell, "bash"]).env("OUT", &out).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    let whole = || fs::read_to_string(&out).ok().filter(|text| text.lines().count() == 5000);
    eventually("the reader has read everything", String::new, whole);
}
