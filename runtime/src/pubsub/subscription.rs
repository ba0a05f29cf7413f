//! A broadcast subscription as a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde::de::DeserializeOwned;

use super::bindings::Bindings;
use super::broadcast::Parcel;
use super::event::{Event, Missed};
use super::kind::Kind;
use super::reader::{Read, Reader};
use super::shelf::{Shelf, Slot};
use crate::error::Error;
use crate::worker::Running;

/// A broadcast subscription: a stream of what is published while it lives.
///
/// Its items are events, and word of those it could not give out ([`Missed`]); it goes on after
/// each of these, over reconnects too, and ends when the connection is closed, or its last clone
/// dropped. Events come in the order in which the broker routed them.
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
///         Ok(event) => println!("{}: {}", event.key(), event.payload),
///         Err(Missed::Gap(gap)) => println!("blind for {:?}: read the archive", gap.away()),
///         Err(missed) => eprintln!("{missed}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// While the connection is down its queue is gone, and what is published then is not seen: a
/// [`Missed::Gap`] says so, once it is bound again. A reader that is slower than the events
/// fills the [buffer](super::Subscribe::buffer), and [`Overflow`](super::Overflow) says what
/// happens then. For a subscription that misses nothing see
/// [`shared`](super::Subscribe::shared).
///
/// Dropping it unsubscribes.
#[must_use = "dropping a subscription ends it"]
pub struct Subscription<K: Kind, T> {
    shelf: Arc<Shelf<Parcel>>,
    reader: Reader<T>,
    bindings: Bindings<K>,
    running: Running,
}

impl<K: Kind, T> Subscription<K, T> {
    pub(super) fn new(
        shelf: Arc<Shelf<Parcel>>,
        reader: Reader<T>,
        bindings: Bindings<K>,
        running: Running,
    ) -> Self {
        Self {
            shelf,
            reader,
            bindings,
            running,
        }
    }

    /// The bindings, to be changed while events flow.
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

    /// How many events of unknown types were skipped here.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.reader.skipped()
    }

    /// Unsubscribes, and returns when the broker has it. What waits here is dropped.
    ///
    /// # Errors
    /// The connection was closed before.
    pub async fn close(self) -> Result<(), Error> {
        let Self { shelf, running, .. } = self;
        shelf.close();
        running.stop().await
    }
}

impl<K: Kind, T: DeserializeOwned> Subscription<K, T> {
    /// The next event, or word of what was missed. `None` once the connection is closed.
    ///
    /// Cancel-safe: an event is given out or stays.
    pub async fn next(&mut self) -> Option<Result<Event<T>, Missed>> {
        std::future::poll_fn(|cx| self.poll_take(cx)).await
    }

    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event<T>, Missed>>> {
        loop {
            let parcel = match std::task::ready!(self.shelf.poll_take(cx)) {
                None => return Poll::Ready(None),
                Some(Slot::Missed(missed)) => return Poll::Ready(Some(Err(missed))),
                Some(Slot::Entry(parcel)) => parcel,
            };
            match self.reader.read(parcel.letter) {
                Read::Event(event) => return Poll::Ready(Some(Ok(event))),
                Read::Missed(missed) => return Poll::Ready(Some(Err(missed))),
                Read::Skipped => {}
            }
        }
    }
}

impl<K: Kind, T: DeserializeOwned> Stream for Subscription<K, T> {
    type Item = Result<Event<T>, Missed>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_take(cx)
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
    use super::super::kind::ByPattern;
    use super::*;

    static_assertions::assert_impl_all!(Subscription<ByPattern, String>: Send, Sync, Unpin);
}
