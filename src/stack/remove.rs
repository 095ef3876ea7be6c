//! Removing a stack: unmounted, and gone at once from among the stacks. It owns that nothing that is in use goes.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::FlockArg;

use super::error::StackError;
use super::folder::{Folder, State};
use super::id::StackId;
use super::lock::StackLock;
use super::mount::unmount;
use super::stacks::{Stacks, hold};
use crate::archive::Staging;
use crate::blocking::blocking;

impl Stacks {
    /// Removes a stack: its directory, or its image, mount and loop device.
    ///
    /// # Errors
    /// When it is not here or in use, or the system refuses.
    pub async fn remove(&self, id: &StackId) -> Result<(), StackError> {
        self.open().await?;
        let lock = StackLock::take(self.folder.dir(), id).await?;
        let (folder, staging, id) = (self.folder.clone(), self.staging.clone(), id.clone());
        blocking(move |_| {
            let _lock = lock;
            remove(&folder, &staging, &id)
        })
        .await
    }
}

fn remove(folder: &Folder, staging: &Staging, id: &StackId) -> Result<(), StackError> {
    let failed = |operation, path: &Path| {
        let path = path.to_path_buf();
        move |source| StackError::Folder { operation, path, source }
    };
    let (root, image) = (folder.root(id), folder.image(id));
    let Some(state) = folder.state(id)? else { return Err(StackError::NotHere { id: id.clone() }) };
    if state != (State::Image { mounted: false }) {
        match hold(&root, FlockArg::LockExclusiveNonblock) {
            // nobody takes hold of it now, for that needs the lock of the stack
            Ok(nobody_else) => drop(nobody_else),
            Err(error) if error.raw_os_error() == Some(Errno::EWOULDBLOCK as i32) => {
                return Err(StackError::InUse { id: id.clone() });
            }
            Err(error) => return Err(failed("hold", &root)(error)),
        }
    }
    while folder.state(id)? == Some(State::Image { mounted: true }) {
        match unmount(&root) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
                return Err(StackError::InUse { id: id.clone() });
            }
            Err(error) => return Err(failed("unmount", &root)(error)),
        }
    }
    unless_missing(fs::remove_file(&image)).map_err(failed("remove", &image))?;
    if fs::symlink_metadata(&root).is_ok() {
        // a rename first, so that half of a stack is never taken for one
        let stage = staging.stage()?;
        fs::rename(&root, stage.path().join("removed")).map_err(failed("remove", &root))?;
        stage.discard().map_err(failed("remove", &root))?;
    }
    Ok(())
}

fn unless_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
