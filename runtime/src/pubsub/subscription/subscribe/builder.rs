//! The builder of a subscription: its bindings, and the options that all modes have.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::super::bindings::Bindings;
use super::super::buffer::EventBuffer;
use super::super::mode::Broadcast;
use super::super::setup::{MissedSink, QueueSource, SubscriptionSetup};
use crate::control::{self, Served};
use crate::error::Error;
use crate::escape::Escaped;
use crate::link::{Connection, ConsumeMode};
use crate::middleware::{Message, MessageLayers, Middleware};
use crate::pubsub::binding::{IntoBinding, Kind, Selective};
use crate::pubsub::event::{EventDecoder, Missed, UnknownTypes};
use crate::pubsub::spec::ExchangeSpec;
use crate::queue::QueueSpec;
use crate::wire::name::Name;
use crate::wire::topology::Topology;
use crate::worker::{Handler, OnLoss, Running, Source};

/// A builder of subscriptions. `M` is the mode, [`Broadcast`] or [`Group`](crate::events::Group).
///
/// [`stream`](Subscribe::stream) returns the events as a stream. [`run`](Subscribe::run) handles them
/// until a shutdown, and [`start`](Subscribe::start) does so until it is told to stop.
///
/// # Handlers
///
/// A handler is called for each event, and returns a future. If it uses values from outside, it clones
/// them for each event:
///
/// ```no_run
/// use std::sync::Arc;
///
/// use lepus::{Connection, Event, Topic};
///
/// struct Archive;
///
/// impl Archive {
///     async fn store(&self, line: String) -> Result<(), std::io::Error> {
///         println!("stored: {line}");
///         Ok(())
///     }
/// }
///
/// # async fn example(connection: &Connection) -> Result<(), lepus::Error> {
/// let archive = Arc::new(Archive);
/// let store = move |event: Event<String>| {
///     let archive = Arc::clone(&archive);
///     async move { archive.store(event.into_payload()).await }
/// };
/// let logs = Topic::<String>::new("logs");
/// let group = logs.subscribe(connection).bind("#").shared("archive").concurrency(4);
/// group.run(store, lepus::shutdown_signal()).await
/// # }
/// ```
///
/// An async closure that captures nothing is a handler as it is: `async |event: Event<String>| { … }`.
/// One that captures, such as this one, does not compile. Its future borrows what the closure has
/// captured, while the futures of several events run at once, in tasks of their own: each of them has
/// to own what it uses.
///
/// ```compile_fail
/// # use std::sync::Arc;
/// # use lepus::{Connection, Event, Topic};
/// # struct Archive;
/// # impl Archive {
/// #     async fn store(&self, line: String) -> Result<(), std::io::Error> {
/// #         drop(line);
/// #         Ok(())
/// #     }
/// # }
/// # async fn example(connection: &Connection) -> Result<(), lepus::Error> {
/// # let archive = Arc::new(Archive);
/// let store = async move |event: Event<String>| archive.store(event.into_payload()).await;
/// # let logs = Topic::<String>::new("logs");
/// # let group = logs.subscribe(connection).bind("#").shared("archive").concurrency(4);
/// group.run(store, lepus::shutdown_signal()).await
/// # }
/// ```
#[must_use = "nothing is subscribed to until `stream`, `start` or `run`"]
pub struct Subscribe<K: Kind, T, M = Broadcast> {
    pub(super) connection: Connection,
    pub(super) exchange: ExchangeSpec,
    pub(super) bindings: Bindings<K>,
    pub(super) unbound: Unbound,
    pub(super) unknown_types: UnknownTypes,
    pub(super) on_missed: Option<MissedSink>,
    pub(super) concurrency: u16,
    pub(super) grace: Duration,
    pub(super) layers: MessageLayers,
    /// The first invalid option. It is reported when the subscription starts.
    pub(super) invalid: Option<Error>,
    pub(super) mode: M,
    pub(super) payload: PhantomData<fn() -> T>,
}

/// Whether a subscription may start without a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unbound {
    Allowed,
    Rejected,
}

impl<K: Selective, T, M> Subscribe<K, T, M> {
    /// Adds a binding: a [`RoutingKey`](crate::events::RoutingKey) for a direct exchange, a
    /// [`Pattern`](crate::events::Pattern) for a topic exchange, a [`Match`](crate::events::Match) for a headers
    /// exchange. An event that several bindings match is received once.
    ///
    /// An invalid binding is an [`is_invalid`](Error::is_invalid) error when the subscription starts.
    pub fn bind<B>(mut self, binding: B) -> Self
    where
        B: IntoBinding<K::Binding>,
    {
        let binding = binding.into_binding();
        match binding.and_then(|binding| K::to_amqp(&binding).map(|_| binding)) {
            Ok(binding) => self.bindings.record(binding),
            Err(error) => {
                self.invalid.get_or_insert(error);
            }
        }
        self
    }

    /// Allows the subscription to start without a binding, which is an error otherwise. It receives
    /// nothing until a binding is [added](Bindings::bind); a group also receives by the bindings
    /// that its queue has already.
    pub fn unbound(mut self) -> Self {
        self.unbound = Unbound::Allowed;
        self
    }
}

impl<K: Kind, T, M> Subscribe<K, T, M> {
    /// Sets the treatment of events of unknown types, on an exchange with
    /// [types](crate::events::EventExchange::event_type). Default: they are skipped and counted.
    pub fn unknown_types(mut self, unknown_types: UnknownTypes) -> Self {
        self.unknown_types = unknown_types;
        self
    }

    /// Sets the callback for gaps and for events that do not decode, for subscriptions with a
    /// handler. Default: a warning in the log. A stream has these reports among its items.
    pub fn on_missed(mut self, callback: impl Fn(Missed) + Send + Sync + 'static) -> Self {
        self.on_missed = Some(Arc::new(callback));
        self
    }

    /// Sets the number of events that a handler works on at once, which is also the prefetch
    /// (`basic.qos`). Default: 1, with which events are handled in their order, and an idle member of
    /// a group is always preferred over a busy one. 0 counts as 1. A stream has options of its own
    /// instead: [`buffer`](Subscribe::buffer) and [`prefetch`](Subscribe::prefetch).
    pub fn concurrency(mut self, events: u16) -> Self {
        self.concurrency = events.max(1);
        self
    }

    /// Sets how long a shutdown waits for the events that are being handled. Default: 30 s.
    pub fn grace(mut self, limit: Duration) -> Self {
        self.grace = limit;
        self
    }

    /// Puts a layer around the handler ([`middleware`](crate::middleware)): the last one that is added sees an event
    /// first. A layer is a [`Middleware`] of [`Message`]s, such as [`from_fn`](crate::middleware::from_fn) of a
    /// function and most of the ready ones. [`WorkerPool::layer`](crate::jobs::WorkerPool::layer) has an example.
    ///
    /// A stream has no handler, so it cannot have layers: with some, [`stream`](Subscribe::stream) fails with
    /// [`is_invalid`](Error::is_invalid).
    pub fn layer(mut self, layer: impl Middleware<Message>) -> Self {
        self.layers.add(layer);
        self
    }

    /// A handle to change the bindings while a handler runs.
    #[must_use]
    pub fn bindings(&self) -> Bindings<K> {
        self.bindings.clone()
    }

    /// # Errors
    /// There are layers, which a stream cannot have.
    pub(super) fn check_stream(&self) -> Result<(), Error> {
        if self.layers.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the subscription to exchange `{}` has layers, which are put around a handler: use `start` or `run` \
             instead of `stream`",
            self.exchange.name()
        )))
    }

    pub(super) fn decoder(&self) -> EventDecoder<T> {
        EventDecoder::new(
            self.exchange.codec,
            self.exchange.typing.clone(),
            self.unknown_types,
            self.connection.max_message(),
            self.connection.counters(),
        )
    }

    /// The callback of [`on_missed`](Self::on_missed), or its default.
    pub(super) fn missed_sink(&self) -> MissedSink {
        let exchange = self.exchange.name().to_owned();
        self.on_missed.clone().unwrap_or_else(|| {
            Arc::new(move |missed| {
                let reason = std::error::Error::source(&missed).map(ToString::to_string);
                let missed = Escaped(&missed);
                tracing::warn!(exchange, reason, "{missed}");
            })
        })
    }

    /// A sink that puts the reports among the items of a stream.
    pub(super) fn buffer_sink<E: Send + 'static>(buffer: &Arc<EventBuffer<E>>) -> MissedSink {
        let buffer = Arc::clone(buffer);
        Arc::new(move |missed| buffer.push_missed(missed))
    }

    /// Subscribes, and gives the events to a handler.
    pub(super) async fn consume<H: Handler>(
        &self,
        queue: QueueSource,
        mode: ConsumeMode,
        on_loss: OnLoss,
        on_missed: MissedSink,
        handler: H,
    ) -> Result<Running, Error> {
        let source = Source {
            topology: Topology::default(),
            queue: queue.log_name(self.exchange.name()),
            concurrency: match mode {
                ConsumeMode::ManualAck { prefetch } => prefetch,
                ConsumeMode::NoAck(_) => u16::MAX,
            },
            grace: self.grace,
            max_body: usize::MAX,
            on_loss,
        };
        let group = match &queue {
            QueueSource::Group(spec) => {
                Some((spec.name.clone(), spec.codec(), self.of_group(spec)?))
            }
            QueueSource::Exclusive { .. } => None,
        };
        let setup = self.setup(queue, mode, on_missed)?;
        let mut running = Running::started(&self.connection, source, setup, handler).await?;
        if let Some((queue, codec, topology)) = group {
            let exchange = self.exchange.name();
            let connection = &self.connection;
            let served = Served::group(connection, exchange, (&queue, codec), running.views());
            let served = served.declared_by(&topology);
            control::announce(connection, &mut running, served)?;
        }
        Ok(running)
    }

    /// All that is declared for a group, with the bindings that it begins with.
    fn of_group(&self, spec: &QueueSpec) -> Result<Topology, Error> {
        let mut topology = self.exchange.topology()?;
        topology.queues.extend(spec.topology()?.queues);
        let queue = Name::parse(spec.name.as_str())?;
        topology.bindings.extend(self.bindings.of_queue(&queue)?);
        Ok(topology)
    }

    fn setup(
        &self,
        queue: QueueSource,
        mode: ConsumeMode,
        on_missed: MissedSink,
    ) -> Result<Arc<SubscriptionSetup<K>>, Error> {
        if let Some(invalid) = &self.invalid {
            return Err(invalid.clone());
        }
        if self.unbound == Unbound::Rejected && self.bindings.list().is_empty() {
            return Err(Error::invalid(format!(
                "a subscription to the {} exchange `{}` receives nothing without a binding: add \
                 one with `bind`, or call `unbound`",
                K::KIND.as_str(),
                self.exchange.name()
            )));
        }
        queue.check(self.connection.namespace())?;
        let exchange = self.exchange.topology()?;
        Ok(SubscriptionSetup::new(
            exchange,
            self.exchange.name(),
            queue,
            mode,
            self.bindings.clone(),
            self.connection.namespace().clone(),
            on_missed,
        ))
    }
}

impl<K: Kind, T, M: fmt::Debug> fmt::Debug for Subscribe<K, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe")
            .field("exchange", &self.exchange.name())
            .field("bindings", &self.bindings)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
