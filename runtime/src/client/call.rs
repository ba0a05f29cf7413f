//! A call as its user writes it: options, then `await`, or `send` now and await later.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::Client;
use super::flight::{Answered, Flight, Launch};
use crate::descriptor::MethodDescriptor;
use crate::error::{CallError, Error, Kind, Never};
use crate::wire::envelope::{self, ReplyStatus};
use crate::wire::value::{Table, Value};

/// A call that is not made yet: await it, or [`send`](Self::send) it.
///
/// Dropping the future, at whatever moment, frees its slot at once; a request that has left by
/// then may still be executed.
#[must_use = "a call is made when it is awaited or sent"]
pub struct Call<T, E = Never> {
    plan: Plan,
    returns: PhantomData<fn() -> (T, E)>,
}

/// A call with all its options.
pub(super) struct Plan {
    pub(super) client: Client,
    pub(super) method: &'static MethodDescriptor,
    pub(super) body: Result<Bytes, Error>,
    pub(super) timeout: Option<Duration>,
    pub(super) priority: Option<u8>,
    pub(super) headers: Table,
}

type Outcome<T, E> = Result<T, CallError<E>>;
type Boxed<T, E> = Pin<Box<dyn Future<Output = Outcome<T, E>> + Send>>;

impl<T, E> Call<T, E> {
    pub(super) fn new(
        client: Client,
        method: &'static MethodDescriptor,
        body: Result<Bytes, Error>,
    ) -> Self {
        let (timeout, priority, headers) = (None, None, Table::new());
        let plan = Plan {
            client,
            method,
            body,
            timeout,
            priority,
            headers,
        };
        Self {
            plan,
            returns: PhantomData,
        }
    }

    /// How long the call may take, from now to the reply. It goes along: the broker drops a
    /// request that nobody waits for any more, and the server stops its handler then. Inside a
    /// handler the time left of its own request bounds it as well. More than 2³² ms (49 days, the
    /// longest `expiration` RabbitMQ takes) counts as that.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.plan.timeout = Some(limit);
        self
    }

    /// The request's priority, where the service's queue has priorities (`x-max-priority`).
    pub fn priority(mut self, priority: u8) -> Self {
        self.plan.priority = Some(priority);
        self
    }

    /// A header for the handler to read with [`Context::header`](crate::Context::header). A
    /// header table costs the broker 3 to 20 % of a call.
    ///
    /// A name that is [reserved](Table#reserved-names-of-headers) makes the call fail with
    /// [`is_invalid`](Error::is_invalid), and nothing is sent.
    pub fn header(self, name: &str, value: impl Into<Value>) -> Self {
        self.headers(Table::from([(name.to_owned(), value.into())]))
    }

    /// Several headers, as [`header`](Self::header) adds one. One that was added before under the
    /// same name is replaced.
    pub fn headers(mut self, headers: Table) -> Self {
        if let Err(error) = envelope::check_headers(headers.keys()) {
            self.plan.body = self.plan.body.and(Err(error));
        }
        self.plan.headers.extend(headers);
        self
    }
}

impl<T: DeserializeOwned + 'static, E: DeserializeOwned + 'static> Call<T, E> {
    /// Sends the request and gives the reply to come.
    ///
    /// # Errors
    /// What keeps the request from being sent: too large, not encodable, no connection in time.
    ///
    /// Cancel-safe: a dropped `send` frees its slot.
    pub async fn send(self) -> Result<PendingReply<T, E>, CallError<E>> {
        let flight = Launch::of(self.plan).done().await?.detach();
        Ok(PendingReply {
            reply: Box::pin(land(flight)),
        })
    }
}

impl<T: DeserializeOwned + 'static, E: DeserializeOwned + 'static> IntoFuture for Call<T, E> {
    type Output = Outcome<T, E>;
    type IntoFuture = Boxed<T, E>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(make(self.plan))
    }
}

async fn make<T: DeserializeOwned, E: DeserializeOwned>(plan: Plan) -> Outcome<T, E> {
    land(Launch::of(plan).done().await?).await
}

#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` would hold the flight twice"
)]
fn land<T: DeserializeOwned, E: DeserializeOwned>(
    mut flight: Flight,
) -> impl Future<Output = Outcome<T, E>> + Send {
    async move {
        let answered = flight.land().await?;
        read(&flight, answered)
    }
}

fn read<T: DeserializeOwned, E: DeserializeOwned>(
    flight: &Flight,
    answered: Answered,
) -> Outcome<T, E> {
    let Answered {
        status,
        codec,
        body,
    } = answered;
    match status {
        ReplyStatus::Success => codec
            .decode(&body)
            .map_err(|error| flight.undecodable(error)),
        ReplyStatus::Application => match codec.decode(&body) {
            Ok(error) => return Err(CallError::Service(error)),
            Err(error) => Err(flight.undecodable(error)),
        },
        ReplyStatus::Failed(status) => Err(flight.answered(Kind::Status(status))),
    }
    .map_err(CallError::Rpc)
}

impl<T, E> fmt::Debug for Call<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("service", &self.plan.client.inner.descriptor.name())
            .field("method", &self.plan.method.name())
            .finish_non_exhaustive()
    }
}

/// A call that is on its way: await it for the reply. Dropping it frees its slot at once.
#[must_use = "the reply comes when this is awaited"]
pub struct PendingReply<T, E = Never> {
    reply: Boxed<T, E>,
}

impl<T, E> Future for PendingReply<T, E> {
    type Output = Outcome<T, E>;

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
    static_assertions::assert_impl_all!(Boxed<u64, String>: Send);

    /// Thousands of them may wait at once, and each is moved to the heap.
    #[test]
    fn the_futures_of_a_call_stay_small() {
        let (make, land) = (
            size_of_future(make::<u64, Never>),
            size_of_future(land::<u64, Never>),
        );
        assert!(make <= 416 && land <= 256, "{make}, {land}");
    }
}
