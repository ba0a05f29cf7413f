//! Events as a subscription delivers them, and before they are decoded.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::context::{Context, Facts};
use crate::queue::RawJob;
use crate::wire::envelope::EventHead;
use crate::wire::message::Incoming;
use crate::wire::value::{Table, Value};

/// An event as a subscriber receives it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event<T> {
    /// The decoded payload.
    pub payload: T,
    pub(in crate::pubsub) info: Box<EventInfo>,
}

/// The metadata of an event.
#[derive(Clone, Debug)]
pub(crate) struct EventInfo {
    exchange: String,
    pub(super) key: String,
    pub(super) event_type: Option<String>,
    message_id: Option<String>,
    published_at: Option<u64>,
    publisher: Option<String>,
    pub(super) headers: Table,
    trace: Table,
    redelivered: bool,
    attempt: u32,
}

impl<T> Event<T> {
    /// The routing key it was published with.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.info.key
    }

    /// The exchange it was published to, by its name on the broker.
    #[must_use]
    pub fn exchange(&self) -> &str {
        &self.info.exchange
    }

    /// The event's type, if the exchange carries several types (AMQP's `type`).
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        self.info.event_type.as_deref()
    }

    /// The headers its publisher set.
    #[must_use]
    pub fn headers(&self) -> &Table {
        &self.info.headers
    }

    /// One of the headers.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.info.headers.get(name)
    }

    /// Whether the broker has delivered it before: another member of the group may have handled
    /// it, or this one on an earlier connection. Always `false` on a broadcast subscription.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.info.redelivered
    }

    /// The number of this attempt, from 1. Only shared and singleton subscriptions try an event
    /// again.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.info.attempt
    }

    /// The time at which it was published, by its publisher's clock and to the second, if the
    /// publisher set it (AMQP's `timestamp`; publishers of Lepus do).
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        let seconds = Duration::from_secs(self.info.published_at?);
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    }

    /// The identity of the event, if the publisher set one (AMQP's `message_id`; publishers of
    /// Lepus do). A publish that is repeated keeps it.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.info.message_id.as_deref()
    }

    /// The name of the program that published it, if that set one (AMQP's `app_id`).
    #[must_use]
    pub fn publisher(&self) -> Option<&str> {
        self.info.publisher.as_deref()
    }

    /// The W3C trace headers of the event.
    #[must_use]
    pub fn trace(&self) -> &Table {
        &self.info.trace
    }

    /// Replaces the payload by what `change` makes of it.
    #[must_use]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Event<U> {
        Event {
            payload: change(self.payload),
            info: self.info,
        }
    }
}

impl EventInfo {
    /// The context that a handler's own calls inherit.
    pub(in crate::pubsub) fn context(&self) -> Context {
        Context::new(Facts {
            service: self.exchange.clone().into(),
            method: self.event_type.clone().unwrap_or_default().into(),
            deadline: None,
            headers: self.headers.clone(),
            trace: self.trace.clone(),
            caller: self.publisher.clone(),
            message_id: self.message_id.clone(),
            redelivered: self.redelivered,
            attempt: self.attempt,
        })
    }
}

/// An event before it is decoded.
#[derive(Clone, Debug)]
pub(in crate::pubsub) struct RawEvent {
    pub(super) info: Box<EventInfo>,
    pub(super) content_type: Option<String>,
    pub(super) body: Bytes,
}

impl From<Incoming> for RawEvent {
    fn from(message: Incoming) -> Self {
        let head = EventHead::from_properties(message.properties);
        Self {
            info: Box::new(EventInfo {
                exchange: message.exchange,
                key: message.routing_key,
                event_type: head.kind,
                message_id: head.message_id,
                published_at: head.published_at,
                publisher: head.publisher,
                headers: head.headers,
                trace: head.trace,
                redelivered: message.redelivered,
                attempt: 1,
            }),
            content_type: head.content_type,
            body: message.body,
        }
    }
}

impl From<RawJob> for RawEvent {
    fn from(job: RawJob) -> Self {
        let facts = &job.facts;
        let head = facts.head.clone();
        Self {
            info: Box::new(EventInfo {
                exchange: facts.exchange.clone(),
                key: facts.routing_key.clone(),
                event_type: head.task,
                message_id: head.message_id,
                published_at: head.pushed_at,
                publisher: head.caller,
                headers: head.headers,
                trace: head.trace,
                redelivered: facts.redelivered,
                attempt: facts.attempt,
            }),
            content_type: head.content_type,
            body: job.body,
        }
    }
}
