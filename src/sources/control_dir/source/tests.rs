//! The source on real directories with a real watch; each test waits for what is published.

use std::path::Path;

use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::sources::{Published, Reread, link};

/// Far longer than any test takes, so that what is seen came from inotify.
const NEVER: Duration = Duration::from_secs(3600);

struct Running {
    dir: TempDir,
    seen: watch::Receiver<Option<Published>>,
    reread: Reread,
    looks: Looks,
    task: tokio::task::JoinHandle<Result<(), GaveUp>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn start(dir: TempDir, poll_interval: Duration) -> Self {
        let source = ControlDir::open(
            dir.path().to_owned(),
            "myapp".parse().unwrap(),
            poll_interval,
            Patience::Forever,
        )
        .unwrap();
        let (releases, seen) = watch::channel(None);
        let reread = Reread::default();
        let link = link(releases, &reread);
        let looks = link.looks.clone();
        let task = tokio::spawn(Box::new(source).follow(link));
        Self { dir, seen, reread, looks, task }
    }

    async fn next(&mut self) -> u64 {
        within(self.seen.changed()).await.unwrap();
        self.seen.borrow_and_update().as_ref().map(|published| published.release.version.0).unwrap()
    }

    fn rename_in(&self, text: &str) {
        rename_in(self.dir.path(), text);
    }
}

fn rename_in(dir: &Path, text: &str) {
    fs::write(dir.join("x"), text).unwrap();
    fs::rename(dir.join("x"), dir.join("new")).unwrap();
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it takes far too long")
}

/// Waits until a file of a dir is there, by inotify as well.
async fn appears(path: &Path) {
    let bell = Arc::new(tokio::sync::Notify::new());
    let ring = Arc::clone(&bell);
    let mut watcher = notify::recommended_watcher(move |_| ring.notify_one()).unwrap();
    notify::Watcher::watch(&mut watcher, path.parent().unwrap(), notify::RecursiveMode::NonRecursive)
        .unwrap();
    within(async {
        while !path.exists() {
            bell.notified().await;
        }
    })
    .await;
}

#[tokio::test]
async fn releases_follow_one_another_and_a_bad_one_changes_nothing() {
    let mut running = Running::start(tempfile::tempdir().unwrap(), NEVER);
    running.rename_in("{\"Version\":1}");
    assert_eq!(running.next().await, 1);
    running.rename_in("{\"Version\":2}");
    assert_eq!(running.next().await, 2);
    running.rename_in("bogus");
    appears(&running.dir.path().join("last_error")).await;
    assert!(!running.seen.has_changed().unwrap());
    // the same release again is accepted, but not sent
    running.rename_in("{\"Version\":2 }");
    fs::write(running.dir.path().join("new"), "{\"Version\":3}").unwrap();
    assert_eq!(running.next().await, 3);
}

#[tokio::test]
async fn a_cold_start_publishes_the_newest_only() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("loaded"), "{\"Version\":7}").unwrap();
    let mut running = Running::start(dir, NEVER);
    assert_eq!(running.next().await, 7);

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("loaded"), "{\"Version\":7}").unwrap();
    fs::write(dir.path().join("new"), "{\"Version\":8}").unwrap();
    let mut running = Running::start(dir, NEVER);
    assert_eq!(running.next().await, 8);

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("loaded"), "broken").unwrap();
    let mut running = Running::start(dir, NEVER);
    running.rename_in("{\"Version\":9}");
    assert_eq!(running.next().await, 9);
}

#[tokio::test]
async fn a_loaded_that_could_not_be_read_is_read_when_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("loaded", dir.path().join("loaded")).unwrap();
    let mut running = Running::start(dir, NEVER);
    within(running.reread.fulfilled(running.reread.ask())).await;
    fs::remove_file(running.dir.path().join("loaded")).unwrap();
    fs::write(running.dir.path().join("loaded"), "{\"Version\":7}").unwrap();
    let counts = || running.looks.counts();
    assert_eq!((counts().succeeded, counts().failed > 0), (0, true), "it is no success meanwhile");
    running.reread.ask();
    assert_eq!(running.next().await, 7);
    assert_eq!(running.looks.counts().succeeded, 1);
}

#[tokio::test]
async fn a_file_written_in_place_is_read_when_it_is_closed() {
    use std::io::Write;
    let mut running = Running::start(tempfile::tempdir().unwrap(), NEVER);
    let mut new = fs::File::create(running.dir.path().join("new")).unwrap();
    new.write_all(b"{\"Version\"").unwrap();
    tokio::task::yield_now().await;
    new.write_all(b":5}").unwrap();
    drop(new);
    assert_eq!(running.next().await, 5);
}

#[tokio::test]
async fn a_dir_that_comes_back_is_watched_again() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("control");
    fs::create_dir(&dir).unwrap();
    let source = ControlDir::open(dir.clone(), "myapp".parse().unwrap(), NEVER, Patience::Forever).unwrap();
    let (releases, seen) = watch::channel(None);
    let reread = Reread::default();
    let link = link(releases, &reread);
    let looks = link.looks.clone();
    let task = tokio::spawn(Box::new(source).follow(link));
    let mut running = Running { dir: root, seen, reread, looks, task };
    rename_in(&dir, "{\"Version\":1}");
    assert_eq!(running.next().await, 1);
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    rename_in(&dir, "{\"Version\":2}");
    running.reread.ask();
    assert_eq!(running.next().await, 2);
    rename_in(&dir, "{\"Version\":3}");
    assert_eq!(running.next().await, 3);
}

#[test]
fn a_dir_that_can_be_no_source_is_fatal() {
    let open = |path: &Path| {
        let opened = ControlDir::open(path.to_owned(), "myapp".parse().unwrap(), NEVER, Patience::Forever);
        opened.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let root = tempfile::tempdir().unwrap();
    assert!(open(&root.path().join("none")).contains("mkdir -p"));
    fs::write(root.path().join("file"), "").unwrap();
    assert!(open(&root.path().join("file")).contains("is not a directory"));
    // not even root can make files there
    assert!(open(Path::new("/sys")).contains("not writable"));
    assert_eq!(open(root.path()), "");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}
