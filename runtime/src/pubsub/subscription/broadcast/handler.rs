//! Deliveries of a broadcast subscription: put into the buffer of a stream, or given to a closure.

use std::fmt;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::buffer::EventBuffer;
use super::super::mode::{Broadcast, Overflow};
use super::super::setup::MissedSink;
use super::super::stream::{Mode, sealed};
use crate::context::Context;
use crate::escape::Escaped;
use crate::handler_guard::{HandlerEnd, panic_text};
use crate::link::{Channel, Connection, ConsumeMode, Delivery};
use crate::meter::{Arrived, Meter};
use crate::observe::Hooks;
use crate::policy::verdict::{IntoVerdict, Verdict, VerdictOutcome};
use crate::pubsub::event::{Decoded, Event, EventDecoder, Missed, RawEvent};
use crate::span::MessageSpan;
use crate::stats::{Counters, HandlerKind};
use crate::wire::envelope::sent_at;
use crate::worker::{Handler, Settlement};

/// An event that waits for the reader of a stream.
pub struct BufferedEvent {
    event: RawEvent,
    /// Dropped when the event is taken from the buffer: its delivery is acknowledged then, so that
    /// the broker may send another one.
    _unacknowledged: Option<oneshot::Sender<()>>,
}

impl Mode for Broadcast {
    type Event<T> = Event<T>;
}

impl sealed::Read for Broadcast {
    type Buffered<T> = BufferedEvent;

    fn read<T: DeserializeOwned>(
        decoder: &EventDecoder<T>,
        buffered: BufferedEvent,
    ) -> Option<Result<Event<T>, Missed>> {
        match decoder.decode(buffered.event) {
            Decoded::Event(event) => Some(Ok(event)),
            Decoded::Missed(missed) => Some(Err(missed)),
            Decoded::Skipped => None,
        }
    }
}

impl fmt::Debug for BufferedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.event.fmt(f)
    }
}

/// The consumer mode that fills a stream's buffer. With [`Overflow::DropOldest`] events are put into
/// the buffer on the I/O task, so that never more than its capacity are kept.
pub(in super::super) fn consume_mode(
    options: &Broadcast,
    buffer: &Arc<EventBuffer<BufferedEvent>>,
    connection: &Connection,
) -> ConsumeMode {
    let capacity = options.buffer;
    match options.overflow {
        Overflow::DropOldest => {
            let (buffer, counters) = (Arc::clone(buffer), connection.counters());
            ConsumeMode::NoAck(Arc::new(move |delivery: Delivery| {
                let event = BufferedEvent {
                    event: delivery.message.into(),
                    _unacknowledged: None,
                };
                for _ in 0..buffer.push_dropping_oldest(event, capacity) {
                    counters.lagged_events.add();
                }
            }))
        }
        Overflow::Hold => ConsumeMode::ManualAck {
            prefetch: u16::try_from(capacity).unwrap_or(u16::MAX),
        },
    }
}

/// Puts events into the buffer in their order, and acknowledges each when it is taken from there. The
/// stream ends when this handler is dropped.
pub(in super::super) struct BufferHandler {
    buffer: Arc<EventBuffer<BufferedEvent>>,
}

impl BufferHandler {
    pub(in super::super) fn new(buffer: Arc<EventBuffer<BufferedEvent>>) -> Self {
        Self { buffer }
    }
}

impl Handler for BufferHandler {
    const IN_ORDER: bool = true;

    async fn handle(self: Arc<Self>, _: Arc<Channel>, delivery: Delivery) -> Settlement {
        let (unacknowledged, taken) = oneshot::channel();
        self.buffer.push(BufferedEvent {
            event: delivery.message.into(),
            _unacknowledged: Some(unacknowledged),
        });
        // Taken by the reader, or dropped with the subscription, whose queue goes as well.
        let _ = taken.await;
        Settlement::Ack
    }
}

impl Drop for BufferHandler {
    fn drop(&mut self) {
        self.buffer.end();
    }
}

/// Gives events to a closure.
pub(in super::super) struct BroadcastHandler<T, H> {
    decoder: EventDecoder<T>,
    handler: H,
    on_missed: MissedSink,
    runs: EventRuns,
    payload: PhantomData<fn(T)>,
}

impl<T, H> BroadcastHandler<T, H> {
    pub(in super::super) fn new(
        decoder: EventDecoder<T>,
        handler: H,
        on_missed: MissedSink,
        (connection, exchange): (&Connection, &str),
    ) -> Self {
        Self {
            decoder,
            handler,
            on_missed,
            runs: EventRuns::new(connection, exchange),
            payload: PhantomData,
        }
    }
}

impl<T, H, F> Handler for BroadcastHandler<T, H>
where
    T: DeserializeOwned + Send + 'static,
    H: Fn(Event<T>) -> F + Send + Sync + 'static,
    F: Future<Output: IntoVerdict> + Send + 'static,
{
    async fn handle(self: Arc<Self>, _: Arc<Channel>, delivery: Delivery) -> Settlement {
        let arrived = EventArrival::of(&delivery);
        let event = match self.decoder.decode(delivery.message.into()) {
            Decoded::Event(event) => event,
            Decoded::Missed(missed) => {
                (self.on_missed)(missed);
                return Settlement::Ack;
            }
            Decoded::Skipped => return Settlement::Ack,
        };
        let context = event.context.clone();
        let work = async { (self.handler)(event).await.into_verdict() };
        self.runs.run(context, arrived, work).await;
        Settlement::Ack
    }
}

/// The arrival of an event: when and how it was delivered, its delivery tag and its `correlation_id`.
pub(super) struct EventArrival {
    arrived: Arrived,
    tag: u64,
    conversation: Option<Vec<u8>>,
}

impl EventArrival {
    pub(super) fn of(delivery: &Delivery) -> Self {
        let message = &delivery.message;
        let sent_at = sent_at(&message.properties);
        Self {
            arrived: Arrived::new(Instant::now(), message.redelivered, sent_at),
            tag: delivery.tag,
            conversation: message.properties.correlation_id.clone(),
        }
    }
}

/// Runs the handlers of a subscription's events, and reports their ends.
pub(super) struct EventRuns {
    counters: Arc<Counters>,
    meter: Arc<Meter>,
    hooks: Hooks,
}

impl EventRuns {
    pub(super) fn new(connection: &Connection, exchange: &str) -> Self {
        Self {
            counters: connection.counters(),
            meter: connection.meters().of(HandlerKind::Event, exchange, ""),
            hooks: connection.hooks().clone(),
        }
    }

    /// Runs the handler of an event in its context and its span.
    pub(super) async fn run(
        &self,
        context: Context,
        arrival: EventArrival,
        handler: impl Future<Output = Verdict>,
    ) {
        let exchange = Escaped(context.message().exchange.clone());
        let key = Escaped(context.message().routing_key.clone());
        let EventArrival {
            arrived,
            tag,
            conversation,
        } = arrival;
        let (source, message) = (context.service(), context.message());
        let conversation = conversation.as_deref();
        let traced = MessageSpan::process(&self.hooks, source, message, tag, conversation);
        let span = traced.tracing();
        let metered = self.meter.start(arrived);
        let work = traced.around(context.scope(handler));
        let end = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(verdict) => HandlerEnd::Returned(verdict),
            Err(panic) => HandlerEnd::Panicked(panic_text(&*panic).to_owned()),
        };
        // Layers pass on a panic as a verdict.
        let verdict = Verdict::of_end(end, None);
        let outcome = verdict.outcome_name();
        traced.record_outcome(outcome);
        metered.ended(verdict.handler_outcome(), traced.telemetry());
        match verdict.outcome() {
            VerdictOutcome::Panicked(text) => {
                self.counters.panics.add();
                let text = Escaped(text);
                tracing::warn!(parent: span, %exchange, %key, %text, "event handler panicked");
            }
            _ => {
                tracing::debug!(parent: span, %exchange, %key, outcome, "event handler ended");
                if let Some(error) = verdict.error().filter(|_| !verdict.is_told()) {
                    let error = Escaped(error);
                    tracing::warn!(parent: span, %exchange, %key, %error, "event handler failed");
                }
            }
        }
    }
}
