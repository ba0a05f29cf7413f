//! A broadcast subscription as a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde::de::DeserializeOwned;

use super::super::bindings::Bindings;
use super::super::buffer::{BufferItem, EventBuffer};
use super::handler::BufferedEvent;
use crate::error::Error;
use crate::pubsub::binding::Kind;
use crate::pubsub::event::{Decoded, Event, EventDecoder, Missed};
use crate::worker::Running;

/// A broadcast subscription: a stream of the events that are published while it exists.
///
/// Its items are events, and reports of missed ones ([`Missed`]), after which it continues. It
/// survives reconnects, and ends when the connection is closed or its last clone is dropped. Events
/// arrive in the order in which the broker routed them.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// use lepus::{Missed, Topic};
/// # type LogLine = String;
///
/// let logs = Topic::<LogLine>::new("topic_logs");
/// let mut events = logs.subscribe(&connection).bind("kern.*").bind("*.critical").start().await?;
/// while let Some(next) = events.next().await {
///     match next {
///         Ok(event) => println!("{}: {}", event.key(), event.payload()),
///         Err(Missed::Gap(gap)) => println!("no events for {:?}: read the archive", gap.away()),
///         Err(missed) => eprintln!("{missed}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// While the connection is down, the subscription has no queue, and events published in the meantime
/// are missed: a [`Missed::Gap`] reports it once the subscription is set up again. If the reader is
/// slower than the events, its [buffer](crate::Subscribe::buffer) fills, and
/// [`Overflow`](crate::Overflow) selects whether events are dropped or kept by the broker. A
/// subscription that misses nothing is [`shared`](crate::Subscribe::shared).
///
/// Dropping it unsubscribes.
#[must_use = "dropping a subscription ends it"]
pub struct Subscription<K: Kind, T> {
    buffer: Arc<EventBuffer<BufferedEvent>>,
    decoder: EventDecoder<T>,
    bindings: Bindings<K>,
    running: Running,
}

impl<K: Kind, T> Subscription<K, T> {
    pub(in super::super) fn new(
        buffer: Arc<EventBuffer<BufferedEvent>>,
        decoder: EventDecoder<T>,
        bindings: Bindings<K>,
        running: Running,
    ) -> Self {
        Self {
            buffer,
            decoder,
            bindings,
            running,
        }
    }

    /// A handle to the bindings, which can be changed while events are received.
    #[must_use]
    pub fn bindings(&self) -> &Bindings<K> {
        &self.bindings
    }

    /// Adds a binding; see [`Bindings::bind`].
    ///
    /// # Errors
    /// As [`Bindings::bind`].
    pub async fn bind<B>(&self, binding: B) -> Result<(), Error>
    where
        B: TryInto<K::Binding, Error: Into<Error>>,
    {
        self.bindings.bind(binding).await
    }

    /// Removes a binding; see [`Bindings::unbind`].
    ///
    /// # Errors
    /// As [`Bindings::bind`].
    pub async fn unbind<B>(&self, binding: B) -> Result<(), Error>
    where
        B: TryInto<K::Binding, Error: Into<Error>>,
    {
        self.bindings.unbind(binding).await
    }

    /// The number of events of unknown types that this subscription has skipped.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.decoder.skipped()
    }

    /// Unsubscribes, and returns when the broker has confirmed it. Events in the buffer are dropped.
    ///
    /// # Errors
    /// The connection was closed before.
    pub async fn close(self) -> Result<(), Error> {
        let Self {
            buffer, running, ..
        } = self;
        buffer.close();
        running.stop().await
    }
}

impl<K: Kind, T: DeserializeOwned> Subscription<K, T> {
    /// Waits for the next event or report of missed ones. Returns `None` once the connection is
    /// closed.
    ///
    /// # Cancel safety
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Event<T>, Missed>> {
        std::future::poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event<T>, Missed>>> {
        loop {
            let buffered = match std::task::ready!(self.buffer.poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(BufferItem::Missed(missed)) => return Poll::Ready(Some(Err(missed))),
                Some(BufferItem::Event(buffered)) => buffered,
            };
            match self.decoder.decode(buffered.event) {
                Decoded::Event(event) => return Poll::Ready(Some(Ok(event))),
                Decoded::Missed(missed) => return Poll::Ready(Some(Err(missed))),
                Decoded::Skipped => {}
            }
        }
    }
}

impl<K: Kind, T: DeserializeOwned> Stream for Subscription<K, T> {
    type Item = Result<Event<T>, Missed>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

impl<K: Kind, T> fmt::Debug for Subscription<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("bindings", &self.bindings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pubsub::ByPattern;

    static_assertions::assert_impl_all!(Subscription<ByPattern, String>: Send, Sync, Unpin);
}
