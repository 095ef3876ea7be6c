//! The context of a build: a tar archive that is made while it is sent, so that no slug ever lies in memory. What the
//! image is made of stands in its Dockerfile, which is written here.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tar::{Builder, Header};
use tokio::sync::mpsc;

use super::binary::{Binary, hex};
use super::entry;
use crate::held::Held;

/// The user and the group of dynos in their containers.
pub(super) const DYNO_UID: u32 = 3000;

/// How large the pieces are that are sent.
const PIECE_BYTES: usize = 256 * 1024;
/// How many of them wait for the engine.
const WAITING_PIECES: usize = 4;

/// What an image of a release is made from.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// The image of the stack.
    pub(super) stack_image: String,
    /// The entry.
    pub(super) entry: Binary,
    /// What is to be at `/app`.
    pub(super) app_dir: PathBuf,
}

impl Context {
    /// The Dockerfile. What changes least stands first, so that most of it is made once. It is of the words that every
    /// builder knows.
    pub(super) fn dockerfile(&self) -> String {
        let Self { stack_image, entry: _, app_dir: _ } = self;
        let (name, path) = (entry::NAME, entry::path());
        format!(
            r#"FROM {stack_image}
USER root
RUN ["/bin/sh", "-c", "grep -q '^dyno:' /etc/passwd || {{ echo dyno:x:{DYNO_UID}:{DYNO_UID}::/app:/bin/bash >> /etc/passwd && echo dyno:x:{DYNO_UID}: >> /etc/group; }}; mkdir -p /app && chown {DYNO_UID}:{DYNO_UID} /app"]
COPY {name} {path}
COPY --chown={DYNO_UID}:{DYNO_UID} app /app
USER {DYNO_UID}:{DYNO_UID}
WORKDIR /app
HEALTHCHECK NONE
ENTRYPOINT ["{path}"]
CMD []
"#
        )
    }

    /// Writes the archive.
    fn write(&self, to: impl Write) -> io::Result<()> {
        let mut archive = Builder::new(to);
        let dockerfile = self.dockerfile();
        let mut header = Header::new_gnu();
        header.set_size(dockerfile.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, "Dockerfile", dockerfile.as_bytes())?;
        let mut header = Header::new_gnu();
        header.set_size(self.entry.size);
        header.set_mode(0o755);
        archive.append_data(&mut header, entry::NAME, self.entry.read())?;
        append(&mut archive, &Held::at(&self.app_dir)?, Path::new("app"))?;
        archive.into_inner()?.flush()
    }

    /// The digest of all that is in the app's folder. It takes reading all of it.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(super) fn app_digest(&self) -> io::Result<String> {
        let mut digest = Hashing(Sha256::new());
        let mut archive = Builder::new(&mut digest);
        append(&mut archive, &Held::at(&self.app_dir)?, Path::new("app"))?;
        archive.finish()?;
        drop(archive);
        Ok(hex(&digest.0.finalize()))
    }

    /// Makes the archive in a thread of its own, at the pace at which its pieces are taken.
    pub(super) fn send(self) -> (mpsc::Receiver<io::Result<Bytes>>, tokio::task::JoinHandle<io::Result<()>>) {
        let (pieces, taken) = mpsc::channel(WAITING_PIECES);
        let made = tokio::task::spawn_blocking(move || {
            let sending = Sending { pieces: pieces.clone(), piece: Vec::with_capacity(PIECE_BYTES) };
            let made = self.write(sending);
            if let Err(error) = &made {
                // so that the engine does not take what there is for the whole
                let _nobody_takes_it = pieces.blocking_send(Err(io::Error::from(error.kind())));
            }
            made
        });
        (taken, made)
    }
}

/// Adds a file, or a folder with all that is in it, in the order of names. What is neither, nor a link, has no place in
/// an app.
fn append<W: Write>(archive: &mut Builder<W>, held: &Held, name: &Path) -> io::Result<()> {
    let (kind, mut header) = (held.metadata().file_type(), Header::new_gnu());
    header.set_metadata(held.metadata());
    if kind.is_dir() {
        archive.append_data(&mut header, name, io::empty())?;
        held.names()?.iter().try_for_each(|inner| append(archive, &held.within(inner)?, &name.join(inner)))
    } else if kind.is_symlink() {
        header.set_size(0);
        archive.append_link(&mut header, name, held.target()?)
    } else if kind.is_file() {
        let size = held.metadata().len();
        let mut content = fs::File::open(held.path())?.take(size);
        archive.append_data(&mut header, name, &mut content)?;
        if content.limit() > 0 {
            let why = format!("{} has become shorter while it was read", name.display());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        Ok(())
    } else {
        Ok(())
    }
}

struct Hashing(Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Sending {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        if piece.is_empty() {
            return Ok(());
        }
        self.pieces.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn context(dir: &Path) -> Context {
        fs::create_dir_all(dir.join("app/bin")).unwrap();
        fs::write(dir.join("app/bin/web"), "x".repeat(3 * PIECE_BYTES)).unwrap();
        symlink("../../../etc", dir.join("app/link")).unwrap();
        fs::write(dir.join("binary"), program()).unwrap();
        Context {
            stack_image: "heroku/heroku:24".to_owned(),
            entry: Binary::find(Some(&dir.join("binary"))).unwrap(),
            app_dir: dir.join("app"),
        }
    }

    /// As much of a static program as there has to be.
    fn program() -> Vec<u8> {
        [&b"\x7fELF\x02\x01"[..], &[0; 58], b"the program"].concat()
    }

    /// All that is sent to the engine.
    async fn archive(context: Context) -> Vec<u8> {
        let (mut pieces, made) = context.send();
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.recv().await {
            bytes.extend(piece.unwrap());
        }
        made.await.unwrap().unwrap();
        bytes
    }

    #[tokio::test]
    async fn the_archive_has_the_app_the_entry_and_a_dockerfile() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = archive(context(dir.path())).await;
        let mut archive = tar::Archive::new(&bytes[..]);
        let names =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        let names: Vec<String> = names.collect();
        assert_eq!(names, ["Dockerfile", "hsup-entry", "app", "app/bin", "app/bin/web", "app/link"]);
    }

    #[tokio::test]
    async fn the_entry_is_the_one_that_was_found_though_another_has_its_name_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        fs::write(dir.path().join("new"), "another program, which is of another size and not checked")
            .unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("binary")).unwrap();
        let (one, two) = tokio::join!(archive(context.clone()), archive(context));
        for bytes in [one, two] {
            let mut archive = tar::Archive::new(&bytes[..]);
            let mut entry = archive.entries().unwrap().nth(1).unwrap().unwrap();
            let mut sent = Vec::new();
            entry.read_to_end(&mut sent).unwrap();
            assert_eq!((entry.path().unwrap().as_ref(), sent), (Path::new(entry::NAME), program()));
        }
    }

    #[tokio::test]
    async fn an_archive_that_cannot_be_made_is_not_sent_as_if_it_were_whole() {
        let dir = tempfile::tempdir().unwrap();
        let gone = Context { app_dir: dir.path().join("none"), ..context(dir.path()) };
        let (mut pieces, made) = gone.send();
        let mut last = None;
        while let Some(piece) = pieces.recv().await {
            last = Some(piece);
        }
        assert!(last.unwrap().is_err());
        assert_eq!(made.await.unwrap().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn another_content_is_another_digest() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        let before = context.app_digest().unwrap();
        assert_eq!(context.app_digest().unwrap(), before);
        fs::write(dir.path().join("app/bin/web"), "y").unwrap();
        assert_ne!(context.app_digest().unwrap(), before);
    }
}
