//! A test's own place: directories, sockets, and a mark on every process that its dynos start.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use tempfile::TempDir;

use crate::app::App;
use crate::binary::{Driver, driver, stack};
use crate::heroku::FakeHeroku;
use crate::launch::Launch;
use crate::namespaces::Namespaces;
use crate::wait::eventually;
use crate::{procs, slug};

static ROOMS: AtomicU64 = AtomicU64::new(0);

/// A test's own place. When it is dropped, everything that the test has started is killed.
#[derive(Debug)]
pub struct Room {
    dir: TempDir,
    mark: String,
    namespaces: Option<Namespaces>,
}

impl Drop for Room {
    fn drop(&mut self) {
        procs::kill_marked(&self.mark);
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}

impl Room {
    /// A place with nothing in it but empty directories and, for a driver that needs one, a slug.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("hsup-").tempdir().expect("a directory can be made");
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970").subsec_nanos();
        let mark = format!("mark-{}-{}-{now}", process::id(), ROOMS.fetch_add(1, Ordering::Relaxed));
        for name in ["control", "state", "work", "runtime"] {
            fs::create_dir(dir.path().join(name)).expect("a directory can be made");
        }
        let namespaces = match driver() {
            Driver::Simple | Driver::Abspath | Driver::Docker => None,
            Driver::Native => {
                fs::create_dir(dir.path().join("state/stacks")).expect("a directory can be made");
                symlink(stack(), dir.path().join("state/stacks/heroku-24-1")).expect("a link can be made");
                Some(Namespaces::new())
            }
        };
        match driver() {
            Driver::Simple => {}
            Driver::Abspath | Driver::Docker | Driver::Native => {
                slug::pack(dir.path(), "slug.tgz", &[("version", "one\n")]);
            }
        }
        Self { dir, mark, namespaces }
    }

    /// A path in this place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The control dir.
    pub fn control_dir(&self) -> PathBuf {
        self.path("control")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.path("s")
    }

    /// The network and the mounts that all hsups of this test have, where the driver makes its own.
    pub fn namespaces(&self) -> Option<&Namespaces> {
        self.namespaces.as_ref()
    }

    /// The text that all processes of this test's dynos have in their environment.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// A release of this test's app. Its slug is there where the driver needs one, and else cannot be had.
    pub fn app(&self) -> App {
        let slug = match driver() {
            Driver::Simple => "https://example.invalid/slug.tgz".to_owned(),
            Driver::Abspath | Driver::Docker | Driver::Native => self.path("slug.tgz").display().to_string(),
        };
        App::new(&slug, &self.mark)
    }

    /// Puts a release into the control dir as an operator does; tells when.
    pub fn release(&self, app: &App) -> Instant {
        self.put(app.text().as_bytes())
    }

    /// Puts any bytes into the control dir, by a rename; tells when.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Instant {
        let written = self.path("written");
        fs::write(&written, bytes).expect("a file can be written");
        let now = Instant::now();
        fs::rename(written, self.control_dir().join("new")).expect("a file can be renamed");
        now
    }

    /// A file of the control dir, once it is there.
    pub fn control_file(&self, name: &str) -> String {
        let path = self.control_dir().join(name);
        let listing = || format!("the control dir has: {:?}", self.control_files());
        eventually(&format!("{} is there", path.display()), listing, || fs::read_to_string(&path).ok())
    }

    /// The names in the control dir, sorted.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn control_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.control_dir()).expect("the control dir is there");
        let mut names: Vec<String> =
            entries.filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.to_owned())).collect();
        names.sort();
        names
    }

    /// hsup with the driver, the control socket and the control dir of this place, and then these arguments.
    pub fn hsup<const N: usize>(&self, args: [&str; N]) -> Launch<'_> {
        let launch = self.bare([]).arg("-d").arg(driver().to_string()).arg("-s").arg(self.socket());
        launch.env("HSUP_CONTROL_DIR", self.control_dir()).args(args)
    }

    /// hsup with the driver and the control socket of this place, and releases from the fake API, which it
    /// polls each second.
    pub fn heroku<const N: usize>(&self, api: &FakeHeroku, args: [&str; N]) -> Launch<'_> {
        self.heroku_every(api, "1s", args)
    }

    /// The same with another poll interval.
    pub fn heroku_every<const N: usize>(&self, api: &FakeHeroku, poll: &str, args: [&str; N]) -> Launch<'_> {
        let launch =
            self.bare(["-d", &driver().to_string(), "-a", &api.app(), "--poll-interval", poll, "-s"]);
        let launch = launch.arg(self.socket()).env("HEROKU_ACCESS_TOKEN", api.token());
        launch.env("HSUP_HEROKU_API_URL", api.url()).args(args)
    }

    /// hsup with these arguments only, and an environment that keeps it in this place.
    pub fn bare<const N: usize>(&self, args: [&str; N]) -> Launch<'_> {
        Launch::new(self).args(args)
    }

    /// Waits until no process of this test's dynos is left.
    pub fn wait_nothing_left(&self) {
        let list =
            || procs::marked(&self.mark).into_iter().map(procs::describe).collect::<Vec<_>>().join("\n");
        let none = || procs::marked(&self.mark).is_empty().then_some(());
        eventually("no process of the dynos is left", list, none);
    }

    /// Asserts that no process of this test's dynos is left at this moment.
    ///
    /// # Panics
    /// If there is one.
    pub fn assert_nothing_left(&self) {
        let left: Vec<String> = procs::marked(&self.mark).into_iter().map(procs::describe).collect();
        assert!(left.is_empty(), "these processes of the dynos are left: {left:#?}");
    }

    /// The files below the state dir that hold a text.
    ///
    /// # Panics
    /// If the state dir cannot be read.
    pub fn state_files_with(&self, text: &str) -> Vec<PathBuf> {
        let (mut found, mut dirs) = (Vec::new(), vec![self.path("state")]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("the state dir can be read").flatten() {
                let kind = entry.file_type().expect("a file has a type");
                let holds = || {
                    let bytes = fs::read(entry.path()).unwrap_or_default();
                    bytes.windows(text.len()).any(|window| window == text.as_bytes())
                };
                if kind.is_dir() {
                    dirs.push(entry.path());
                } else if kind.is_file() && holds() {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    /// The directory of it all.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
