//! The shared and singleton modes: a group's options, its stream, its handlers.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::super::event::Event;
use super::super::group::{self, Each, GroupSubscription, InOrder, Presenter};
use super::super::kind::Kind;
use super::super::spec::Spec;
use super::super::station::{Place, Tell};
use super::Subscribe;
use crate::error::Error;
use crate::link::ConsumeMode;
use crate::policy::retry::RetryPolicy;
use crate::policy::verdict::IntoVerdict;
use crate::queue::{self, DeadLetters, JobHandler, WorkQueue};
use crate::service::BoxFuture;
use crate::wire::topology::QueueKind;
use crate::worker::OnLoss;
use crate::worker::{Running, Until};

/// The members of a named group share the events: each event goes to one of them.
#[derive(Clone, Debug)]
pub struct Group {
    spec: queue::QueueSpec,
    prefetch: u16,
    timeout: Option<Duration>,
}

/// How many members of a group receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Members {
    AllAtOnce,
    OneAtATime,
}

impl Group {
    /// A group of this name; and what is wrong with the name.
    pub(super) fn new(exchange: &Spec, group: &str, members: Members) -> (Self, Option<Error>) {
        let mut spec = queue::QueueSpec::new(&format!("{}.{group}", exchange.label()));
        spec.codec = Some(exchange.codec);
        spec.single_active = members == Members::OneAtATime;
        let fault = group
            .is_empty()
            .then(|| Error::invalid("a group has a name"));
        let (prefetch, timeout) = (1, None);
        let group = Self {
            spec,
            prefetch,
            timeout,
        };
        (group, fault)
    }
}

impl<K: Kind, T> Subscribe<K, T, Group> {
    /// How many events this member holds at once, unacknowledged, as a stream. Default 1: a busy
    /// member gets no further event while another one is idle. Events are given out in the order
    /// of the queue.
    pub fn prefetch(mut self, events: u16) -> Self {
        self.mode.prefetch = events.max(1);
        self
    }

    /// The group's queue is a classic one, on one node of the broker, instead of a replicated
    /// quorum queue. It says so in its declaration, as [`WorkQueue::classic`] does.
    pub fn classic(mut self) -> Self {
        self.mode.spec.kind = QueueKind::Classic;
        self.mode.spec.declares_type = true;
        self
    }

    /// How many events the group's queue keeps; then publishes of further ones are refused
    /// (`x-overflow: reject-publish`), so that the publisher learns of it. Default: no limit.
    pub fn max_length(mut self, events: u32) -> Self {
        self.mode.spec.max_length = Some(events);
        self
    }

    /// How often and how far apart a failed event is tried again. Default: 5 attempts in all,
    /// after 1, 2, 4 and 8 s, with jitter.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.mode.spec.retry = policy;
        self
    }

    /// The queue for events that were given up. Default: `<exchange>.<group>.dead`.
    pub fn dead_letter_queue(mut self, name: &str) -> Self {
        self.mode.spec.dead = Some(name.to_owned());
        self
    }

    /// How long a handler may take; then it is dropped, and the event counts as failed. Default:
    /// no limit but the broker's own `consumer_timeout`.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.mode.timeout = Some(limit);
        self
    }

    /// The name of the group's queue.
    #[must_use]
    pub fn queue_name(&self) -> &str {
        &self.mode.spec.name
    }

    /// Looks after the events that were given up: they can be listed, put back and purged.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters<T> {
        WorkQueue::of(self.mode.spec.clone()).dead_letters(&self.connection)
    }
}

impl<K: Kind, T: DeserializeOwned + Send + 'static> Subscribe<K, T, Group> {
    /// Joins the group: when it returns, the group's queue is bound, and events may arrive. Each
    /// is the reader's until it settles it ([`Held`](crate::Held)).
    ///
    /// # Errors
    /// As [`Subscribe::start`]; also when the group's queue exists with other properties.
    pub async fn start(self) -> Result<GroupSubscription<K, T>, Error> {
        let shelf = group::shelf();
        let tell: Tell = {
            let shelf = Arc::clone(&shelf);
            Arc::new(move |missed| shelf.tell(missed))
        };
        let (spec, prefetch) = (self.mode.spec.clone(), self.mode.prefetch);
        spec.check(self.connection.namespace())?;
        let mode = ConsumeMode::ManualAck { prefetch };
        let station = self.station(Place::Group(spec.clone()), mode, tell)?;
        // What the reader holds of a lost connection cannot be settled: nothing waits for it.
        let source = self.source(&spec.name, prefetch, OnLoss::Drop);
        let reader = self.reader();
        let connection = &self.connection;
        let presenter = Presenter::new(Arc::clone(&shelf), reader.clone());
        let handler = InOrder::new(connection, spec, presenter);
        let running = Running::started(connection, source, station, handler).await?;
        Ok(GroupSubscription::new(
            shelf,
            reader,
            self.bindings,
            running,
        ))
    }

    /// Handles the events that come to this member until `shutdown` completes, then drains.
    ///
    /// Up to `concurrency` events are handled at once, which is the channel's prefetch. The
    /// handler returns `()` or `Result<(), E>` where `E` is a [`Failure`](crate::Failure): a
    /// failed event is tried again by the [policy](Self::retry), and given up to the dead-letter
    /// queue in the end. A panic counts as a failure. An event that does not decode goes to the
    /// dead-letter queue at once. It is the very handling of [`WorkQueue`]s.
    ///
    /// # Errors
    /// As [`start`](Self::start); and that the connection was closed under it.
    ///
    /// Dropping the future leaves the group at once: what is in hand goes back to its queue.
    pub fn for_each<H, F, S>(self, concurrency: u16, handler: H, shutdown: S) -> Until<S>
    where
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
        S: Future<Output = ()>,
    {
        Until::new(self.start_each(concurrency, handler), shutdown)
    }

    /// As [`for_each`](Self::for_each), and returns once events may arrive.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_each<H, F>(self, concurrency: u16, handler: H) -> BoxFuture<Result<Running, Error>>
    where
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        Box::pin(self.each(concurrency, handler))
    }

    async fn each<H, F>(self, concurrency: u16, handler: H) -> Result<Running, Error>
    where
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        let tell = self.told();
        let (spec, prefetch) = (self.mode.spec.clone(), concurrency.max(1));
        spec.check(self.connection.namespace())?;
        let (place, mode) = (
            Place::Group(spec.clone()),
            ConsumeMode::ManualAck { prefetch },
        );
        let station = self.station(place, mode, Arc::clone(&tell))?;
        let source = self.source(&spec.name, prefetch, OnLoss::Finish);
        let (connection, timeout) = (&self.connection, self.mode.timeout);
        let work = Arc::new(Each::new(self.reader(), handler, tell));
        let handler = JobHandler::new(connection, spec, work, timeout);
        Running::started(connection, source, station, handler).await
    }
}
