//! Archives as files of this host: reading one that the operator names, and writing one to a temp file while
//! its digest is computed. It must not know HTTP.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

use super::fetch::FetchError;
use super::item::Item;
use super::progress::Progress;
use crate::blocking::Stop;
use crate::model::Sha256Digest;

const CHUNK_BYTES: usize = 256 * 1024;

/// A fetched archive. Its file has no name, so it is gone with the process that holds it.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) file: File,
    pub(crate) digest: Sha256Digest,
}

/// An archive on its way to disk.
pub(crate) struct Intake {
    dir: PathBuf,
    file: File,
    hash: Sha256,
}

impl Intake {
    /// # Errors
    /// When `dir` takes no temp file.
    pub(crate) fn new(dir: &Path) -> Result<Self, FetchError> {
        let file = tempfile::tempfile_in(dir)
            .map_err(|source| FetchError::Write { dir: dir.to_path_buf(), source })?;
        Ok(Self { dir: dir.to_path_buf(), file, hash: Sha256::new() })
    }

    /// # Errors
    /// When the temp file cannot be written.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> Result<(), FetchError> {
        self.hash.update(chunk);
        self.file.write_all(chunk).map_err(|source| FetchError::Write { dir: self.dir.clone(), source })
    }

    /// # Errors
    /// When the temp file cannot be rewound.
    pub(crate) fn finish(mut self) -> Result<Archive, FetchError> {
        self.file.rewind().map_err(|source| FetchError::Write { dir: self.dir, source })?;
        Ok(Archive { file: self.file, digest: Sha256Digest(self.hash.finalize().into()) })
    }
}

/// The digest of a file.
///
/// # Errors
/// When it is no regular file, cannot be read or is too large.
pub(crate) fn digest(
    what: &Item,
    path: &Path,
    limit_bytes: u64,
    stop: &Stop,
) -> Result<Sha256Digest, FetchError> {
    let mut hash = Sha256::new();
    let (mut file, _) = open(what, path, limit_bytes)?;
    let mut bytes = 0;
    read(what, &mut file, stop, |chunk| {
        hash.update(chunk);
        bytes += chunk.len() as u64;
        within(what, bytes, limit_bytes)
    })?;
    Ok(Sha256Digest(hash.finalize().into()))
}

/// Copies a file: the operator may change it while it is unpacked.
///
/// # Errors
/// When it is no regular file, cannot be read, is too large, or `dir` cannot be written.
pub(crate) fn copy(
    what: &Item,
    path: &Path,
    dir: &Path,
    limit_bytes: u64,
    stop: &Stop,
) -> Result<Archive, FetchError> {
    let (mut file, length) = open(what, path, limit_bytes)?;
    let mut progress = Progress::start(what, Some(length));
    let mut intake = Intake::new(dir)?;
    read(what, &mut file, stop, |chunk| {
        progress.add(chunk.len());
        within(what, progress.bytes(), limit_bytes)?;
        intake.take(chunk)
    })?;
    progress.finish();
    intake.finish()
}

fn within(what: &Item, bytes: u64, limit_bytes: u64) -> Result<(), FetchError> {
    if bytes > limit_bytes {
        return Err(FetchError::TooLarge { what: what.clone(), limit_bytes });
    }
    Ok(())
}

fn open(what: &Item, path: &Path, limit_bytes: u64) -> Result<(File, u64), FetchError> {
    let failed = |source| FetchError::Open { what: what.clone(), source };
    let regular = |file_type| match kind(file_type) {
        Some(kind) => Err(FetchError::NotAFile { what: what.clone(), kind }),
        None => Ok(()),
    };
    // before the open, because opening a device can already do something
    regular(fs::metadata(path).map_err(failed)?.file_type())?;
    // and after, should it have been replaced; O_NONBLOCK, because the open of a FIFO waits for a writer
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    regular(metadata.file_type())?;
    within(what, metadata.len(), limit_bytes)?;
    Ok((file, metadata.len()))
}

fn kind(file_type: FileType) -> Option<&'static str> {
    match file_type {
        t if t.is_file() => None,
        t if t.is_dir() => Some("a directory"),
        t if t.is_fifo() => Some("a FIFO"),
        t if t.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

fn read(
    what: &Item,
    file: &mut File,
    stop: &Stop,
    mut each: impl FnMut(&[u8]) -> Result<(), FetchError>,
) -> Result<(), FetchError> {
    let failed = |source| FetchError::Read { what: what.clone(), source };
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        stop.check().map_err(failed)?;
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => each(&buffer[..bytes])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;

    const LIMIT: u64 = 1 << 20;

    fn item(path: &Path) -> Item {
        Item::slug(path.display())
    }

    fn refusal(path: &Path) -> String {
        digest(&item(path), path, LIMIT, &Stop::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_copy_has_the_digest_of_its_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("slug.tgz");
        fs::write(&path, "abc").unwrap();
        let mut archive = copy(&item(&path), &path, temp.path(), LIMIT, &Stop::default()).unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(archive.digest.to_string(), expected);
        assert_eq!(digest(&item(&path), &path, LIMIT, &Stop::default()).unwrap(), archive.digest);
        assert_eq!(io::read_to_string(&mut archive.file).unwrap(), "abc");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_does_not_hang() {
        let temp = tempfile::tempdir().unwrap();
        let fifo = temp.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let socket = temp.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(refusal(temp.path()).contains("is a directory"));
        assert!(refusal(&fifo).contains("is a FIFO"));
        assert!(refusal(&socket).contains("is a socket"));
        assert!(refusal(Path::new("/dev/zero")).contains("is a device"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = refusal(Path::new("/no/such/slug.tgz"));
        assert!(message.contains("/no/such/slug.tgz"), "{message}");
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("slug.tgz");
        File::create(&path).unwrap().set_len(LIMIT + 1).unwrap();
        assert!(refusal(&path).contains("larger than 1.00 MiB"), "{}", refusal(&path));
        // one that grows is caught while it is read
        assert!(within(&item(&path), LIMIT, LIMIT).is_ok());
        assert!(within(&item(&path), LIMIT + 1, LIMIT).is_err());
    }

    #[test]
    fn work_that_was_given_up_stops() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("slug.tgz");
        fs::write(&path, "abc").unwrap();
        let stop = Stop::default();
        stop.set();
        assert!(copy(&item(&path), &path, temp.path(), LIMIT, &stop).is_err());
    }
}
