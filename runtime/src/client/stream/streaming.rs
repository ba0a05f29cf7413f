//! An open stream, as its reader has it.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::time::{Instant, Sleep, sleep_until};

use super::opening::reply_at_end;
use crate::client::call::decode;
use crate::client::dynamic::DynamicReply;
use crate::client::reply_queue::{OpenedStream, ReceivedReply, StreamEnd, StreamPeer};
use crate::client::request::CallRequest;
use crate::clock;
use crate::error::{CallError, Error, ErrorKind, Never, Outcome};
use crate::handler_guard::AbortOnDropTask;
use crate::policy::stream::StreamFault;
use crate::service::Reply;
use crate::stream::{Reader, StreamPart};

/// An open stream of items: a [`Stream`] of `Result<T, CallError<E>>`. A [`StreamCall`](super::StreamCall) opens it.
///
/// Items come in the order in which the server has sent them, each once and without a gap. An error is the last
/// item:
///
/// - [`CallError::Service`]: the method's own error.
/// - [`status`](Error::status): the server has ended the stream, for instance with `unavailable` because it shuts
///   down, or with `resource_exhausted` because an item was too large.
/// - [`is_disconnected`](Error::is_disconnected): this side or the server has lost its connection to the broker, or
///   the server has died. The error tells how many items came; a stream is not resumed by itself.
/// - [`is_decode`](Error::is_decode): an item does not decode, or the server has broken the rules of streams: items
///   were lost or doubled, or more came than the window allows.
/// - [`is_encode`](Error::is_encode), [`is_too_large`](Error::is_too_large): an item that the call
///   [sends](super::StreamCall#both-ways) cannot be sent.
/// - [`is_timeout`](Error::is_timeout): the limit of [`idle`](super::StreamCall::idle) or
///   [`total`](super::StreamCall::total).
///
/// Dropping it cancels the stream: the server drops the stream of the method at its next await.
///
/// # Cancel safety
/// [`next`](Self::next) loses no item if its future is dropped.
#[must_use = "dropping it cancels the stream"]
pub struct Streaming<T, E = Never> {
    reader: Reader<StreamEnd>,
    peer: Box<dyn StreamPeer>,
    /// Sends items to the method, if it takes some.
    _sending: Option<AbortOnDropTask<()>>,
    request: Arc<CallRequest>,
    limits: Limits,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    is_done: bool,
    returns: PhantomData<fn() -> (T, E)>,
}

/// The time limits of an open stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) idle: Option<Duration>,
    pub(super) total: Option<Instant>,
}

impl Limits {
    /// The time at which a stream ends whose reader waits for an item since then.
    fn end(&self, waiting_since: Instant) -> Option<Instant> {
        let idle = self.idle.map(|idle| clock::deadline(waiting_since, idle));
        [idle, self.total].into_iter().flatten().min()
    }
}

/// The end of a stream that is not the end of its items.
enum StreamFailure {
    Lost(Error),
    Fault(StreamFault),
    Undecodable(Box<dyn std::error::Error + Send + Sync>),
    TimedOut,
}

impl<T, E> Streaming<T, E> {
    pub(super) fn new(
        stream: OpenedStream,
        request: Arc<CallRequest>,
        window: u32,
        limits: Limits,
        sending: Option<AbortOnDropTask<()>>,
    ) -> Self {
        let OpenedStream { inbox, peer } = stream;
        Self {
            reader: Reader::new(inbox, window),
            peer,
            _sending: sending,
            request,
            limits,
            waiting_since: None,
            timer: None,
            is_done: false,
            returns: PhantomData,
        }
    }

    /// The number of items that were read.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.reader.items()
    }

    /// The next item as it came.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, LastItem>>> {
        if self.limits.total.is_some_and(|end| Instant::now() >= end) {
            return self.failed(StreamFailure::TimedOut);
        }
        let peer = &self.peer;
        match self.reader.poll_read(cx, |total| peer.grant(total)) {
            Poll::Ready(Some(StreamPart::Item(item))) => {
                self.waiting_since = None;
                Poll::Ready(Some(Ok(item)))
            }
            Poll::Ready(Some(StreamPart::Malformed)) => {
                self.failed(StreamFailure::Fault(StreamFault::Malformed))
            }
            Poll::Ready(Some(StreamPart::End(end))) => match end {
                StreamEnd::Reply(reply) => Poll::Ready(Some(Err(LastItem::Reply(reply)))),
                StreamEnd::Lost(reason) => self.failed(StreamFailure::Lost(reason)),
                StreamEnd::Fault(fault) => self.failed(StreamFailure::Fault(fault)),
            },
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if self.poll_limits(cx).is_ready() => {
                self.failed(StreamFailure::TimedOut)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Completes when a limit has passed while the reader waits for an item.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waiting_since = *self.waiting_since.get_or_insert_with(Instant::now);
        let Some(end) = self.limits.end(waiting_since) else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        timer.as_mut().poll(cx)
    }

    fn failed<B>(&self, failure: StreamFailure) -> Poll<Option<Result<B, LastItem>>> {
        Poll::Ready(Some(Err(LastItem::Error(self.error(failure)))))
    }

    /// The error of a stream that fails, with the number of items before.
    fn error(&self, failure: StreamFailure) -> Error {
        let items = self.items();
        let (kind, reason) = match failure {
            StreamFailure::Lost(reason) => (reason.kind().clone(), reason.with_reason()),
            StreamFailure::Fault(fault) => (ErrorKind::Decode, fault.to_string()),
            StreamFailure::Undecodable(error) => (ErrorKind::Decode, error.to_string()),
            StreamFailure::TimedOut => (ErrorKind::Timeout, "no further item in time".to_owned()),
        };
        self.request
            .failed(kind, Outcome::Answered)
            .caused_by(format!("after {items} items: {reason}"))
    }
}

impl<T, E> Streaming<T, E> {
    /// The next item, or the method's own error, as it came.
    pub(super) fn poll_encoded(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<DynamicReply, Error>>> {
        if self.is_done {
            return Poll::Ready(None);
        }
        let last = match std::task::ready!(self.poll_bytes(cx)) {
            Some(Ok(item)) => {
                return Poll::Ready(Some(Ok(DynamicReply::item(self.request.codec, item))));
            }
            Some(Err(end)) => self.encoded_end(end),
            None => None,
        };
        self.is_done = true;
        Poll::Ready(last)
    }

    /// The last item as it came: `None` if the stream has ended as it should.
    fn encoded_end(&self, end: LastItem) -> Option<Result<DynamicReply, Error>> {
        let reply = self.last_reply(end);
        match reply.and_then(|reply| DynamicReply::of(&self.request, reply)) {
            Ok(reply) if !reply.is_own_error() => None,
            last => Some(last),
        }
    }

    /// The reply that ends the stream.
    ///
    /// # Errors
    /// It has failed without one, or as [`reply_at_end`] tells.
    fn last_reply(&self, end: LastItem) -> Result<Reply, Error> {
        let received = match end {
            LastItem::Error(error) => return Err(error),
            LastItem::Reply(received) => received,
        };
        reply_at_end(&self.request, received, self.peer.max_message())
    }
}

/// The last item of a stream, before it is decoded.
enum LastItem {
    Reply(ReceivedReply),
    Error(Error),
}

impl<T: DeserializeOwned, E: DeserializeOwned> Streaming<T, E> {
    /// The next item; `None` when the stream has ended. After an error, the next one is `None`.
    ///
    /// # Cancel safety
    /// No item is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<T, CallError<E>>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn decode_item(&self, item: &[u8]) -> Result<T, CallError<E>> {
        let decoded = self.request.codec.decode(item);
        decoded.map_err(|error| self.error(StreamFailure::Undecodable(error.into())).into())
    }

    /// The last item: `None` if the stream has ended as it should.
    fn decode_end(&self, end: LastItem) -> Option<CallError<E>> {
        match self.last_reply(end) {
            Ok(reply) => decode::<IgnoredAny, E>(&self.request, reply).err(),
            Err(error) => Some(error.into()),
        }
    }
}

impl<T: DeserializeOwned, E: DeserializeOwned> Stream for Streaming<T, E> {
    type Item = Result<T, CallError<E>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_done {
            return Poll::Ready(None);
        }
        let item = match std::task::ready!(this.poll_bytes(cx)) {
            Some(Ok(item)) => this.decode_item(&item),
            Some(Err(end)) => match this.decode_end(end) {
                Some(error) => Err(error),
                None => {
                    this.is_done = true;
                    return Poll::Ready(None);
                }
            },
            None => {
                this.is_done = true;
                return Poll::Ready(None);
            }
        };
        if item.is_err() {
            this.is_done = true;
        }
        Poll::Ready(Some(item))
    }
}

impl<T, E> Unpin for Streaming<T, E> {}

impl<T, E> fmt::Debug for Streaming<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming")
            .field("service", &self.request.service.name())
            .field("method", &self.request.method().name())
            .field("items", &self.items())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_impl_all!(Streaming<u64, String>: Send, Unpin);

    #[tokio::test(start_paused = true)]
    async fn the_earlier_limit_ends_a_stream() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let end = |idle: Option<Duration>, total: Option<Duration>| {
            let total = total.map(|total| now + total);
            Limits { idle, total }.end(now)
        };
        assert_eq!(end(None, None), None);
        assert_eq!(end(Some(second), None), Some(now + second));
        assert_eq!(
            end(Some(3 * second), Some(2 * second)),
            Some(now + 2 * second)
        );
        assert_eq!(end(Some(Duration::MAX), Some(second)), Some(now + second));
    }
}
