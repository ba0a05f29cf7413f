//! Deliveries of a broadcast subscription: put into the buffer of a stream, or given to a closure.

use std::fmt;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tracing::Instrument;

use super::super::buffer::EventBuffer;
use super::super::mode::{Broadcast, Overflow};
use super::super::setup::MissedSink;
use super::super::stream::{Mode, sealed};
use crate::context::Context;
use crate::escape::Escaped;
use crate::handler_guard::{HandlerEnd, panic_text};
use crate::link::{Channel, Connection, ConsumeMode, Delivery};
use crate::policy::verdict::{IntoVerdict, Verdict, VerdictOutcome};
use crate::pubsub::event::{Decoded, Event, EventDecoder, Missed, RawEvent};
use crate::span::{HandlerSpan, record_outcome};
use crate::stats::Counters;
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
    counters: Arc<Counters>,
    payload: PhantomData<fn(T)>,
}

impl<T, H> BroadcastHandler<T, H> {
    pub(in super::super) fn new(
        decoder: EventDecoder<T>,
        handler: H,
        on_missed: MissedSink,
        connection: &Connection,
    ) -> Self {
        Self {
            decoder,
            handler,
            on_missed,
            counters: connection.counters(),
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
        run(context, work, &self.counters).await;
        Settlement::Ack
    }
}

/// Runs the handler of an event in its context and its span, and reports the end.
pub(super) async fn run(
    context: Context,
    handler: impl Future<Output = Verdict>,
    counters: &Counters,
) {
    let exchange = Escaped(context.message().exchange.clone());
    let key = Escaped(context.message().routing_key.clone());
    let span = HandlerSpan::process(context.service(), context.message());
    let span = span.span().clone();
    let work = context.scope(handler).instrument(span.clone());
    let end = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(verdict) => HandlerEnd::Returned(verdict),
        Err(panic) => HandlerEnd::Panicked(panic_text(&*panic).to_owned()),
    };
    // Layers pass on a panic as a verdict.
    let verdict = Verdict::of_end(end, None);
    let outcome = verdict.outcome_name();
    record_outcome(&span, outcome);
    match verdict.outcome() {
        VerdictOutcome::Panicked(text) => {
            counters.panics.add();
            let text = Escaped(text);
            tracing::warn!(parent: &span, %exchange, %key, %text, "event handler panicked");
        }
        _ => {
            tracing::debug!(parent: &span, %exchange, %key, outcome, "event handler ended");
            if let Some(error) = verdict.error() {
                let error = Escaped(error);
                tracing::warn!(parent: &span, %exchange, %key, %error, "event handler failed");
            }
        }
    }
}
