//! Slugs, for the driver that runs code from them: unpacked to `/app`, or refused with the old release going on.

use std::collections::BTreeSet;
use std::fs;

use hsup_ftest::{Driver, Room, eventually, is_about, min_healthy, procs, runs_slugs, slug};
use nix::sys::signal::Signal;

fn location(path: &std::path::Path) -> String {
    path.display().to_string()
}

#[test]
fn the_code_of_a_slug_is_at_app_and_profiles_are_read() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    let files = [
        ("bin/hello", "#!/bin/sh\necho hello from $0 in $(pwd) with $EXTRA\n"),
        (".profile.d/extra.sh", "export EXTRA=\"from the profile\"\nexport PATH=\"$HOME/bin:$PATH\"\n"),
        ("data/file", "text"),
    ];
    let slug = slug::pack(room.dir(), "app.tgz", &files);
    room.release(&room.app().slug(&location(&slug)));
    let ended = room.hsup(["run", "hello; cat data/file"]).end();
    assert_eq!(ended.stdout, "hello from /app/bin/hello in /app with from the profile\ntext", "{ended:?}");
    let ended = room.hsup(["run", "./bin/hello"]).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    let ended = room.hsup(["run", "./data/file"]).end();
    assert_eq!(ended.code, 126, "{ended:?}");
}

#[test]
fn a_file_url_is_a_slug_too_and_another_release_has_the_files_of_its_own() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    let one = slug::pack(room.dir(), "one.tgz", &[("name", "one\n"), ("only-in-one", "")]);
    let two = slug::pack(room.dir(), "two.tgz", &[("name", "two\n")]);
    let line = "cat name; ls; exec sleep 600";
    let app = room.app().process("web", line, 1);
    room.release(&app.clone().slug(&format!("file://{}", location(&one))));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | one");
    hsup.wait_line("web.1 | only-in-one");
    room.release(&app.version(2).slug(&location(&two)));
    hsup.wait_line("web.1 | two");
    hsup.wait_nth_line("web.1 | name", 2);
    assert_eq!(hsup.lines("web.1 | only-in-one").len(), 1, "{}", hsup.printed());
}

#[test]
fn a_release_that_cannot_be_prepared_leaves_the_old_one_running() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    let good = fs::read(room.path("slug.tgz")).expect("the room has a slug");
    let file = |name: &str, bytes: &[u8]| {
        fs::write(room.path(name), bytes).expect("a file can be written");
        location(&room.path(name))
    };
    let cases = [
        ("missing", location(&room.path("missing.tgz")), "missing.tgz"),
        ("truncated", file("truncated.tgz", &good[..good.len() / 2]), "truncated.tgz"),
        ("empty", file("empty.tgz", b""), "empty.tgz"),
        ("not gzip", file("plain.tgz", b"this is not an archive at all, but some text"), "plain.tgz"),
        ("a directory", location(&room.path("work")), "work"),
        ("hostile", location(&slug::pack_climbing(room.dir(), "hostile.tgz")), "hostile.tgz"),
        ("another checksum", location(&room.path("slug.tgz")), "SHA-256"),
    ];
    let app = room.app().process("web", "cat version; exec sleep 600", 1);
    room.release(&app);
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | one");
    let pid = hsup.wait_up("web.1");
    for (number, (what, slug, said)) in (2..).zip(cases) {
        let app = app.clone().version(number).slug(&slug);
        let app = if what == "another checksum" {
            app.field("SlugChecksum", "SHA256:".to_owned() + &"0".repeat(64))
        } else {
            app
        };
        room.release(&app);
        let line = hsup.wait_nth_line("release v1 runs on", usize::try_from(number).expect("small") - 1);
        assert!(line.contains(said), "{what}: {said:?} is not in {line}");
        let dyno = hsup.dyno("web.1");
        assert_eq!(
            (&dyno["Pid"], &dyno["Release"], &dyno["Restarts"]),
            (&pid.into(), &"v1".into(), &0.into())
        );
    }
    let evil: Vec<_> =
        ["evil", "state/evil", "state/slugs/evil"].iter().filter(|name| room.path(name).exists()).collect();
    assert!(evil.is_empty(), "the hostile slug has written {evil:?}");
    let appeared = fs::read_to_string(format!("/proc/{pid}/root/app/version"));
    assert_eq!(appeared.expect("it is there"), "one\n");
    // the next good release is taken
    let two = slug::pack(room.dir(), "two.tgz", &[("version", "two\n")]);
    room.release(&app.version(20).slug(&location(&two)));
    hsup.wait_line("web.1 | two");
}

#[test]
fn a_start_without_the_newest_slug_runs_the_last_good_release_if_it_has_that_one() {
    if !runs_slugs() {
        return;
    }
    for has_old in [true, false] {
        let room = Room::new();
        let app = room.app().field("Name", "shop").process("web", "cat version; exec sleep 600", 1);
        room.release(&app);
        let start = || room.hsup(["start", "--min-healthy-time", min_healthy()]).up();
        let hsup = start();
        hsup.wait_line("release v1 is good");
        room.release(&app.version(2).slug(&location(&room.path("two.tgz"))));
        hsup.wait_line("two.tgz");
        assert_eq!(hsup.stop().code, 0);
        if !has_old {
            fs::remove_file(room.path("slug.tgz")).expect("the room has a slug");
            fs::remove_dir_all(room.path("state/slugs")).expect("it is kept there");
        }
        let hsup = start();
        if has_old {
            hsup.wait_line("web.1 | one");
        } else {
            hsup.wait_line("slug.tgz");
        }
        hsup.wait_line("two.tgz");
        slug::pack(room.dir(), "two.tgz", &[("version", "two\n")]);
        hsup.wait_line("web.1 | two");
    }
}

/// Waits until these slugs, by their digests, are those that are on disk.
fn wait_slugs(room: &Room, needed: &[String]) {
    let there = || -> BTreeSet<_> {
        let entries = fs::read_dir(room.path("state/slugs")).expect("slugs are there");
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
    };
    let needed: BTreeSet<_> = needed.iter().cloned().collect();
    let told = || format!("there: {:#?}, needed: {needed:#?}", there());
    eventually("only the slugs that are needed are there", told, || (there() == needed).then_some(()));
}

#[test]
fn slugs_that_no_release_needs_any_more_go_and_those_of_the_history_stay() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    let app = room.app().field("Name", "shop").process("web", "cat version; exec sleep 600", 1);
    let other = room.path("state/releases/other");
    let hsup = room.hsup(["start", "--min-healthy-time", min_healthy()]).up();
    let put = |version: u64| {
        let text = format!("this is {version}\n");
        let slug = slug::pack(room.dir(), &format!("{version}.tgz"), &[("version", &text)]);
        let sum = slug::sha256(&slug);
        let app = app.clone().version(version).slug(&location(&slug));
        // what a release does not name is known from the time that it was unpacked
        let names_it = version % 2 == 1;
        room.release(&if names_it { app.field("SlugChecksum", format!("SHA256:{sum}")) } else { app });
        hsup.wait_line(&format!("web.1 | this is {version}"));
        hsup.wait_line(&format!("release v{version} is good"));
        sum
    };
    let sums: Vec<_> = (1..=10).map(put).collect();
    // another app, of an hsup that does not run now, goes back to the first one too
    fs::create_dir_all(&other).expect("a directory can be made");
    let of_other = fs::read_to_string(room.path("state/releases/shop/releases.json")).expect("it is kept");
    let mut of_other: serde_json::Value = serde_json::from_str(&of_other).expect("it is JSON");
    of_other["Releases"].as_array_mut().expect("a list").truncate(1);
    fs::write(other.join("releases.json"), of_other.to_string()).expect("a file can be written");
    let sums: Vec<_> = sums.into_iter().chain((11..=12).map(put)).collect();
    let on_disk = |needed: &[&[String]]| wait_slugs(&room, &needed.concat());
    on_disk(&[&sums[..1], &sums[2..]]);
    fs::remove_dir_all(other).expect("it is there");
    // what the source cannot give any more is there still
    fs::remove_file(room.path("3.tgz")).expect("it is there");
    let roll_back = |to: &str| {
        let ended = room.bare(["rollback", to, "-s"]).arg(room.socket()).end();
        assert_eq!(ended.code, 0, "{ended:?}");
    };
    roll_back("v3");
    hsup.wait_nth_line("web.1 | this is 3", 2);
    let ended = hsup.stop();
    assert_eq!(ended.code, 0, "{ended:?}");
    // a start removes what has been left, and needs nothing of it
    let hsup = room.hsup(["start", "--min-healthy-time", min_healthy()]).up();
    hsup.wait_line("web.1 | this is 3");
    on_disk(&[&sums[2..]]);
    // one that is gone nevertheless is fetched again
    fs::remove_dir_all(room.path("state/slugs").join(&sums[4])).expect("it is there");
    roll_back("v5");
    hsup.wait_line("web.1 | this is 5");
    on_disk(&[&sums[2..]]);
}

#[test]
fn a_slug_that_appears_later_is_tried_again() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    let late = room.path("late.tgz");
    room.release(&room.app().slug(&location(&late)).process("web", "cat version; exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("trying again");
    fs::copy(room.path("slug.tgz"), &late).expect("it can be copied");
    hsup.wait_line("web.1 | one");
}

#[test]
fn a_dyno_has_the_code_of_its_own_release_whatever_has_been_prepared_since() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "cat version; exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_line("web.1 | one");
    let two = slug::pack(room.dir(), "two.tgz", &[("version", "two\n")]);
    let two = room.app().version(2).slug(&location(&two));
    room.release(&two.process("web", "cat version; exec sleep 600", 1).process(
        "release",
        "cat version; exit 4",
        1,
    ));
    hsup.wait_line("release.1 | two");
    hsup.wait_line("release v2 is bad");
    procs::signal(hsup.dyno_pid("web.1"), Signal::SIGKILL);
    hsup.wait_nth_line("web.1 | one", 2);
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn a_one_off_dyno_whose_release_cannot_be_prepared_ends_with_65() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    room.release(&room.app().slug("/no/such/slug.tgz"));
    let ended = room.hsup(["run", "true"]).end();
    assert_eq!(ended.code, 65, "{ended:?}");
    assert!(ended.stderr.contains("/no/such/slug.tgz"), "{ended:?}");
}

#[test]
fn build_prepares_the_release_and_starts_nothing() {
    let room = Room::new();
    room.release(&room.app().process("web", "echo started; exec sleep 600", 1));
    let ended = room.hsup(["build"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""), "{ended:?}");
    assert!(!ended.stderr.contains("State changed"), "{ended:?}");
    if !runs_slugs() {
        return;
    }
    assert!(fs::read_dir(room.path("state/slugs")).is_ok_and(|mut slugs| slugs.next().is_some()));
    room.release(&room.app().slug("/no/such/slug.tgz"));
    assert_eq!(room.hsup(["build"]).end().code, 65);
}

#[test]
fn an_empty_app_directory_that_is_no_mount_becomes_a_link_to_the_slug() {
    if !is_about(Driver::Abspath) {
        return;
    }
    let room = Room::new();
    room.release(&room.app().process("web", "cat version; exec sleep 600", 1));
    // A root of its own, of which all is the host's but /app: an empty directory that can be replaced.
    let root = room.path("root");
    fs::create_dir(&root).expect("a directory can be made");
    let script = format!(
        "set -e; mount -t tmpfs ftest-root {root}; cd {root}; mkdir app; \
         for dir in /*; do [ \"$dir\" = /app ] && continue; \
         if [ -L \"$dir\" ]; then cp -P \"$dir\" .; elif [ -d \"$dir\" ]; then mkdir .\"$dir\"; mount --rbind \"$dir\" .\"$dir\"; fi; \
         done; exec chroot . \"$@\"",
        root = root.display()
    );
    let socket = room.socket();
    let launch = room.bare(["start", "-d", "abspath", "-s"]).arg(&socket).with_the_app_that_is_there();
    let launch = launch.env("HSUP_CONTROL_DIR", room.control_dir());
    let running =
        launch.through(["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).up();
    running.wait_line("web.1 | one");
    let app = fs::read_link(format!("/proc/{}/root/app", running.pid())).expect("it is a link");
    assert!(app.starts_with(room.path("state/slugs")), "{}", app.display());
    let pid = running.dyno_pid("web.1");
    let two = slug::pack(room.dir(), "two.tgz", &[("version", "two\n")]);
    room.release(&room.app().version(2).slug(&location(&two)).process(
        "web",
        "cat version; exec sleep 600",
        1,
    ));
    running.wait_line("web.1 | two");
    assert_ne!(running.wait_up("web.1"), pid);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().code, 0);
}
