//! A subscription as its user writes it: what to hear, in which mode, and how to take it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::bindings::Bindings;
use super::broadcast;
use super::event::{Event, Missed};
use super::exchange::Spec;
use super::group::{self, GroupSubscription};
use super::kind::{Kind, Selective};
use super::reader::{Reader, Unknown};
use super::station::{Place, Station, Tell};
use super::subscription::Subscription;
use crate::error::Error;
use crate::link::{Connection, Mode};
use crate::queue::{self, DeadLetters, WorkQueue};
use crate::retry::RetryPolicy;
use crate::running::Running;
use crate::shutdown::GRACE;
use crate::topology::QueueKind;
use crate::verdict::IntoVerdict;
use crate::worker::{OnLoss, Source};

/// How many events wait here for a slow reader unless set.
const BUFFER: usize = 1024;

/// A subscription to be: what it is bound by and how it receives. `M` is the mode, [`Broadcast`]
/// or [`Group`].
///
/// [`start`](Subscribe::start) gives a stream, `for_each` runs a handler.
#[must_use = "nothing is subscribed to until `start` or `for_each`"]
pub struct Subscribe<K: Kind, T, M = Broadcast> {
    connection: Connection,
    exchange: Spec,
    bindings: Bindings<K>,
    unbound: Unbound,
    unknown: Unknown,
    on_missed: Option<Tell>,
    grace: Duration,
    fault: Option<Error>,
    mode: M,
    gives: PhantomData<fn() -> T>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unbound {
    Allowed,
    AMistake,
}

/// Every subscription hears every event: it has a queue of its own, which lives as long as it
/// does.
#[derive(Clone, Debug)]
pub struct Broadcast {
    buffer: usize,
    overflow: Overflow,
    max_length: Option<u32>,
}

/// The members of a named group share the events: each event goes to one of them.
#[derive(Clone, Debug)]
pub struct Group {
    spec: queue::Spec,
    prefetch: u16,
    timeout: Option<Duration>,
}

/// What a broadcast stream does when its reader is slower than its events, and the
/// [buffer](Subscribe::buffer) is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The oldest event that waits here is dropped, and the reader is told how many were
    /// ([`Missed::Lagged`]). The broker is never made to wait, and keeps nothing.
    #[default]
    DropOldest,
    /// The broker keeps what does not fit, in the subscription's queue and so in its memory,
    /// unless [`max_length`](Subscribe::max_length) bounds it.
    Hold,
}

impl<K: Kind, T> Subscribe<K, T, Broadcast> {
    pub(super) fn new(connection: &Connection, exchange: Spec) -> Self {
        Self {
            connection: connection.clone(),
            bindings: Bindings::new(connection, exchange.label()),
            exchange,
            unbound: Unbound::AMistake,
            unknown: Unknown::default(),
            on_missed: None,
            grace: GRACE,
            fault: None,
            mode: Broadcast {
                buffer: BUFFER,
                overflow: Overflow::default(),
                max_length: None,
            },
            gives: PhantomData,
        }
    }

    /// How many events wait here for a slow reader. Default 1024; with [`Overflow::Hold`] this is
    /// the prefetch, and 65,535 at the most. 0 counts as 1.
    pub fn buffer(mut self, events: usize) -> Self {
        self.mode.buffer = events.max(1);
        self
    }

    /// What happens when the buffer is full. Default: [`Overflow::DropOldest`].
    ///
    /// A handler ([`for_each`](Subscribe::for_each)) takes an event only when it has a place for
    /// it, so the broker holds all others.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.mode.overflow = overflow;
        self
    }

    /// How many events wait on the broker; then the oldest there are dropped (`x-max-length`,
    /// `x-overflow: drop-head`), of which nobody is told. Default: no limit. Of use with
    /// [`Overflow::Hold`] and with handlers.
    pub fn max_length(mut self, events: u32) -> Self {
        self.mode.max_length = Some(events);
        self
    }

    /// The shared mode: every event goes to one member of the group of this name, whichever is
    /// free. The group has a durable queue, `<exchange>.<group>`, which keeps events while nobody
    /// is connected, from the first time a member was; events are acknowledged one by one, tried
    /// again as jobs are, and end in `<exchange>.<group>.dead` when they are given up.
    ///
    /// It is a quorum queue unless [`classic`](Subscribe::classic). Events outlive a restart of
    /// the broker only if they are published [persistent](super::EventPublisher::persistent),
    /// or the queue is a quorum queue.
    pub fn shared(self, group: &str) -> Subscribe<K, T, Group> {
        self.group(group, false)
    }

    /// The singleton mode: as [`shared`](Self::shared), but only one member receives at a time,
    /// and the others stand by: the broker (`x-single-active-consumer`) lets the next one take
    /// over when it goes. With [`prefetch`](Subscribe::prefetch) 1 or a concurrency of 1 events
    /// are handled in their order, apart from those that are tried again.
    ///
    /// The same group cannot be shared and singleton: the second declaration is a mismatch.
    pub fn singleton(self, group: &str) -> Subscribe<K, T, Group> {
        self.group(group, true)
    }

    fn group(self, group: &str, single_active: bool) -> Subscribe<K, T, Group> {
        let mut spec = queue::Spec::new(&format!("{}.{group}", self.exchange.label()));
        spec.codec = self.exchange.codec;
        spec.single_active = single_active;
        let no_name = group
            .is_empty()
            .then(|| Error::invalid("a group has a name"));
        Subscribe {
            connection: self.connection,
            exchange: self.exchange,
            bindings: self.bindings,
            unbound: self.unbound,
            unknown: self.unknown,
            on_missed: self.on_missed,
            grace: self.grace,
            fault: self.fault.or(no_name),
            mode: Group {
                spec,
                prefetch: 1,
                timeout: None,
            },
            gives: PhantomData,
        }
    }
}

impl<K: Selective, T, M> Subscribe<K, T, M> {
    /// Hears what this matches: a [`RoutingKey`](super::RoutingKey) of a direct exchange, a
    /// [`Pattern`](super::Pattern) of a topic exchange, a [`Match`](super::Match) of a headers
    /// exchange. An event that several bindings match comes once.
    ///
    /// A binding that makes no sense is an [`is_invalid`](Error::is_invalid) error of `start`.
    pub fn bind<B>(mut self, binding: B) -> Self
    where
        B: TryInto<K::Binding, Error: Into<Error>>,
    {
        let binding = binding.try_into().map_err(Into::into);
        match binding.and_then(|binding| K::route(&binding).map(|_| binding)) {
            Ok(binding) => self.bindings.note(binding),
            Err(error) => {
                self.fault.get_or_insert(error);
            }
        }
        self
    }

    /// Starts without a binding, which is a mistake otherwise: it hears nothing until it is
    /// [bound](Bindings::bind), or what the group's queue is bound by already.
    pub fn unbound(mut self) -> Self {
        self.unbound = Unbound::Allowed;
        self
    }
}

impl<K: Kind, T, M> Subscribe<K, T, M> {
    /// What becomes of events whose type is not looked for, on an exchange with
    /// [types](super::EventExchange::event_type). Default: skipped and counted.
    pub fn unknown(mut self, unknown: Unknown) -> Self {
        self.unknown = unknown;
        self
    }

    /// A handler's word of what was missed: gaps, events that do not decode. Default: a warning
    /// in the log. Streams have it among their items.
    pub fn on_missed(mut self, tell: impl Fn(Missed) + Send + Sync + 'static) -> Self {
        self.on_missed = Some(Arc::new(tell));
        self
    }

    /// How long a shutdown waits for the events in hand. Default 30 s.
    pub fn grace(mut self, limit: Duration) -> Self {
        self.grace = limit;
        self
    }

    /// The handle to change the bindings while a handler runs.
    #[must_use]
    pub fn bindings(&self) -> Bindings<K> {
        self.bindings.clone()
    }

    pub(super) fn reader(&self) -> Reader<T> {
        Reader::new(
            self.exchange.codec,
            self.exchange.typing.clone(),
            self.unknown,
            self.connection.max_message(),
            self.connection.counters(),
        )
    }

    /// Whom a handler's subscription tells.
    fn told(&self) -> Tell {
        let exchange = self.exchange.label().to_owned();
        self.on_missed.clone().unwrap_or_else(|| {
            Arc::new(move |missed| {
                let reason = std::error::Error::source(&missed).map(ToString::to_string);
                tracing::warn!(exchange, ?reason, "{missed}");
            })
        })
    }

    fn station(&self, place: Place, mode: Mode, tell: Tell) -> Result<Arc<Station<K>>, Error> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.unbound == Unbound::AMistake && self.bindings.list().is_empty() {
            return Err(Error::invalid(format!(
                "a subscription to the {} exchange `{}` without a binding hears nothing: add one \
                 with `bind`, or say `unbound`",
                K::KIND.as_str(),
                self.exchange.label()
            )));
        }
        let exchange = self.exchange.topology()?;
        let (label, namespace) = (self.exchange.label(), self.connection.namespace().clone());
        let bindings = self.bindings.clone();
        Ok(Station::new(
            exchange, label, place, mode, bindings, namespace, tell,
        ))
    }

    fn source(&self, queue: &str, concurrency: u16, on_loss: OnLoss) -> Source {
        Source {
            topology: crate::topology::Topology::default(),
            queue: queue.to_owned(),
            concurrency,
            grace: self.grace,
            on_loss,
            exclusive: false,
        }
    }
}

impl<K: Kind, T: DeserializeOwned + Send + 'static> Subscribe<K, T, Broadcast> {
    /// Subscribes: when it returns, every matching event that is published from now on arrives.
    ///
    /// # Errors
    /// [`is_invalid`](Error::is_invalid) for a name, a binding or an option that makes no sense;
    /// [`is_mismatch`](Error::is_mismatch) when the exchange exists with other properties; the
    /// broker refuses; the connection was closed. A broker that is away is waited for.
    pub async fn start(self) -> Result<Subscription<K, T>, Error> {
        let Broadcast {
            buffer,
            overflow,
            max_length,
        } = self.mode;
        let (shelf, mode) = broadcast::shelf(buffer, overflow);
        let tell: Tell = {
            let shelf = Arc::clone(&shelf);
            Arc::new(move |missed| shelf.tell(missed))
        };
        let station = self.station(Place::Own { max_length }, mode, tell)?;
        let prefetch = u16::try_from(buffer).unwrap_or(u16::MAX);
        let source = self.source(self.exchange.label(), prefetch, OnLoss::Finish);
        let handler = broadcast::Shelver::new(Arc::clone(&shelf), mode, buffer, &self.connection);
        let running = Running::started(&self.connection, source, station, handler).await?;
        let (reader, bindings) = (self.reader(), self.bindings);
        Ok(Subscription::new(shelf, reader, bindings, running))
    }

    /// Handles every event until `shutdown` completes, then drains: unsubscribes, and finishes
    /// what is in hand within the [grace](Self::grace) period.
    ///
    /// Up to `concurrency` events are handled at once; with 1 they are handled in their order.
    /// An event is gone once its handler has had it: a failure (an `Err`, a panic) is logged, and
    /// nothing is tried again, since a broadcast queue goes with its subscriber. Calls made inside
    /// a handler inherit the event's trace.
    ///
    /// # Errors
    /// As [`start`](Self::start); and that the connection was closed under it.
    ///
    /// Dropping the future unsubscribes at once.
    pub async fn for_each<H, F>(
        self,
        concurrency: u16,
        handler: H,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error>
    where
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        until(self.start_each(concurrency, handler), shutdown).await
    }

    /// As [`for_each`](Self::for_each), and returns once events arrive.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_each<H, F>(self, concurrency: u16, handler: H) -> Result<Running, Error>
    where
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        let prefetch = concurrency.max(1);
        let max_length = self.mode.max_length;
        let (place, tell) = (Place::Own { max_length }, self.told());
        let station = self.station(place, Mode::Settled { prefetch }, Arc::clone(&tell))?;
        let source = self.source(self.exchange.label(), prefetch, OnLoss::Finish);
        let each = broadcast::Each::new(self.reader(), handler, tell, &self.connection);
        Running::started(&self.connection, source, station, each).await
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
    /// quorum queue.
    pub fn classic(mut self) -> Self {
        self.mode.spec.kind = QueueKind::Classic;
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
    /// is the reader's until it settles it ([`Held`](super::Held)).
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
        let mode = Mode::Settled { prefetch };
        let station = self.station(Place::Group(spec.clone()), mode, tell)?;
        // What the reader holds of a lost connection cannot be settled: nothing waits for it.
        let source = self.source(&spec.name, prefetch, OnLoss::Drop);
        let reader = self.reader();
        let connection = &self.connection;
        let presenter = group::Presenter::new(Arc::clone(&shelf), reader.clone());
        let handler = group::InOrder::new(connection, spec, presenter);
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
    pub async fn for_each<H, F>(
        self,
        concurrency: u16,
        handler: H,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error>
    where
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        until(self.start_each(concurrency, handler), shutdown).await
    }

    /// As [`for_each`](Self::for_each), and returns once events may arrive.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_each<H, F>(self, concurrency: u16, handler: H) -> Result<Running, Error>
    where
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        let tell = self.told();
        let (spec, prefetch) = (self.mode.spec.clone(), concurrency.max(1));
        spec.check(self.connection.namespace())?;
        let (place, mode) = (Place::Group(spec.clone()), Mode::Settled { prefetch });
        let station = self.station(place, mode, Arc::clone(&tell))?;
        let source = self.source(&spec.name, prefetch, OnLoss::Finish);
        let (connection, timeout) = (&self.connection, self.mode.timeout);
        let work = Arc::new(group::Each::new(self.reader(), handler, tell));
        let handler = queue::JobHandler::new(connection, spec, work, timeout);
        Running::started(connection, source, station, handler).await
    }
}

async fn until(
    starting: impl Future<Output = Result<Running, Error>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    tokio::pin!(shutdown);
    let running = tokio::select! {
        running = starting => running?,
        () = &mut shutdown => return Ok(()),
    };
    running.until(shutdown).await
}

impl<K: Kind, T, M: fmt::Debug> fmt::Debug for Subscribe<K, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe")
            .field("exchange", &self.exchange.label())
            .field("bindings", &self.bindings)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
