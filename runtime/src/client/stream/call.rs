//! Calls of methods that return a stream: their options, and the future that opens the stream.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::opening::{FirstAnswer, first_answer, reply_without_stream};
use super::streaming::{Limits, Streaming};
use super::upload::{EncodedItems, encoded, send_in_task};
use crate::client::handle::Client;
use crate::client::options::{CallOptions, option_setters};
use crate::client::request::CallRequest;
use crate::clock;
use crate::descriptor::MethodDescriptor;
use crate::error::{CallError, Error, Never, Outcome};
use crate::service::Reply;

/// The number of items that may be on their way, unless [`StreamCall::window`] sets another one.
pub const DEFAULT_WINDOW: u32 = 32;

/// A call of a method that returns a stream, which is not made yet: await it for the [`Streaming`] that it opens.
///
/// ```
/// use lepus::rpc::Stream;
///
/// #[lepus::service]
/// trait Counter {
///     fn count(&self, to: u64) -> impl Stream<Item = u64>;
/// }
///
/// struct CounterService;
///
/// impl Counter for CounterService {
///     fn count(&self, to: u64) -> impl Stream<Item = u64> {
///         futures_util::stream::iter(1..=to)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lepus::CallError> {
/// let counter = CounterClient::local(CounterService);
/// let mut numbers = counter.count(3).window(2).await?;
/// let mut sum = 0;
/// while let Some(number) = numbers.next().await {
///     sum += number?;
/// }
/// assert_eq!(sum, 6);
/// # Ok(())
/// # }
/// ```
///
/// # Both ways
/// If the method takes a stream as well ([`Incoming`](crate::Incoming)), the client's method takes any [`Stream`] for it.
/// It is polled in a task of its own from the opening on, whether or not somebody reads the [`Streaming`], and only while
/// the method reads. When it ends, the other stream goes on; when the other one ends or is dropped, it is dropped.
///
/// # Errors
/// Awaiting it fails if the stream was not opened: as a [`Call`](crate::Call) fails, and with the status of a server
/// that refuses it, such as `resource_exhausted` if it has [too many](crate::Server::streams). Errors of the stream
/// itself come from [`Streaming`].
///
/// # Cancel safety
/// Dropping the future gives the stream up, whether or not it is open.
#[must_use = "a stream is opened when the call is awaited"]
pub struct StreamCall<T, E = Never> {
    client: Client,
    options: CallOptions,
    idle: Option<Duration>,
    total: Option<Duration>,
    /// The items for a method that takes some.
    upload: Option<EncodedItems>,
    returns: PhantomData<fn() -> (T, E)>,
}

pub(super) type Opening<T, E> =
    Pin<Box<dyn Future<Output = Result<Streaming<T, E>, CallError<E>>> + Send>>;

impl Client {
    /// Creates a call of a method that returns a stream. It is made when it is awaited.
    pub fn stream<A, T, E>(
        &self,
        method: &'static MethodDescriptor,
        arguments: &A,
    ) -> StreamCall<T, E>
    where
        A: Serialize + ?Sized,
        T: DeserializeOwned,
        E: DeserializeOwned,
    {
        let codec = self.inner.codec;
        StreamCall::new(
            self,
            CallOptions::new(codec, method, arguments, DEFAULT_WINDOW),
        )
    }

    /// As [`stream`](Self::stream), of a method that takes a stream of items as well. The items are sent in a task of
    /// their own, once the stream is open.
    pub fn duplex<A, I, T, E>(
        &self,
        method: &'static MethodDescriptor,
        arguments: &A,
        items: impl Stream<Item = I> + Send + 'static,
    ) -> StreamCall<T, E>
    where
        A: Serialize + ?Sized,
        I: Serialize,
        T: DeserializeOwned,
        E: DeserializeOwned,
    {
        StreamCall {
            upload: Some(encoded(self.inner.codec, items)),
            ..self.stream(method, arguments)
        }
    }
}

impl<T, E> StreamCall<T, E> {
    pub(super) fn new(client: &Client, options: CallOptions) -> Self {
        Self {
            client: client.clone(),
            options,
            idle: None,
            total: None,
            upload: None,
            returns: PhantomData,
        }
    }

    /// Sets how many items may be on their way or wait to be read. The server stops polling the method's stream when
    /// so many were sent and not read, so that a slow reader slows the producer down, and this many items are held
    /// in memory at most. Default [`DEFAULT_WINDOW`], 32; 0 counts as 1.
    ///
    /// A credit is sent to the server for each half of the window. A large window is fast over a slow connection; a
    /// window of 1 waits for the reader after each item.
    pub fn window(mut self, items: u32) -> Self {
        self.options.window = items.max(1);
        self
    }

    /// Sets the longest time that the opening may take. Default as for a [`Call`](crate::Call::timeout): that of the
    /// method or the client, 10 s. An open stream has no time limit, unless [`idle`](Self::idle) or
    /// [`total`](Self::total) sets one.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    /// Sets the longest time that a reader waits for the next item. After it, the stream ends with
    /// [`is_timeout`](crate::Error::is_timeout), and is cancelled. Default none: a stream may be quiet for as long as its
    /// server lives.
    pub fn idle(mut self, limit: Duration) -> Self {
        self.idle = Some(limit);
        self
    }

    /// Sets the longest time of the whole stream, from the call on. After it, the stream ends with
    /// [`is_timeout`](crate::Error::is_timeout), and is cancelled. Default none.
    pub fn total(mut self, limit: Duration) -> Self {
        self.total = Some(limit);
        self
    }

    option_setters!();
}

impl<T: DeserializeOwned + 'static, E: DeserializeOwned + 'static> IntoFuture for StreamCall<T, E> {
    type Output = Result<Streaming<T, E>, CallError<E>>;
    type IntoFuture = Opening<T, E>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(open(self))
    }
}

async fn open<T, E: DeserializeOwned>(
    call: StreamCall<T, E>,
) -> Result<Streaming<T, E>, CallError<E>> {
    match call.open().await? {
        Opened::Stream(streaming) => Ok(streaming),
        Opened::Reply(request, reply) => Err(reply_without_stream(&request, reply)),
    }
}

/// The first answer to the call of a stream.
pub(super) enum Opened<T, E> {
    Stream(Streaming<T, E>),
    /// A reply instead of a stream, and the request of the call.
    Reply(Arc<CallRequest>, Reply),
}

impl<T, E> StreamCall<T, E> {
    /// Makes the call, and waits for the first answer.
    pub(super) async fn open(self) -> Result<Opened<T, E>, Error> {
        let window = self.options.window;
        let started = Instant::now();
        let limits = Limits {
            idle: self.idle,
            total: self.total.map(|total| clock::deadline(started, total)),
        };
        let answer = first_answer(self.client, self.options, self.upload.is_some()).await?;
        let (stream, request) = match answer {
            (FirstAnswer::Opened(stream), request) => (stream, request),
            (FirstAnswer::Reply(reply), request) => return Ok(Opened::Reply(request, reply)),
        };
        let sending = match self.upload {
            None => None,
            Some(items) => {
                let sink = stream.peer.upload_sink().await.map_err(|error| {
                    let failed = request.failed(error.kind().clone(), Outcome::Answered);
                    failed.caused_by(error)
                })?;
                Some(send_in_task(sink, items))
            }
        };
        Ok(Opened::Stream(Streaming::new(
            stream, request, window, limits, sending,
        )))
    }
}

impl<T, E> fmt::Debug for StreamCall<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamCall")
            .field("service", &self.client.inner.descriptor.name())
            .field("method", &self.options.method.name())
            .finish_non_exhaustive()
    }
}
