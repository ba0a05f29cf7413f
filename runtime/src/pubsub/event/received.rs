//! Events as a subscription delivers them, and before they are decoded.

use std::time::SystemTime;

use bytes::Bytes;

use crate::clock;
use crate::context::{Context, Invocation, Times};
use crate::extensions::Extensions;
use crate::queue::RawJob;
use crate::span::MessageSpan;
use crate::wire::envelope::EventHead;
use crate::wire::message::{IncomingMessage, MessageInfo, message_accessors};
use crate::wire::value::{Table, Value};

/// An event as a subscriber receives it.
#[derive(Clone, Debug)]
pub struct Event<T> {
    pub(super) payload: T,
    pub(super) body: Bytes,
    /// The context of the handler, with the metadata of the message.
    pub(in crate::pubsub) context: Context,
}

impl<T> Event<T> {
    fn info(&self) -> &MessageInfo {
        self.context.message()
    }

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

    message_accessors! {
        bytes content_type
    }

    /// The routing key it was published with.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.info().routing_key
    }

    /// The exchange it was published to, by its name on the broker.
    #[must_use]
    pub fn exchange(&self) -> &str {
        &self.info().exchange
    }

    /// The event's type, if the exchange carries several types (AMQP's `type`).
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        self.info().kind.as_deref()
    }

    /// The headers its publisher set.
    #[must_use]
    pub fn headers(&self) -> &Table {
        &self.info().headers
    }

    /// One of the headers.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.info().headers.get(name)
    }

    /// Whether the broker has delivered it before: another member of the group may have handled
    /// it, or this one on an earlier connection. Always `false` on a broadcast subscription.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.info().redelivered
    }

    /// The number of this attempt, from 1. Only shared and singleton subscriptions try an event
    /// again.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.info().attempt
    }

    /// The time at which it was published, by its publisher's clock and to the second, if the
    /// publisher set it (AMQP's `timestamp`; publishers of Lepus do).
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        clock::from_unix_seconds(self.info().timestamp?)
    }

    /// The identity of the event, if the publisher set one (AMQP's `message_id`; publishers of
    /// Lepus do). A publish that is repeated keeps it.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.info().message_id.as_deref()
    }

    /// The name of the program that published it, if that set one (AMQP's `app_id`).
    #[must_use]
    pub fn app_id(&self) -> Option<&str> {
        self.info().app_id.as_deref()
    }

    /// The W3C trace headers of the event.
    #[must_use]
    pub fn trace(&self) -> &Table {
        self.info().trace.as_table()
    }

    /// Replaces the payload by what `change` makes of it.
    #[must_use]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Event<U> {
        Event {
            payload: change(self.payload),
            body: self.body,
            context: self.context,
        }
    }
}

/// An event before it is decoded.
#[derive(Clone, Debug)]
pub(in crate::pubsub) struct RawEvent {
    pub(in crate::pubsub) context: Context,
    pub(in crate::pubsub) body: Bytes,
}

impl RawEvent {
    pub(super) fn info(&self) -> &MessageInfo {
        self.context.message()
    }
}

impl From<IncomingMessage> for RawEvent {
    fn from(message: IncomingMessage) -> Self {
        let head = EventHead::from_properties(message.properties);
        Self {
            context: Context::of(Invocation {
                service: None,
                method: None,
                times: Times::default(),
                span: MessageSpan::default(),
                message: MessageInfo {
                    exchange: message.exchange,
                    routing_key: message.routing_key,
                    kind: head.kind,
                    content_type: head.content_type,
                    message_id: head.message_id,
                    timestamp: head.published_at,
                    app_id: head.publisher,
                    headers: head.headers,
                    trace: head.trace,
                    redelivered: message.redelivered,
                    attempt: 1,
                },
                cancel: None,
                extensions: Extensions::default(),
            }),
            body: message.body,
        }
    }
}

impl From<RawJob> for RawEvent {
    fn from(job: RawJob) -> Self {
        Self {
            context: job.context,
            body: job.body,
        }
    }
}
