//! A member of a group as a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::super::bindings::Bindings;
use super::super::buffer::{BufferItem, EventBuffer};
use super::group_event::GroupEvent;
use super::handler::UnsettledEvent;
use crate::error::Error;
use crate::policy::verdict::Verdict;
use crate::pubsub::binding::Kind;
use crate::pubsub::event::{EventDecoder, Missed};
use crate::worker::Running;

/// A member of a group: a stream of the events that the broker gives to this member, each of which
/// must be settled ([`GroupEvent`]).
///
/// Nothing is lost while the connection is down: the queue of the group keeps events, and unsettled
/// ones are delivered again, to this member or to another one. So no gap is reported, unless the
/// queue itself was deleted. An event that does not decode is reported as [`Missed::Undecodable`],
/// and goes to the dead-letter queue.
///
/// The stream ends when the connection is closed or its last clone is dropped. Dropping the stream
/// leaves the group at once, and unsettled events go back to the queue; [`close`](Self::close) waits
/// for them to be settled.
#[must_use = "dropping a subscription ends it"]
pub struct GroupSubscription<K: Kind, T> {
    buffer: Arc<EventBuffer<UnsettledEvent<T>>>,
    decoder: EventDecoder<T>,
    bindings: Bindings<K>,
    running: Running,
}

impl<K: Kind, T> GroupSubscription<K, T> {
    pub(in super::super) fn new(
        buffer: Arc<EventBuffer<UnsettledEvent<T>>>,
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

    /// Waits for the next event, or the report of one that does not decode. Returns `None` once the
    /// connection is closed.
    ///
    /// # Cancel safety
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<GroupEvent<T>, Missed>> {
        std::future::poll_fn(|cx| self.poll_item(cx)).await
    }

    /// A handle to the bindings of the group's queue, which can be changed while events are received.
    #[must_use]
    pub fn bindings(&self) -> &Bindings<K> {
        &self.bindings
    }

    /// The number of events of unknown types that this member has skipped.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.decoder.skipped()
    }

    /// Leaves the group: takes no further events, gives those in the buffer back to the queue, and
    /// waits within the grace period for the others to be settled.
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

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<GroupEvent<T>, Missed>>> {
        loop {
            let event = match std::task::ready!(self.buffer.poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(BufferItem::Missed(missed)) => return Poll::Ready(Some(Err(missed))),
                Some(BufferItem::Event(event)) => event,
            };
            let UnsettledEvent {
                content,
                verdict,
                cancelled,
            } = event;
            // The connection is lost: the broker delivers the event again, here or elsewhere.
            if cancelled.is_lost() {
                continue;
            }
            return Poll::Ready(Some(match content {
                Ok(event) => Ok(GroupEvent::new(event, verdict, cancelled)),
                Err(missed) => {
                    // The receiver is gone if the connection is lost.
                    let _ = verdict.send(Verdict::reject(&missed));
                    Err(missed)
                }
            }));
        }
    }
}

impl<K: Kind, T> Stream for GroupSubscription<K, T> {
    type Item = Result<GroupEvent<T>, Missed>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

impl<K: Kind, T> fmt::Debug for GroupSubscription<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupSubscription")
            .field("bindings", &self.bindings)
            .finish_non_exhaustive()
    }
}
