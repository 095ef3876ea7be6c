//! Who may ask a running hsup for what, with clients that are other users and in other groups.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

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
