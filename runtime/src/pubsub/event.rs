//! What a subscription gives out: events, and word of those it could not give out.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::clock;
use crate::context::{Context, Invocation};
use crate::error::Error;
use crate::escape::Escaped;
use crate::queue::RawJob;
use crate::wire::envelope::EventHead;
use crate::wire::message::{Incoming, MessageInfo};
use crate::wire::value::{Table, Value};

/// An event as it arrived.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event<T> {
    /// What was published.
    pub payload: T,
    /// The context of its handler, with the facts of the message.
    pub(super) context: Context,
}

impl<T> Event<T> {
    fn info(&self) -> &MessageInfo {
        self.context.message()
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

    /// Its type, where the exchange carries several (AMQP's `type`).
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

    /// Whether the broker had delivered it before: another member of the group, or an earlier
    /// connection, may have seen it. Never set on a broadcast subscription.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.info().redelivered
    }

    /// Which attempt this is, from 1; events are tried again on shared and singleton
    /// subscriptions only.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.info().attempt
    }

    /// When it was published, by its publisher's clock and to the second, if it says so (AMQP's
    /// `timestamp`; Lepus' publishers do).
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        clock::from_unix_seconds(self.info().timestamp?)
    }

    /// Its identity, if its publisher gave it one (AMQP's `message_id`; Lepus' publishers do). A
    /// publish that was repeated has the same.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.info().message_id.as_deref()
    }

    /// The name of the program that published it, if it gave one (AMQP's `app_id`).
    #[must_use]
    pub fn publisher(&self) -> Option<&str> {
        self.info().app_id.as_deref()
    }

    /// The W3C trace headers that came along.
    #[must_use]
    pub fn trace(&self) -> &Table {
        &self.info().trace
    }

    /// The same event with another payload.
    #[must_use]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Event<U> {
        Event {
            payload: change(self.payload),
            context: self.context,
        }
    }
}

/// An event before it is decoded.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) context: Context,
    pub(super) body: Bytes,
}

impl Letter {
    pub(super) fn info(&self) -> &MessageInfo {
        self.context.message()
    }
}

impl From<Incoming> for Letter {
    fn from(message: Incoming) -> Self {
        let head = EventHead::from_properties(message.properties);
        Self {
            context: Context::new(Invocation {
                service: None,
                method: None,
                deadline: None,
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
            }),
            body: message.body,
        }
    }
}

impl From<RawJob> for Letter {
    fn from(job: RawJob) -> Self {
        Self {
            context: job.context,
            body: job.body,
        }
    }
}

/// What a subscription could not give out as an event. It goes on after each of these.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Missed {
    /// The reader was slow, and the oldest events that waited here were dropped.
    #[error("{events} events were dropped: the reader is slow")]
    Lagged {
        /// How many.
        events: u64,
    },
    /// The subscription was interrupted, and events published in between were not seen. What is
    /// published from here on is: it is bound again.
    #[error("events may have been missed in {:.3} s without a subscription", .0.away().as_secs_f64())]
    Gap(Gap),
    /// The broker refuses to let the subscription listen again after an interruption, for
    /// instance because the exchange is another one now. It is tried again; a gap follows once it
    /// worked.
    #[error("not subscribed at the moment, trying again")]
    Interrupted(#[source] Error),
    /// An event that does not decode.
    #[error("an event does not decode: {}", Escaped(.0.reason()))]
    Undecodable(Undecodable),
    /// An event of a type that is not looked for, where those are
    /// [surfaced](super::Unknown::Surface).
    #[error("an event of another type: {}", Escaped(.0.reason()))]
    UnknownType(Undecodable),
}

impl Missed {
    /// Whether events may have been lost: it lagged, or there was a gap.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Lagged { .. } | Self::Gap(_))
    }
}

/// A time without a subscription.
#[derive(Clone, Debug)]
pub struct Gap {
    pub(super) away: Duration,
    pub(super) reason: Option<Error>,
}

impl Gap {
    /// How long it lasted, from the moment when the loss was noticed: with a network that is
    /// silent, up to two heartbeats after it happened.
    #[must_use]
    pub fn away(&self) -> Duration {
        self.away
    }

    /// Why the subscription was lost; `None` when the broker cancelled it, for instance because
    /// its queue was deleted.
    #[must_use]
    pub fn reason(&self) -> Option<&Error> {
        self.reason.as_ref()
    }

    /// One gap for two in a row.
    pub(super) fn merge(&mut self, later: Self) {
        self.away += later.away;
        self.reason = later.reason;
    }
}

/// An event that could not be given out, as it came.
#[derive(Clone)]
pub struct Undecodable {
    pub(super) letter: Box<Letter>,
    pub(super) reason: String,
}

impl Undecodable {
    /// Why: what was expected and what was found.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Its payload's bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.letter.body
    }

    /// The routing key it was published with.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.letter.info().routing_key
    }

    /// Its type, if it names one (AMQP's `type`).
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        self.letter.info().kind.as_deref()
    }

    /// Its content type, if it names one.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.letter.info().content_type.as_deref()
    }

    /// The headers its publisher set.
    #[must_use]
    pub fn headers(&self) -> &Table {
        &self.letter.info().headers
    }
}

impl fmt::Debug for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undecodable")
            .field("reason", &self.reason)
            .field("key", &self.key())
            .field("bytes", &self.bytes().len())
            .finish_non_exhaustive()
    }
}
