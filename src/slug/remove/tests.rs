use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::super::slugs::Slug;
use super::*;

struct Host {
    _temp: TempDir,
    cache: Cache,
}

fn digest(byte: u8) -> Sha256Digest {
    Sha256Digest([byte; 32])
}

impl Host {
    fn with(digests: &[u8]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::new(temp.path().join("slugs"));
        cache.open().unwrap();
        let host = Self { _temp: temp, cache };
        digests.iter().for_each(|byte| drop(host.publish(*byte)));
        host
    }

    fn publish(&self, byte: u8) -> Slug {
        let stage = self.cache.stage().unwrap();
        fs::create_dir_all(stage.path().join("app/deep")).unwrap();
        fs::write(stage.path().join("app/deep/file"), "x").unwrap();
        self.cache.publish(stage, digest(byte)).unwrap().unwrap()
    }

    fn find(&self, byte: u8) -> Option<Slug> {
        self.cache.find(digest(byte)).unwrap()
    }

    async fn remove_but(&self, needed: &[u8]) {
        let needed: BTreeSet<_> = needed.iter().copied().map(digest).collect();
        remove_unneeded(self.cache.dir().to_owned(), move || Some(needed.clone())).await;
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache.dir()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn has(&self, digests: &[u8]) -> bool {
        self.names() == digests.iter().map(|byte| digest(*byte).to_string()).collect::<Vec<_>>()
    }
}

/// Another process that uses a tree, until it is killed.
fn another_user_of(dir: &Path) -> Child {
    let script = "exec 9<\"$0\" && flock -s 9 && echo held && exec sleep 600";
    let mut child = Command::new("sh").args(["-c", script]).arg(dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut held = [0; 5];
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut held).unwrap();
    child
}

#[tokio::test]
async fn only_what_nobody_uses_and_nobody_needs_goes() {
    let host = Host::with(&[1, 2, 3, 4]);
    let used = host.find(2).unwrap();
    host.remove_but(&[3, 9]).await;
    assert!(host.has(&[2, 3]), "{:?}", host.names());
    assert!(used.app_dir.join("deep/file").exists());
    // a clone uses it as well
    let clone = used.clone();
    drop(used);
    host.remove_but(&[]).await;
    assert!(host.has(&[2]), "{:?}", host.names());
    drop(clone);
    host.remove_but(&[]).await;
    assert!(host.has(&[]), "{:?}", host.names());
    assert_eq!(host.find(2), None);
    assert!(host.publish(2).app_dir.join("deep/file").exists());
}

#[tokio::test]
async fn what_another_process_uses_stays_until_that_has_died() {
    let host = Host::with(&[1]);
    let mut other = another_user_of(&host.cache.path(digest(1)));
    host.remove_but(&[]).await;
    assert!(host.has(&[1]));
    other.kill().unwrap();
    other.wait().unwrap();
    host.remove_but(&[]).await;
    assert!(host.has(&[]));
}

#[tokio::test]
async fn nothing_goes_where_nobody_knows_what_is_needed() {
    let host = Host::with(&[1, 2]);
    remove_unneeded(host.cache.dir().to_owned(), || None).await;
    assert!(host.has(&[1, 2]));
}

#[tokio::test]
async fn a_tree_is_found_to_be_needed_while_nobody_can_begin_to_use_it() {
    let host = Host::with(&[1]);
    let dir = host.cache.path(digest(1));
    let asked = move || {
        let taken = unless_in_use(&dir).unwrap().is_none();
        taken.then(|| BTreeSet::from([digest(1)]))
    };
    assert!(matches!(remove_one(&host.cache, digest(1), &asked), Ok(Fate::Stays)));
    assert!(host.find(1).is_some());
}

#[tokio::test]
async fn a_removal_that_was_interrupted_is_finished() {
    let host = Host::with(&[1]);
    let dead = host.cache.dir().join(".stage-dead");
    fs::create_dir(&dead).unwrap();
    fs::rename(host.cache.path(digest(1)), dead.join("removed")).unwrap();
    assert_eq!(host.find(1), None);
    host.remove_but(&[1]).await;
    assert!(host.has(&[]), "{:?}", host.names());
}

#[tokio::test]
async fn what_is_no_slug_stays_and_no_folder_is_made() {
    let host = Host::with(&[]);
    for name in ["lost+found", &"A".repeat(64)] {
        fs::create_dir(host.cache.dir().join(name)).unwrap();
    }
    host.remove_but(&[]).await;
    assert_eq!(host.names().len(), 2);
    let none = host.cache.dir().join("none");
    remove_unneeded(none.clone(), || Some(BTreeSet::new())).await;
    assert!(!none.exists());
}

#[tokio::test]
async fn who_comes_while_a_tree_goes_has_it_or_makes_it_again() {
    let host = Host::with(&[]);
    std::thread::scope(|scope| {
        let users: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..60 {
                        let slug = loop {
                            if let Some(slug) = host.find(1) {
                                break slug;
                            }
                            let stage = host.cache.stage().unwrap();
                            fs::create_dir_all(stage.path().join("app/deep")).unwrap();
                            fs::write(stage.path().join("app/deep/file"), "x").unwrap();
                            if let Some(slug) = host.cache.publish(stage, digest(1)).unwrap() {
                                break slug;
                            }
                        };
                        std::thread::yield_now();
                        assert!(slug.app_dir.join("deep/file").exists());
                    }
                })
            })
            .collect();
        while !users.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            remove_all(&host.cache, &|| Some(BTreeSet::new()), &Stop::default()).unwrap();
        }
    });
}
