//! Dynos that are containers: what they see, what they may do, and what others can learn of them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use hsup_ftest::containers::inspect;
use hsup_ftest::engine::{docker, shared_engine};
use hsup_ftest::{Driver, Hsup, Room, eventually, is_about, procs};

/// The one container of a dyno.
fn container(room: &Room, dyno: &str) -> String {
    let found = room.containers(&shared_engine(), Some(dyno));
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().expect("there is one")
}

#[test]
fn nothing_secret_is_in_the_image_or_in_what_the_engine_tells() {
    if !is_about(Driver::Docker) {
        return;
    }
    let (room, engine) = (Room::new(), shared_engine());
    let secret = format!("s3cret-{}", room.mark());
    let line = "test -n \"$TOKEN\" && echo told; exec sleep 600";
    room.release(&room.app().env("TOKEN", &secret).process("web", line, 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | told");
    let id = container(&room, "web.1");
    let told = inspect(&engine, &id);
    let image = told["Image"].as_str().expect("it has an image").to_owned();
    let whole = [
        told.to_string(),
        inspect(&engine, &image).to_string(),
        docker(&engine, &["history", "--no-trunc", &image]),
        docker(&engine, &["top", &id]),
    ];
    for text in &whole {
        assert!(!text.contains(&secret), "{text}");
    }
    // not even in what it has written
    let changed = docker(&engine, &["diff", &id]);
    assert_eq!(changed, "", "nothing has been written to the container");
    assert!(room.state_files_with(&secret).is_empty());
    assert_eq!(hsup.stop().code, 0);
    assert!(room.containers(&engine, None).is_empty());
}

#[test]
fn a_container_has_a_name_and_labels_and_may_do_nothing_in_particular() {
    if !is_about(Driver::Docker) {
        return;
    }
    let (room, engine) = (Room::new(), shared_engine());
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    let pid = hsup.wait_up("web.1");
    let told = inspect(&engine, &container(&room, "web.1"));
    let name = told["Name"].as_str().expect("it has a name");
    assert!(name.starts_with("/hsup-app-v1-web.1-"), "{name}");
    let labels = &told["Config"]["Labels"];
    assert_eq!([&labels["hsup.app"], &labels["hsup.release"], &labels["hsup.dyno"]], ["app", "v1", "web.1"]);
    assert!(labels["hsup.owner"].as_str().is_some_and(|owner| owner.contains(&hsup.proper().to_string())));
    let config = &told["HostConfig"];
    assert_eq!(config["RestartPolicy"]["Name"].as_str().filter(|name| *name != "no"), Some(""), "{config}");
    assert_eq!(config["LogConfig"]["Type"], "none");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the dyno lives");
    for line in [
        "Uid:\t3000\t3000\t3000\t3000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    hsup.stop();
    let ended = room
        .hsup(["run", "touch /app/own && stat -c %U /app /app/version; cat /proc/1/environ; exit 3"])
        .end();
    assert_eq!((ended.code, ended.stdout.as_str()), (3, "dyno\ndyno\n"), "{ended:?}");
}

#[test]
fn the_port_is_published_where_status_says() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().env("PORT", "6000").process("web", "exec python3 -m http.server $PORT", 2));
    let hsup = room.hsup(["start"]).up();
    let mut ports = BTreeSet::new();
    for name in ["web.1", "web.2"] {
        hsup.wait_up(name);
        let dyno = hsup.dyno(name);
        let (address, port) =
            (dyno["IPAddress"].as_str().expect("a text"), dyno["Port"].as_u64().expect("a number"));
        ports.insert(port);
        let get = || {
            let mut stream = TcpStream::connect(format!("{address}:{port}")).ok()?;
            stream.write_all(b"GET /version HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.contains("200 OK").then_some(answer)
        };
        let answer = eventually(&format!("{name} answers at {address}:{port}"), || hsup.printed(), get);
        assert!(answer.ends_with("one\n"), "{answer}");
    }
    assert_eq!(ports.len(), 2, "each has its own");
}

#[test]
fn binds_show_paths_of_the_host_and_one_that_is_not_there_is_not_made() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    room.release(&room.app());
    let data = room.path("data");
    fs::create_dir(&data).expect("a directory can be made");
    fs::write(data.join("in"), "from the host\n").expect("a file can be written");
    nix::unistd::chown(&data, Some(3000.into()), None).expect("the tests are root's");
    let (bind, readable) = (format!("{}:/data", data.display()), format!("{}:/readable:ro", data.display()));
    let line =
        "cat /data/in && echo there > /data/out && ! touch /readable/x 2>/dev/null && cat /readable/out";
    let ended = room.hsup(["--bind", &bind, "--bind", &readable, "run", line]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "from the host\nthere\n"), "{ended:?}");
    let none = room.path("none");
    let ended = room.hsup(["--bind", &format!("{}:/x", none.display()), "run", "true"]).end();
    assert!(ended.code != 0 && ended.stderr.contains("bind source path does not exist"), "{ended:?}");
    assert!(!none.exists());
    assert!(room.containers(&shared_engine(), None).is_empty());
}

fn limited(room: &Room, limits: &str, line: &str) -> Hsup {
    room.release(&room.app().process("web", line, 1));
    room.hsup(["--limits", limits, "start"]).up()
}

#[test]
fn limits_are_those_of_the_container() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    let hsup = limited(&room, "memory=96MiB,swap=32MiB,cpu=0.5,pids=77", "exec sleep 600");
    hsup.wait_up("web.1");
    let told = inspect(&shared_engine(), &container(&room, "web.1"));
    let config = &told["HostConfig"];
    assert_eq!([&config["Memory"], &config["MemorySwap"]], [96 << 20, 128 << 20]);
    assert_eq!([&config["NanoCpus"], &config["PidsLimit"]], [500_000_000, 77]);
}

#[test]
fn a_dyno_that_takes_too_much_memory_is_killed_and_that_is_told_from_other_ends() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    let line = "exec python3 -c 'x = b\"x\" * (200 << 20)'";
    let hsup = limited(&room, "memory=48MiB,swap=0", line);
    hsup.wait_line("web.1: Error R15 (Memory quota vastly exceeded)");
    let exit = hsup.wait_dyno("web.1", "has ended", |dyno| !dyno["LastExit"].is_null());
    assert_eq!(exit["LastExit"]["Reason"], "out-of-memory", "{exit}");
    hsup.stop();
    let ended = room.hsup(["run", "kill -9 $$"]).end();
    assert_eq!(ended.code, 128 + 9, "{ended:?}");
    assert!(!ended.stderr.contains("R15"), "{ended:?}");
}

#[test]
fn no_line_is_lost_at_the_end_and_the_streams_stay_apart() {
    if !is_about(Driver::Docker) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "seq 1 50000; echo last >&2; exit 4", 1));
    let ended = room.hsup(["run", "seq 1 200000; seq 1 1000 >&2"]).end();
    assert_eq!(ended.code, 0);
    assert!(ended.stdout.lines().eq((1..=200_000).map(|n| n.to_string())), "{}", ended.stdout.len());
    let errors = ended.stderr.lines().filter(|line| line.parse::<u32>().is_ok()).count();
    assert_eq!(errors, 1000, "{}", ended.stderr);
    let ended = room.hsup(["start", "--oneshot"]).end();
    assert_eq!(ended.code, 4);
    let lines = ended.stdout.lines().filter_map(|line| line.strip_prefix("web.1 | "));
    let numbers = lines.filter(|line| *line != "last");
    assert!(numbers.eq((1..=50_000).map(|n| n.to_string())), "{}", ended.stdout.len());
    assert!(ended.stdout.contains("web.1 | last"));
}

#[test]
fn what_hsup_is_killed_with_ends_its_containers_and_foreign_ones_stay() {
    if !is_about(Driver::Docker) {
        return;
    }
    let (room, engine) = (Room::new(), shared_engine());
    room.release(&room.app().process("web", "exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("web.1");
    let image = inspect(&engine, &container(&room, "web.1"))["Image"].as_str().expect("a text").to_owned();
    let foreign = |label: &str| {
        let args = ["run", "-d", "--label", label, "--entrypoint", "sleep", &image, "600"];
        docker(&engine, &args)
    };
    // a person's, and one of an hsup with another state dir, which says nothing here
    let others = [foreign("a=b"), foreign("hsup.owner=000000000000-1-1-1")];
    for pid in [hsup.pid(), hsup.proper()] {
        procs::signal(pid, nix::sys::signal::Signal::SIGSTOP);
    }
    for pid in [hsup.pid(), hsup.proper()] {
        procs::signal(pid, nix::sys::signal::Signal::SIGKILL);
    }
    drop(hsup);
    room.wait_nothing_left();
    assert_eq!(room.containers(&engine, None).len(), 1, "nobody has removed it yet");
    let hsup = room.hsup(["start"]).up();
    assert!(!hsup.lines("removed 1 containers that an hsup which was killed had left behind").is_empty());
    hsup.wait_up("web.1");
    assert_eq!(room.containers(&engine, None).len(), 1);
    for id in &others {
        assert_eq!(inspect(&engine, id)["State"]["Running"], true);
        docker(&engine, &["rm", "-f", id]);
    }
    assert_eq!(hsup.stop().code, 0);
}
