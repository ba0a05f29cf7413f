//! The broadcast mode: its options, its stream, its handlers, and the way into a group.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::super::bindings::Bindings;
use super::super::broadcast::{self, Each, Shelver};
use super::super::event::Event;
use super::super::kind::Kind;
use super::super::reader::Unknown;
use super::super::spec::Spec;
use super::super::station::{Place, Tell, own_name};
use super::super::subscription::Subscription;
use super::group::{Group, Members};
use super::{Subscribe, Unbound};
use crate::error::Error;
use crate::link::{Connection, ConsumeMode};
use crate::policy::verdict::IntoVerdict;
use crate::service::BoxFuture;
use crate::shutdown::GRACE;
use crate::worker::OnLoss;
use crate::worker::{Running, Until};

/// How many events wait here for a slow reader unless set.
const BUFFER: usize = 1024;

/// Every subscription hears every event: it has a queue of its own, which lives as long as it
/// does.
#[derive(Clone, Debug)]
pub struct Broadcast {
    buffer: usize,
    overflow: Overflow,
    max_length: Option<u32>,
}

/// What a broadcast stream does when its reader is slower than its events, and the
/// [buffer](Subscribe::buffer) is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The oldest event that waits here is dropped, and the reader is told how many were
    /// ([`Missed::Lagged`](crate::Missed::Lagged)). The broker is never made to wait, and keeps nothing.
    #[default]
    DropOldest,
    /// The broker keeps what does not fit, in the subscription's queue and so in its memory,
    /// unless [`max_length`](Subscribe::max_length) bounds it.
    Hold,
}

impl<K: Kind, T> Subscribe<K, T, Broadcast> {
    pub(in super::super) fn new(connection: &Connection, exchange: Spec) -> Self {
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
    /// the broker only if they are published [persistent](crate::EventPublisher::persistent),
    /// or the queue is a quorum queue.
    pub fn shared(self, group: &str) -> Subscribe<K, T, Group> {
        self.group(group, Members::AllAtOnce)
    }

    /// The singleton mode: as [`shared`](Self::shared), but only one member receives at a time,
    /// and the others stand by: the broker (`x-single-active-consumer`) lets the next one take
    /// over when it goes. With [`prefetch`](Subscribe::prefetch) 1 or a concurrency of 1 events
    /// are handled in their order, apart from those that are tried again.
    ///
    /// The same group cannot be shared and singleton: the second declaration is a mismatch.
    pub fn singleton(self, group: &str) -> Subscribe<K, T, Group> {
        self.group(group, Members::OneAtATime)
    }

    fn group(self, group: &str, members: Members) -> Subscribe<K, T, Group> {
        let (mode, fault) = Group::new(&self.exchange, group, members);
        Subscribe {
            connection: self.connection,
            exchange: self.exchange,
            bindings: self.bindings,
            unbound: self.unbound,
            unknown: self.unknown,
            on_missed: self.on_missed,
            grace: self.grace,
            fault: self.fault.or(fault),
            mode,
            gives: PhantomData,
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
        let (shelf, mode) = broadcast::shelf(buffer, overflow, &self.connection);
        let tell: Tell = {
            let shelf = Arc::clone(&shelf);
            Arc::new(move |missed| shelf.tell(missed))
        };
        let station = self.station(Place::Own { max_length }, mode, tell)?;
        let prefetch = u16::try_from(buffer).unwrap_or(u16::MAX);
        let source = self.source(
            &own_name(self.exchange.label(), "*"),
            prefetch,
            OnLoss::Finish,
        );
        let handler = Shelver::new(Arc::clone(&shelf));
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
    pub fn for_each<H, F, S>(self, concurrency: u16, handler: H, shutdown: S) -> Until<S>
    where
        H: Fn(Event<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
        S: Future<Output = ()>,
    {
        Until::new(self.start_each(concurrency, handler), shutdown)
    }

    /// As [`for_each`](Self::for_each), and returns once events arrive.
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
        let prefetch = concurrency.max(1);
        let max_length = self.mode.max_length;
        let (place, tell) = (Place::Own { max_length }, self.told());
        let station = self.station(
            place,
            ConsumeMode::ManualAck { prefetch },
            Arc::clone(&tell),
        )?;
        let source = self.source(
            &own_name(self.exchange.label(), "*"),
            prefetch,
            OnLoss::Finish,
        );
        let each = Each::new(self.reader(), handler, tell, &self.connection);
        Running::started(&self.connection, source, station, each).await
    }
}
