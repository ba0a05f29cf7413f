//! A broadcast subscription's deliveries: onto the reader's shelf, or to a handler.

use std::fmt;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::event::{Event, Letter};
use super::reader::{Read, Reader};
use super::shelf::Shelf;
use super::station::Tell;
use super::subscribe::Overflow;
use crate::escape::Escaped;
use crate::link::{Channel, Connection, ConsumeMode, Delivery};
use crate::policy::verdict::IntoVerdict;
use crate::stats::Counters;
use crate::worker::{Handler, Settlement};

/// An event that waits for its reader.
pub(super) struct Parcel {
    pub(super) letter: Letter,
    /// Dropped when it is taken: the broker may send another one then.
    pub(super) _held: Option<oneshot::Sender<()>>,
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.letter.fmt(f)
    }
}

/// A shelf, and how to fill it. Where the oldest events are dropped for a slow reader, that happens
/// as they are read, so that no more than the buffer holds are ever kept.
pub(super) fn shelf(
    buffer: usize,
    overflow: Overflow,
    connection: &Connection,
) -> (Arc<Shelf<Parcel>>, ConsumeMode) {
    let shelf = Arc::new(Shelf::new());
    let mode = match overflow {
        Overflow::DropOldest => {
            let (shelf, counters) = (Arc::clone(&shelf), connection.counters());
            ConsumeMode::NoAck(Arc::new(move |delivery: Delivery| {
                let parcel = Parcel {
                    letter: delivery.message.into(),
                    _held: None,
                };
                for _ in 0..shelf.push_over(parcel, buffer) {
                    counters.lagged_events.add();
                }
            }))
        }
        Overflow::Hold => ConsumeMode::ManualAck {
            prefetch: u16::try_from(buffer).unwrap_or(u16::MAX),
        },
    };
    (shelf, mode)
}

/// Puts events on the shelf in their order, where the broker waits until they are taken. The stream
/// ends when it goes.
pub(super) struct Shelver {
    shelf: Arc<Shelf<Parcel>>,
}

impl Shelver {
    pub(super) fn new(shelf: Arc<Shelf<Parcel>>) -> Self {
        Self { shelf }
    }
}

impl Handler for Shelver {
    const IN_ORDER: bool = true;

    async fn handle(self: Arc<Self>, _: Arc<Channel>, delivery: Delivery) -> Settlement {
        let (held, taken) = oneshot::channel();
        self.shelf.push(Parcel {
            letter: delivery.message.into(),
            _held: Some(held),
        });
        // Taken, or given up with the subscription: done either way.
        let _ = taken.await;
        Settlement::Ack
    }
}

impl Drop for Shelver {
    fn drop(&mut self) {
        self.shelf.end();
    }
}

/// Gives events to a closure.
pub(super) struct Each<T, H> {
    reader: Reader<T>,
    handler: H,
    tell: Tell,
    counters: Arc<Counters>,
    takes: PhantomData<fn(T)>,
}

impl<T, H> Each<T, H> {
    pub(super) fn new(reader: Reader<T>, handler: H, tell: Tell, connection: &Connection) -> Self {
        Self {
            reader,
            handler,
            tell,
            counters: connection.counters(),
            takes: PhantomData,
        }
    }
}

impl<T, H, F> Handler for Each<T, H>
where
    T: DeserializeOwned + Send + 'static,
    H: Fn(Event<T>) -> F + Send + Sync + 'static,
    F: Future<Output: IntoVerdict> + Send + 'static,
{
    async fn handle(self: Arc<Self>, _: Arc<Channel>, delivery: Delivery) -> Settlement {
        let event = match self.reader.read(delivery.message.into()) {
            Read::Event(event) => event,
            Read::Missed(missed) => {
                (self.tell)(missed);
                return Settlement::Ack;
            }
            Read::Skipped => return Settlement::Ack,
        };
        let key = Escaped(event.key().to_owned());
        let exchange = Escaped(event.exchange().to_owned());
        let context = event.context.clone();
        let work = context.scope(async { (self.handler)(event).await });
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(returned) => {
                if let Some(error) = returned.into_verdict().error() {
                    let error = Escaped(error);
                    tracing::warn!(%exchange, %key, %error, "an event's handler failed");
                }
            }
            Err(panic) => {
                self.counters.panics.add();
                let text = Escaped(crate::handler_guard::panic_text(&*panic));
                tracing::error!(%exchange, %key, %text, "an event's handler panicked");
            }
        }
        Settlement::Ack
    }
}
