//! The body of an answer: a whole one, or one that goes on for as long as there is something to be told.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};

/// Whoever is told something for as long as there is something to be told.
pub(super) trait Follow: Send + Sync {
    /// The next piece, once there is one, and what comes after it; none where there will be no more.
    fn rest(self: Box<Self>) -> Rest;
}

/// See [`Follow::rest`].
pub(super) type Rest = Pin<Box<dyn Future<Output = Option<(Bytes, Box<dyn Follow>)>> + Send + Sync>>;

/// The body of an answer.
pub(super) enum AnswerBody {
    Whole(Full<Bytes>),
    Told(Rest),
    /// There was something to be told, and there is no more.
    Ended,
}

impl From<Box<dyn Follow>> for AnswerBody {
    fn from(follower: Box<dyn Follow>) -> Self {
        Self::Told(follower.rest())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Self::Told(rest) => Poll::Ready(match ready!(rest.as_mut().poll(cx)) {
                Some((bytes, follower)) => {
                    *self = follower.into();
                    Some(Ok(Frame::data(bytes)))
                }
                None => {
                    *self = Self::Ended;
                    None
                }
            }),
            Self::Ended => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Told(_) => false,
            Self::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Told(_) => SizeHint::default(),
            Self::Ended => SizeHint::with_exact(0),
        }
    }
}
