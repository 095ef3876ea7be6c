//! Looks at real directories, with the time given.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::*;

const GOOD: &str = "{\"Version\":1,  \"Processes\":[{\"Type\":\"web\",\"Args\":[\"x\"]}]}\n\n";

fn app() -> AppName {
    "myapp".parse().unwrap()
}

fn judge(dir: &Path) -> Judge {
    Judge::new(dir.to_owned(), app())
}

/// What a start of hsup finds of `loaded`.
fn loaded(dir: &Path) -> Outcome {
    let mut judge = judge(dir);
    judge.start();
    judge.look_at_loaded()
}

fn empty() -> (TempDir, Judge) {
    let dir = tempfile::tempdir().unwrap();
    let judge = judge(dir.path());
    (dir, judge)
}

fn put(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn version(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Release { release, fault: None, .. } => release.version.0,
        other @ (Outcome::Quiet
        | Outcome::Unfinished { .. }
        | Outcome::Release { .. }
        | Outcome::Fault(_)) => panic!("no release: {other:?}"),
    }
}

fn fault(outcome: Outcome) -> String {
    match outcome {
        Outcome::Fault(fault) => fault.to_string(),
        other @ (Outcome::Quiet | Outcome::Unfinished { .. } | Outcome::Release { .. }) => {
            panic!("no fault: {other:?}")
        }
    }
}

fn now() -> SystemTime {
    SystemTime::now()
}

#[test]
fn a_good_release_is_loaded_byte_by_byte() {
    let (dir, mut judge) = empty();
    let dir = dir.path();
    assert!(matches!(judge.look_at_loaded(), Outcome::Quiet));
    assert!(matches!(judge.look(false, now()), Outcome::Quiet));
    put(dir, "new", GOOD);
    put(dir, "rejected", "x");
    put(dir, "last_error", "x");
    assert_eq!(version(judge.look(false, now())), 1);
    assert_eq!(names(dir), ["loaded"]);
    assert_eq!(fs::read(dir.join("loaded")).unwrap(), GOOD.as_bytes());
    assert_eq!(fs::metadata(dir.join("loaded")).unwrap().mode() & 0o777, 0o600);
    put(dir, "new", "{\"Version\":2}");
    assert_eq!(version(judge.look(true, now())), 2);
    assert_eq!(fs::read(dir.join("loaded")).unwrap(), b"{\"Version\":2}");
}

#[test]
fn a_bad_release_is_rejected_with_the_reason() {
    let (dir, mut judge) = empty();
    let dir = dir.path();
    put(dir, "loaded", GOOD);
    put(dir, "new", "{\n\"Version\": \"bogus\"}");
    let said = fault(judge.look(true, now()));
    assert_eq!(names(dir), ["last_error", "loaded", "rejected"]);
    assert_eq!(fs::read(dir.join("rejected")).unwrap(), b"{\n\"Version\": \"bogus\"}");
    let last_error = fs::read_to_string(dir.join("last_error")).unwrap();
    assert_eq!(last_error, format!("{said}\n"));
    assert!(said.contains("/new: line 2, column 18, field Version: expected a whole number"), "{said}");
    assert_eq!(fs::metadata(dir.join("last_error")).unwrap().mode() & 0o777, 0o400);
    assert!(matches!(judge.look(false, now()), Outcome::Quiet));
    assert_eq!(version(loaded(dir)), 1);

    put(dir, "new", "[]");
    let again = fault(judge.look(false, now()));
    assert_eq!(fs::read_to_string(dir.join("last_error")).unwrap(), format!("{again}\n"));
}

#[test]
fn a_crashed_run_leaves_nothing_that_harms() {
    let (dir, mut judge) = empty();
    let dir = dir.path();
    put(dir, ".hsup-tmp-loaded-aB3x9Z", "{\"Ver");
    put(dir, "tmp_next.json", "an operator's own");
    put(dir, "loaded", GOOD);
    put(dir, "new", GOOD);
    assert_eq!(version(loaded(dir)), 1);
    assert_eq!(names(dir), ["loaded", "new", "tmp_next.json"]);
    assert_eq!(version(judge.look(false, now())), 1);
    assert_eq!(names(dir), ["loaded", "tmp_next.json"]);
    fs::remove_file(dir.join("tmp_next.json")).unwrap();
    put(dir, "loaded", "{");
    let said = fault(loaded(dir));
    assert!(said.contains("/loaded: line 1, column 1"), "{said}");
    assert_eq!(names(dir), ["loaded"]);
}

#[test]
fn a_file_that_is_being_written_is_given_time() {
    for part in ["", "{\"Version\":"] {
        let (dir, mut judge) = empty();
        let dir = dir.path();
        put(dir, "new", part);
        let written = fs::metadata(dir.join("new")).unwrap().modified().unwrap();
        let Outcome::Unfinished { again_in } = judge.look(false, written + Duration::from_millis(500)) else {
            panic!("judged too early");
        };
        assert_eq!(again_in, Duration::from_millis(1500));
        assert_eq!(names(dir), ["new"]);
        let said = fault(judge.look(false, written + SETTLE));
        assert!(said.contains("too early") || said.contains("empty"), "{said}");
        assert_eq!(names(dir), ["last_error", "rejected"]);

        put(dir, "new", part);
        let _ = fault(judge.look(true, written));
    }
}

#[test]
fn what_is_no_file_is_named_and_put_aside() {
    type Make = fn(&Path);
    let make: [(&str, Make); 5] = [
        ("a directory", |new| fs::create_dir(new).unwrap()),
        ("a FIFO", |new| nix::unistd::mkfifo(new, Mode::from_bits_truncate(0o600)).unwrap()),
        ("a socket", |new| drop(UnixListener::bind(new).unwrap())),
        ("a device", |new| symlink("/dev/zero", new).unwrap()),
        ("a symlink to nowhere", |new| symlink("nowhere", new).unwrap()),
    ];
    let (dir, mut judge) = empty();
    let dir = dir.path();
    put(dir, "rejected", "an older one");
    // each is renamed over the one before, directories over files and back
    for (kind, make) in make {
        make(&dir.join("new"));
        let said = fault(judge.look(true, now()));
        assert!(said.contains(&format!("it is {kind}, not a regular file")), "{said}");
        assert_eq!(names(dir), ["last_error", "rejected"], "{kind}");
    }
    put(dir, "elsewhere", GOOD);
    symlink("elsewhere", dir.join("new")).unwrap();
    assert_eq!(version(judge.look(true, now())), 1);
    assert_eq!(names(dir), ["elsewhere", "loaded"]);
}

#[test]
fn what_cannot_be_put_aside_is_told_once() {
    let (dir, mut judge) = empty();
    let dir = dir.path();
    fs::create_dir(dir.join("rejected")).unwrap();
    put(&dir.join("rejected"), "kept", "");
    put(dir, "new", "[]");
    let said = fault(judge.look(true, now()));
    assert!(said.contains("/rejected") && said.contains("remove both by hand"), "{said}");
    assert!(dir.join("rejected/kept").exists());
    assert!(matches!(judge.look(false, now()), Outcome::Quiet));
    put(dir, "new", "[1,2]");
    assert!(fault(judge.look(true, now())).contains("remove both"));
    put(dir, "new", GOOD);
    assert_eq!(version(judge.look(true, now())), 1);
}

#[test]
fn a_file_that_is_far_too_large_is_not_read() {
    let (dir, mut judge) = empty();
    let new = fs::File::create(dir.path().join("new")).unwrap();
    new.set_len(1 << 40).unwrap();
    assert!(fault(judge.look(true, now())).contains("larger than 16 MiB"));
}

#[test]
fn a_dir_that_is_gone_is_told_once_and_used_when_back() {
    let (root, _) = empty();
    let dir = root.path().join("control");
    let mut judge = judge(&dir);
    assert!(fault(judge.look(false, now())).contains("is gone: create it again with `mkdir -p"));
    assert!(matches!(judge.look(false, now()), Outcome::Quiet));
    fs::create_dir(&dir).unwrap();
    put(&dir, "new", GOOD);
    assert_eq!(version(judge.look(false, now())), 1);
}

#[test]
fn an_unreadable_file_stays_until_it_can_be_read() {
    if nix::unistd::geteuid().is_root() {
        eprintln!("skipped: root can read every file");
        return;
    }
    let (dir, mut judge) = empty();
    let new = dir.path().join("new");
    put(dir.path(), "new", GOOD);
    fs::set_permissions(&new, fs::Permissions::from_mode(0o000)).unwrap();
    assert!(fault(judge.look(true, now())).contains("chmod"));
    assert!(matches!(judge.look(false, now()), Outcome::Quiet));
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(version(judge.look(false, now())), 1);
}

#[test]
fn what_cannot_be_read_is_described_and_tried_again() {
    let (dir, mut judge) = empty();
    let dir = dir.path();
    symlink("new", dir.join("new")).unwrap();
    let said = fault(judge.look(true, now()));
    assert!(said.starts_with("cannot read ") && said.ends_with("it is tried again"), "{said}");
    assert_eq!(fs::read_to_string(dir.join("last_error")).unwrap(), format!("{said}\n"));
    assert!(matches!(judge.look(false, now()), Outcome::Quiet));
    fs::remove_file(dir.join("new")).unwrap();
    put(dir, "new", GOOD);
    assert_eq!(version(judge.look(false, now())), 1);
    assert_eq!(names(dir), ["loaded"]);
}

#[test]
fn a_loaded_that_cannot_be_read_is_tried_again_until_a_new_is_in_force() {
    for overtaken in [false, true] {
        let (dir, mut judge) = empty();
        let dir = dir.path();
        symlink("loaded", dir.join("loaded")).unwrap();
        let said = fault(judge.look_at_loaded());
        assert!(said.contains("/loaded: ") && said.ends_with("it is tried again"), "{said}");
        assert!(matches!(judge.look(false, now()), Outcome::Quiet));
        assert!(matches!(judge.look_at_loaded(), Outcome::Quiet) && judge.has_trouble());
        if overtaken {
            put(dir, "new", "{\"Version\":2}");
            assert_eq!(version(judge.look(true, now())), 2);
        } else {
            fs::remove_file(dir.join("loaded")).unwrap();
            put(dir, "loaded", GOOD);
            assert_eq!(version(judge.look_at_loaded()), 1);
        }
        assert!(matches!(judge.look_at_loaded(), Outcome::Quiet) && !judge.has_trouble());
    }
}

#[test]
fn a_loaded_that_cannot_be_replaced_keeps_new() {
    let (dir, mut judge) = empty();
    let dir = dir.path();
    fs::create_dir(dir.join("loaded")).unwrap();
    put(dir, "new", GOOD);
    let said = fault(judge.look(true, now()));
    assert!(said.contains("/loaded: ") && said.contains("move it away"), "{said}");
    assert_eq!(names(dir), ["loaded", "new"]);
    assert!(matches!(judge.look(false, now()), Outcome::Quiet));
    fs::remove_dir(dir.join("loaded")).unwrap();
    assert_eq!(version(judge.look(false, now())), 1);
}

#[test]
fn what_was_put_aside_is_put_back_unless_there_is_something_newer() {
    let (dir, mut judge) = empty();
    let dir = dir.path();
    put(dir, ASIDE, GOOD);
    assert_eq!(version(judge.look(false, now())), 1);
    put(dir, ASIDE, GOOD);
    put(dir, "new", "{\"Version\":2}");
    assert_eq!(version(judge.look(false, now())), 2);
    assert_eq!(names(dir), ["loaded"]);
    // what has come after the look is another file
    put(dir, "new", GOOD);
    let read = Stamp::of_name(&dir.join("new")).unwrap();
    put(dir, "next", "{\"Version\":3}");
    fs::rename(dir.join("next"), dir.join("new")).unwrap();
    files::remove_read(&dir.join("new"), &dir.join(ASIDE), read).unwrap();
    assert_eq!(version(judge.look(false, now())), 3);
    assert_eq!(names(dir), ["loaded"]);
}

#[test]
fn no_release_is_lost_however_soon_it_comes_after_another() {
    // where files are soon written: of a thousand looks about one meets the next release between two of its system calls
    let fast = Path::new("/dev/shm");
    let root = if fast.is_dir() { tempfile::tempdir_in(fast) } else { tempfile::tempdir() }.unwrap();
    let dir = root.path();
    let mut judge = judge(dir);
    let mv = |n: u64| {
        put(dir, "next", &format!("{{\"Version\":{n}}}"));
        fs::rename(dir.join("next"), dir.join("new")).unwrap();
    };
    let (begin, begun) = std::sync::mpsc::channel::<u64>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in begun {
                (0..n * 7919 % 4000).for_each(|_| std::hint::spin_loop());
                mv(n + 1);
            }
        });
        for n in (0..6000).step_by(2) {
            mv(n);
            begin.send(n).unwrap();
            let look = |judge: &mut Judge| match judge.look(true, now()) {
                Outcome::Release { release, .. } => Some(release.version.0),
                Outcome::Quiet | Outcome::Unfinished { .. } => None,
                Outcome::Fault(fault) => panic!("{fault}"),
            };
            let end = std::time::Instant::now() + Duration::from_secs(10);
            while look(&mut judge) != Some(n + 1) {
                assert!(std::time::Instant::now() < end, "release {} is lost", n + 1);
            }
        }
        drop(begin);
    });
    // one that came between the look at `new` and its reading is read twice
    assert!(matches!(judge.look(true, now()), Outcome::Quiet | Outcome::Release { .. }));
    assert_eq!(names(dir), ["loaded"]);
}

/// A file system of a few pages, gone when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=32k", "tmpfs"])
            .arg(dir.path())
            .output()
            .map_err(|error| error.to_string())?;
        if mounted.status.success() {
            return Ok(Self(dir));
        }
        Err(String::from_utf8_lossy(&mounted.stderr).into_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_once_and_tried_again() {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("skipped: no tmpfs can be mounted here: {why}");
            return;
        }
    };
    let dir = disk.0.path();
    let mut judge = judge(dir);
    put(dir, "loaded", "{\"Version\":0}");
    put(dir, "new", GOOD);
    fs::write(dir.join("filler"), vec![1; 1 << 20]).unwrap_err();
    let said = fault(judge.look(true, now()));
    assert!(said.contains("free some space") && said.contains("not in force"), "{said}");
    assert_eq!(names(dir), ["filler", "loaded", "new"]);
    assert_eq!(fs::read(dir.join("loaded")).unwrap(), b"{\"Version\":0}");
    assert!(matches!(judge.look(false, now()), Outcome::Quiet));
    fs::remove_file(dir.join("filler")).unwrap();
    assert_eq!(version(judge.look(false, now())), 1);
    assert_eq!(names(dir), ["loaded"]);
}
