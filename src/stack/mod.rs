//! Stacks on this host: root file systems that dynos run on, unpacked or mounted from an image, and where they are
//! had from. Nothing here knows dynos, drivers or releases.

mod add;
mod checksum;
mod content;
mod error;
mod folder;
mod id;
mod location;
mod lock;
mod manifest;
mod manifest_cache;
mod mount;
mod mountinfo;
mod remove;
mod stacks;
mod version;

pub use checksum::{Checksum, InvalidChecksum};
pub use content::{BadContent, FileSystem};
pub use error::{StackError, WrongChecksum};
pub use folder::{Entry, Kind};
pub use id::{InvalidStackId, StackId};
pub use location::{InvalidLocation, StackLocation};
pub use manifest::ManifestError;
pub use stacks::{Added, Stack, Stacks};
pub use version::{InvalidVersion, StackVersion};
