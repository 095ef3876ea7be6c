//! `--log-dir`: the lines of each dyno in a file of its own.

use std::fs;
use std::process::Command;

use hsup_ftest::Room;

/// Every line in the files of a dyno, oldest first, without what stands before it.
fn lines(room: &Room, dyno: &str) -> Vec<String> {
    let script = format!(
        "cd logs && {{ for f in {dyno}.log.*.gz; do [ -e $f ] && zcat $f; done; cat {dyno}.log 2>/dev/null; }}"
    );
    let output =
        Command::new("sh").args(["-c", &script]).current_dir(room.dir()).output().expect("there is sh");
    let text = String::from_utf8(output.stdout).expect("it is text");
    text.lines()
        .filter_map(|line| line.split_once(&format!(" app[{dyno}]: ")))
        .map(|(_, line)| line.to_owned())
        .collect()
}

fn names(room: &Room) -> Vec<String> {
    let entries = fs::read_dir(room.path("logs")).expect("the directory is there").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn each_dyno_has_a_file_and_files_are_rotated_and_compressed_without_loss() {
    let room = Room::new();
    let app = room.app().process("web", "seq 1 20000; echo printed; exec sleep 600", 2);
    room.release(&app.process("worker", "echo at work; exec sleep 600", 1));
    let hsup = room
        .hsup(["--log-dir"])
        .arg(room.path("logs"))
        .args(["--log-dir-size", "64KiB", "--log-dir-keep", "1000", "start"])
        .up();
    hsup.wait_line("web.1 | printed");
    hsup.wait_line("web.2 | printed");
    hsup.wait_line("worker.1 | at work");
    assert_eq!(hsup.stop().code, 0);
    for dyno in ["web.1", "web.2"] {
        let mut expected: Vec<String> = (1..=20_000).map(|n| n.to_string()).collect();
        expected.push("printed".to_owned());
        assert!(lines(&room, dyno) == expected, "{dyno}: {:?}", names(&room));
    }
    assert_eq!(lines(&room, "worker.1"), ["at work"]);
    assert!(names(&room).iter().filter(|name| name.ends_with(".gz")).count() >= 2, "{:?}", names(&room));
    assert!(
        names(&room).iter().all(|name| name.ends_with(".gz") || name.ends_with(".log")),
        "{:?}",
        names(&room)
    );
}

#[test]
fn the_file_goes_on_after_a_restart_and_one_off_dynos_have_theirs() {
    let room = Room::new();
    room.release(&room.app().process("web", "echo hello; exec sleep 600", 1));
    for _ in 0..2 {
        let hsup = room.hsup(["--log-dir"]).arg(room.path("logs")).arg("start").up();
        hsup.wait_line("web.1 | hello");
        assert_eq!(hsup.stop().code, 0);
    }
    assert_eq!(lines(&room, "web.1"), ["hello", "hello"]);
    let ended = room.hsup(["--log-dir"]).arg(room.path("logs")).args(["run", "echo once"]).end();
    assert_eq!((ended.stdout.as_str(), lines(&room, "run.1")), ("once\n", vec!["once".to_owned()]));
}

#[test]
fn a_directory_that_cannot_be_written_is_said_at_the_start() {
    let room = Room::new();
    room.release(&room.app());
    fs::write(room.path("logs"), "a file").expect("a file can be written");
    let ended = room.hsup(["--log-dir"]).arg(room.path("logs")).arg("start").end();
    assert_eq!(ended.code, 71, "{ended:?}");
    assert!(ended.stderr.contains("--log-dir"), "{ended:?}");
}

#[test]
fn a_directory_is_that_of_one_hsup_and_one_off_dynos_write_beside_it() {
    let (room, other) = (Room::new(), Room::new());
    room.release(&room.app().process("web", "echo hello; exec sleep 600", 1));
    other.release(&other.app().process("web", "echo hello; exec sleep 600", 1));
    let hsup = room.hsup(["--log-dir"]).arg(room.path("logs")).arg("start").up();
    hsup.wait_line("web.1 | hello");
    let refused = other.hsup(["--log-dir"]).arg(room.path("logs")).arg("start").end();
    assert_eq!(refused.code, 71, "{refused:?}");
    assert!(refused.stderr.contains("--log-dir (or HSUP_LOG_DIR)"), "{refused:?}");
    let ended = other.hsup(["--log-dir"]).arg(room.path("logs")).args(["run", "echo once"]).end();
    assert_eq!((ended.code, lines(&room, "run.1")), (0, vec!["once".to_owned()]), "{ended:?}");
    assert_eq!(hsup.stop().code, 0);
    let next = other.hsup(["--log-dir"]).arg(room.path("logs")).arg("start").up();
    next.wait_line("web.1 | hello");
    assert_eq!(next.stop().code, 0);
}

#[test]
fn a_full_disk_stops_nobody_and_is_said_of_those_whose_lines_are_lost_and_once() {
    let room = Room::new();
    room.release(&room.app().process("web", "while sleep 0.02; do echo tick; done", 2));
    fs::create_dir(room.path("logs")).expect("a directory can be made");
    std::os::unix::fs::symlink("/dev/full", room.path("logs/web.1.log")).expect("a link can be made");
    let hsup = room.hsup(["--log-dir"]).arg(room.path("logs")).arg("start").up();
    hsup.wait_line("cannot write the log file of web.1");
    for dyno in ["web.1", "web.2"] {
        hsup.wait_nth_line(&format!("{dyno} | tick"), 20);
    }
    let ended = hsup.stop();
    assert_eq!(ended.code, 0, "{ended:?}");
    let said = |text: &str| ended.stderr.lines().filter(|line| line.contains(text)).count();
    assert_eq!(said("cannot write the log file"), 1, "{ended:?}");
    assert_eq!(said("written again"), 0, "{ended:?}");
    assert_eq!(said("lines of web.1 could not be written to its log file"), 1, "{ended:?}");
    assert!(lines(&room, "web.2").len() >= 20, "{ended:?}");
}

#[test]
fn lines_of_which_only_a_part_fits_leave_none_of_it() {
    let room = Room::new();
    let line = "i=0; while [ $i -lt 40 ]; do printf '%05000d\\n' $i; i=$((i+1)); done; echo short";
    room.release(&room.app().process("web", &format!("{line}; exec sleep 600"), 1));
    // what no file may grow beyond is as good as a full disk: 64 KiB
    let limited = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    let hsup = room
        .hsup(["--log-dir"])
        .arg(room.path("logs"))
        .arg("start")
        .through(["bash", "-c", limited, "bash"])
        .up();
    hsup.wait_line("web.1 | short");
    let ended = hsup.stop();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("cannot write the log file of web.1"), "{ended:?}");
    let text = fs::read_to_string(room.path("logs/web.1.log")).expect("it is text");
    let whole = |line: &str| line.split_once("[web.1]: ").is_some_and(|(_, text)| text.len() == 5000);
    let printed: Vec<&str> = text.lines().filter(|line| line.contains(" app[web.1]: 0")).collect();
    assert!(text.ends_with('\n') && printed.iter().all(|line| whole(line)), "{} bytes", text.len());
    assert!((1..13).contains(&printed.len()), "{}", printed.len());
}
