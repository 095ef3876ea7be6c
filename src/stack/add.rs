//! Adding a stack: fetched, verified, unpacked or looked into, and put in place at once and whole. It owns the order
//! of these steps.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

use super::checksum::Checksum;
use super::content::{self, Content, FileSystem};
use super::error::{StackError, WrongChecksum};
use super::folder::IMAGE_SUFFIX;
use super::id::StackId;
use super::location::StackLocation;
use super::lock::StackLock;
use super::manifest::Offer;
use super::manifest_cache::Freshness;
use super::mount::{holds_root, looks_like_root};
use super::stacks::{Added, Stacks};
use crate::archive::{self, Archive, Item, Layout, Limits, Origin, Staging, UnpackError};
use crate::blocking::{Stop, blocking};
use crate::model::StackName;

const CHUNK_BYTES: usize = 256 * 1024;

impl Stacks {
    /// Adds a stack from a file or URL: a root tarball or a file system image, gzipped or not.
    ///
    /// # Errors
    /// When there is one of that name and version already, or it cannot be had or is refused; then nothing stays.
    pub async fn add(
        &self,
        id: &StackId,
        from: &StackLocation,
        checksum: Option<Checksum>,
    ) -> Result<(), StackError> {
        self.open().await?;
        if self.install(id, from, checksum).await? {
            return Ok(());
        }
        Err(StackError::AlreadyHere { id: id.clone() })
    }

    /// Adds the newest version of a stack that the manifest has, which is asked for now. A stack that is here is
    /// left as it is.
    ///
    /// # Errors
    /// When the manifest has no such stack, or it cannot be had or is refused; then nothing stays.
    pub async fn add_from_manifest(&self, name: &StackName) -> Result<Added, StackError> {
        self.open().await?;
        let offer = self.offer(Some(name), Freshness::Now).await?;
        let new = self.install_offer(&offer).await?;
        Ok(Added { id: offer.id, new })
    }

    pub(super) async fn install_offer(&self, offer: &Offer) -> Result<bool, StackError> {
        let Offer { id, location, checksum, .. } = offer;
        if let Checksum::Md5(_) = checksum {
            tracing::warn!(
                "the manifest has an MD5 checksum only for stack {id}: it tells damage, but no forgery; let it name sha256"
            );
        }
        self.install(id, location, Some(*checksum)).await
    }

    /// Whether the stack is not here yet, and could be had from there.
    async fn is_wanted(&self, id: &StackId, from: &StackLocation) -> Result<bool, StackError> {
        let (folder, id, from) = (self.folder.clone(), id.clone(), from.clone());
        blocking(move |_| {
            if folder.state(&id)?.is_some() {
                return Ok(false);
            }
            match from {
                StackLocation::Path(path) if path.is_dir() => Err(StackError::IsDirectory { path }),
                StackLocation::Path(_) | StackLocation::Url(_) => Ok(true),
            }
        })
        .await
    }

    /// Says whether the stack was not here.
    async fn install(
        &self,
        id: &StackId,
        from: &StackLocation,
        checksum: Option<Checksum>,
    ) -> Result<bool, StackError> {
        let lock = StackLock::take(self.folder.dir(), id).await?;
        if !self.is_wanted(id, from).await? {
            return Ok(false);
        }
        let item = Item::stack(from);
        let origin = match from {
            StackLocation::Path(path) => Origin::Path(path),
            StackLocation::Url(url) => Origin::Url(url),
        };
        let mut archive = self.fetcher.fetch(&item, origin, self.folder.dir()).await?;
        let (staging, limits) = (self.staging.clone(), self.limits);
        let (id, from) = (id.clone(), from.clone());
        blocking(move |stop| {
            // it must outlive the future that waits here
            let _lock = lock;
            verify(&id, &from, checksum, &mut archive, stop)?;
            put_in_place(&staging, &id, archive.file, limits, stop)
        })
        .await?;
        Ok(true)
    }
}

fn verify(
    id: &StackId,
    from: &StackLocation,
    expected: Option<Checksum>,
    archive: &mut Archive,
    stop: &Stop,
) -> Result<(), StackError> {
    let Some(expected) = expected else { return Ok(()) };
    let got = expected.of(archive, stop).map_err(|source| StackError::Content {
        id: id.clone(),
        source: content::BadContent::Unreadable(source),
    })?;
    if got == expected {
        return Ok(());
    }
    let wrong = WrongChecksum { id: id.clone(), location: from.clone(), expected, got };
    Err(StackError::Checksum(Box::new(wrong)))
}

/// Makes a file the stack: all of it, on disk, or nothing.
fn put_in_place(
    staging: &Staging,
    id: &StackId,
    mut file: File,
    limits: Limits,
    stop: &Stop,
) -> Result<(), StackError> {
    let content = content::probe(&mut file);
    let (content, gzipped) = content.map_err(|source| StackError::Content { id: id.clone(), source })?;
    let stage = staging.stage()?;
    let no_root = || StackError::NoRoot { id: id.clone() };
    match content {
        Content::Tar => {
            let root = stage.path().join("root");
            archive::unpack(file, &root, Layout::Root, limits, stop).map_err(|source| {
                let is_empty = matches!(source, UnpackError::Empty);
                if is_empty { no_root() } else { StackError::Unpack { id: id.clone(), source } }
            })?;
            if !looks_like_root(&root) {
                return Err(no_root());
            }
            staging.put(stage, &root, &id.to_string())?;
        }
        Content::Image(file_system) => {
            let image = stage.path().join("image");
            write_image(id, file, gzipped, &image, limits, stop)?;
            if !try_image(id, &image, file_system, &stage.path().join("mnt"))? {
                return Err(no_root());
            }
            staging.put(stage, &image, &format!("{id}{IMAGE_SUFFIX}"))?;
        }
    }
    Ok(())
}

/// Whether an image can be mounted and holds a root.
fn try_image(id: &StackId, image: &Path, file_system: FileSystem, on: &Path) -> Result<bool, StackError> {
    fs::create_dir(on).map_err(|source| StackError::Folder {
        operation: "make",
        path: on.to_path_buf(),
        source,
    })?;
    holds_root(image, file_system, on).map_err(|fault| StackError::of_mount(id, fault))
}

fn write_image(
    id: &StackId,
    file: File,
    gzipped: bool,
    image: &Path,
    limits: Limits,
    stop: &Stop,
) -> Result<(), StackError> {
    let failed = |source| StackError::Folder { operation: "write", path: image.to_path_buf(), source };
    if !gzipped && name_it(&file, image) {
        return fs::set_permissions(image, Permissions::from_mode(0o644)).map_err(failed);
    }
    let unreadable =
        |source| StackError::Content { id: id.clone(), source: content::BadContent::Unreadable(source) };
    let mut from: Box<dyn Read> = if gzipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut to = File::create_new(image).map_err(failed)?;
    to.set_permissions(Permissions::from_mode(0o644)).map_err(failed)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut written = 0_u64;
    loop {
        stop.check().map_err(unreadable)?;
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        written += read as u64;
        if written > limits.unpacked_bytes {
            return Err(StackError::TooLarge { id: id.clone(), limit_bytes: limits.unpacked_bytes });
        }
        to.write_all(&buffer[..read]).map_err(failed)?;
    }
}

/// Gives a nameless file a name, which saves copying it. Some file systems cannot.
fn name_it(file: &File, path: &Path) -> bool {
    let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(AT_FDCWD, nameless.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW).is_ok()
}
