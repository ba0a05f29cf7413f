//! An event that a member of a group has received and not settled yet.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::cancellation::Cancellation;
use crate::policy::verdict::{self, IntoVerdict, Verdict};
use crate::pubsub::event::Event;

/// An event that this member has received and must settle. It dereferences to the [`Event`], which
/// settling returns.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// use lepus::Topic;
///
/// let orders = Topic::<String>::new("orders");
/// let mut events = orders.subscribe(&connection).bind("order.#").shared("billing").stream().await?;
/// while let Some(Ok(event)) = events.next().await {
///     match event.payload().parse::<u64>() {
///         // The event leaves the queue.
///         Ok(cents) if cents > 0 => println!("paid: {}", event.ack().into_payload()),
///         // Again after a while, for as long as attempts are left.
///         Ok(_) => drop(event.retry("the price is not known yet")),
///         // The dead-letter queue, at once.
///         Err(error) => drop(event.reject(error)),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// Dropping it unsettled counts as a failure: the event is tried again after the backoff, and
/// dead-lettered after the last attempt, so that an event whose reader panics is not delivered for
/// ever. Once the connection is lost, settling has no effect: the broker delivers the event again.
#[must_use = "an event that is dropped unsettled is tried again"]
pub struct GroupEvent<T> {
    event: Event<T>,
    verdict: VerdictSender,
}

/// Sends a verdict once, and that of a failure if it is dropped before.
struct VerdictSender {
    sender: Option<oneshot::Sender<Verdict>>,
    cancelled: Cancellation,
}

impl<T> GroupEvent<T> {
    pub(super) fn new(
        event: Event<T>,
        verdict: oneshot::Sender<Verdict>,
        cancelled: Cancellation,
    ) -> Self {
        let sender = Some(verdict);
        Self {
            event,
            verdict: VerdictSender { sender, cancelled },
        }
    }

    /// Acknowledges the event, and returns it.
    pub fn ack(self) -> Event<T> {
        self.settle(())
    }

    /// Returns the event to the queue of the group (`basic.nack` with `requeue`), from which the
    /// broker delivers it again without a pause, to this member or to another one. That counts as an
    /// attempt.
    pub fn requeue(self) -> Event<T> {
        self.send(Verdict::REQUEUE)
    }

    /// Reports a failure: the event is tried again after the retry policy's backoff, while attempts
    /// are left.
    pub fn retry(self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Event<T> {
        self.settle(Err(verdict::retry(error)))
    }

    /// Reports a failure: the event is tried again after this delay, while attempts are left. More
    /// than 2³²−1 ms (49 days) counts as that.
    pub fn retry_after(
        self,
        delay: Duration,
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Event<T> {
        self.settle(Err(verdict::retry_after(delay, error)))
    }

    /// Reports a permanent failure: the event goes to the dead-letter queue.
    pub fn reject(self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Event<T> {
        self.settle(Err(verdict::reject(error)))
    }

    /// Settles the event by the result that a handler would have returned.
    pub fn settle(self, outcome: impl IntoVerdict) -> Event<T> {
        self.send(outcome.into_verdict())
    }

    fn send(self, given: Verdict) -> Event<T> {
        let Self { event, mut verdict } = self;
        verdict.send(given);
        event
    }

    /// A signal to stop working on the event: the connection is lost, so that the event is
    /// delivered again, or the subscription is closing.
    #[must_use]
    pub fn cancelled(&self) -> Cancellation {
        self.verdict.cancelled.clone()
    }
}

impl VerdictSender {
    fn send(&mut self, verdict: Verdict) {
        if let Some(sender) = self.sender.take() {
            // The receiver is gone if the connection is lost: the event is delivered again.
            let _ = sender.send(verdict);
        }
    }
}

impl Drop for VerdictSender {
    fn drop(&mut self) {
        let dropped = Err(verdict::retry("its reader dropped it unsettled"));
        self.send(dropped.into_verdict());
    }
}

impl<T> Deref for GroupEvent<T> {
    type Target = Event<T>;

    fn deref(&self) -> &Event<T> {
        &self.event
    }
}

impl<T: fmt::Debug> fmt::Debug for GroupEvent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GroupEvent").field(&self.event).finish()
    }
}
