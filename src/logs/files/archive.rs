//! Files that were put aside: compressed, and removed when there are too many. A crash leaves one that is plain or
//! compressed, and never half of either. It touches no file whose name is not hsup's.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::fcntl::{Flock, FlockArg};

use super::names::{self, Aside, Stage};
use super::writer::MODE;
use crate::archive::is_at;
use crate::durable::sync_dir;

/// Compresses files, one after the other, on a thread of its own.
#[derive(Debug)]
pub(super) struct Archive {
    dir: PathBuf,
    keep: usize,
    work: Option<(Sender<String>, JoinHandle<()>)>,
}

impl Archive {
    pub(super) fn new(dir: PathBuf, keep: usize) -> Self {
        Self { dir, keep, work: None }
    }

    /// Finishes what an hsup that was killed had begun.
    pub(super) fn recover(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let Some(aside) = name.to_str().and_then(Aside::of) else { continue };
            match aside.stage {
                Stage::Plain => self.take(aside.plain.to_owned()),
                // where that is still there it is compressed anew
                Stage::Temp if !self.dir.join(aside.plain).exists() => {
                    let _as_good_as_possible = fs::remove_file(self.dir.join(&name));
                }
                Stage::Temp | Stage::Compressed => {}
            }
        }
        Ok(())
    }

    /// What a file of this dyno is called that is put aside now. Its name is behind those that are there, also where the
    /// clock was set back: the first ones are the oldest, and go first.
    pub(super) fn name(&self, dyno: &str) -> io::Result<String> {
        let newest = asides(dyno, &self.dir)?.last().and_then(|newest| names::time_of(newest));
        let behind = newest.map(|newest| newest + Duration::from_micros(1));
        let now = SystemTime::now();
        Ok(names::aside(dyno, behind.map_or(now, |behind| behind.max(now))))
    }

    /// Takes a file that was put aside, by its name.
    pub(super) fn take(&mut self, plain: String) {
        if self.work.is_none() {
            let (sender, receiver) = channel();
            let (dir, keep) = (self.dir.clone(), self.keep);
            let thread =
                thread::Builder::new().name("log gzip".to_owned()).spawn(move || work(&receiver, &dir, keep));
            match thread {
                Ok(thread) => self.work = Some((sender, thread)),
                Err(error) => {
                    tracing::warn!(%error, "log files are not compressed: there is no thread for it")
                }
            }
        }
        if let Some((sender, _)) = &self.work {
            let _ended = sender.send(plain);
        }
    }

    /// Waits until what was taken is done.
    pub(super) fn close(&mut self) {
        if let Some((sender, thread)) = self.work.take() {
            drop(sender);
            let _panicked = thread.join();
        }
    }
}

fn work(names: &Receiver<String>, dir: &Path, keep: usize) {
    for plain in names {
        if let Err(error) = compress(&plain, dir) {
            let path = dir.join(&plain);
            tracing::warn!(%error, "cannot compress {}; it is tried again at the next start", path.display());
        }
        // Whatever has come of it: where there is no room to compress anything this makes some.
        if let Err(error) = prune(&plain, dir, keep) {
            tracing::warn!(%error, "cannot remove old log files in {}", dir.display());
        }
    }
}

/// Compresses a file, unless another hsup has done so in the meantime: that of a one-off dyno beside one that starts.
fn compress(plain: &str, dir: &Path) -> io::Result<()> {
    let (path, temp) = (dir.join(plain), dir.join(names::temp(plain)));
    // To write is what a lock needs on some file systems.
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    if !is_at(&file, &path)? {
        return Ok(());
    }
    let compressed = create(&temp)
        .map(|temp| GzEncoder::new(temp, Compression::default()))
        .and_then(|mut gzip| io::copy(&mut *file, &mut gzip).and_then(|_| gzip.finish()))
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&temp, dir.join(names::compressed(plain))))
        .and_then(|()| sync_dir(dir));
    if let Err(error) = compressed {
        let _as_good_as_possible = fs::remove_file(&temp);
        return Err(error);
    }
    fs::remove_file(path)
}

/// Makes a file of its own, in place of one that a killed hsup may have left.
fn create(temp: &Path) -> io::Result<File> {
    remove(temp)?;
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(temp)
}

/// Removes the oldest files of the same dyno, compressed or not.
fn prune(plain: &str, dir: &Path, keep: usize) -> io::Result<()> {
    let Some(Aside { dyno, .. }) = Aside::of(plain) else { return Ok(()) };
    let old = asides(dyno, dir)?;
    let too_many = old.len().saturating_sub(keep);
    old.iter().take(too_many).try_for_each(|name| {
        remove(&dir.join(names::compressed(name)))?;
        remove(&dir.join(name))
    })
}

/// The plain names of the files of a dyno that were put aside, which are in the order of their times.
fn asides(dyno: &str, dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut asides = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let aside = name.to_str().and_then(Aside::of).filter(|aside| aside.dyno == dyno);
        asides.extend(aside.map(|aside| aside.plain.to_owned()));
    }
    Ok(asides)
}

/// Removes a file, which may be gone.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_not_more_files_where_none_can_be_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |dyno: &str, n| names::aside(dyno, SystemTime::UNIX_EPOCH + Duration::from_secs(n));
        let others = at("worker.1", 1);
        fs::write(dir.path().join(&others), "").unwrap();
        let mut archive = Archive::new(dir.path().to_owned(), 2);
        for n in 1..=5 {
            fs::write(dir.path().join(at("web.1", n)), "").unwrap();
            // in the way of what is compressed
            fs::create_dir(dir.path().join(names::temp(&at("web.1", n)))).unwrap();
            archive.take(at("web.1", n));
        }
        archive.close();
        let there = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
        let files = there.filter(|entry| entry.file_type().unwrap().is_file());
        let mut files: Vec<_> = files.map(|entry| entry.file_name().into_string().unwrap()).collect();
        files.sort_unstable();
        assert_eq!(files, [at("web.1", 4), at("web.1", 5), others]);
    }
}
