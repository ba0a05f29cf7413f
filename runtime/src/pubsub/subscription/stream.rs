//! A subscription as a stream, in each mode.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde::de::DeserializeOwned;

use super::super::binding::{IntoBinding, Kind};
use super::super::event::{EventDecoder, Missed};
use super::bindings::Bindings;
use super::buffer::{BufferItem, EventBuffer};
use super::mode::{Broadcast, Group};
use crate::error::Error;
use crate::worker::Running;

/// A mode of a subscription: [`Broadcast`], or [`Group`] for the shared and singleton modes.
///
/// The trait is sealed: other crates cannot implement it.
pub trait Mode: sealed::Read {
    /// An event as the stream of this mode has it: [`Event`](crate::Event) in broadcast mode,
    /// [`GroupEvent`](crate::events::GroupEvent) in a group.
    type Event<T>;
}

pub(super) mod sealed {
    use serde::de::DeserializeOwned;

    use super::{EventDecoder, Missed, Mode};

    /// The part of [`Mode`] that the library alone uses and implements.
    pub trait Read: Sized + 'static {
        /// An event in the buffer of the stream.
        type Buffered<T>;

        /// The item for an event from the buffer; `None` if it is skipped.
        fn read<T: DeserializeOwned>(
            decoder: &EventDecoder<T>,
            buffered: Self::Buffered<T>,
        ) -> Option<Result<Self::Event<T>, Missed>>
        where
            Self: Mode;
    }
}

/// A subscription as a stream: by default in broadcast mode, of the events that are published while it
/// exists. [`GroupSubscription`] is the stream of a group.
///
/// Its items are events, and reports of missed ones ([`Missed`]), after which it continues. It
/// survives reconnects, and ends when the connection is closed or its last clone is dropped. Events
/// arrive in the order in which the broker routed them.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// use lepus::{Topic, events::Missed};
/// # type LogLine = String;
///
/// let logs = Topic::<LogLine>::new("topic_logs");
/// let mut events = logs.subscribe(&connection).bind("kern.*").bind("*.critical").stream().await?;
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
/// While the connection is down, a broadcast subscription has no queue, and events published in the
/// meantime are missed: a [`Missed::Gap`] reports it once the subscription is set up again. If the
/// reader is slower than the events, its [buffer](crate::events::Subscribe::buffer) fills, and
/// [`Overflow`](crate::events::Overflow) selects whether events are dropped or kept by the broker. A
/// subscription that misses nothing is [`shared`](crate::events::Subscribe::shared).
///
/// Dropping it unsubscribes.
#[must_use = "dropping a subscription ends it"]
pub struct Subscription<K: Kind, T, M: Mode = Broadcast> {
    buffer: Arc<EventBuffer<M::Buffered<T>>>,
    decoder: EventDecoder<T>,
    bindings: Bindings<K>,
    running: Running,
}

/// A member of a group as a stream of the events that the broker gives to this member, each of which
/// must be settled ([`GroupEvent`](crate::events::GroupEvent)).
///
/// Nothing is lost while the connection is down: the queue of the group keeps events, and unsettled
/// ones are delivered again, to this member or to another one. So no gap is reported, unless the
/// queue itself was deleted. An event that does not decode is reported as [`Missed::Undecodable`],
/// and goes to the dead-letter queue.
///
/// The stream ends when the connection is closed or its last clone is dropped. Dropping the stream
/// leaves the group at once, and unsettled events go back to the queue;
/// [`close`](Subscription::close) waits for them to be settled.
pub type GroupSubscription<K, T> = Subscription<K, T, Group>;

impl<K: Kind, T, M: Mode> Subscription<K, T, M> {
    pub(super) fn new(
        buffer: Arc<EventBuffer<M::Buffered<T>>>,
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

    /// A handle to the bindings, which can be changed while events are received. Those of a group
    /// belong to its queue, which all members share.
    #[must_use]
    pub fn bindings(&self) -> &Bindings<K> {
        &self.bindings
    }

    /// Adds a binding; see [`Bindings::bind`].
    ///
    /// # Errors
    /// As [`Bindings::bind`].
    ///
    /// # Cancel safety
    /// A change that has begun is completed even if the future is dropped.
    pub async fn bind<B>(&self, binding: B) -> Result<(), Error>
    where
        B: IntoBinding<K::Binding>,
    {
        self.bindings.bind(binding).await
    }

    /// Removes a binding; see [`Bindings::unbind`].
    ///
    /// # Errors
    /// As [`Bindings::bind`].
    ///
    /// # Cancel safety
    /// A change that has begun is completed even if the future is dropped.
    pub async fn unbind<B>(&self, binding: B) -> Result<(), Error>
    where
        B: IntoBinding<K::Binding>,
    {
        self.bindings.unbind(binding).await
    }

    /// The number of events of unknown types that this subscription has skipped.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.decoder.skipped()
    }

    /// Unsubscribes, and returns when the broker has confirmed it. In broadcast mode, events in the
    /// buffer are dropped. A member of a group takes no further events, gives those in the buffer back
    /// to the queue, and waits within the [grace](crate::events::Subscribe::grace) period for the others to be
    /// settled.
    ///
    /// # Errors
    /// The connection was closed before.
    ///
    /// # Cancel safety
    /// If the future is dropped, the subscription ends at once.
    pub async fn close(self) -> Result<(), Error> {
        let Self {
            buffer, running, ..
        } = self;
        buffer.close();
        running.stop().await
    }
}

impl<K: Kind, T: DeserializeOwned, M: Mode> Subscription<K, T, M> {
    /// Waits for the next event or report of missed ones. Returns `None` once the connection is
    /// closed.
    ///
    /// # Cancel safety
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<M::Event<T>, Missed>> {
        std::future::poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<M::Event<T>, Missed>>> {
        loop {
            let buffered = match std::task::ready!(self.buffer.poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(BufferItem::Missed(missed)) => return Poll::Ready(Some(Err(missed))),
                Some(BufferItem::Event(buffered)) => buffered,
            };
            if let Some(item) = M::read(&self.decoder, buffered) {
                return Poll::Ready(Some(item));
            }
        }
    }
}

impl<K: Kind, T: DeserializeOwned, M: Mode> Stream for Subscription<K, T, M> {
    type Item = Result<M::Event<T>, Missed>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

impl<K: Kind, T, M: Mode> fmt::Debug for Subscription<K, T, M> {
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
    static_assertions::assert_impl_all!(GroupSubscription<ByPattern, String>: Send, Sync, Unpin);
}
