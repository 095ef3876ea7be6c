//! A parcel: frames that are sent in one request. Once it is closed neither its content nor its id ever changes, however
//! often it is sent and wherever it waits, so that a receiver can tell what it has had already.

use std::fmt;

use bytes::Bytes;

/// The id of a parcel, as `Logplex-Frame-Id` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FrameId(pub(super) u128);

impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Gives ids: a random number for the drain of this process, and then a count.
pub(super) struct FrameIds {
    drain: u64,
    next: u64,
}

impl FrameIds {
    pub(super) fn new() -> Self {
        use std::hash::{BuildHasher, Hasher, RandomState};
        Self { drain: RandomState::new().build_hasher().finish(), next: 0 }
    }

    pub(super) fn give(&mut self) -> FrameId {
        self.next += 1;
        FrameId(u128::from(self.drain) << 64 | u128::from(self.next))
    }
}

/// Frames that are sent in one request. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) id: FrameId,
    /// The lane that it goes by: one dyno's lines all go by the same.
    pub(super) lane: u8,
    /// How many frames it holds.
    pub(super) lines: u32,
    pub(super) body: Bytes,
    /// The segment of the spool that it was read from, which is kept until it has been sent.
    pub(super) segment: Option<u64>,
}
