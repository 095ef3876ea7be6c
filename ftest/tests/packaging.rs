//! What is installed beside the binary: units, completions, man pages, and the Debian package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hsup_ftest::{Driver, Room, hsup_binary, is_about, missing, stack};
use nix::unistd::geteuid;

/// The root of the sources.
fn sources() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests are below the sources").to_owned()
}

fn output(command: &mut Command) -> (String, Output) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (String::from_utf8_lossy(&said).into_owned(), output)
}

fn succeed(command: &mut Command) -> String {
    let (said, output) = output(command);
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// What bash offers after these words, of which the last one is what is being typed.
fn bash_offers(room: &Room, words: &[&str]) -> Vec<String> {
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(hsup \"$@\"); COMP_CWORD=$#; \
                  _hsup hsup \"${COMP_WORDS[$#]}\" \"${COMP_WORDS[$#-1]}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script]).arg(hsup_binary()).args(words).current_dir(room.path("work"));
    succeed(&mut bash).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_flags() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    assert_eq!(bash_offers(&room, &["sta"]), ["start", "status", "stack"]);
    assert_eq!(bash_offers(&room, &["doctor", "--fi"]), ["--fix"]);
    assert_eq!(bash_offers(&room, &["start", "--stop-"]), ["--stop-timeout"]);
    assert_eq!(bash_offers(&room, &["stack", "rem"]), ["remove"]);
}

#[test]
fn the_other_shells_have_theirs_and_no_others() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    for (shell, begin) in [("zsh", "#compdef hsup"), ("fish", "# Print an optspec")] {
        let ended = room.bare(["completions", shell]).end();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stdout.starts_with(begin) && ended.stdout.contains("stop-timeout"), "{}", ended.stdout);
    }
    let ended = room.bare(["completions", "cmd.exe"]).end();
    assert!(ended.code == 64 && ended.stderr.contains("bash, zsh, fish"), "{ended:?}");
}

#[test]
fn man_pages_tell_of_every_command_and_exit_code() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let ended = room.bare(["man"]).arg(room.path("man")).end();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    let page = |name: &str| fs::read_to_string(room.path("man").join(name)).expect("it is there");
    let whole = page("hsup.1");
    for command in
        ["start", "run", "build", "ps", "stop", "check", "stack", "doctor", "completions", "man", "version"]
    {
        assert!(whole.contains(&format!("hsup\\-{command}(1)")), "{command}: {whole}");
        let own = page(&format!("hsup-{command}.1"));
        assert!(own.contains(&format!("hsup\\-{command} \\- ")), "{own}");
        assert!(!own.contains("logplex"), "what every command takes is told once: {own}");
    }
    for command in ["list", "add", "remove"] {
        let own = page(&format!("hsup-stack-{command}.1"));
        assert!(own.contains(&format!("hsup\\-stack\\-{command} \\- ")), "{own}");
        assert!(!own.contains("logplex"), "what every command takes is told once: {own}");
    }
    assert!(!page("hsup-stack.1").contains("help(1)"), "it has a page for each that it names");
    assert!(whole.contains("\\-\\-stop\\-timeout") && whole.contains("EXIT STATUS"), "{whole}");
    assert!(whole.contains("the control socket is in use"), "{whole}");
    let ended = room.bare(["man", "/proc/no/such/dir"]).end();
    assert!(ended.code == 64 && ended.stderr.contains("/proc/no/such/dir"), "{ended:?}");
}

/// Installs into a folder, as `make install` does for a package.
fn install(room: &Room) -> PathBuf {
    let dest = room.path("dest");
    let hsup = format!("hsup={}", hsup_binary().display());
    let destdir = format!("DESTDIR={}", dest.display());
    succeed(Command::new("make").arg("-C").arg(sources()).args(["install", &hsup, &destdir, "PREFIX=/usr"]));
    dest
}

#[test]
fn systemd_finds_the_units_sound() {
    if !is_about(Driver::Simple) {
        return;
    }
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return missing("systemd-analyze (apt-get install systemd)");
    }
    let room = Room::new();
    let dest = install(&room);
    let units = dest.join("usr/lib/systemd/system");
    for (unit, verified) in [
        ("hsup.service", "hsup.service"),
        ("hsup@.service", "hsup@shop.service"),
        ("hsup@.socket", "hsup@shop.socket"),
    ] {
        let text = fs::read_to_string(units.join(unit)).expect("it is installed");
        // where there is no hsup in /usr/bin it is that of this test
        let text = text.replace("/usr/bin/hsup", &hsup_binary().display().to_string());
        fs::write(room.path("work").join(unit), text).expect("it can be written");
        let file = room.path("work").join(verified);
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&file);
        assert_eq!(
            succeed(analyze.env("SYSTEMD_UNIT_PATH", format!("{}:", room.path("work").display()))),
            "",
            "{unit}"
        );
    }
}

#[test]
fn what_is_installed_is_what_was_built_and_is_complete() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let dest = install(&room);
    assert_eq!(succeed(Command::new(dest.join("usr/bin/hsup")).arg("version")), "hsup 0.1.0\n");
    for file in [
        "usr/share/man/man1/hsup.1",
        "usr/share/man/man1/hsup-ps.1",
        "usr/share/bash-completion/completions/hsup",
        "usr/share/zsh/site-functions/_hsup",
        "usr/share/fish/vendor_completions.d/hsup.fish",
        "usr/lib/systemd/system/hsup@.service",
    ] {
        assert!(dest.join(file).metadata().is_ok_and(|found| found.len() > 0), "{file}");
    }
    // and only a package installs outside of where it is told to
    assert_eq!(fs::read_dir(&dest).expect("it is there").count(), 1);
}

/// What is below a directory, sorted.
fn tree(root: &Path) -> Vec<String> {
    let find = succeed(Command::new("find").arg(root).args(["-mindepth", "1", "-printf", "%P\\n"]));
    let mut paths: Vec<String> = find.lines().map(str::to_owned).collect();
    paths.sort();
    paths
}

#[test]
fn the_debian_package_comes_and_goes_without_a_trace() {
    if !is_about(Driver::Simple) {
        return;
    }
    if !geteuid().is_root() {
        return missing("root, whose a Debian system is");
    }
    let room = Room::new();
    let deb = room.path("hsup.deb");
    let (hsup, out) = (format!("hsup={}", hsup_binary().display()), format!("deb={}", deb.display()));
    let work = format!("deb_root={}", room.path("package").display());
    succeed(Command::new("make").arg("-C").arg(sources()).args([
        "deb",
        &hsup,
        &out,
        &work,
        "deb_flags=-Znone",
    ]));
    // a Debian of its own, of which nothing is changed that the host has
    let root = room.path("debian");
    succeed(Command::new("cp").arg("-a").arg(stack()).arg(&root));
    fs::copy(&deb, root.join("tmp/hsup.deb")).expect("it can be copied");
    let inside = |words: &[&str]| succeed(Command::new("chroot").arg(&root).args(words));
    // its logs and its own lists aside
    let own = |path: &String| {
        !["var/lib/dpkg", "var/log", "tmp", "var/cache"].iter().any(|at| path.starts_with(at))
    };
    let before: Vec<String> = tree(&root).into_iter().filter(own).collect();
    inside(&["dpkg", "-i", "/tmp/hsup.deb"]);
    assert_eq!(inside(&["hsup", "version"]), "hsup 0.1.0\n");
    assert_eq!(inside(&["dpkg", "--verify", "hsup"]), "");
    let conffiles = inside(&["dpkg-query", "-W", "-f", "${Conffiles}", "hsup"]);
    assert!(conffiles.contains("/etc/hsup/hsup.env"), "{conffiles}");
    let mode = inside(&["stat", "-c", "%a %U", "/etc/hsup", "/etc/hsup/hsup.env"]);
    assert_eq!(mode, "750 root\n640 root\n");
    fs::write(root.join("etc/hsup/shop.env"), "HSUP_APP=shop\n").expect("it can be written");
    inside(&["dpkg", "-r", "hsup"]);
    assert!(root.join("etc/hsup/hsup.env").exists(), "configuration stays until it is purged");
    assert!(!root.join("usr/bin/hsup").exists());
    fs::remove_file(root.join("etc/hsup/shop.env")).expect("it is there");
    inside(&["dpkg", "-P", "hsup"]);
    let after: Vec<String> = tree(&root).into_iter().filter(own).collect();
    assert_eq!(after, before);
}
