//! Archives, whatever is in them: fetched to this host, unpacked below one directory, and put in place at once
//! and whole. Nothing here knows slugs' or stacks' names, nor what they are for.

mod fetch;
mod item;
mod limits;
mod links;
mod local;
mod progress;
mod stage;
mod tree;
mod unpack;

pub use fetch::{FetchError, NoUrl};
pub(crate) use fetch::{Fetcher, Origin, RenewedUrl};
pub use item::Item;
pub use limits::Limits;
pub(crate) use local::{Archive, digest};
#[cfg(test)]
pub(crate) use stage::STAGE_PREFIX;
pub use stage::StageError;
pub(crate) use stage::{Stage, Staging, is_at};
pub use unpack::UnpackError;
pub(crate) use unpack::{Layout, unpack};
