//! A stream that gives a reader up which takes nothing for too long. hyper bounds the time in which a request
//! comes; this bounds the time in which an answer is taken, and says when one is waited for in vain.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

/// What a connection is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Course {
    /// A request comes, or is answered.
    #[default]
    Answering,
    /// What has been asked for is under way, and is told when it is done.
    Waiting,
    /// It is told of whatever happens.
    Following,
}

/// How the client of a connection is dealt with. Cheap to clone; all clones are of the same connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Manner(Arc<watch::Sender<Course>>);

impl Manner {
    /// From now on it may take as long as it likes: who follows the logs in a pager reads on when it is told to. When it
    /// is gone there is nobody to be told.
    pub(super) fn follow(&self) {
        self.0.send_replace(Course::Following);
    }

    /// Waits for what goes on by itself, whether or not its client stays to hear of it.
    pub(super) async fn wait_for<T>(&self, done: impl Future<Output = T>) -> T {
        self.0.send_replace(Course::Waiting);
        let done = done.await;
        self.0.send_replace(Course::Answering);
        done
    }

    fn is_unhurried(&self) -> bool {
        *self.0.borrow() == Course::Following
    }

    /// Waits until nothing is lost if the connection ends with its client.
    pub(super) async fn may_end(&self) {
        let mut course = self.0.subscribe();
        // the sender is in this very value, so that it cannot be gone
        let _reached = course.wait_for(|course| *course != Course::Answering).await;
    }
}

/// A stream whose writes fail when the other end takes no byte for `patience`.
#[derive(Debug)]
pub(super) struct StallGuard<S> {
    stream: S,
    patience: Duration,
    manner: Manner,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> StallGuard<S> {
    pub(super) fn new(stream: S, patience: Duration, manner: Manner) -> Self {
        Self { stream, patience, manner, stalled: None }
    }

    fn guard(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if write.is_ready() || self.manner.is_unhurried() {
            self.stalled = None;
            return write;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no more of the answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.guard(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.guard(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let (ours, _theirs) = duplex(4);
        let mut guarded = StallGuard::new(ours, Duration::from_secs(30), Manner::default());
        let before = tokio::time::Instant::now();
        let error = guarded.write_all(b"12345").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(before.elapsed() >= Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_a_little_now_and_then_is_not() {
        let (ours, mut theirs) = duplex(4);
        let mut guarded = StallGuard::new(ours, Duration::from_secs(30), Manner::default());
        let reader = async {
            for _ in 0..4 {
                sleep(Duration::from_secs(20)).await;
                tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut [0; 4]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(guarded.write_all(b"0123456789abcdef"), reader);
        written.unwrap();
    }
}
