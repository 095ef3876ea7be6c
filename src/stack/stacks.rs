//! The entry to this room: from the name of a stack to its root. It owns the choice of a stack and the order of the
//! steps; each step itself stands elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag};

use super::error::StackError;
use super::folder::{Entry, Folder, State};
use super::id::{StackId, newest};
use super::location::StackLocation;
use super::lock::StackLock;
use super::manifest::Offer;
use super::manifest_cache::{Freshness, ManifestSource};
use super::mount::{looks_like_root, mount_image};
use super::{content, mount};
use crate::archive::{Fetcher, Limits, Staging};
use crate::blocking::blocking;
use crate::http::Retry;
use crate::model::StackName;

/// Stacks hold no secrets, and dynos of any user read them.
const FOLDER_MODE: u32 = 0o755;

/// How large a stack may be: Heroku's largest have some 3 GB and 100,000 files.
const LIMITS: Limits = Limits { archive_bytes: 16 << 30, unpacked_bytes: 32 << 30, files: 2_000_000 };

/// A stack that is ready for dynos. For as long as this value lives it is not removed: keep it while dynos run on
/// the stack. (The root of an image stays mounted afterwards, for the next ones.)
pub struct Stack {
    /// Which.
    pub id: StackId,
    /// Its root directory, read-only or not to be written to.
    pub root: PathBuf,
    _in_use: Flock<File>,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stack({} at {})", self.id, self.root.display())
    }
}

/// What came of adding a stack from the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// Which.
    pub id: StackId,
    /// Whether it was not here before.
    pub new: bool,
}

/// The stacks of this host. Several hsups may share the folder.
pub struct Stacks {
    pub(super) folder: Folder,
    pub(super) staging: Staging,
    pub(super) fetcher: Fetcher,
    pub(super) limits: Limits,
    manifest: Option<ManifestSource>,
    /// Whether there is nothing to do beside the look for a stack.
    in_place: bool,
}

impl Stacks {
    /// The stacks in `dir`, which is made when first needed; those that are not there come from the manifest.
    pub fn new(dir: PathBuf, manifest: Option<StackLocation>) -> Self {
        Self::with(dir, manifest, Retry::default(), LIMITS)
    }

    pub(super) fn with(dir: PathBuf, manifest: Option<StackLocation>, retry: Retry, limits: Limits) -> Self {
        Self {
            folder: Folder::new(dir.clone()),
            fetcher: Fetcher::new(limits.archive_bytes, retry),
            limits,
            manifest: manifest.map(|location| ManifestSource::new(location, dir.clone())),
            staging: Staging::new(dir, FOLDER_MODE),
            in_place: false,
        }
    }

    /// The same for one who has nothing to do beside it, such as a one-off dyno: a stack that is here is made ready
    /// without another thread, which would be some tenths of a millisecond that the dyno waits for.
    #[must_use]
    pub fn in_place(mut self, in_place: bool) -> Self {
        self.in_place = in_place;
        self
    }

    /// The stacks of this host, by name and version.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, StackError> {
        self.folder.list()
    }

    /// The stack of this host that a name means: the newest version of that name, else the stack whose name and
    /// version it is.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn find(&self, name: &StackName) -> Result<Option<StackId>, StackError> {
        Ok(newest(self.folder.states()?.keys(), name).cloned())
    }

    /// Makes a stack ready for dynos: downloads it where it is not here and the manifest has it, and mounts it where
    /// it is an image. What is here counts before what the manifest has, so that a host that has its stacks needs
    /// nobody. A release that names none gets the one that is here, else the manifest's primary one.
    ///
    /// Dropping the future is safe at any time.
    ///
    /// # Errors
    /// When there is no such stack, or it cannot be had or mounted.
    pub async fn prepare(&self, name: Option<&StackName>) -> Result<Stack, StackError> {
        let id = match self.at_once(name).await? {
            AtOnce::Ready(stack) => {
                tell_choice(name, &stack.id);
                return Ok(stack);
            }
            AtOnce::Busy(id) => id,
            AtOnce::Missing => {
                let offer = self.offer(name, Freshness::Daily).await?;
                self.install_offer(&offer).await?;
                offer.id
            }
        };
        tell_choice(name, &id);
        self.ready(id).await
    }

    /// All that there is to do for a stack that is here and that nobody is at work on, with one blocking thread at
    /// most.
    async fn at_once(&self, name: Option<&StackName>) -> Result<AtOnce, StackError> {
        let (staging, folder, name) = (self.staging.clone(), self.folder.clone(), name.cloned());
        let look = move || {
            staging.open()?;
            let Some(id) = choose(&folder, name.as_ref())? else { return Ok(AtOnce::Missing) };
            match StackLock::try_take(folder.dir(), &id)? {
                Some(lock) => make_ready(&folder, id, lock).map(AtOnce::Ready),
                None => Ok(AtOnce::Busy(id)),
            }
        };
        if self.in_place { look() } else { blocking(move |_| look()).await }
    }

    /// Makes the folder, and removes what dead runs left in it.
    pub(super) async fn open(&self) -> Result<(), StackError> {
        let staging = self.staging.clone();
        Ok(blocking(move |_| staging.open()).await?)
    }

    /// The stack of the manifest that is meant.
    pub(super) async fn offer(
        &self,
        name: Option<&StackName>,
        freshness: Freshness,
    ) -> Result<Offer, StackError> {
        let not_found = |manifest| match name {
            Some(name) => StackError::NotFound { name: name.to_string(), manifest },
            None => StackError::NoStack,
        };
        let Some(source) = &self.manifest else { return Err(not_found(None)) };
        let location = source.location();
        let manifest = source.get(freshness).await.map_err(StackError::of_manifest(location))?;
        let none = || not_found(Some((location.clone(), manifest.names())));
        manifest.offer(name).cloned().ok_or_else(none)
    }

    /// Mounts a stack that is here, where that is needed, and takes hold of it.
    async fn ready(&self, id: StackId) -> Result<Stack, StackError> {
        let lock = StackLock::take(self.folder.dir(), &id).await?;
        let folder = self.folder.clone();
        blocking(move |_| make_ready(&folder, id, lock)).await
    }
}

/// How far a stack is ready without waiting for anybody.
enum AtOnce {
    Ready(Stack),
    /// It is here, and somebody is at work on it.
    Busy(StackId),
    Missing,
}

fn tell_choice(name: Option<&StackName>, id: &StackId) {
    if name.is_none() {
        tracing::info!("the release names no stack; using {id}");
    }
}

/// The stack of this host that a release means.
fn choose(folder: &Folder, name: Option<&StackName>) -> Result<Option<StackId>, StackError> {
    let states = folder.states()?;
    name.map_or_else(|| only(&states), |name| Ok(newest(states.keys(), name).cloned()))
}

/// Mounts a stack, where that is needed, and takes hold of it.
fn make_ready(folder: &Folder, id: StackId, lock: StackLock) -> Result<Stack, StackError> {
    let root = folder.root(&id);
    match folder.state(&id)? {
        None => return Err(StackError::NotHere { id }),
        Some(State::Directory | State::Image { mounted: true }) => {}
        Some(State::Image { mounted: false }) => mount_stack(folder, &id, &root)?,
    }
    let in_use = hold(&root, FlockArg::LockSharedNonblock).map_err(|source| StackError::Folder {
        operation: "hold",
        path: root.clone(),
        source,
    })?;
    drop(lock);
    Ok(Stack { id, root, _in_use: in_use })
}

/// Says that a stack is in use, or makes sure that it is not. The lock is one of the directory itself, so that it
/// holds across mount namespaces.
pub(super) fn hold(root: &Path, how: FlockArg) -> std::io::Result<Flock<File>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = OpenOptions::new().read(true).custom_flags(flags.bits()).open(root)?;
    Flock::lock(root, how).map_err(|(_, error)| error.into())
}

fn mount_stack(folder: &Folder, id: &StackId, root: &Path) -> Result<(), StackError> {
    let image = folder.image(id);
    let failed = |operation, path: &Path| {
        let path = path.to_path_buf();
        move |source| StackError::Folder { operation, path, source }
    };
    let mut file = File::open(&image).map_err(failed("open", &image))?;
    let file_system = match content::probe(&mut file) {
        Ok((content::Content::Image(file_system), false)) => file_system,
        Ok(_) => {
            let source =
                content::BadContent::Unknown("it is an archive, not an image: add it with hsup stack add");
            return Err(StackError::Content { id: id.clone(), source });
        }
        Err(source) => return Err(StackError::Content { id: id.clone(), source }),
    };
    fs::create_dir_all(root).map_err(failed("make", root))?;
    if let Err(fault) = mount_image(&image, file_system, root) {
        let _empty_dirs_are_no_stacks = fs::remove_dir(root);
        return Err(StackError::of_mount(id, fault));
    }
    if !looks_like_root(root) {
        let _stays_mounted = mount::unmount(root);
        return Err(StackError::NoRoot { id: id.clone() });
    }
    tracing::info!("mounted stack {id} at {}", root.display());
    Ok(())
}

/// The stack of a host that has stacks of one name only; none where there are no stacks.
fn only(states: &BTreeMap<StackId, State>) -> Result<Option<StackId>, StackError> {
    let names: BTreeSet<_> = states.keys().map(|id| &id.name).collect();
    match names.len() {
        0 => Ok(None),
        1 => Ok(states.keys().next_back().cloned()),
        _ => Err(StackError::SeveralStacks { names: names.into_iter().map(ToString::to_string).collect() }),
    }
}

#[cfg(test)]
mod tests;
