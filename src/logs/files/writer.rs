//! Writes lines to the file of their dyno and puts files aside that are too large or too old.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::archive::Archive;
use super::log_files::FilesError;
use crate::logs::batch::Batch;
use crate::logs::settings::FileSettings;
use crate::logs::text;

/// How many files are open at a time; a dyno that prints when its file is not open opens it.
const MAX_OPEN: usize = 64;

/// The mode of the files: they hold what dynos print.
const MODE: u32 = 0o640;

/// Writes lines to files.
pub(super) struct Writer {
    settings: FileSettings,
    archive: Archive,
    open: HashMap<String, Open>,
    /// Counts writes, to know which file was not written to for longest.
    writes: u64,
    /// Lines that could not be written since that was said.
    lost: u64,
    text: Vec<u8>,
}

struct Open {
    file: File,
    bytes: u64,
    since: SystemTime,
    last_write: u64,
}

impl Writer {
    /// Makes the directory, and finishes what a killed hsup had begun.
    pub(super) fn new(settings: FileSettings) -> Result<Self, FilesError> {
        let failed = |operation| {
            let path = settings.dir.clone();
            move |source| FilesError { operation, path, source }
        };
        fs::create_dir_all(&settings.dir).map_err(failed("make the directory"))?;
        let mut archive = Archive::new(settings.dir.clone(), settings.rotate_keep);
        archive.recover().map_err(failed("read the directory"))?;
        Ok(Self { settings, archive, open: HashMap::new(), writes: 0, lost: 0, text: Vec::new() })
    }

    /// Writes the lines of a batch.
    pub(super) fn write(&mut self, batch: &Batch) {
        let name = batch.speaker.as_str();
        match self.try_write(batch) {
            Ok(()) if self.lost > 0 => {
                tracing::warn!("log files are written again; {} lines could not be written", self.lost);
                self.lost = 0;
            }
            Ok(()) => {}
            Err(error) => {
                self.open.remove(name);
                if self.lost == 0 {
                    let dir = self.settings.dir.display();
                    tracing::error!(%error, "cannot write the log file of {name} in {dir}; its lines are lost");
                }
                self.lost += batch.len();
            }
        }
    }

    fn try_write(&mut self, batch: &Batch) -> io::Result<()> {
        let name = batch.speaker.as_str();
        let head = text::head(batch);
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        batch.lines().for_each(|line| text::append(&mut text, &head, line));
        let written = self.file(name).and_then(|open| {
            open.file.write_all(&text)?;
            open.bytes += text.len() as u64;
            Ok(())
        });
        text.shrink_to(KEPT_TEXT_BYTES);
        self.text = text;
        written?;
        self.rotate_if_due(name)
    }

    /// The open file of a dyno.
    fn file(&mut self, name: &str) -> io::Result<&mut Open> {
        self.writes += 1;
        if !self.open.contains_key(name) {
            if self.open.len() >= MAX_OPEN {
                let oldest = self.open.iter().min_by_key(|(_, open)| open.last_write);
                if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                    self.open.remove(&name);
                }
            }
            let path = self.path(name);
            let file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
            let metadata = file.metadata()?;
            let since = metadata.created().or_else(|_| metadata.modified())?;
            let open = Open { file, bytes: metadata.len(), since, last_write: 0 };
            self.open.insert(name.to_owned(), open);
            self.rotate_if_due(name)?;
            if !self.open.contains_key(name) {
                return self.file(name);
            }
        }
        let open = self.open.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        open.last_write = self.writes;
        Ok(open)
    }

    /// Puts a file aside that is too large or too old.
    fn rotate_if_due(&mut self, name: &str) -> io::Result<()> {
        let Some(open) = self.open.get(name) else { return Ok(()) };
        let is_old = open.since.elapsed().is_ok_and(|age| age >= self.settings.rotate_age);
        if open.bytes == 0 || open.bytes < self.settings.rotate_bytes && !is_old {
            return Ok(());
        }
        open.file.sync_all()?;
        self.open.remove(name);
        let path = self.path(name);
        let stamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string().replace(['-', ':'], "");
        let aside = self.settings.dir.join(format!("{name}.log.{stamp}"));
        fs::rename(&path, &aside)?;
        self.archive.take(aside);
        Ok(())
    }

    /// Ends in good order.
    pub(super) fn close(&mut self) {
        for (name, open) in self.open.drain() {
            if let Err(error) = open.file.sync_all() {
                tracing::error!(%error, "cannot write the log file of {name}");
            }
        }
        self.archive.close();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.settings.dir.join(format!("{name}.log"))
    }
}

/// How much memory is kept for the next lines.
const KEPT_TEXT_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

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
        let mut writer = Writer::new(settings(dir.path())).unwrap();
        (0..200).for_each(|n| writer.write(&batch(n)));
        writer.close();
        // a restart goes on, and finishes what was left
        fs::write(dir.path().join(".hsup-tmp-web.1.log.x.gz"), "half").unwrap();
        let mut writer = Writer::new(settings(dir.path())).unwrap();
        (200..400).for_each(|n| writer.write(&batch(n)));
        writer.close();
        let (lines, compressed) = lines(dir.path());
        assert_eq!(lines, (0..400).map(|n| format!("line {n}")).collect::<Vec<_>>());
        assert!((15..25).contains(&compressed), "{compressed}");
    }

    #[test]
    fn the_oldest_files_go_and_what_a_killed_hsup_had_put_aside_is_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let few = FileSettings { rotate_keep: 3, ..settings(dir.path()) };
        let mut writer = Writer::new(few.clone()).unwrap();
        (0..400).for_each(|n| writer.write(&batch(n)));
        writer.close();
        assert_eq!(lines(dir.path()).1, 3);
        let aside = dir.path().join("web.1.log.20200101T000000.000000Z");
        fs::write(&aside, "2020 app[web.1]: old\n").unwrap();
        Writer::new(few).unwrap().close();
        assert!(!aside.exists());
        let (lines, compressed) = lines(dir.path());
        assert_eq!((compressed, lines.last().map(String::as_str)), (3, Some("line 399")));
    }

    #[test]
    fn a_file_that_is_too_old_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let old = FileSettings { rotate_age: Duration::ZERO, ..settings(dir.path()) };
        let mut writer = Writer::new(old).unwrap();
        (0..3).for_each(|n| writer.write(&batch(n)));
        writer.close();
        assert_eq!(lines(dir.path()).1, 3);
    }
}
