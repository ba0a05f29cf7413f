//! Calls of methods that return a stream: their options, and the future that opens the stream.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::time::Instant;

use super::streaming::{Limits, Streaming};
use crate::client::call::decode;
use crate::client::handle::Client;
use crate::client::layered::LayeredCall;
use crate::client::reply_queue::OpenedStream;
use crate::client::request::{Absence, CallOptions, CallRequest};
use crate::client::transport::Sending;
use crate::clock;
use crate::descriptor::MethodDescriptor;
use crate::error::{CallError, Error, ErrorKind, Never, Outcome};
use crate::service::Reply;
use crate::wire::envelope;
use crate::wire::value::{Table, Value};

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
        let (body, error) = match self.inner.codec.encode(arguments) {
            Ok(body) => (body, None),
            Err(error) => {
                let error = Error::new(ErrorKind::Encode).caused_by(error);
                (Bytes::new(), Some(error))
            }
        };
        let options = CallOptions {
            method,
            body,
            error,
            timeout: None,
            priority: None,
            fail_fast: None,
            window: DEFAULT_WINDOW,
            headers: Table::new(),
        };
        StreamCall {
            client: self.clone(),
            options,
            idle: None,
            total: None,
            returns: PhantomData,
        }
    }
}

impl<T, E> StreamCall<T, E> {
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
    /// [`is_timeout`](Error::is_timeout), and is cancelled. Default none: a stream may be quiet for as long as its
    /// server lives.
    pub fn idle(mut self, limit: Duration) -> Self {
        self.idle = Some(limit);
        self
    }

    /// Sets the longest time of the whole stream, from the call on. After it, the stream ends with
    /// [`is_timeout`](Error::is_timeout), and is cancelled. Default none.
    pub fn total(mut self, limit: Duration) -> Self {
        self.total = Some(limit);
        self
    }

    /// Sets the priority of the request, as [`Call::priority`](crate::Call::priority) does.
    pub fn priority(mut self, priority: u8) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// Makes the call fail at once if nobody can take it, as [`Call::fail_fast`](crate::Call::fail_fast) does.
    pub fn fail_fast(mut self) -> Self {
        self.options.fail_fast = Some(Absence::NONE);
        self
    }

    /// Adds a header to the request, as [`Call::header`](crate::Call::header) does. A name that is
    /// [reserved](Table#reserved-names-of-headers) makes the call fail with [`is_invalid`](Error::is_invalid).
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        let name = name.to_owned();
        if let Err(error) = envelope::check_headers([&name]) {
            self.options.error.get_or_insert(error);
        }
        self.options.headers.insert(name, value.into());
        self
    }
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
    let StreamCall {
        client,
        options,
        idle,
        total,
        ..
    } = call;
    let window = options.window;
    let started = Instant::now();
    let (request, reply) = send(client, options).await?;
    let opened = reply.opened_stream();
    let Some(stream) = opened.and_then(|opened| opened.take::<OpenedStream>()) else {
        // A status, mostly. A value comes of a method that returns no stream there.
        return match decode::<IgnoredAny, E>(&request, reply) {
            Ok(_) => Err(request
                .failed(ErrorKind::Decode, Outcome::Answered)
                .caused_by("the method has returned a value where a stream was expected")
                .into()),
            Err(error) => Err(error),
        };
    };
    let limits = Limits {
        idle,
        total: total.map(|total| clock::deadline(started, total)),
    };
    Ok(Streaming::new(*stream, request, window, limits))
}

/// Sends the request, and waits until the stream is opened or refused.
async fn send(client: Client, options: CallOptions) -> Result<(Arc<CallRequest>, Reply), Error> {
    match client.inner.layers.clone() {
        None => {
            let mut call = Sending::start(client, options).done().await?;
            let reply = call.response().await?;
            Ok((call.shared_request(), reply))
        }
        Some(layers) => {
            let mut call = LayeredCall::start(&client, options, &layers)?;
            let reply = call.response().await?;
            Ok((call.into_request(), reply))
        }
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
