//! The builder in broadcast mode: its options, its stream, its handler, and the change to a group.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::super::bindings::Bindings;
use super::super::broadcast::{self, BroadcastHandler, BufferHandler, LayeredBroadcastHandler};
use super::super::buffer::EventBuffer;
use super::super::handler_runner::HandlerRunner;
use super::super::mode::{ActiveMembers, Broadcast, Group, Overflow};
use super::super::setup::QueueSource;
use super::super::stream::Subscription;
use super::builder::{Subscribe, Unbound};
use crate::error::Error;
use crate::link::{Connection, ConsumeMode};
use crate::middleware::MessageLayers;
use crate::policy::verdict::IntoVerdict;
use crate::pubsub::binding::Kind;
use crate::pubsub::event::{Event, UnknownTypes};
use crate::pubsub::spec::ExchangeSpec;
use crate::queue;
use crate::service::BoxFuture;
use crate::shutdown::GRACE;
use crate::worker::{OnLoss, Running, Until};

impl<K: Kind, T> Subscribe<K, T, Broadcast> {
    pub(in crate::pubsub) fn new(connection: &Connection, exchange: ExchangeSpec) -> Self {
        Self {
            connection: connection.clone(),
            bindings: Bindings::new(connection, exchange.name()),
            exchange,
            unbound: Unbound::Rejected,
            unknown_types: UnknownTypes::default(),
            on_missed: None,
            concurrency: 1,
            grace: GRACE,
            layers: MessageLayers::default(),
            invalid: None,
            mode: Broadcast::default(),
            payload: PhantomData,
        }
    }

    /// Sets the number of events that wait for the reader of the stream. Default: 1024. With
    /// [`Overflow::Hold`] it is the prefetch (`basic.qos`), at most 65,535. 0 counts as 1.
    pub fn buffer(mut self, events: usize) -> Self {
        self.mode.buffer = events.max(1);
        self
    }

    /// Sets the behaviour of the stream when its buffer is full. Default: [`Overflow::DropOldest`].
    ///
    /// A handler ([`start`](Subscribe::start)) has no buffer: the broker keeps the events that
    /// exceed its [`concurrency`](Self::concurrency).
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.mode.overflow = overflow;
        self
    }

    /// Makes the broker drop the oldest events, without a report, when more than this number wait in
    /// the queue of this subscription (`x-max-length`, `x-overflow: drop-head`). Default: no limit. It
    /// matters with [`Overflow::Hold`] and with handlers. The queue of a group refuses new events
    /// instead: [`max_length`](Subscribe::max_length).
    pub fn drop_oldest_over(mut self, events: u32) -> Self {
        self.mode.drop_oldest_over = Some(events);
        self
    }

    /// Changes to shared mode: each event goes to one member of the group of this name that is free.
    /// The group has a durable queue, `<exchange>.<group>`. From the first member's start on, it
    /// keeps events while no member is connected. Events are acknowledged one by one, retried as jobs
    /// are, and dead-lettered to `<exchange>.<group>.dead`.
    ///
    /// The queue is a quorum queue unless it is [`classic`](Subscribe::classic). In a classic queue,
    /// events outlive a restart of the broker only if they are published
    /// [persistent](crate::events::EventPublisher::persistent).
    pub fn shared(self, group: &str) -> Subscribe<K, T, Group> {
        self.group(group, ActiveMembers::All)
    }

    /// Changes to singleton mode: as [`shared`](Self::shared), but only one member receives events.
    /// When it leaves, the broker makes another one the active member (`x-single-active-consumer`).
    /// With a [`prefetch`](Subscribe::prefetch) or a concurrency of 1, events are handled in their
    /// order, apart from retries.
    ///
    /// A group cannot be both shared and singleton: the second declaration is a mismatch.
    pub fn singleton(self, group: &str) -> Subscribe<K, T, Group> {
        self.group(group, ActiveMembers::One)
    }

    fn group(self, group: &str, active: ActiveMembers) -> Subscribe<K, T, Group> {
        let (mode, invalid) = Group::new(&self.exchange, group, active);
        Subscribe {
            connection: self.connection,
            exchange: self.exchange,
            bindings: self.bindings,
            unbound: self.unbound,
            unknown_types: self.unknown_types,
            on_missed: self.on_missed,
            concurrency: self.concurrency,
            grace: self.grace,
            layers: self.layers,
            invalid: self.invalid.or(invalid),
            mode,
            payload: PhantomData,
        }
    }
}

impl<K: Kind, T> Subscribe<K, T, Broadcast> {
    /// Subscribes, and returns the events as a stream. Every matching event that is published after it
    /// has returned is received.
    ///
    /// If there is no connection at the moment, it waits for the next one.
    ///
    /// # Errors
    /// [`is_invalid`](Error::is_invalid) for an invalid name, binding or option;
    /// [`is_mismatch`](Error::is_mismatch) if the exchange exists with other properties; the broker
    /// refuses; the connection was closed.
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing is subscribed to.
    pub fn stream(self) -> BoxFuture<Result<Subscription<K, T>, Error>>
    where
        T: DeserializeOwned + Send + 'static,
    {
        Box::pin(async move {
            self.check_stream()?;
            let buffer = Arc::new(EventBuffer::new());
            let mode = broadcast::consume_mode(&self.mode, &buffer, &self.connection);
            let on_missed = Self::buffer_sink(&buffer);
            let handler = BufferHandler::new(Arc::clone(&buffer));
            let running = self.consume(self.queue(), mode, OnLoss::Finish, on_missed, handler);
            let running = running.await?;
            let (decoder, bindings) = (self.decoder(), self.bindings);
            Ok(Subscription::new(buffer, decoder, bindings, running))
        })
    }

    /// Subscribes, and handles every event. When it returns, matching events are received.
    ///
    /// Up to [`concurrency`](Self::concurrency) events are handled at once. The handler returns `()`
    /// or `Result<(), E>` where `E` is a [`Failure`](crate::jobs::Failure). No event is tried again, since
    /// the queue of a broadcast subscription does not outlive it: a failure (an `Err` or a panic) is
    /// logged. Calls that a handler makes inherit the event's trace.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing is subscribed to.
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
            let source = (&self.connection, self.exchange.name());
            let (queue, decoder) = (self.queue(), self.decoder());
            if self.layers.is_empty() {
                let handler = BroadcastHandler::new(decoder, handler, sink, source);
                let running = self.consume(queue, mode, OnLoss::Finish, on_missed, handler);
                return running.await;
            }
            // No event is tried again.
            let runner = Arc::new(HandlerRunner::new(decoder, handler, sink));
            let runner = queue::layered(runner, &self.layers, None);
            let handler = LayeredBroadcastHandler::new(runner, source);
            let running = self.consume(queue, mode, OnLoss::Finish, on_missed, handler);
            running.await
        })
    }

    /// [Starts](Self::start) to handle events, and goes on until `shutdown` completes. Then it drains:
    /// it unsubscribes, and lets running handlers finish within the [grace](Self::grace) period.
    ///
    /// # Errors
    /// As [`start`](Self::start); or the connection was closed while it ran.
    ///
    /// # Cancel safety
    /// Dropping the future unsubscribes at once.
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
        QueueSource::Exclusive {
            drop_oldest_over: self.mode.drop_oldest_over,
        }
    }
}
