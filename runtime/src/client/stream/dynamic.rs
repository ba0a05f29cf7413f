//! Streams of methods that are known by name only: their items are not decoded.

use std::fmt;
use std::future::{IntoFuture, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;

use super::call::{DEFAULT_WINDOW, Opened, StreamCall};
use super::opening::value_without_stream;
use super::streaming::Streaming;
use crate::client::dynamic::{DynamicClient, DynamicReply, stream_method};
use crate::client::options::CallOptions;
use crate::error::Error;
use crate::service::BoxFuture;
use crate::wire::value::Value;

impl DynamicClient {
    /// Creates a call of a method that returns a stream, with these encoded arguments. It is made when it is awaited.
    ///
    /// ```no_run
    /// # async fn example(ticker: lepus::rpc::DynamicClient) -> Result<(), lepus::Error> {
    /// let mut ticks = ticker.stream("ticks", r#"{"symbol":"HARE"}"#).window(8).await?;
    /// while let Some(item) = ticks.next().await {
    ///     let item = item?;
    ///     let json = String::from_utf8_lossy(item.body());
    ///     match item.is_own_error() {
    ///         false => println!("{json}"),
    ///         true => println!("the method's own error: {json}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(&self, method: &str, arguments: impl Into<Bytes>) -> DynamicStreamCall {
        let (method, error) = stream_method(method);
        DynamicStreamCall {
            call: StreamCall::new(
                &self.client,
                CallOptions::encoded(method, arguments.into(), error, DEFAULT_WINDOW),
            ),
        }
    }
}

/// A call of a [`DynamicClient`] that asks for a stream, and is not made yet: await it for the [`DynamicStreaming`]
/// that it opens. Its options are those of a [`StreamCall`].
///
/// # Errors
/// Those of a [`StreamCall`]. The method's own error is an item of the stream.
///
/// # Cancel safety
/// Dropping the future gives the stream up, whether or not it is open.
#[must_use = "a stream is opened when the call is awaited"]
pub struct DynamicStreamCall {
    call: StreamCall<(), ()>,
}

impl DynamicStreamCall {
    /// Sets how many items may be on their way or wait to be read, as [`StreamCall::window`] does.
    pub fn window(self, items: u32) -> Self {
        self.map(|call| call.window(items))
    }

    /// Sets the longest time that the opening may take, as [`StreamCall::timeout`] does.
    pub fn timeout(self, limit: Duration) -> Self {
        self.map(|call| call.timeout(limit))
    }

    /// Sets the longest time that a reader waits for the next item, as [`StreamCall::idle`] does.
    pub fn idle(self, limit: Duration) -> Self {
        self.map(|call| call.idle(limit))
    }

    /// Sets the longest time of the whole stream, as [`StreamCall::total`] does.
    pub fn total(self, limit: Duration) -> Self {
        self.map(|call| call.total(limit))
    }

    /// Sets the request's priority, as [`StreamCall::priority`] does.
    pub fn priority(self, priority: u8) -> Self {
        self.map(|call| call.priority(priority))
    }

    /// Makes this call fail at once if nobody can take it, as [`StreamCall::fail_fast`] does.
    pub fn fail_fast(self) -> Self {
        self.map(StreamCall::fail_fast)
    }

    /// Adds a header, as [`StreamCall::header`] does.
    pub fn header(self, name: &str, value: impl Into<Value>) -> Self {
        self.map(|call| call.header(name, value))
    }

    fn map(self, change: impl FnOnce(StreamCall<(), ()>) -> StreamCall<(), ()>) -> Self {
        Self {
            call: change(self.call),
        }
    }

    async fn open(self) -> Result<DynamicStreaming, Error> {
        match self.call.open().await? {
            Opened::Stream(streaming) => Ok(DynamicStreaming {
                items: DynamicItems::Open(streaming),
            }),
            Opened::Reply(request, reply) => {
                let reply = DynamicReply::of(&request, reply)?;
                if !reply.is_own_error() {
                    return Err(value_without_stream(&request));
                }
                Ok(DynamicStreaming {
                    items: DynamicItems::OwnError(Some(reply)),
                })
            }
        }
    }
}

impl IntoFuture for DynamicStreamCall {
    type Output = Result<DynamicStreaming, Error>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

impl fmt::Debug for DynamicStreamCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}

/// An open stream of a method that is known by name only: a [`Stream`] of `Result<DynamicReply, Error>`.
///
/// Its items are encoded values. The method's own error is the last item, and tells so
/// ([`is_own_error`](DynamicReply::is_own_error)); any other error of a [`Streaming`] is an [`Error`], which is the last
/// item as well. Dropping it cancels the stream.
///
/// # Cancel safety
/// [`next`](Self::next) loses no item if its future is dropped.
#[must_use = "dropping it cancels the stream"]
pub struct DynamicStreaming {
    items: DynamicItems,
}

enum DynamicItems {
    Open(Streaming<(), ()>),
    /// The method has returned its own error instead of a stream.
    OwnError(Option<DynamicReply>),
}

impl DynamicStreaming {
    /// The next item; `None` when the stream has ended. After an error, the next one is `None`.
    ///
    /// # Cancel safety
    /// No item is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<DynamicReply, Error>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<DynamicReply, Error>>> {
        match &mut self.items {
            DynamicItems::Open(streaming) => streaming.poll_encoded(cx),
            DynamicItems::OwnError(error) => Poll::Ready(error.take().map(Ok)),
        }
    }
}

impl Stream for DynamicStreaming {
    type Item = Result<DynamicReply, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

impl fmt::Debug for DynamicStreaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.items {
            DynamicItems::Open(streaming) => streaming.fmt(f),
            DynamicItems::OwnError(error) => {
                f.debug_tuple("DynamicStreaming").field(error).finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_impl_all!(DynamicStreamCall: Send);
    static_assertions::assert_impl_all!(DynamicStreaming: Send, Unpin);
}
