//! The builder in shared and singleton mode: the options of a group, its stream, its handler.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::super::group::{self, BufferWork, GroupForEach, GroupSubscription, OrderedJobHandler};
use super::super::mode::Group;
use super::super::setup::{MissedSink, QueueSource};
use super::builder::Subscribe;
use crate::error::Error;
use crate::link::ConsumeMode;
use crate::policy::retry::RetryPolicy;
use crate::policy::verdict::IntoVerdict;
use crate::pubsub::binding::Kind;
use crate::pubsub::event::Event;
use crate::queue::{DeadLetters, JobHandler, WorkQueue};
use crate::service::BoxFuture;
use crate::wire::topology::QueueKind;
use crate::worker::{OnLoss, Running, Until};

impl<K: Kind, T> Subscribe<K, T, Group> {
    /// Sets the number of unacknowledged events that this member may hold as a stream
    /// (`basic.qos`). Default: 1, with which an idle member is always preferred over a busy one.
    /// Events are delivered in the order of the queue.
    pub fn prefetch(mut self, events: u16) -> Self {
        self.mode.prefetch = events.max(1);
        self
    }

    /// Makes the group's queue a classic queue, on one node of the broker, instead of a replicated
    /// quorum queue. The declaration contains `x-queue-type: classic`, as with
    /// [`WorkQueue::classic`].
    pub fn classic(mut self) -> Self {
        self.mode.spec.kind = QueueKind::Classic;
        self.mode.spec.declares_type = true;
        self
    }

    /// Limits the number of events that the group's queue keeps. Over the limit, the broker rejects
    /// publishes (`x-overflow: reject-publish`), so that the publisher learns of it. Default: no
    /// limit.
    pub fn max_length(mut self, events: u32) -> Self {
        self.mode.spec.max_length = Some(events);
        self
    }

    /// Sets the retry policy of failed events. Default: 5 attempts in all, after 1, 2, 4 and 8 s,
    /// with jitter.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.mode.spec.retry = policy;
        self
    }

    /// Sets the dead-letter queue. Default: `<exchange>.<group>.dead`.
    pub fn dead_letter_queue(mut self, name: &str) -> Self {
        self.mode.spec.dead = Some(name.to_owned());
        self
    }

    /// Limits the time that a handler may take. Then it is dropped, and the event counts as failed.
    /// Default: no limit except the broker's own `consumer_timeout`.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.mode.timeout = Some(limit);
        self
    }

    /// The name of the group's queue.
    #[must_use]
    pub fn queue_name(&self) -> &str {
        &self.mode.spec.name
    }

    /// The dead-lettered events of this group, which can be listed, replayed and purged.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters<T> {
        WorkQueue::of(self.mode.spec.clone()).dead_letters(&self.connection)
    }
}

impl<K: Kind, T: DeserializeOwned + Send + 'static> Subscribe<K, T, Group> {
    /// Joins the group. When it returns, the group's queue is bound, and events may arrive. Each
    /// event must be settled ([`GroupEvent`](crate::GroupEvent)).
    ///
    /// # Errors
    /// As [`Subscribe::start`]; also if the group's queue exists with other properties.
    pub async fn start(self) -> Result<GroupSubscription<K, T>, Error> {
        let buffer = group::buffer();
        let on_missed: MissedSink = {
            let buffer = Arc::clone(&buffer);
            Arc::new(move |missed| buffer.push_missed(missed))
        };
        let (spec, prefetch) = (self.mode.spec.clone(), self.mode.prefetch);
        spec.check(self.connection.namespace())?;
        let mode = ConsumeMode::ManualAck { prefetch };
        let setup = self.setup(QueueSource::Group(spec.clone()), mode, on_missed)?;
        // Events of a lost connection cannot be settled any more: no shutdown waits for them.
        let source = self.source(&spec.name, prefetch, OnLoss::Drop);
        let decoder = self.decoder();
        let connection = &self.connection;
        let work = BufferWork::new(Arc::clone(&buffer), decoder.clone());
        let handler = OrderedJobHandler::new(connection, spec, work);
        let running = Running::started(connection, source, setup, handler).await?;
        Ok(GroupSubscription::new(
            buffer,
            decoder,
            self.bindings,
            running,
        ))
    }

    /// Handles the events that the broker gives to this member until `shutdown` completes, then
    /// drains.
    ///
    /// Up to `concurrency` events are handled at once, which is also the channel's prefetch. The
    /// handler returns `()` or `Result<(), E>` where `E` is a [`Failure`](crate::Failure). A failed
    /// event is tried again by the [retry policy](Self::retry), and dead-lettered in the end. A panic
    /// counts as a failure. An event that does not decode is dead-lettered at once. Jobs of a
    /// [`WorkQueue`] are handled in the same way.
    ///
    /// # Errors
    /// As [`start`](Self::start); or the connection was closed while it ran.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the group at once: unsettled events go back to its queue.
    pub fn for_each<H, F, S>(self, concurrency: u16, handler: H, shutdown: S) -> Until<S>
    where
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
        S: Future<Output = ()>,
    {
        Until::new(self.start_each(concurrency, handler), shutdown)
    }

    /// As [`for_each`](Self::for_each), but returns once the member has joined.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_each<H, F>(self, concurrency: u16, handler: H) -> BoxFuture<Result<Running, Error>>
    where
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        Box::pin(self.start_handler(concurrency, handler))
    }

    async fn start_handler<H, F>(self, concurrency: u16, handler: H) -> Result<Running, Error>
    where
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        let on_missed = self.missed_sink();
        let (spec, prefetch) = (self.mode.spec.clone(), concurrency.max(1));
        spec.check(self.connection.namespace())?;
        let (queue, mode) = (
            QueueSource::Group(spec.clone()),
            ConsumeMode::ManualAck { prefetch },
        );
        let setup = self.setup(queue, mode, Arc::clone(&on_missed))?;
        let source = self.source(&spec.name, prefetch, OnLoss::Finish);
        let (connection, timeout) = (&self.connection, self.mode.timeout);
        let work = Arc::new(GroupForEach::new(self.decoder(), handler, on_missed));
        let handler = JobHandler::new(connection, spec, work, timeout);
        Running::started(connection, source, setup, handler).await
    }
}
