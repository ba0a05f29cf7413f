//! Calls of methods that take a stream of items, and the sending of the items.

use std::fmt;
use std::future::{IntoFuture, poll_fn};
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::opening::{open_stream, reply_at_end};
use crate::client::call::decode;
use crate::client::handle::Client;
use crate::client::options::{CallOptions, option_setters};
use crate::client::reply_queue::{OpenedStream, StreamEnd, UploadSink};
use crate::client::request::CallRequest;
use crate::clock;
use crate::context::Context;
use crate::descriptor::MethodDescriptor;
use crate::error::{CallError, Error, ErrorKind, Never, Outcome};
use crate::handler_guard::{AbortOnDropTask, HandlerEnd, guard};
use crate::stream::{Produced, Reader, StreamPart, produce};
use crate::wire::codec::{Codec, CodecError};

/// Items, which are encoded when they are polled.
pub(super) type EncodedItems = Pin<Box<dyn Stream<Item = Result<Bytes, CodecError>> + Send>>;

/// Encodes items when they are polled.
pub(super) fn encoded<I: Serialize>(
    codec: Codec,
    items: impl Stream<Item = I> + Send + 'static,
) -> EncodedItems {
    Box::pin(items.map(move |item| codec.encode(&item)))
}

/// Sends items as they are ready and as the method reads them, and tells it the end. If one of them cannot be sent, the
/// call ends with the error.
async fn send_all(sink: Arc<dyn UploadSink>, items: EncodedItems) {
    match produce(sink.items(), items, |item| item).await {
        Produced::Finished => sink.finish(),
        // The end of the call tells the reason.
        Produced::Closed => {}
        Produced::Item(error) => sink.fail(Error::new(ErrorKind::Encode).caused_by(error)),
        Produced::TooLarge { size, limit } => {
            sink.fail(Error::new(ErrorKind::TooLarge { size, limit }));
        }
    }
}

/// Sends items in a task of its own, in the context of the caller.
pub(super) fn send_in_task(sink: Arc<dyn UploadSink>, items: EncodedItems) -> AbortOnDropTask<()> {
    let context = Context::current();
    AbortOnDropTask::spawn(async move {
        let sending = Box::pin(context.scope(send_all(Arc::clone(&sink), items)));
        let end = guard(None, sending).await;
        if let HandlerEnd::Panicked(text) = &end {
            let text = format!("the stream of items panicked: {text}");
            sink.fail(Error::new(ErrorKind::Encode).caused_by(text));
        }
        end
    })
}

/// A call of a method that takes a stream of items ([`Incoming`](crate::Incoming)) and returns one value, which is not
/// made yet: await it for the value.
///
/// The items are any [`Stream`]. It is polled within the call, only while the method reads: at most 32 items are on
/// their way or wait to be read. When it ends, the method knows that it has got all of them. The method may answer
/// before: the call ends then, and drops the rest of the stream.
///
/// ```
/// use futures_util::stream;
/// use lepus::Incoming;
///
/// #[lepus::service]
/// trait Words {
///     /// The number of words up to the first one that is empty.
///     async fn count(&self, from: u64, words: Incoming<String>) -> u64;
/// }
///
/// struct WordsService;
///
/// impl Words for WordsService {
///     async fn count(&self, from: u64, mut words: Incoming<String>) -> u64 {
///         let mut count = from;
///         while let Some(Ok(word)) = words.next().await {
///             if word.is_empty() {
///                 break;
///             }
///             count += 1;
///         }
///         count
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lepus::CallError> {
/// use std::time::Duration;
///
/// let words = WordsClient::local(WordsService);
/// let text = ["one", "two", "", "never sent"].map(str::to_owned);
/// let call = words.count(40, stream::iter(text)).total(Duration::from_secs(60));
/// assert_eq!(call.await?, 42);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of a [`Call`](crate::Call), and the status of a server that refuses the stream, such as `resource_exhausted` if
/// it has [too many](crate::Server::streams). Further ones tell after how many items the call has ended:
///
/// - [`is_disconnected`](Error::is_disconnected): this side or the server has lost its connection to the broker, or the
///   server has died. An upload is not resumed by itself.
/// - [`status`](Error::status): the server has ended the stream, for instance with `unavailable` because it shuts
///   down, or with `resource_exhausted` because an item was over its limit.
/// - [`is_too_large`](Error::is_too_large), [`is_encode`](Error::is_encode): an item that cannot be sent.
/// - [`is_timeout`](Error::is_timeout): the limit of [`timeout`](Self::timeout) or [`total`](Self::total).
///
/// # Cancel safety
/// Dropping the future gives the call up: the method is dropped at its next await, and so is the stream of items.
#[must_use = "a call is made when it is awaited"]
pub struct UploadCall<T, E = Never> {
    client: Client,
    options: CallOptions,
    total: Option<Duration>,
    items: EncodedItems,
    returns: PhantomData<fn() -> (T, E)>,
}

type Uploading<T, E> = Pin<Box<dyn Future<Output = Result<T, CallError<E>>> + Send>>;

impl Client {
    /// Creates a call of a method that takes a stream of items. It is made when it is awaited.
    pub fn upload<A, I, T, E>(
        &self,
        method: &'static MethodDescriptor,
        arguments: &A,
        items: impl Stream<Item = I> + Send + 'static,
    ) -> UploadCall<T, E>
    where
        A: Serialize + ?Sized,
        I: Serialize,
        T: DeserializeOwned,
        E: DeserializeOwned,
    {
        let codec = self.inner.codec;
        UploadCall {
            client: self.clone(),
            // The reply is no item, but a request without a window asks for no stream.
            options: CallOptions::new(codec, method, arguments, 1),
            total: None,
            items: encoded(codec, items),
            returns: PhantomData,
        }
    }
}

impl<T, E> UploadCall<T, E> {
    /// Sets the longest time until the method accepts items. Default as for a [`Call`](crate::Call::timeout): that of
    /// the method or the client, 10 s. A call that has begun to send items has no time limit, unless
    /// [`total`](Self::total) sets one.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    /// Sets the longest time of the whole call. After it, the call fails with
    /// [`is_timeout`](Error::is_timeout), and is given up. Default none.
    pub fn total(mut self, limit: Duration) -> Self {
        self.total = Some(limit);
        self
    }

    option_setters!();
}

impl<T: DeserializeOwned + 'static, E: DeserializeOwned + 'static> IntoFuture for UploadCall<T, E> {
    type Output = Result<T, CallError<E>>;
    type IntoFuture = Uploading<T, E>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(upload(self))
    }
}

async fn upload<T: DeserializeOwned, E: DeserializeOwned>(
    call: UploadCall<T, E>,
) -> Result<T, CallError<E>> {
    let UploadCall {
        client,
        options,
        total,
        items,
        ..
    } = call;
    let started = Instant::now();
    let (stream, request) = open_stream(client, options, true).await?;
    let finishing = send_and_receive(stream, &request, items);
    let Some(total) = total else {
        return finishing.await;
    };
    match timeout_at(clock::deadline(started, total), finishing).await {
        Ok(result) => result,
        Err(_) => Err(request
            .failed(ErrorKind::Timeout, Outcome::SentNoReply)
            .into()),
    }
}

/// Sends the items, and waits for the reply, which may come before the last one is sent.
async fn send_and_receive<T: DeserializeOwned, E: DeserializeOwned>(
    stream: OpenedStream,
    request: &CallRequest,
    items: EncodedItems,
) -> Result<T, CallError<E>> {
    let OpenedStream { inbox, peer } = stream;
    let mut reader = Reader::new(inbox, 1);
    let failed = |kind: ErrorKind, reason: &dyn fmt::Display| {
        let items = peer.items_sent();
        request
            .failed(kind, Outcome::SentNoReply)
            .caused_by(format!("after {items} items: {reason}"))
    };
    let sink = peer.upload_sink().await;
    let sink = sink.map_err(|error| failed(error.kind().clone(), &error.with_reason()))?;
    let mut sending = pin!(send_all(sink, items));
    let mut is_sending = true;
    let end = poll_fn(|cx| {
        // The reply first: items that come too late are not asked for.
        if let Poll::Ready(end) = reader.poll_read(cx, |_| ()) {
            return Poll::Ready(end);
        }
        if is_sending {
            is_sending = sending.as_mut().poll(cx).is_pending();
        }
        Poll::Pending
    });
    let error = match end.await {
        Some(StreamPart::End(StreamEnd::Reply(received))) => {
            let reply = reply_at_end(request, received, peer.max_message())?;
            return decode(request, reply);
        }
        Some(StreamPart::End(StreamEnd::Lost(reason))) => {
            failed(reason.kind().clone(), &reason.with_reason())
        }
        Some(StreamPart::End(StreamEnd::Fault(fault))) => failed(ErrorKind::Decode, &fault),
        Some(StreamPart::Item(_) | StreamPart::Malformed) | None => {
            let text = "the method has returned an item where a value was expected";
            failed(ErrorKind::Decode, &text)
        }
    };
    Err(error.into())
}

impl<T, E> fmt::Debug for UploadCall<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadCall")
            .field("service", &self.client.inner.descriptor.name())
            .field("method", &self.options.method.name())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_impl_all!(UploadCall<u64, String>: Send);
    static_assertions::assert_impl_all!(Uploading<u64, String>: Send);
}
