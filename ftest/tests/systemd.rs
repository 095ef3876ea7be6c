//! hsup under systemd: what it tells it, the socket it is given, the journal, credentials; against real sockets.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hsup_ftest::{
    Driver, FakeHeroku, Hsup, Launch, Manager, Room, driver, is_about, isolated_network, procs,
};
use nix::sys::signal::Signal;

/// Says, as systemd does, that a variable is meant for the process that hsup is executed in.
const MEANT_FOR_IT: &str = r#"export WATCHDOG_PID=$$; exec "$@""#;

/// Has the standard error be the journal, as far as that can be told.
const JOURNAL: &str =
    r#"JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); export JOURNAL_STREAM; exec "$@""#;

/// Gives hsup a socket as systemd does: `sys.argv` is the kind, the path and the words of hsup.
const ACTIVATE: &str = r#"
import os, socket, sys
kind, path = sys.argv[1:3]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)
s.bind(path)
if kind != "datagram": s.listen()
if s.fileno() == 3: os.set_inheritable(3, True)
else: os.dup2(s.fileno(), 3)
pid = 1 if kind == "of another" else os.getpid()
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(pid), LISTEN_FDNAMES=kind)
os.execvp(sys.argv[3], sys.argv[3:])
"#;

fn sh(script: &str) -> [&str; 4] {
    ["sh", "-c", script, "sh"]
}

/// An hsup with two dynos to be.
fn with_dynos(room: &Room) -> Launch<'_> {
    room.release(&room.app().process("worker", "exec sleep 600", 2));
    room.hsup(["start"]).env("NOTIFY_SOCKET", room.path("notify"))
}

#[test]
fn the_manager_is_told_how_hsup_is() {
    let room = Room::new();
    let manager = Manager::at(&room.path("notify"));
    let hsup = with_dynos(&room).spawn();
    manager.wait(hsup.pid(), "READY=1");
    // the control socket answers from then on
    assert_eq!(hsup.get("/health").status, 200);
    let name = hsup.wait_line("is live");
    let app = name.split(" of ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it has a name");
    manager.wait(hsup.pid(), &format!("STATUS=release v1 of {app}: 2 dynos up"));
    room.release(&room.app().process("worker", "exec sleep 600", 3));
    manager.wait(hsup.pid(), &format!("STATUS=release v1 of {app}: 3 dynos up"));
    let pid = hsup.pid();
    let ended = hsup.stop();
    assert_eq!(ended.code, 0, "{ended:?}");
    let stopping = manager.wait(pid, "STOPPING=1\nEXTEND_TIMEOUT_USEC=");
    let usec: u64 = stopping.rsplit('=').next().and_then(|usec| usec.parse().ok()).expect("it is a number");
    assert!(usec > 30_000_000, "longer than the dynos have: {stopping}");
}

#[test]
fn hsup_is_ready_though_there_is_no_release_yet() {
    let room = Room::new();
    let manager = Manager::at(&room.path("notify"));
    let hsup = room.hsup(["start"]).env("NOTIFY_SOCKET", room.path("notify")).spawn();
    manager.wait(hsup.pid(), "READY=1");
    manager.wait(hsup.pid(), "STATUS=no release yet");
    room.release(&room.app().process("worker", "exec sleep 600", 1));
    manager.wait(hsup.pid(), "STATUS=release v1 of ");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn what_keeps_hsup_from_running_is_never_called_ready() {
    let room = Room::new();
    let manager = Manager::at(&room.path("notify"));
    fs::write(room.socket(), "precious").expect("a file can be written");
    let ended = with_dynos(&room).end();
    assert_eq!(ended.code, 73, "{ended:?}");
    assert_eq!(manager.next(Duration::from_millis(1)), None);
}

#[test]
fn the_manager_may_listen_at_an_abstract_socket() {
    if isolated_network() {
        println!(
            "skip: abstract sockets belong to a network, and hsups of these tests have one of their own"
        );
        return;
    }
    let room = Room::new();
    let manager = Manager::abstract_at(room.mark());
    let hsup = with_dynos(&room).env("NOTIFY_SOCKET", format!("@{}", room.mark())).spawn();
    manager.wait(hsup.pid(), "READY=1");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_manager_that_is_not_there_is_said_and_no_more() {
    let room = Room::new();
    let hsup = with_dynos(&room).up();
    hsup.wait_line("NOTIFY_SOCKET=");
    hsup.wait_up("worker.1");
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_reload_is_over_when_the_source_has_been_read() {
    if driver() == Driver::Abspath {
        println!("skip: a Procfile has no slug, which the abspath driver needs");
        return;
    }
    let room = Room::new();
    let manager = Manager::at(&room.path("notify"));
    fs::write(room.path("work/Procfile"), "worker: exec sleep 600\n").expect("a file can be written");
    let hsup =
        room.hsup(["start"]).without("HSUP_CONTROL_DIR").env("NOTIFY_SOCKET", room.path("notify")).spawn();
    manager.wait(hsup.pid(), "READY=1");
    if is_about(Driver::Simple) {
        hsup.wait_up("worker.1");
    }
    fs::write(room.path("work/Procfile"), "worker: exec sleep 601\n").expect("a file can be written");
    hsup.signal(Signal::SIGHUP);
    let words = manager.wait(hsup.pid(), "RELOADING=1\nMONOTONIC_USEC=");
    let usec: u64 = words.rsplit('=').next().and_then(|usec| usec.parse().ok()).expect("it is a number");
    let uptime = fs::read_to_string("/proc/uptime").expect("there is /proc");
    let seconds: f64 = uptime.split(' ').next().and_then(|s| s.parse().ok()).expect("it is a number");
    let ago = Duration::from_secs_f64(seconds).abs_diff(Duration::from_micros(usec));
    assert!(ago < Duration::from_secs(30), "{ago:?} off the time since boot");
    manager.wait(hsup.pid(), "READY=1");
    hsup.wait_line("release v2 of ");
    // whatever the supervisor is still doing then
    drop(hsup);
}

#[test]
fn a_hung_hsup_is_silent_and_ends_with_its_dynos_when_the_manager_aborts_it() {
    let room = Room::new();
    let manager = Manager::at(&room.path("notify"));
    let launch = with_dynos(&room).env("WATCHDOG_USEC", "1000000");
    let hsup = launch.through(sh(MEANT_FOR_IT)).up();
    for _ in 0..3 {
        manager.wait(hsup.pid(), "WATCHDOG=1");
    }
    hsup.wait_up("worker.2");
    procs::signal(hsup.proper(), Signal::SIGSTOP);
    // what was on its way; then nothing for twice the time that systemd would wait
    while let Some((words, _)) = manager.next(Duration::from_secs(2)) {
        assert!(!words.is_empty());
    }
    hsup.signal(Signal::SIGABRT);
    let ended = hsup.end();
    assert_eq!(ended.code, 128 + 6, "{ended:?}");
    assert!(ended.stderr.contains("killed by SIGABRT; its dynos have been killed"), "{ended:?}");
    room.wait_nothing_left();
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let room = Room::new();
    let manager = Manager::at(&room.path("notify"));
    let hsup = with_dynos(&room).env("WATCHDOG_USEC", "400000").env("WATCHDOG_PID", "1").up();
    manager.wait(hsup.pid(), "STATUS=release v1");
    while let Some((words, _)) = manager.next(Duration::from_secs(1)) {
        assert!(words.starts_with("STATUS="), "{words}");
    }
    assert_eq!(hsup.stop().code, 0);
}

/// An hsup that is given a control socket of that kind.
fn activated<'a>(room: &'a Room, kind: &str) -> Launch<'a> {
    room.release(&room.app().process("worker", "exec sleep 600", 1));
    let path = room.path("given");
    let path = path.to_str().expect("it is text");
    room.hsup(["start"]).through(["python3", "-c", ACTIVATE, kind, path])
}

fn answers_at(room: &Room, name: &str) -> bool {
    hsup_ftest::get(&room.path(name), "/health").is_some_and(|answer| answer.status == 200)
}

#[test]
fn a_given_control_socket_is_used_and_left_where_it_is() {
    for name in ["control", "hsup.socket"] {
        let room = Room::new();
        let hsup = activated(&room, name).up();
        hsup.wait_line("given, from the service manager");
        hsup.wait_line("worker.1: State changed from starting to up");
        assert!(answers_at(&room, "given"));
        assert!(!room.socket().exists(), "a second one is not made");
        let ended = room.bare(["ps", "-s"]).arg(room.path("given")).end();
        assert!(ended.code == 0 && ended.stdout.contains("worker.1"), "{ended:?}");
        assert_eq!(hsup.stop().code, 0);
        assert!(room.path("given").exists(), "it is the manager's");
    }
}

#[test]
fn a_socket_that_is_given_to_another_process_is_not_used() {
    let room = Room::new();
    let hsup = activated(&room, "of another").up();
    assert!(answers_at(&room, "s"));
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_given_socket_of_the_wrong_kind_is_refused() {
    let room = Room::new();
    let ended = activated(&room, "datagram").end();
    assert_eq!(ended.code, 73, "{ended:?}");
    assert!(ended.stderr.contains("ListenStream="), "{ended:?}");
}

#[test]
fn dynos_know_nothing_of_the_manager() {
    if driver() == Driver::Abspath {
        println!("skip: a Procfile has no slug, which the abspath driver needs");
        return;
    }
    let room = Room::new();
    let manager = Manager::at(&room.path("notify"));
    let line =
        "worker: env; ls -l /proc/self/fd | sed 's/^.* \\([0-9]* ->\\)/fd \\1/'; echo end; exec sleep 600\n";
    fs::write(room.path("work/Procfile"), line).expect("a file can be written");
    let given = room.path("given");
    let given = given.to_str().expect("it is text");
    let launch = room.bare(["start", "-d", &driver().to_string(), "-s"]).arg(room.socket());
    let launch = launch.env("NOTIFY_SOCKET", room.path("notify")).env("WATCHDOG_USEC", "60000000");
    let launch = launch.env("CREDENTIALS_DIRECTORY", room.path("work")).env("JOURNAL_STREAM", "1:2");
    let launch = launch.env("STATE_DIRECTORY", "/x").env("RUNTIME_DIRECTORY", "/x").env("INVOCATION_ID", "x");
    let launch = launch.env("HANDED_ON", "yes");
    let hsup = launch.through(["python3", "-c", ACTIVATE, "control", given]).spawn();
    manager.wait(hsup.pid(), "READY=1");
    if !is_about(Driver::Simple) {
        // where the Procfile's variables are those of the release, hsup's own are nowhere
        return;
    }
    hsup.wait_line("worker.1 | end");
    hsup.wait_line("worker.1 | HANDED_ON=yes");
    for name in [
        "NOTIFY_SOCKET",
        "WATCHDOG_",
        "LISTEN_",
        "CREDENTIALS_DIRECTORY",
        "JOURNAL_STREAM",
        "STATE_DIRECTORY",
        "RUNTIME_DIRECTORY",
        "INVOCATION_ID",
    ] {
        assert!(hsup.lines(&format!("| {name}")).is_empty(), "{name}: {}", hsup.printed());
    }
    // besides input, output, errors and the directory that ls reads
    let descriptors = hsup.lines("| fd ");
    assert_eq!(descriptors.iter().filter(|line| line.contains("socket:")).count(), 0, "{descriptors:?}");
    assert_eq!(descriptors.len(), 4, "{descriptors:?}");
}

#[test]
fn the_journal_gets_priorities_and_no_times() {
    let room = Room::new();
    room.release(&room.app().process("worker", "echo out; exec sleep 600", 1));
    let hsup = room.hsup(["start"]).through(sh(JOURNAL)).spawn();
    assert_eq!(
        hsup.wait_line("State changed from starting to up"),
        "<6>worker.1: State changed from starting to up"
    );
    // The journal files what has no priority as information, and whatever a dyno prints stands behind its name.
    assert_eq!(hsup.wait_line("| out"), "worker.1 | out");
    assert!(
        hsup.lines("").iter().all(|line| line.starts_with("<6>") || line.starts_with("worker.1 | ")),
        "{}",
        hsup.printed()
    );
    procs::signal(hsup.proper(), Signal::SIGKILL);
    let ended = hsup.end();
    assert!(ended.stderr.contains("\n<3>hsup: killed by SIGKILL; "), "{ended:?}");
}

#[test]
fn what_ends_hsup_is_an_error_in_the_journal() {
    let room = Room::new();
    let cases: [(&[&str], i32); 2] = [
        (&["start", "--start-number", "0", "--stop-timeout", "30"], 64),
        (&["start", "-s", "none", "--control-dir", "/no/such/dir"], 66),
    ];
    for (args, code) in cases {
        let launch = args.iter().fold(room.bare([]), |launch, arg| launch.arg(arg)).through(sh(JOURNAL));
        let ended = launch.end();
        assert_eq!(ended.code, code, "{ended:?}");
        assert!(
            !ended.stderr.is_empty() && ended.stderr.lines().all(|line| line.starts_with("<3>")),
            "{ended:?}"
        );
    }
}

#[test]
fn a_stream_that_is_not_the_journal_has_times() {
    let room = Room::new();
    room.release(&room.app().process("worker", "exec sleep 600", 1));
    let hsup = room.hsup(["start"]).env("JOURNAL_STREAM", "1:2").up();
    let line = hsup.wait_line("State changed from starting to up");
    assert!(line.starts_with("20") && line.contains("  INFO worker.1: "), "{line}");
    drop(hsup);
}

/// hsup with the token where systemd puts it.
fn with_credential(room: &Room, api: &FakeHeroku) -> Hsup {
    let credentials = room.path("credentials");
    fs::create_dir(&credentials).expect("a directory can be made");
    fs::write(credentials.join("heroku-access-token"), format!("{}\n", api.token()))
        .expect("it can be written");
    let launch = room.heroku(api, ["start", "worker=1"]).without("HEROKU_ACCESS_TOKEN");
    launch.env("CREDENTIALS_DIRECTORY", credentials).up()
}

#[test]
fn the_token_may_be_a_credential() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[("version", "one\n")], &[("worker", "exec sleep 600")], &[]);
    let hsup = with_credential(&room, &api);
    let pid = hsup.wait_up("worker.1");
    let environment = procs::environment(pid);
    assert!(environment.iter().all(|var| !var.contains(api.token())), "{environment:?}");
    assert!(environment.iter().all(|var| !var.starts_with("CREDENTIALS_DIRECTORY=")), "{environment:?}");
    assert!(UnixStream::connect(room.socket()).is_ok());
    assert_eq!(hsup.stop().code, 0);
}
