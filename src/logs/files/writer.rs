//! Writes lines to the file of their dyno and puts files aside that are too large or too old. A file that somebody moves
//! away or removes is made anew with the next lines.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::archive::Archive;
use super::log_files::{Claim, FilesError};
use super::names;
use crate::logs::batch::Batch;
use crate::logs::loss::Loss;
use crate::logs::settings::FileSettings;
use crate::logs::text;

/// How many files are open at a time; a dyno that prints when its file is not open opens it.
const MAX_OPEN: usize = 64;

/// How long a file that could not be put aside is written to before that is tried again.
const PUT_ASIDE_AGAIN: Duration = Duration::from_secs(60);

/// The mode of the files, whatever they have become: they hold what dynos print.
pub(super) const MODE: u32 = 0o640;

/// Writes lines to files.
pub(super) struct Writer {
    settings: FileSettings,
    claim: Claim,
    /// The lock of the directory, which ends with this process however that ends.
    _alone: Option<Flock<File>>,
    archive: Archive,
    open: HashMap<String, Open>,
    /// Counts writes, to know which file was not written to for longest.
    writes: u64,
    /// Lines of dynos that could not be written.
    losses: HashMap<String, Loss>,
    /// When files of dynos could not be put aside.
    stuck: HashMap<String, Instant>,
    text: Vec<u8>,
}

struct Open {
    file: File,
    /// What keeps other hsups whose one-off dynos have the same name from putting the file aside.
    shared: Option<Flock<File>>,
    device_and_inode: (u64, u64),
    bytes: u64,
    since: SystemTime,
    last_write: u64,
}

impl Open {
    fn at(path: &Path, claim: Claim) -> io::Result<Self> {
        // To read is what a shared lock needs on some file systems.
        let locks = claim == Claim::OneOff;
        let file = OpenOptions::new().create(true).read(locks).append(true).mode(MODE).open(path)?;
        let shared = match claim {
            Claim::Directory => None,
            Claim::OneOff => {
                let lock = Flock::lock(file.try_clone()?, FlockArg::LockShared);
                Some(lock.map_err(|(_, errno)| errno)?)
            }
        };
        let metadata = file.metadata()?;
        Ok(Self {
            shared,
            device_and_inode: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            since: metadata.created().or_else(|_| metadata.modified())?,
            last_write: 0,
            file,
        })
    }

    /// Whether this is still what lies at the path.
    fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == self.device_and_inode)
    }

    /// Appends lines. What has been written of them where that fails is cut off again, for the next ones not to go on
    /// in the middle of a line.
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let mut rest = text;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return self.cut_off(text.len() - rest.len(), io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.cut_off(text.len() - rest.len(), error),
            }
        }
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Cuts off so many bytes that were written last, unless somebody else may have written behind them.
    fn cut_off(&mut self, bytes: usize, error: io::Error) -> io::Result<()> {
        if bytes > 0 && self.make_alone().unwrap_or(false) {
            let end = self.file.stream_position()?;
            if self.file.metadata()?.len() == end {
                self.file.set_len(end - bytes as u64)?;
            }
        }
        Err(error)
    }

    /// Whether nobody else writes to the file, nor will until it is closed.
    fn make_alone(&self) -> io::Result<bool> {
        let Some(lock) = &self.shared else { return Ok(true) };
        match lock.relock(FlockArg::LockExclusiveNonblock) {
            Ok(()) => Ok(true),
            // That has also given up the lock that there was.
            Err(Errno::EWOULDBLOCK) => lock.relock(FlockArg::LockShared).map(|()| false).map_err(Into::into),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Writer {
    /// Makes the directory; who claims it finishes what a killed hsup had begun.
    pub(super) fn new(settings: FileSettings, claim: Claim) -> Result<Self, FilesError> {
        let failed = |operation| {
            let path = settings.dir.clone();
            move |source| FilesError::Failed { operation, path, source }
        };
        fs::create_dir_all(&settings.dir).map_err(failed("make the directory"))?;
        let mut archive = Archive::new(settings.dir.clone(), settings.rotate_keep);
        let _alone = match claim {
            Claim::Directory => {
                let lock = lock(&settings.dir)?;
                archive.recover().map_err(failed("read the directory"))?;
                lock
            }
            Claim::OneOff => None,
        };
        let (open, losses, stuck, text) = (HashMap::new(), HashMap::new(), HashMap::new(), Vec::new());
        Ok(Self { settings, claim, _alone, archive, open, writes: 0, losses, stuck, text })
    }

    /// Writes the lines of a batch.
    pub(super) fn write(&mut self, batch: &Batch) {
        let name = batch.speaker.as_str();
        match self.try_write(batch) {
            Ok(()) => {
                if let Some(lines) = self.losses.get_mut(name).and_then(Loss::over) {
                    self.losses.remove(name);
                    tracing::warn!(
                        "the log file of {name} is written again; {lines} lines could not be written"
                    );
                }
            }
            Err(error) => {
                self.open.remove(name);
                if self.losses.entry(name.to_owned()).or_default().add(batch.len()) {
                    let dir = self.settings.dir.display();
                    tracing::error!(%error, "cannot write the log file of {name} in {dir}; its lines are lost");
                }
            }
        }
    }

    fn try_write(&mut self, batch: &Batch) -> io::Result<()> {
        let name = batch.speaker.as_str();
        let head = text::head(batch);
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        batch.lines().for_each(|line| text::append(&mut text, &head, line));
        let written = self.file(name).and_then(|open| open.append(&text));
        text.shrink_to(KEPT_TEXT_BYTES);
        self.text = text;
        written?;
        self.rotate_if_due(name);
        Ok(())
    }

    /// The open file of a dyno.
    fn file(&mut self, name: &str) -> io::Result<&mut Open> {
        self.writes += 1;
        let path = self.path(name);
        if self.open.get(name).is_some_and(|open| !open.is_at(&path)) {
            self.open.remove(name);
        }
        while !self.open.contains_key(name) {
            self.make_room();
            let open = Open::at(&path, self.claim)?;
            // While the lock was waited for another hsup may have put the file aside.
            if open.shared.is_none() || open.is_at(&path) {
                self.open.insert(name.to_owned(), open);
                self.rotate_if_due(name);
            }
        }
        let open = self.open.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        open.last_write = self.writes;
        Ok(open)
    }

    /// Closes the file that was not written to for longest, where many are open.
    fn make_room(&mut self) {
        if self.open.len() >= MAX_OPEN {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.last_write);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.open.remove(&name);
            }
        }
    }

    /// Puts a file aside that is too large or too old. Where that is not possible it grows: no line is lost by it.
    fn rotate_if_due(&mut self, name: &str) {
        let Some(open) = self.open.get(name) else { return };
        let is_old = open.since.elapsed().is_ok_and(|age| age >= self.settings.rotate_age);
        let is_due = open.bytes > 0 && (open.bytes >= self.settings.rotate_bytes || is_old);
        if !is_due || self.stuck.get(name).is_some_and(|since| since.elapsed() < PUT_ASIDE_AGAIN) {
            return;
        }
        match self.rotate(name) {
            Ok(()) => drop(self.stuck.remove(name)),
            Err(error) => {
                if self.stuck.insert(name.to_owned(), Instant::now()).is_none() {
                    let dir = self.settings.dir.display();
                    tracing::error!(%error, "cannot put the log file of {name} in {dir} aside; it grows meanwhile");
                }
                // With the lock that keeps others away.
                self.open.remove(name);
            }
        }
    }

    /// Puts a file aside; not one to which another hsup writes, too.
    fn rotate(&mut self, name: &str) -> io::Result<()> {
        let Some(open) = self.open.get(name) else { return Ok(()) };
        if !open.make_alone()? {
            return Ok(());
        }
        open.file.sync_all()?;
        let path = self.path(name);
        // Nor one that is not there any more: what is there now may be the file of another hsup.
        if open.is_at(&path) {
            let aside = self.archive.name(name)?;
            fs::rename(&path, self.settings.dir.join(&aside))?;
            self.archive.take(aside);
        }
        self.open.remove(name);
        Ok(())
    }

    /// Ends in good order.
    pub(super) fn close(mut self) {
        for (name, open) in self.open.drain() {
            if let Err(error) = open.file.sync_all() {
                tracing::error!(%error, "cannot write the log file of {name}");
            }
        }
        for (name, loss) in self.losses.drain() {
            if let Some(lines) = loss.rest() {
                tracing::warn!("{lines} lines of {name} could not be written to its log file");
            }
        }
        self.archive.close();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.settings.dir.join(names::live(name))
    }
}

/// Takes the directory, for as long as what is given back lives.
fn lock(dir: &Path) -> Result<Option<Flock<File>>, FilesError> {
    let failed = |source| FilesError::Failed { operation: "open", path: dir.to_owned(), source };
    match Flock::lock(File::open(dir).map_err(failed)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(FilesError::InUse { path: dir.to_owned() }),
        // A network's, for instance: to do without is better than not to start.
        Err((_, error)) => {
            let dir = dir.display();
            tracing::warn!(%error, "cannot lock {dir}: let no other hsup have it as its --log-dir");
            Ok(None)
        }
    }
}

/// How much memory is kept for the next lines.
const KEPT_TEXT_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::logs::{Origin, Speaker};

    fn settings(dir: &std::path::Path) -> FileSettings {
        FileSettings {
            dir: dir.to_owned(),
            rotate_bytes: 1000,
            rotate_age: Duration::from_secs(3600),
            rotate_keep: 1000,
        }
    }

    fn batch(n: usize) -> Batch {
        let speaker = Speaker::dyno(&"web.1".parse().unwrap());
        Batch::new(speaker, Origin::Stdout, SystemTime::now(), format!("line {n}\n").into_bytes())
    }

    /// All lines in all files of a directory, oldest first, and how many files are compressed.
    fn lines(dir: &std::path::Path) -> (Vec<String>, usize) {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        // `web.1.log` is the newest.
        names.sort_by_key(|path| (path.extension().is_some_and(|end| end == "log"), path.clone()));
        let (mut text, mut compressed) = (String::new(), 0);
        for path in names {
            let mut file = File::open(&path).unwrap();
            if path.extension().is_some_and(|end| end == "gz") {
                compressed += 1;
                GzDecoder::new(file).read_to_string(&mut text).unwrap();
            } else {
                file.read_to_string(&mut text).unwrap();
            }
        }
        (text.lines().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect(), compressed)
    }

    #[test]
    fn files_are_put_aside_and_compressed_and_no_line_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(settings(dir.path()), Claim::Directory).unwrap();
        (0..200).for_each(|n| writer.write(&batch(n)));
        writer.close();
        // a restart goes on, and finishes what was left
        fs::write(dir.path().join("web.1.log.20200101T000000.000000Z.gz.tmp"), "half").unwrap();
        let mut writer = Writer::new(settings(dir.path()), Claim::Directory).unwrap();
        (200..400).for_each(|n| writer.write(&batch(n)));
        writer.close();
        let (lines, compressed) = lines(dir.path());
        assert_eq!(lines, (0..400).map(|n| format!("line {n}")).collect::<Vec<_>>());
        assert!((15..25).contains(&compressed), "{compressed}");
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().mode() & 0o777;
            assert_eq!(mode & !MODE, 0, "{:?} has {mode:o}", entry.file_name());
        }
    }

    #[test]
    fn the_oldest_files_go_and_what_a_killed_hsup_had_put_aside_is_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let few = FileSettings { rotate_keep: 3, ..settings(dir.path()) };
        let mut writer = Writer::new(few.clone(), Claim::Directory).unwrap();
        (0..400).for_each(|n| writer.write(&batch(n)));
        writer.close();
        assert_eq!(lines(dir.path()).1, 3);
        let aside = dir.path().join("web.1.log.20200101T000000.000000Z");
        fs::write(&aside, "2020 app[web.1]: old\n").unwrap();
        Writer::new(few, Claim::Directory).unwrap().close();
        assert!(!aside.exists());
        let (lines, compressed) = lines(dir.path());
        assert_eq!((compressed, lines.last().map(String::as_str)), (3, Some("line 399")));
    }

    #[test]
    fn the_newest_files_stay_though_the_clock_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..3 {
            let aside = format!("web.1.log.20990101T000000.00000{n}Z");
            fs::write(dir.path().join(aside), "2099 app[web.1]: old\n").unwrap();
        }
        let few = FileSettings { rotate_keep: 3, ..settings(dir.path()) };
        let mut writer = Writer::new(few, Claim::Directory).unwrap();
        (0..400).for_each(|n| writer.write(&batch(n)));
        writer.close();
        let (lines, compressed) = lines(dir.path());
        let newest: Vec<_> = (400 - lines.len()..400).map(|n| format!("line {n}")).collect();
        assert_eq!((lines, compressed), (newest, 3));
    }

    #[test]
    fn a_file_that_is_too_old_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let old = FileSettings { rotate_age: Duration::ZERO, ..settings(dir.path()) };
        let mut writer = Writer::new(old, Claim::Directory).unwrap();
        (0..3).for_each(|n| writer.write(&batch(n)));
        writer.close();
        assert_eq!(lines(dir.path()).1, 3);
    }

    fn texts(dir: &Path) -> Vec<(String, String)> {
        let mut texts: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        texts.sort();
        texts
    }

    #[test]
    fn files_of_others_are_left_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["auth.log.1", "web.1.log.2.gz", "web.1.log.1.gz", "app.log.2.xz", "tmp_report.csv", "tmp_x"]
        {
            fs::write(dir.path().join(name), "precious").unwrap();
        }
        let before = texts(dir.path());
        let settings = FileSettings { rotate_keep: 0, rotate_bytes: 1, ..settings(dir.path()) };
        for n in 0..2 {
            let mut writer = Writer::new(settings.clone(), Claim::Directory).unwrap();
            writer.write(&batch(n));
            writer.close();
        }
        assert_eq!(texts(dir.path()), before);
    }

    #[test]
    fn a_directory_is_that_of_one_hsup_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Writer::new(settings(dir.path()), Claim::Directory).unwrap();
        let second = Writer::new(settings(dir.path()), Claim::Directory).err().unwrap().to_string();
        assert!(second.contains("another hsup") && second.contains("--log-dir"), "{second}");
        first.close();
        Writer::new(settings(dir.path()), Claim::Directory).unwrap().close();
    }

    #[test]
    fn one_off_dynos_share_a_directory_and_their_file_and_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let first = Writer::new(settings(dir.path()), Claim::Directory).unwrap();
        let aside = dir.path().join("web.1.log.20200101T000000.000000Z");
        fs::write(&aside, "2020 app[web.1]: old\n").unwrap();
        let mut runs = [0, 1].map(|_| Writer::new(settings(dir.path()), Claim::OneOff).unwrap());
        for n in 0..400 {
            runs[n % 2].write(&batch(n));
        }
        assert!(aside.exists(), "it was recovered");
        fs::remove_file(&aside).unwrap();
        assert_eq!(lines(dir.path()).1, 0, "a file was put aside that another one has open");
        let [mut one, other] = runs;
        other.close();
        (400..500).for_each(|n| one.write(&batch(n)));
        one.close();
        first.close();
        let (lines, compressed) = lines(dir.path());
        assert_eq!(lines, (0..500).map(|n| format!("line {n}")).collect::<Vec<_>>());
        assert!(compressed > 1, "{compressed}");
    }

    #[test]
    fn a_file_that_cannot_be_put_aside_goes_on_and_loses_nothing() {
        let root = tempfile::tempdir().unwrap();
        // of paths of 4095 bytes at most there is room for that of the file, and none for a time behind it
        let mut dir = root.path().join("d".repeat(100));
        while dir.as_os_str().len() < 4070 {
            let left = 4070 - dir.as_os_str().len();
            dir.push("d".repeat(left.min(200)));
        }
        let mut writer = Writer::new(settings(&dir), Claim::Directory).unwrap();
        (0..200).for_each(|n| writer.write(&batch(n)));
        assert!(writer.losses.is_empty() && writer.stuck.contains_key("web.1"), "{:?}", writer.losses);
        writer.close();
        assert_eq!(lines(&dir), ((0..200).map(|n| format!("line {n}")).collect(), 0));
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(settings(dir.path()), Claim::Directory).unwrap();
        writer.write(&batch(0));
        fs::rename(dir.path().join("web.1.log"), dir.path().join("elsewhere")).unwrap();
        writer.write(&batch(1));
        fs::remove_file(dir.path().join("elsewhere")).unwrap();
        writer.close();
        assert_eq!(lines(dir.path()), (vec!["line 1".to_owned()], 0));
    }
}
