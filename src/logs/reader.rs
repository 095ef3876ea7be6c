//! Reads what a dyno prints, from its pipes to whatever takes lines.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use hsup_drivers::Output;
use nix::fcntl::{FcntlArg, fcntl};
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::awaited::Awaited;
use super::console::Channel;
use super::dyno_log::{DynoLog, Taken};
use super::lines::Lines;

/// How much is read at once, and how much the pipe of a dyno that prints a lot is made to hold.
const READ_BYTES: usize = 256 * 1024;

/// What a pipe holds as it is made: reading as much as that at once means that the dyno waits for room.
const PIPE_BYTES: usize = 64 * 1024;

thread_local! {
    /// The one buffer of a thread that reads; what is read is copied out before anything else is read. Pages that no
    /// dyno has printed enough to fill are never touched.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How much more of a dyno's output is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Until {
    /// Its pipes are closed.
    Closed,
    /// The same, and without waiting for drains to have room: the dyno is gone, and what is left is what its pipes
    /// hold.
    ClosedAtOnce,
    /// Nothing more.
    Now,
}

/// Reads a dyno's two pipes until both are closed, or it is told to stop.
pub(super) async fn read_output(
    output: Output,
    log: DynoLog,
    awaited: Option<Awaited>,
    until: watch::Receiver<Until>,
) {
    tokio::join!(
        read_pipe(output.stdout, Channel::Stdout, &log, awaited.clone(), until.clone()),
        read_pipe(output.stderr, Channel::Stderr, &log, awaited, until.clone())
    );
}

async fn read_pipe(
    pipe: OwnedFd,
    channel: Channel,
    log: &DynoLog,
    mut awaited: Option<Awaited>,
    mut until: watch::Receiver<Until>,
) {
    let receiver = match pipe::Receiver::from_owned_fd(pipe) {
        Ok(receiver) => receiver,
        Err(error) => {
            tracing::error!(%error, "cannot read what {} prints", log.name());
            return;
        }
    };
    let (mut lines, mut enlarged, mut read_bytes) = (Lines::default(), false, 0);
    loop {
        // Before the reading, so that what waits for room is still in the pipe and the dyno waits with it.
        tokio::select! {
            biased;
            () = log.room(&mut read_bytes) => {}
            () = reached(&mut until, Until::ClosedAtOnce) => {}
        }
        tokio::select! {
            biased;
            ready = receiver.readable() => if let Err(error) = ready {
                tracing::error!(%error, "cannot wait for what {} prints", log.name());
                break;
            },
            () = reached(&mut until, Until::Now) => break,
        }
        match read(&receiver, |bytes| log.cut(channel, bytes, &mut lines)) {
            Ok(Some(taken)) => {
                read_bytes += taken.length;
                if taken.length >= PIPE_BYTES && !enlarged {
                    enlarged = true;
                    enlarge(&receiver);
                }
                awaited.take_if(|awaited| !awaited.look(taken.lines()));
                if !log.publish(taken).await {
                    break;
                }
            }
            Ok(None) => {}
            Err(End::Closed) => break,
            Err(End::Failed(error)) => {
                tracing::error!(%error, "cannot read what {} prints", log.name());
                break;
            }
        }
    }
    let rest = log.rest(channel, &mut lines);
    if let Some(awaited) = awaited {
        awaited.look(rest.lines());
    }
    log.publish(rest).await;
}

/// Waits until reading is to go on until `mark` only. Cancel safe.
async fn reached(until: &mut watch::Receiver<Until>, mark: Until) {
    if until.wait_for(|until| *until >= mark).await.is_err() {
        std::future::pending().await
    }
}

/// Why nothing more can be read.
enum End {
    Closed,
    Failed(io::Error),
}

/// Hands on what is in the pipe, up to a buffer's worth so that others get their turn.
fn read(pipe: &pipe::Receiver, take: impl FnOnce(&[u8]) -> Taken) -> Result<Option<Taken>, End> {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.is_empty() {
            *buffer = vec![0; READ_BYTES];
        }
        match pipe.try_read(buffer) {
            Ok(0) => Err(End::Closed),
            Ok(length) => Ok(Some(take(&buffer[..length]))),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(None)
            }
            Err(error) => Err(End::Failed(error)),
        }
    })
}

/// Lets the pipe hold more, so that the dyno and hsup change over less often. A host that allows no more is fine.
fn enlarge(pipe: &pipe::Receiver) {
    let size = i32::try_from(READ_BYTES).unwrap_or(i32::MAX);
    if let Err(error) = fcntl(pipe.as_fd(), FcntlArg::F_SETPIPE_SZ(size)) {
        tracing::debug!(%error, "a dyno's pipe stays at its size");
    }
}
