//! Who may ask a running hsup for what, with clients that are other users and in other groups.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};

use hsup_ftest::{Driver, Ended, Hsup, Launch, Room, is_about, missing};
use nix::unistd::geteuid;

/// A group of control, by its number, which is in no file.
const CONTROL: &str = "47001";
/// A group of readers, by its name.
const READ: &str = "daemon";
/// Its number, on every Linux.
const READ_GID: &str = "1";
/// A user that is nobody.
const USER: &str = "47000";

/// A room that others may pass, and whether this host lets the test become others.
fn room() -> Option<Room> {
    if !is_about(Driver::Simple) {
        return None;
    }
    if !geteuid().is_root() {
        missing("root, which may become any user");
        return None;
    }
    let room = Room::new();
    fs::set_permissions(room.dir(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    room.release(&room.app().env("SECRET", "hidden").process("web", "exec sleep 600", 1));
    Some(room)
}

fn up(launch: Launch<'_>) -> Hsup {
    let hsup = launch.up();
    hsup.wait_up("web.1");
    hsup
}

/// Asks as a user with this primary group and these others.
fn ask(room: &Room, gid: &str, groups: &str, words: &[&str]) -> Ended {
    let launch =
        words.iter().fold(room.bare([]), |launch, word| launch.arg(word)).arg("-s").arg(room.socket());
    let groups = match groups {
        "" => "--clear-groups".to_owned(),
        groups => format!("--groups={groups}"),
    };
    let (uid, gid) = (format!("--reuid={USER}"), format!("--regid={gid}"));
    launch.dir("/").through(["setpriv", &uid, &gid, &groups]).end()
}

#[test]
fn groups_say_who_may_look_and_who_may_do_everything() {
    let Some(room) = room() else { return };
    let hsup = up(room.hsup(["start", "--control-group", CONTROL, "--read-group", READ]));
    let socket = fs::metadata(room.socket()).expect("it is there");
    assert_eq!((socket.gid().to_string().as_str(), socket.mode() & 0o777), (CONTROL, 0o777));
    let pid = hsup.dyno_pid("web.1");

    for (gid, groups) in [(READ_GID, ""), (USER, READ_GID)] {
        let ended = ask(&room, gid, groups, &["ps"]);
        assert!(ended.code == 0 && ended.stdout.contains("web.1"), "{ended:?}");
        let ended = ask(&room, gid, groups, &["restart", "web.1"]);
        assert_eq!(ended.code, 77, "{ended:?}");
        let said = "may not use /control/restart: root, the user that hsup runs as and members of group 47001 may, and \
                    members of group daemon may read";
        assert!(ended.stderr.contains(said), "{ended:?}");
    }
    assert_eq!(hsup.dyno_pid("web.1"), pid);
    hsup.wait_nth_line(&format!("control: somebody (uid {USER}, pid "), 2);
    assert_eq!(hsup.lines("was refused /control/restart").len(), 2);

    for (gid, groups) in [(CONTROL, ""), (USER, "5,47001")] {
        let before = hsup.dyno_pid("web.1");
        let ended = ask(&room, gid, groups, &["restart", "web.1"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        hsup.wait_dyno("web.1", "is another process", |dyno| {
            dyno["Pid"].is_u64() && dyno["Pid"] != before && dyno["State"] == "up"
        });
    }
    assert_eq!(hsup.lines("asks: restart web.1").len(), 2, "{}", hsup.printed());

    for words in [&["ps"][..], &["stop", "web"]] {
        let ended = ask(&room, USER, "", words);
        assert_eq!(ended.code, 77, "{ended:?}");
        assert!(ended.stderr.contains("members of group 47001 may"), "{ended:?}");
    }
    // the one that hsup runs as
    assert_eq!(room.hsup(["restart", "web.1"]).end().code, 0);
    hsup.wait_line("control: root (uid 0, pid ");
}

/// Connects often enough to fill all places and more, says nothing, and holds on to what it has until its input ends.
const HOLDS_MANY: &str = r#"
    my @held = grep { defined } map { IO::Socket::UNIX->new(Peer => $ARGV[0]) } 1..150;
    $| = 1;
    print scalar(@held), "\n";
    <STDIN>
"#;

/// Asks twice and shows all that it is answered.
const ASKS_TWICE: &str = r#"
    my $hsup = IO::Socket::UNIX->new(Peer => $ARGV[0]);
    $hsup->syswrite("GET /health HTTP/1.1\r\nHost: x\r\n\r\n" x 2);
    $hsup->shutdown(1);
    print <$hsup>
"#;

/// A Perl script that somebody with this primary group runs.
fn perl(room: &Room, gid: &str, script: &str) -> Child {
    let (uid, gid) = (format!("--reuid={USER}"), format!("--regid={gid}"));
    let mut command = Command::new("setpriv");
    command
        .args([&uid, &gid, "--clear-groups", "perl", "-MIO::Socket::UNIX", "-e", script])
        .arg(room.socket());
    command
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there are setpriv and perl")
}

#[test]
fn whoever_may_do_less_locks_out_nobody_who_may_do_more() {
    let Some(room) = room() else { return };
    let _hsup = up(room.hsup(["start", "--control-group", CONTROL, "--read-group", READ]));
    let mut holders = [USER, READ_GID].map(|gid| {
        let mut holder = perl(&room, gid, HOLDS_MANY);
        let mut line = String::new();
        let printed = holder.stdout.take().expect("it is piped");
        BufReader::new(printed).read_line(&mut line).expect("it can be read");
        assert_eq!(line, "150\n");
        if gid == USER {
            let ended = ask(&room, READ_GID, "", &["ps"]);
            assert!(ended.code == 0 && ended.stdout.contains("web.1"), "{ended:?}");
        }
        holder
    });
    for words in [&["ps"][..], &["restart", "web.1"]] {
        let ended = ask(&room, CONTROL, "", words);
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    for holder in &mut holders {
        drop(holder.stdin.take());
        assert!(holder.wait().expect("it can be waited for").success());
    }
}

#[test]
fn who_may_do_nothing_is_told_so_once() {
    let Some(room) = room() else { return };
    let _hsup = up(room.hsup(["start", "--control-group", CONTROL, "--read-group", READ]));
    let answers = |gid, status: &str| {
        let ended = perl(&room, gid, ASKS_TWICE).wait_with_output().expect("it can be waited for");
        String::from_utf8_lossy(&ended.stdout).matches(&format!("HTTP/1.1 {status}")).count()
    };
    assert_eq!((answers(USER, "403"), answers(READ_GID, "200")), (1, 2));
}

#[test]
fn the_group_of_the_socket_has_control_and_nobody_else_may_connect() {
    let Some(room) = room() else { return };
    let hsup = up(room.hsup(["start", "--control-group", CONTROL]));
    let socket = fs::metadata(room.socket()).expect("it is there");
    assert_eq!((socket.gid().to_string().as_str(), socket.mode() & 0o777), (CONTROL, 0o770));
    assert_eq!(ask(&room, CONTROL, "", &["restart", "web.1"]).code, 0);
    let ended = ask(&room, USER, READ_GID, &["ps"]);
    assert!(ended.code == 77 && ended.stderr.contains("permission denied at"), "{ended:?}");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_group_that_is_not_there_is_said_before_anything_is_started() {
    let Some(room) = room() else { return };
    let ended = room.hsup(["start", "--read-group", "no-such-group"]).end();
    assert_eq!(ended.code, 64, "{ended:?}");
    assert!(ended.stderr.contains("there is no group no-such-group in /etc/group"), "{ended:?}");
    assert!(!ended.stderr.contains("State changed") && !room.socket().exists(), "{ended:?}");
}
