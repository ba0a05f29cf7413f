//! A group's member as a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::super::bindings::Bindings;
use super::super::event::Missed;
use super::super::kind::Kind;
use super::super::reader::Reader;
use super::super::shelf::{Shelf, Slot};
use super::{Held, Parcel};
use crate::error::Error;
use crate::policy::verdict::Verdict;
use crate::worker::Running;

/// A member of a group: a stream of events that come to it and to no other member, each to be
/// settled ([`Held`]).
///
/// Nothing is lost while it is away: the group's queue keeps events, and those it had not settled
/// are delivered again, to it or to another member. So there is no gap to tell of, unless the
/// queue itself was deleted. An event that does not decode is given out as
/// [`Missed::Undecodable`], and goes to the dead-letter queue.
///
/// The stream ends when the connection is closed, or its last clone dropped. Dropping it leaves the group at once; what is
/// in hand goes back to the queue. [`close`](Self::close) does so in order.
#[must_use = "dropping a subscription ends it"]
pub struct GroupSubscription<K: Kind, T> {
    shelf: Arc<Shelf<Parcel<T>>>,
    reader: Reader<T>,
    bindings: Bindings<K>,
    running: Running,
}

impl<K: Kind, T> GroupSubscription<K, T> {
    pub(in super::super) fn new(
        shelf: Arc<Shelf<Parcel<T>>>,
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

    /// The next event, or word of one that is none. `None` once the connection is closed.
    ///
    /// Cancel-safe: an event is given out or stays.
    pub async fn next(&mut self) -> Option<Result<Held<T>, Missed>> {
        std::future::poll_fn(|cx| self.poll_take(cx)).await
    }

    /// The bindings of the group's queue, to be changed while events flow.
    #[must_use]
    pub fn bindings(&self) -> &Bindings<K> {
        &self.bindings
    }

    /// How many events of unknown types were skipped here.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.reader.skipped()
    }

    /// Leaves the group: takes no further events, gives back those that wait here, and waits for
    /// those in hand to be settled, within the grace period.
    ///
    /// # Errors
    /// The connection was closed before.
    pub async fn close(self) -> Result<(), Error> {
        let Self { shelf, running, .. } = self;
        shelf.close();
        running.stop().await
    }

    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Held<T>, Missed>>> {
        loop {
            let parcel = match std::task::ready!(self.shelf.poll_take(cx)) {
                None => return Poll::Ready(None),
                Some(Slot::Missed(missed)) => return Poll::Ready(Some(Err(missed))),
                Some(Slot::Entry(parcel)) => parcel,
            };
            let Parcel {
                content,
                verdict,
                cancelled,
            } = parcel;
            // It is delivered again, here or elsewhere.
            if cancelled.is_lost() {
                continue;
            }
            return Poll::Ready(Some(match content {
                Ok(event) => Ok(Held::new(event, verdict, cancelled)),
                Err(missed) => {
                    // Nobody listens once the connection is lost.
                    let _ = verdict.send(Verdict::reject(&missed));
                    Err(missed)
                }
            }));
        }
    }
}

impl<K: Kind, T> Stream for GroupSubscription<K, T> {
    type Item = Result<Held<T>, Missed>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_take(cx)
    }
}

impl<K: Kind, T> fmt::Debug for GroupSubscription<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupSubscription")
            .field("bindings", &self.bindings)
            .finish_non_exhaustive()
    }
}
