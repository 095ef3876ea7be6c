//! A lane: parcels that go one after the other. A dyno's lines all go by one lane, so that their order is kept while
//! several requests are under way.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::Instant;

use super::frame::Framer;
use super::parcel::{FrameIds, Parcel};
use super::syslog::Connection;
use crate::logs::batch::{Batch, Line};

/// How many lanes there are: as many requests may be under way. It stands on disk: parcels that wait there have theirs.
pub(super) const LANES: u8 = 4;

/// When a parcel is full. Many receivers refuse bodies of a megabyte.
pub(super) const PARCEL_BYTES: usize = 512 * 1024;

/// The lane of a dyno (FNV-1a: the same in every hsup).
pub(super) fn lane_of(speaker: &str) -> u8 {
    let hash = speaker.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash % u64::from(LANES)) as u8
}

/// Frames that are still being collected.
pub(super) struct Open {
    pub(super) body: Vec<u8>,
    pub(super) lines: u32,
    pub(super) since: Instant,
}

/// One lane.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) open: Option<Open>,
    pub(super) queue: VecDeque<Parcel>,
    pub(super) under_way: Option<Parcel>,
    pub(super) connection: Option<Connection>,
    /// Whether nothing more is sent by it, since hsup ends and what is under way could not be sent.
    pub(super) given_up: bool,
}

impl Lane {
    /// Takes lines from an iterator until there are none, or the parcel that is being collected is full; whether it is.
    pub(super) fn collect<'b>(
        &mut self,
        framer: &Framer,
        batch: &Batch,
        lines: &mut impl Iterator<Item = Line<'b>>,
    ) -> bool {
        let header = framer.header(batch);
        let open =
            self.open.get_or_insert_with(|| Open { body: Vec::new(), lines: 0, since: Instant::now() });
        for line in lines {
            header.append(&mut open.body, line);
            open.lines += 1;
            if open.body.len() >= PARCEL_BYTES {
                return true;
            }
        }
        false
    }

    /// Closes the parcel that is being collected.
    pub(super) fn close(&mut self, lane: u8, ids: &mut FrameIds) -> Option<Parcel> {
        let Open { body, lines, since: _ } = self.open.take()?;
        (lines > 0).then(|| Parcel { id: ids.give(), lane, lines, body: Bytes::from(body), segment: None })
    }

    /// What was closed and has not been sent, in order; none of it is left here.
    pub(super) fn unsent(&mut self) -> impl Iterator<Item = Parcel> {
        self.under_way.take().into_iter().chain(std::mem::take(&mut self.queue))
    }
}
