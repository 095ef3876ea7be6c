//! The shipper: the one task of a drain. It takes batches, frames them into parcels, sends these lane by lane, and puts
//! on disk what it has no memory for.
//!
//! Order: while anything waits on disk, what is new goes behind it. So a lane's queue holds what is oldest, the spool
//! what is newer, the open parcels and the intake what is newest.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::task::{JoinError, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout};

use super::frame::Framer;
use super::intake::{Dropped, Intake};
use super::lane::{LANES, Lane, PARCEL_BYTES, lane_of};
use super::parcel::{FrameIds, Parcel};
use super::send::{Delivery, Sender, deliver};
use super::spool::Spool;
use super::syslog::Connection;
use super::target::Target;
use crate::logs::batch::{Batch, Origin, Speaker};
use crate::logs::drain::frame::rfc3339;
use crate::logs::settings::Overflow;
use crate::logs::tail::Tail;

/// How long lines wait for others to go with them.
const PARCEL_AGE: Duration = Duration::from_millis(250);

/// How often the receiver and the log are told of dropped lines while more are being dropped.
const TELL_DROPPED: Duration = Duration::from_secs(5);

/// How long lines may wait for a receiver that cannot take them before they wait on disk. A dyno that prints a lot for a
/// moment is to be smoothed by memory alone.
const SPOOL_AFTER: Duration = Duration::from_millis(250);

/// How long the spool is left alone after it could not be written to.
const SPOOL_RETRY: Duration = Duration::from_secs(5);

/// How often what other hsups have left is looked for.
const ADOPT: Duration = Duration::from_secs(60);

/// How long the end of a connection may take.
const GOODBYE: Duration = Duration::from_millis(200);

/// What the shipper is made from.
pub(super) struct Shipper {
    target: Arc<Target>,
    sender: Arc<Sender>,
    intake: Arc<Intake>,
    framer: Framer,
    tail: Tail,
    spool: Spool,
    ids: FrameIds,
    lanes: [Lane; LANES as usize],
    /// The bytes of all parcels in memory, and how many there may be.
    held_bytes: usize,
    limit_bytes: usize,
    /// Parcels that belong on disk and cannot be written at the moment.
    stuck: Vec<Parcel>,
    spool_broken: Option<Instant>,
    /// When the receiver was last told of dropped lines, and when the log was, and of which.
    told_dropped: Option<Instant>,
    said_dropped: Option<(Instant, Dropped)>,
    /// Whether the last round has left something that there was room for.
    is_behind: bool,
    sends: JoinSet<(u8, Option<Connection>, Delivery)>,
}

impl Shipper {
    pub(super) fn new(
        target: Arc<Target>,
        sender: Sender,
        intake: Arc<Intake>,
        (host, tail): (&str, Tail),
        spool: Spool,
        limit_bytes: usize,
    ) -> Self {
        Self {
            target,
            sender: Arc::new(sender),
            intake,
            framer: Framer::new(host),
            tail,
            spool,
            ids: FrameIds::new(),
            lanes: Default::default(),
            held_bytes: 0,
            limit_bytes,
            stuck: Vec::new(),
            spool_broken: None,
            told_dropped: None,
            said_dropped: None,
            is_behind: false,
            sends: JoinSet::new(),
        }
    }

    /// Ships until the intake is closed and everything has been sent, or the time for that is over.
    pub(super) async fn run(mut self) {
        let intake = Arc::clone(&self.intake);
        let mut closing = intake.closing.subscribe();
        let mut adopt = Instant::now() + ADOPT;
        loop {
            let deadline = *closing.borrow_and_update();
            self.fill(deadline.is_some());
            self.dispatch(deadline.is_some());
            self.show();
            if deadline.is_some_and(|_| self.is_done() || self.is_given_up()) {
                break;
            }
            let due = self.due().unwrap_or(adopt);
            tokio::select! {
                biased;
                Some(sent) = self.sends.join_next() => self.sent(sent),
                _ = closing.changed() => {}
                () = sleep_until(deadline.unwrap_or(adopt)), if deadline.is_some() => break,
                // There is more to be framed, and those who send have their turn.
                () = yield_now(), if self.is_behind => {}
                () = intake.filled.notified() => {}
                () = sleep_until(due) => {}
            }
            if Instant::now() >= adopt {
                adopt = Instant::now() + ADOPT;
                self.spool.adopt();
            }
        }
        self.put_away().await;
    }

    /// Fills the lanes: from the disk first, then with what is new.
    fn fill(&mut self, closing: bool) {
        self.unstick();
        while self.held_bytes < self.limit_bytes
            && let Some(parcel) = self.spool.read()
        {
            self.enqueue(parcel);
        }
        let lost = self.spool.take_lost();
        if lost > 0 {
            self.intake.dropped(lost);
        }
        self.tell_dropped(closing);
        let mut framed_bytes = 0;
        while framed_bytes < PARCEL_BYTES
            && self.has_room()
            && let Some(batch) = self.intake.take()
        {
            framed_bytes += batch.size();
            self.frame(&batch);
        }
        self.is_behind = framed_bytes >= PARCEL_BYTES;
        self.intake.set_stuck(!self.has_memory() && !self.spools());
    }

    /// Whether more can be taken, to be held in memory or put on disk.
    fn has_room(&self) -> bool {
        let waited = || self.intake.waiting().is_some_and(|age| age >= SPOOL_AFTER);
        self.has_memory() || self.spools() && (self.intake.is_pressed() || waited())
    }

    /// Whether what is new may be held in memory.
    fn has_memory(&self) -> bool {
        self.stuck.is_empty() && self.spool.is_empty() && self.held_bytes < self.limit_bytes
    }

    /// Whether what is new can be put on disk.
    fn spools(&self) -> bool {
        let fits = || self.intake.overflow() == Overflow::Drop || !self.spool.is_full(0);
        let is_broken = self.spool_broken.is_some_and(|until| Instant::now() < until);
        self.stuck.is_empty() && self.spool.is_on() && !is_broken && fits()
    }

    /// Frames a batch.
    fn frame(&mut self, batch: &Batch) {
        let number = lane_of(batch.speaker.as_str());
        let mut lines = batch.lines().peekable();
        while lines.peek().is_some() {
            let Some(lane) = self.lanes.get_mut(usize::from(number)) else { return };
            let before = lane.open.as_ref().map_or(0, |open| open.body.len());
            let full = lane.collect(&self.framer, batch, &mut lines);
            self.held_bytes += lane.open.as_ref().map_or(0, |open| open.body.len()) - before;
            if full {
                self.close(number);
            }
        }
    }

    /// Closes the parcel that a lane collects: it goes behind all that is older.
    fn close(&mut self, number: u8) {
        let Some(lane) = self.lanes.get_mut(usize::from(number)) else { return };
        let Some(parcel) = lane.close(number, &mut self.ids) else { return };
        self.held_bytes -= parcel.body.len();
        let fits = self.held_bytes + parcel.body.len() <= self.limit_bytes || !self.spool.is_on();
        if self.spool.is_empty() && fits && self.stuck.is_empty() {
            self.enqueue(parcel);
        } else {
            self.stuck.push(parcel);
            self.unstick();
        }
    }

    fn enqueue(&mut self, parcel: Parcel) {
        self.held_bytes += parcel.body.len();
        if let Some(lane) = self.lanes.get_mut(usize::from(parcel.lane % LANES)) {
            lane.queue.push_back(parcel);
        }
    }

    /// Puts on disk what belongs there; where that is impossible it waits, and with it all that is newer.
    fn unstick(&mut self) {
        if self.spool_broken.is_some_and(|until| Instant::now() < until) && !self.spool.is_empty() {
            return;
        }
        let mut stuck = std::mem::take(&mut self.stuck).into_iter();
        while let Some(parcel) = stuck.next() {
            if self.spool.is_empty() && self.held_bytes < self.limit_bytes {
                self.enqueue(parcel);
                continue;
            }
            if let Err(parcel) = self.put_on_disk(parcel) {
                self.stuck.push(parcel);
                self.stuck.extend(stuck);
                return;
            }
        }
    }

    fn put_on_disk(&mut self, parcel: Parcel) -> Result<(), Parcel> {
        if !self.spool.is_on() || self.spool_broken.is_some_and(|until| Instant::now() < until) {
            return Err(parcel);
        }
        while self.spool.is_full(parcel.body.len()) && !self.spool.is_empty() {
            if self.intake.overflow() == Overflow::Block {
                return Err(parcel);
            }
            let lines = self.spool.drop_oldest();
            self.intake.dropped(lines);
        }
        match self.spool.append(&parcel) {
            Ok(()) => {
                if self.spool_broken.take().is_some() {
                    tracing::info!("drain {}: lines can wait on disk again", self.target);
                }
                Ok(())
            }
            Err(error) => {
                if self.spool_broken.is_none() {
                    tracing::error!(%error, "drain {}: lines cannot wait on disk, only in memory", self.target);
                }
                self.spool_broken = Some(Instant::now() + SPOOL_RETRY);
                Err(parcel)
            }
        }
    }

    /// Sends the next parcel of each lane that has none under way.
    fn dispatch(&mut self, closing: bool) {
        for number in 0..LANES {
            let Some(lane) = self.lanes.get(usize::from(number)) else { return };
            if lane.under_way.is_some() || lane.given_up {
                continue;
            }
            let is_due = |since: Instant| closing || since.elapsed() >= PARCEL_AGE;
            if lane.queue.is_empty() && lane.open.as_ref().is_some_and(|open| is_due(open.since)) {
                self.close(number);
            }
            let Some(lane) = self.lanes.get_mut(usize::from(number)) else { return };
            let Some(parcel) = lane.queue.pop_front() else { continue };
            lane.under_way = Some(parcel.clone());
            let connection = lane.connection.take();
            let (sender, target) = (Arc::clone(&self.sender), Arc::clone(&self.target));
            self.sends.spawn(deliver(sender, target, Arc::clone(&self.intake), parcel, connection));
        }
    }

    /// When there is something to be done even if nothing happens.
    fn due(&self) -> Option<Instant> {
        let idle = self.lanes.iter().filter(|lane| lane.under_way.is_none());
        let parcels = idle.filter_map(|lane| Some(lane.open.as_ref()?.since + PARCEL_AGE));
        let now = Instant::now();
        let broken = self.spool_broken.filter(|until| *until > now);
        let waits = !self.has_memory() && self.spools();
        let spool = self.intake.waiting().filter(|_| waits).map(|age| now + SPOOL_AFTER.saturating_sub(age));
        let dropped = self.intake.untold_dropped().is_some() && self.may_tell_dropped();
        let told = self.told_dropped.filter(|_| dropped).map(|at| at + TELL_DROPPED);
        parcels.chain(broken).chain(spool).chain(told).min()
    }

    /// A parcel has been delivered, or not.
    fn sent(&mut self, sent: Result<(u8, Option<Connection>, Delivery), JoinError>) {
        let (number, connection, delivery) = match sent {
            Ok(sent) => sent,
            // The time was over.
            Err(error) if error.is_cancelled() => return,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let Some(lane) = self.lanes.get_mut(usize::from(number % LANES)) else { return };
        lane.connection = connection;
        if delivery == Delivery::GivenUp {
            // It is still under way, and is put away with the rest.
            lane.given_up = true;
            return;
        }
        let Some(parcel) = lane.under_way.take() else { return };
        self.held_bytes -= parcel.body.len();
        let (numbers, lines) = (&self.intake.numbers, u64::from(parcel.lines));
        match delivery {
            Delivery::Sent => {
                numbers.sent.fetch_add(lines, Ordering::Relaxed);
                numbers.sent_bytes.fetch_add(parcel.body.len() as u64, Ordering::Relaxed);
                numbers.requests.fetch_add(1, Ordering::Relaxed);
            }
            Delivery::Refused => {
                numbers.refused.fetch_add(lines, Ordering::Relaxed);
            }
            Delivery::GivenUp => {}
        }
        if let Some(segment) = parcel.segment {
            self.spool.done(segment);
        }
    }

    /// Tells the receiver, the log and the tail buffer of dropped lines, as Heroku does. The receiver's message has to wait
    /// as long as there is no room for it: one that is down for days would have thousands.
    fn tell_dropped(&mut self, closing: bool) {
        let lately = |at: Option<Instant>| !closing && at.is_some_and(|at| at.elapsed() < TELL_DROPPED);
        let tells = (closing || self.may_tell_dropped()) && !lately(self.told_dropped);
        let dropped = if tells { self.intake.take_dropped() } else { self.intake.untold_dropped() };
        let Some(dropped) = dropped else { return };
        let was_said = self.said_dropped.is_some_and(|(_, said)| said == dropped);
        if !was_said && (tells || !lately(self.said_dropped.map(|(at, _)| at))) {
            self.said_dropped = Some((Instant::now(), dropped));
            let (lines, since) = (dropped.lines, rfc3339(dropped.since));
            tracing::warn!(
                "drain {}: {lines} log lines dropped since {since}: its buffers are full",
                self.target
            );
        }
        if tells {
            self.told_dropped = Some(Instant::now());
            self.frame_dropped(dropped);
        }
    }

    fn frame_dropped(&mut self, Dropped { lines, since }: Dropped) {
        let since = rfc3339(since);
        let text = format!("Error L10 (output buffer overflow): {lines} messages dropped since {since}.\n");
        let batch = Batch::new(Speaker::logplex(), Origin::Platform, SystemTime::now(), text.into_bytes());
        let batch = Arc::new(batch);
        self.tail.push(&batch);
        self.frame(&batch);
    }

    /// Whether there is room for a message about dropped lines.
    fn may_tell_dropped(&self) -> bool {
        self.has_memory() || self.spools()
    }

    fn is_done(&self) -> bool {
        let empty = |lane: &Lane| lane.open.is_none() && lane.queue.is_empty() && lane.under_way.is_none();
        self.lanes.iter().all(empty)
            && self.stuck.is_empty()
            && self.spool.is_empty()
            && self.intake.bytes() == 0
    }

    /// Whether nothing is under way any more, and what is left cannot be sent.
    fn is_given_up(&self) -> bool {
        self.lanes.iter().any(|lane| lane.given_up) && self.sends.is_empty() && !self.is_behind
    }

    fn show(&self) {
        let (bytes, lines) = self.spool.waiting();
        let numbers = &self.intake.numbers;
        numbers.held_bytes.store(self.held_bytes as u64, Ordering::Relaxed);
        numbers.spooled_bytes.store(bytes, Ordering::Relaxed);
        numbers.spooled_lines.store(lines, Ordering::Relaxed);
    }

    /// Keeps on disk what could not be sent, or counts it.
    async fn put_away(mut self) {
        self.sends.abort_all();
        // Some may have been answered meanwhile.
        while let Some(sent) = self.sends.join_next().await {
            self.sent(sent);
        }
        for connection in self.lanes.iter_mut().filter_map(|lane| lane.connection.as_mut()) {
            // TLS says goodbye; where that takes time nobody listens.
            let _goodbye = timeout(GOODBYE, connection.shutdown()).await;
        }
        let first: Vec<Parcel> = self.lanes.iter_mut().flat_map(Lane::unsent).collect();
        let mut last = std::mem::take(&mut self.stuck);
        while let Some(batch) = self.intake.take() {
            let number = lane_of(batch.speaker.as_str());
            let Some(lane) = self.lanes.get_mut(usize::from(number)) else { break };
            let mut lines = batch.lines().peekable();
            while lines.peek().is_some() {
                if lane.collect(&self.framer, &batch, &mut lines) {
                    last.extend(lane.close(number, &mut self.ids));
                }
            }
        }
        for (lane, number) in self.lanes.iter_mut().zip(0..) {
            last.extend(lane.close(number, &mut self.ids));
        }
        let lines: u64 = first.iter().chain(&last).map(|parcel| u64::from(parcel.lines)).sum();
        let (target, on_disk) = (&self.target, self.spool.waiting().1);
        if lines + on_disk == 0 {
            return;
        }
        let lost = if self.spool.is_on() {
            self.spool.close(&first, &last)
        } else {
            Err(io::Error::other("nothing may wait on disk"))
        };
        match lost {
            Ok(()) => tracing::warn!(
                "drain {target}: {} log lines could not be sent and wait on disk for the next start",
                lines + on_disk
            ),
            Err(error) => {
                self.intake.numbers.lost_at_end.fetch_add(lines, Ordering::Relaxed);
                tracing::error!(%error, "drain {target}: {lines} log lines could not be sent and are lost");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_receiver_that_is_down_is_told_of_dropped_lines_once_there_is_room_and_of_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = Arc::new(Target::new(&"http://127.0.0.1:9/".to_owned().into()).unwrap());
        let intake = Arc::new(Intake::new(0, Overflow::Drop));
        let (sender, tail) = (Sender::new(&target, false), Tail::new(1 << 20));
        let spool = Spool::open(dir.path().to_owned(), 0, true);
        let mut shipper = Shipper::new(target, sender, Arc::clone(&intake), ("host", tail), spool, 0);
        for _ in 0..3 {
            intake.dropped(5);
            shipper.told_dropped = None;
            shipper.tell_dropped(false);
            assert_eq!((shipper.held_bytes, shipper.due()), (0, None));
        }
        shipper.limit_bytes = 1 << 20;
        shipper.tell_dropped(false);
        let told = shipper.lanes.iter().find_map(|lane| lane.open.as_ref()).unwrap();
        let text = String::from_utf8_lossy(&told.body);
        assert!(text.contains(" 15 messages dropped since 20"), "{text}");
        intake.dropped(1);
        shipper.tell_dropped(false);
        assert_eq!(intake.untold_dropped().map(|dropped| dropped.lines), Some(1), "it was told a moment ago");
        shipper.tell_dropped(true);
        assert_eq!(intake.untold_dropped(), None, "it is the last moment");
    }
}
