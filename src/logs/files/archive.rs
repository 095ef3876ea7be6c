//! Files that were put aside: compressed, and removed when there are too many. A crash leaves one that is plain or
//! compressed, and never half of either. It touches no file whose name is not hsup's.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

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
        let result = compress(&plain, dir).and_then(|()| prune(&plain, dir, keep));
        if let Err(error) = result {
            let path = dir.join(&plain);
            tracing::warn!(%error, "cannot compress {}; it is tried again at the next start", path.display());
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
    match fs::remove_file(temp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(temp)
}

/// Removes the oldest files of the same dyno.
fn prune(plain: &str, dir: &Path, keep: usize) -> io::Result<()> {
    let Some(Aside { dyno, .. }) = Aside::of(plain) else { return Ok(()) };
    let mut old = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let aside = name.to_str().and_then(Aside::of);
        if aside.is_some_and(|aside| aside.dyno == dyno && aside.stage == Stage::Compressed) {
            old.push(name);
        }
    }
    // The names begin with the time.
    old.sort_unstable();
    let too_many = old.len().saturating_sub(keep);
    old.into_iter().take(too_many).try_for_each(|name| match fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    })
}
