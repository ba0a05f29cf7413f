//! A job as its handler sees it.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;

use crate::link::{Channel, Session};
use crate::wire::envelope::JobHead;
use crate::wire::message::Incoming;
use crate::wire::value::{Table, Value};

/// A job in a handler's hands.
#[derive(Clone, Debug)]
pub struct Job<T> {
    pub(super) payload: T,
    pub(super) facts: Arc<Facts>,
}

/// A job before its payload is decoded.
#[derive(Clone, Debug)]
pub(crate) struct RawJob {
    pub(crate) body: Bytes,
    pub(crate) facts: Arc<Facts>,
}

#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) head: JobHead,
    pub(crate) attempt: u32,
    pub(crate) redelivered: bool,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) cancelled: Cancelled,
}

impl RawJob {
    pub(crate) fn new(
        message: &Incoming,
        head: JobHead,
        attempt: u32,
        cancelled: Cancelled,
    ) -> Self {
        let (exchange, routing_key) = match &head.route {
            Some(route) => (route.exchange.clone(), route.routing_key.clone()),
            None => (message.exchange.clone(), message.routing_key.clone()),
        };
        let facts = Facts {
            head,
            attempt,
            redelivered: message.redelivered,
            exchange,
            routing_key,
            cancelled,
        };
        Self {
            body: message.body.clone(),
            facts: Arc::new(facts),
        }
    }
}

impl<T> Job<T> {
    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &T {
        &self.payload
    }

    /// The payload, taken out.
    #[must_use]
    pub fn into_payload(self) -> T {
        self.payload
    }

    /// Which attempt this is; the first is 1. Deliveries that no worker lived to settle count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.facts.attempt
    }

    /// When the job was first pushed, by the producer's clock and to the second, if its producer
    /// said so (AMQP's `timestamp`).
    #[must_use]
    pub fn first_seen(&self) -> Option<SystemTime> {
        let seconds = Duration::from_secs(self.facts.head.pushed_at?);
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    }

    /// The idempotency key: the same for every attempt of the job.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.facts.head.message_id.as_deref()
    }

    /// The headers its producer set.
    #[must_use]
    pub fn headers(&self) -> &Table {
        &self.facts.head.headers
    }

    /// One of the headers.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.facts.head.headers.get(name)
    }

    /// Whether the broker had delivered this very message before: its effects may be there.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.facts.redelivered
    }

    /// The exchange it came through; empty for jobs that were pushed to the queue.
    #[must_use]
    pub fn exchange(&self) -> &str {
        &self.facts.exchange
    }

    /// The routing key it was published with.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        &self.facts.routing_key
    }

    /// The signal that it is better to stop, to be awaited or asked.
    #[must_use]
    pub fn cancelled(&self) -> Cancelled {
        self.facts.cancelled.clone()
    }
}

/// The signal to a handler that it had better stop: its connection is lost, or the broker has
/// closed its channel, so that the job will be delivered again whatever it does; or its worker is
/// shutting down.
#[derive(Clone, Debug)]
pub struct Cancelled {
    /// Weak: a job that a handler puts away must not keep its channel, and with it all that is
    /// unsettled there.
    channel: Weak<Channel>,
    session: Arc<Session>,
    stopping: watch::Receiver<Stopping>,
}

/// What a pool tells its handlers of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stopping {
    pub(super) is_draining: bool,
    /// How many channels were lost: each handler looks at its own.
    pub(super) losses: u64,
}

impl Cancelled {
    pub(super) fn new(channel: &Arc<Channel>, stopping: watch::Receiver<Stopping>) -> Self {
        Self {
            channel: Arc::downgrade(channel),
            session: Arc::clone(channel.session()),
            stopping,
        }
    }

    /// Completes when it is better to stop. Cancel-safe.
    pub async fn wait(&self) {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            _ = self.session.down() => {}
            // A sender that is gone is a worker that is gone.
            _ = stopping.wait_for(|stopping| stopping.is_draining || self.is_lost()) => {}
        }
    }

    /// Whether the job can no longer be settled: it is delivered again.
    pub(crate) fn is_lost(&self) -> bool {
        self.channel
            .upgrade()
            .is_none_or(|channel| !channel.is_open())
    }

    /// Whether it is better to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        // A sender that is gone is a worker that is gone.
        let is_gone = self.stopping.has_changed().is_err();
        self.is_lost() || is_gone || self.stopping.borrow().is_draining
    }
}
