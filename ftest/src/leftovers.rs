//! What native dynos hold of the host, found without a look at hsup's own books where that is possible.

use std::fs;
use std::path::{Path, PathBuf};

use crate::room::Room;

impl Room {
    /// What is left of the dynos of the hsups that ran here, by the pids of these (of hsup proper): nothing, once
    /// they have ended, or the next one has started and ended.
    ///
    /// # Panics
    /// If the test has no namespaces of its own.
    pub fn left_by(&self, hsups: &[u32]) -> Vec<String> {
        let namespaces = self.namespaces().expect("the driver is native");
        let mut left: Vec<String> = Vec::new();
        let mut add = |what: &str, names: Vec<String>| {
            left.extend(names.into_iter().map(|name| format!("{what} {name}")));
        };
        let claims = namespaces.proc("root/run/hsup/claims");
        for kind in fs::read_dir(claims).into_iter().flatten().flatten() {
            let kind = kind.path();
            if kind.is_dir() && !kind.ends_with("owners") {
                add("claim", files(&kind));
            }
        }
        add("record", files(&self.path("state/native/runs")));
        add("directory", files(&self.path("state/native/dynos")));
        add("cgroup", cgroups(hsups));
        // hsup's own begin with hs; the others are the test's
        let links = namespaces.sh("ip -o link | cut -d' ' -f2");
        add("link", words(&links).filter(|link| link.starts_with("hs")).map(str::to_owned).collect());
        let tables = namespaces.sh("nft list tables");
        add("packet filter", tables.lines().map(str::to_owned).collect());
        let mounts = fs::read_to_string(namespaces.proc("mountinfo")).expect("the holder lives");
        let own = self.dir().display().to_string();
        add("mount", mounts.lines().filter(|mount| mount.contains(&own)).map(str::to_owned).collect());
        left
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace()
}

/// The files of a directory, but for those that hsup keeps there for good.
fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let hidden =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let paths = entries.map(|entry| entry.path()).filter(|path| !hidden(path));
    paths.map(|path| path.display().to_string()).collect()
}

/// The cgroups that are named after runs of these hsups, in any hierarchy.
fn cgroups(hsups: &[u32]) -> Vec<String> {
    let namespace = fs::read_link("/proc/self/ns/pid").expect("there is a /proc");
    let namespace: String =
        namespace.to_string_lossy().chars().filter(|character| character.is_ascii_digit()).collect();
    let marks: Vec<String> = hsups.iter().map(|pid| format!("-{namespace}-{pid}-")).collect();
    let (mut found, mut dirs) = (Vec::new(), vec![PathBuf::from("/sys/fs/cgroup")]);
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if marks.iter().any(|mark| name.contains(mark)) {
                found.push(entry.path().display().to_string());
            }
            dirs.push(entry.path());
        }
    }
    found
}
