//! Calls: their options, and the futures by which they are made and awaited.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handle::Client;
use super::layered::LayeredCall;
use super::options::{CallOptions, option_setters};
use super::request::CallRequest;
use super::transport::{InFlightCall, Sending};
use crate::descriptor::MethodDescriptor;
use crate::error::{CallError, ErrorKind, Never, Outcome};
use crate::service::Reply;
use crate::stats::HandlerOutcome;
use crate::wire::codec::CodecError;
use crate::wire::envelope::ReplyStatus;

/// A call that is not made yet: await it, or [`send`](Self::send) it.
///
/// ```
/// # #[lepus::service]
/// # trait Calculator {
/// #     async fn fib(&self, n: u64) -> u64;
/// # }
/// # struct CalculatorService;
/// # impl Calculator for CalculatorService {
/// #     async fn fib(&self, n: u64) -> u64 {
/// #         (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lepus::CallError> {
/// # let calculator = CalculatorClient::local(CalculatorService);
/// use std::time::Duration;
///
/// // Sent and awaited.
/// assert_eq!(calculator.fib(30).await?, 832_040);
/// // With options of its own.
/// let call = calculator.fib(40).timeout(Duration::from_secs(60)).header("tenant", "hare");
/// // Sent now, awaited later.
/// let pending = call.send().await?;
/// assert_eq!(pending.await?, 102_334_155);
/// # Ok(())
/// # }
/// ```
///
/// # As a future
///
/// A call is no future, but `.await` makes one of it ([`IntoFuture`]). A function that takes a future needs the
/// conversion written out, for instance `tokio::spawn(call.into_future())`:
///
/// ```
/// # #[lepus::service]
/// # trait Calculator {
/// #     async fn fib(&self, n: u64) -> u64;
/// # }
/// # struct CalculatorService;
/// # impl Calculator for CalculatorService {
/// #     async fn fib(&self, n: u64) -> u64 {
/// #         (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let calculator = CalculatorClient::local(CalculatorService);
/// // Before the edition 2024, with `use std::future::IntoFuture;`.
/// let task = tokio::spawn(calculator.fib(30).into_future());
/// let calls = [10, 20].map(|n| calculator.fib(n).into_future());
/// let numbers = futures_util::future::join_all(calls).await;
/// assert!(matches!(numbers[..], [Ok(55), Ok(6765)]));
/// assert_eq!(task.await??, 832_040);
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
///
/// Dropping the future at any moment gives the call up: it no longer counts towards
/// [`max_in_flight`](crate::rpc::ClientBuilder::max_in_flight). If the request was sent and there is time left until the
/// deadline, the servers are told: the handler is dropped at its next await, with the calls that it makes, or is not
/// begun. It may have ended by then; and it goes on if its method has `cancel = false`, or if the message to the
/// servers, which is not confirmed, is lost.
///
/// ```
/// # #[lepus::service]
/// # trait Calculator {
/// #     async fn factor(&self, n: u64) -> Vec<u64>;
/// # }
/// # struct CalculatorService;
/// # impl Calculator for CalculatorService {
/// #     async fn factor(&self, n: u64) -> Vec<u64> {
/// #         std::future::pending().await
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lepus::CallError> {
/// # let calculator = CalculatorClient::local(CalculatorService);
/// use std::time::Duration;
///
/// let factors = tokio::select! {
///     factors = calculator.factor(18_446_744_073_709_551_557) => Some(factors?),
///     // The call is dropped, and its handler stops.
///     () = tokio::time::sleep(Duration::from_millis(10)) => None,
/// };
/// assert_eq!(factors, None);
/// # Ok(())
/// # }
/// ```
#[must_use = "a call is made when it is awaited or sent"]
pub struct Call<T, E = Never> {
    client: Client,
    options: CallOptions,
    returns: PhantomData<fn() -> (T, E)>,
}

type CallResult<T, E> = Result<T, CallError<E>>;
type CallFuture<T, E> = Pin<Box<dyn Future<Output = CallResult<T, E>> + Send>>;

impl Client {
    /// Creates a call. It is made when it is awaited or sent.
    pub fn call<A, T, E>(&self, method: &'static MethodDescriptor, arguments: &A) -> Call<T, E>
    where
        A: Serialize + ?Sized,
        T: DeserializeOwned,
        E: DeserializeOwned,
    {
        let options = CallOptions::new(self.inner.codec, method, arguments, 0);
        Call {
            client: self.clone(),
            options,
            returns: PhantomData,
        }
    }
}

impl<T, E> Call<T, E> {
    /// Sets the longest time that the call may take, from its start to the reply. The time left is sent
    /// with the request: when it is over, the broker drops a request that still waits in the queue, and
    /// the server stops its handler.
    ///
    /// Inside a handler, the call ends before the handler's own deadline at the latest, so that the handler
    /// can answer after the call timed out. The reserve is 5 % of the time that was left when the handler
    /// started, at least 5 ms and at most 250 ms, and never more than half of it. The maximum is 2³² ms (49 days), the longest `expiration` that
    /// RabbitMQ takes.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    option_setters!();
}

impl<T: DeserializeOwned + 'static, E: DeserializeOwned + 'static> Call<T, E> {
    /// Sends the request, and returns a future for the reply.
    ///
    /// # Errors
    /// The request could not be sent: it is too large, its arguments cannot be encoded, or there was no
    /// connection in time.
    ///
    /// # Cancel safety
    /// Dropping this future gives the call up, as dropping the call does.
    pub async fn send(self) -> Result<PendingReply<T, E>, CallError<E>> {
        let layers = self.client.inner.layers.clone();
        let reply: CallFuture<T, E> = match layers {
            Some(layers) => {
                let call = LayeredCall::start(&self.client, self.options, &layers)?.detach();
                Box::pin(receive_layered(call))
            }
            None => {
                let call = Sending::start(self.client, self.options)
                    .done()
                    .await?
                    .detach();
                Box::pin(receive(call))
            }
        };
        Ok(PendingReply { reply })
    }
}

impl<T: DeserializeOwned + 'static, E: DeserializeOwned + 'static> IntoFuture for Call<T, E> {
    type Output = CallResult<T, E>;
    type IntoFuture = CallFuture<T, E>;

    fn into_future(self) -> Self::IntoFuture {
        match self.client.inner.layers.clone() {
            None => Box::pin(send_and_receive(self.client, self.options)),
            Some(layers) => Box::pin(async move {
                receive_layered(LayeredCall::start(&self.client, self.options, &layers)?).await
            }),
        }
    }
}

async fn send_and_receive<T: DeserializeOwned, E: DeserializeOwned>(
    client: Client,
    options: CallOptions,
) -> CallResult<T, E> {
    receive(Sending::start(client, options).done().await?).await
}

#[expect(
    clippy::manual_async_fn,
    reason = "the future of an `async fn` would hold the call twice"
)]
fn receive<T: DeserializeOwned, E: DeserializeOwned>(
    mut call: InFlightCall,
) -> impl Future<Output = CallResult<T, E>> + Send {
    async move {
        let reply = call.response().await?;
        decode(call.request(), reply)
    }
}

async fn receive_layered<T: DeserializeOwned, E: DeserializeOwned>(
    mut call: LayeredCall,
) -> CallResult<T, E> {
    let reply = call.response().await?;
    let result = decode(call.request(), reply);
    call.ended(match &result {
        Ok(_) => HandlerOutcome::Ok,
        Err(CallError::Service(_)) => HandlerOutcome::OwnError,
        Err(CallError::Rpc(error)) => HandlerOutcome::Status(error.grpc_code()),
    });
    result
}

pub(super) fn decode<T: DeserializeOwned, E: DeserializeOwned>(
    request: &CallRequest,
    reply: Reply,
) -> CallResult<T, E> {
    let codec = reply.codec().unwrap_or(request.codec);
    let (status, body, _) = reply.into_parts();
    let failed = |kind| request.failed(kind, Outcome::Answered);
    let undecodable = |error: CodecError| failed(ErrorKind::Decode).caused_by(error);
    match status {
        ReplyStatus::Success => codec
            .decode(&body)
            .inspect(|_| request.ended(HandlerOutcome::Ok))
            .map_err(undecodable),
        ReplyStatus::Application => match codec.decode(&body) {
            Ok(error) => {
                request.ended(HandlerOutcome::OwnError);
                return Err(CallError::Service(error));
            }
            Err(error) => Err(undecodable(error)),
        },
        ReplyStatus::Failed(status) => Err(failed(ErrorKind::Status(status))),
    }
    .map_err(CallError::Rpc)
}

impl<T, E> fmt::Debug for Call<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("service", &self.client.inner.descriptor.name())
            .field("method", &self.options.method.name())
            .finish_non_exhaustive()
    }
}

/// A call whose request was sent ([`Call::send`]): await it for the reply. It is a future itself. Dropping it
/// gives the call up, as [dropping the call](Call#cancel-safety) does.
#[must_use = "the reply comes when this is awaited"]
pub struct PendingReply<T, E = Never> {
    reply: CallFuture<T, E>,
}

impl<T, E> Future for PendingReply<T, E> {
    type Output = CallResult<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.reply.as_mut().poll(cx)
    }
}

impl<T, E> fmt::Debug for PendingReply<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReply").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_of_future;

    static_assertions::assert_impl_all!(Call<u64>: Send);
    static_assertions::assert_impl_all!(PendingReply<u64>: Send, Unpin);
    static_assertions::assert_impl_all!(CallFuture<u64, String>: Send);

    /// Thousands of calls may wait at once, each with its future on the heap.
    #[test]
    fn the_futures_of_a_call_stay_small() {
        let whole =
            size_of_future(|(client, options)| send_and_receive::<u64, Never>(client, options));
        let receive = size_of_future(receive::<u64, Never>);
        assert!(whole <= 416 && receive <= 256, "{whole}, {receive}");
    }
}
