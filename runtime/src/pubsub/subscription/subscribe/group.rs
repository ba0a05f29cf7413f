//! The builder in shared and singleton mode: the options of a group, its stream, its handler.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::super::buffer::EventBuffer;
use super::super::group::{BufferWork, OrderedJobHandler};
use super::super::handler_runner::HandlerRunner;
use super::super::mode::Group;
use super::super::setup::QueueSource;
use super::super::stream::{GroupSubscription, Subscription};
use super::builder::Subscribe;
use crate::error::Error;
use crate::link::ConsumeMode;
use crate::policy::retry::RetryPolicy;
use crate::policy::verdict::IntoVerdict;
use crate::pubsub::binding::Kind;
use crate::pubsub::event::Event;
use crate::queue::{self, DeadLetters, JobHandler, WorkQueue};
use crate::service::BoxFuture;
use crate::wire::topology::QueueKind;
use crate::worker::{OnLoss, Running, Until};

impl<K: Kind, T> Subscribe<K, T, Group> {
    /// Sets the number of unacknowledged events that this member may hold as a stream
    /// (`basic.qos`). Default: 1, with which an idle member is always preferred over a busy one.
    /// Events are delivered in the order of the queue. For a handler, see
    /// [`concurrency`](Self::concurrency).
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

    /// Limits the number of events that the group's queue keeps, as [`WorkQueue::max_length`] does for
    /// jobs. Over the limit, the broker refuses further events (`x-overflow: reject-publish`), and the
    /// publisher gets [`is_rejected`](Error::is_rejected). No event that the queue has is dropped.
    /// Default: no limit.
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

impl<K: Kind, T> Subscribe<K, T, Group> {
    /// Joins the group, and returns its events as a stream. When it returns, the group's queue is
    /// bound, and events may arrive. Each event must be settled ([`GroupEvent`](crate::events::GroupEvent)).
    ///
    /// # Errors
    /// As [`Subscribe::stream`]; also if the group's queue exists with other properties.
    ///
    /// # Cancel safety
    /// If the future is dropped, the group is not joined.
    pub fn stream(self) -> BoxFuture<Result<GroupSubscription<K, T>, Error>>
    where
        T: DeserializeOwned + Send + 'static,
    {
        Box::pin(async move {
            self.check_stream()?;
            let buffer = Arc::new(EventBuffer::new());
            let mode = ConsumeMode::ManualAck {
                prefetch: self.mode.prefetch,
            };
            let (decoder, on_missed) = (self.decoder(), Self::buffer_sink(&buffer));
            let work = BufferWork::new(Arc::clone(&buffer), decoder.clone());
            let spec = self.mode.spec.clone();
            let handler = OrderedJobHandler::new(&self.connection, spec, work);
            // Events of a lost connection cannot be settled any more: no shutdown waits for them.
            let running = self.consume(self.queue(), mode, OnLoss::Drop, on_missed, handler);
            let running = running.await?;
            Ok(Subscription::new(buffer, decoder, self.bindings, running))
        })
    }

    /// Joins the group, and handles the events that the broker gives to this member. When it returns,
    /// the group's queue is bound, and events may arrive.
    ///
    /// Up to [`concurrency`](Self::concurrency) events are handled at once. The handler returns `()`
    /// or `Result<(), E>` where `E` is a [`Failure`](crate::jobs::Failure). A failed event is tried again by
    /// the [retry policy](Self::retry), and dead-lettered in the end. A panic counts as a failure. An
    /// event that does not decode is dead-lettered at once. Jobs of a [`WorkQueue`] are handled in the
    /// same way.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    ///
    /// # Cancel safety
    /// If the future is dropped, the group is not joined.
    pub fn start<H, F>(self, handler: H) -> BoxFuture<Result<Running, Error>>
    where
        T: DeserializeOwned + Send + 'static,
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        Box::pin(async move {
            let (prefetch, on_missed) = (self.concurrency, self.missed_sink());
            let mode = ConsumeMode::ManualAck { prefetch };
            let sink = Arc::clone(&on_missed);
            let runner = Arc::new(HandlerRunner::new(self.decoder(), handler, sink));
            let (spec, timeout) = (self.mode.spec.clone(), self.mode.timeout);
            let max_attempts = Some(spec.retry.max_attempts());
            let runner = queue::layered(runner, &self.layers, max_attempts);
            let handler = JobHandler::new(&self.connection, spec, runner, timeout);
            let source = self.queue();
            let running = self.consume(source, mode, OnLoss::Finish, on_missed, handler);
            running.await
        })
    }

    /// [Starts](Self::start) to handle events, and goes on until `shutdown` completes. Then it drains:
    /// it leaves the group, and lets running handlers finish within the [grace](Self::grace) period.
    ///
    /// # Errors
    /// As [`start`](Self::start); or the connection was closed while it ran.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the group at once: unsettled events go back to its queue.
    pub fn run<H, F, S>(self, handler: H, shutdown: S) -> Until<S>
    where
        T: DeserializeOwned + Send + 'static,
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
        S: Future<Output = ()>,
    {
        Until::new(self.start(handler), shutdown)
    }

    fn queue(&self) -> QueueSource {
        QueueSource::Group(self.mode.spec.clone())
    }
}
