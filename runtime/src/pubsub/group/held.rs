//! One event in the hands of a group's member.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::event::Event;
use crate::policy::verdict::{self, IntoVerdict, Verdict};
use crate::queue::Cancelled;

/// An event that is this member's until it settles it. It dereferences to the [`Event`].
///
/// Dropping it unsettled counts as a failure: the event is tried again after the backoff, and
/// given up after the last attempt, so that an event whose reader panics does not come back for
/// ever. When the connection is lost the event is not this member's any more: the broker delivers
/// it again, whatever is done here.
#[must_use = "an event that is dropped unsettled is tried again"]
pub struct Held<T> {
    event: Event<T>,
    settle: Settle,
}

struct Settle {
    verdict: Option<oneshot::Sender<Verdict>>,
    cancelled: Cancelled,
}

impl<T> Held<T> {
    pub(super) fn new(
        event: Event<T>,
        verdict: oneshot::Sender<Verdict>,
        cancelled: Cancelled,
    ) -> Self {
        let verdict = Some(verdict);
        Self {
            event,
            settle: Settle { verdict, cancelled },
        }
    }

    /// The event is done: acknowledges it, and gives it.
    pub fn ack(self) -> Event<T> {
        self.settle(())
    }

    /// The event failed and is tried again after the policy's backoff, while attempts are left.
    pub fn retry(self, error: impl fmt::Display) -> Event<T> {
        self.settle(Err(verdict::retry(error)))
    }

    /// The event failed and is tried again after this delay, while attempts are left. More than
    /// 2³²−1 ms (49 days) counts as that.
    pub fn retry_after(self, delay: Duration, error: impl fmt::Display) -> Event<T> {
        self.settle(Err(verdict::retry_after(delay, error)))
    }

    /// The event failed for good: it goes to the dead-letter queue.
    pub fn reject(self, error: impl fmt::Display) -> Event<T> {
        self.settle(Err(verdict::reject(error)))
    }

    /// Settles it by what a handler would have returned.
    pub fn settle(self, outcome: impl IntoVerdict) -> Event<T> {
        let Self { event, mut settle } = self;
        settle.send(outcome.into_verdict());
        event
    }

    /// The signal that it is better to stop: the connection is lost, so that the event comes
    /// again, or the subscription is closing.
    #[must_use]
    pub fn cancelled(&self) -> Cancelled {
        self.settle.cancelled.clone()
    }
}

impl Settle {
    fn send(&mut self, verdict: Verdict) {
        if let Some(sender) = self.verdict.take() {
            // Nobody listens once the connection is lost: the event comes again.
            let _ = sender.send(verdict);
        }
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        let dropped = Err(verdict::retry("its reader dropped it unsettled"));
        self.send(dropped.into_verdict());
    }
}

impl<T> Deref for Held<T> {
    type Target = Event<T>;

    fn deref(&self) -> &Event<T> {
        &self.event
    }
}

impl<T: fmt::Debug> fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.event).finish()
    }
}
