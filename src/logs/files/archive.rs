//! Files that were put aside: compressed, and removed when there are too many. Their names are
//! `web.1.log.20261121T100000.000001Z`, with `.gz` once they are compressed; a crash leaves one or the other, and never
//! half of either.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::durable::{TEMP_PREFIX, sync_dir};

const SUFFIX: &str = ".gz";

/// Compresses files, one after the other, on a thread of its own.
#[derive(Debug)]
pub(super) struct Archive {
    dir: PathBuf,
    keep: usize,
    work: Option<(Sender<PathBuf>, JoinHandle<()>)>,
}

impl Archive {
    pub(super) fn new(dir: PathBuf, keep: usize) -> Self {
        Self { dir, keep, work: None }
    }

    /// Finishes what an hsup that was killed had begun.
    pub(super) fn recover(&mut self) -> io::Result<()> {
        crate::durable::remove_leftovers(&self.dir);
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.contains(".log.") && !name.ends_with(SUFFIX) {
                self.take(path);
            }
        }
        Ok(())
    }

    /// Takes a file that was put aside.
    pub(super) fn take(&mut self, path: PathBuf) {
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
            let _ended = sender.send(path);
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

fn work(paths: &Receiver<PathBuf>, dir: &Path, keep: usize) {
    for path in paths {
        let result = compress(&path, dir).and_then(|()| prune(&path, dir, keep));
        if let Err(error) = result {
            tracing::warn!(%error, "cannot compress {}; it is tried again at the next start", path.display());
        }
    }
}

fn compress(path: &Path, dir: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp = dir.join(format!("{TEMP_PREFIX}{name}{SUFFIX}"));
    let mut gzip = GzEncoder::new(File::create(&temp)?, Compression::default());
    let compressed = io::copy(&mut File::open(path)?, &mut gzip)
        .and_then(|_| gzip.finish())
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&temp, dir.join(format!("{name}{SUFFIX}"))))
        .and_then(|()| sync_dir(dir));
    if let Err(error) = compressed {
        let _as_good_as_possible = fs::remove_file(&temp);
        return Err(error);
    }
    fs::remove_file(path)
}

/// Removes the oldest files of the same dyno.
fn prune(path: &Path, dir: &Path, keep: usize) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some((dyno, _)) = name.split_once(".log.") else { return Ok(()) };
    let prefix = format!("{dyno}.log.");
    let mut old = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && name.ends_with(SUFFIX) {
            old.push(name);
        }
    }
    // The names begin with the time.
    old.sort_unstable();
    let too_many = old.len().saturating_sub(keep);
    old.into_iter().take(too_many).try_for_each(|name| fs::remove_file(dir.join(name)))
}
