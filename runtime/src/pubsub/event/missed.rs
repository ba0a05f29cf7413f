//! Reports of events that a subscription did not deliver.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::received::RawEvent;
use crate::clock;
use crate::error::Error;
use crate::escape::Escaped;
use crate::wire::value::{Table, Value};

/// A report of events that a subscription did not deliver, or may not have. The subscription
/// continues after it.
///
/// A stream has these reports among its items. A handler's subscription gives them to
/// [`on_missed`](crate::events::Subscribe::on_missed).
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// use lepus::{Topic, events::Missed};
///
/// let logs = Topic::<String>::new("logs");
/// let mut lines = logs.subscribe(&connection).bind("#").stream().await?;
/// while let Some(next) = lines.next().await {
///     match next {
///         Ok(event) => println!("{}: {}", event.key(), event.payload()),
///         Err(Missed::Lagged { events }) => println!("{events} lines were dropped here"),
///         Err(Missed::Gap(gap)) => println!("no line was received for {:?}", gap.away()),
///         Err(Missed::Undecodable(event)) => {
///             println!("{} of {:?}: {}", event.key(), event.app_id(), event.reason());
///         }
///         Err(missed) => println!("{missed}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Missed {
    /// The reader was too slow, and the oldest events in its buffer were dropped.
    #[error("{events} events were dropped: the reader is slow")]
    Lagged {
        /// The number of events that were dropped.
        events: u64,
    },
    /// The subscription was interrupted, and events published in the meantime were not received.
    /// It is bound again now, so events published from here on are.
    #[error("events may have been missed in {:.3} s without a subscription", .0.away().as_secs_f64())]
    Gap(Gap),
    /// The broker refuses to set up the subscription again after an interruption, for instance
    /// because the exchange was declared anew with other properties. Lepus keeps trying; a
    /// [`Gap`](Self::Gap) follows when it has succeeded.
    #[error("not subscribed at the moment, trying again")]
    Interrupted(#[source] Error),
    /// An event could not be decoded.
    #[error("an event does not decode: {}", Escaped(.0.reason()))]
    Undecodable(Undecodable),
    /// An event had a type that the subscription does not know, and such events are
    /// [surfaced](super::UnknownTypes::Surface).
    #[error("an event of another type: {}", Escaped(.0.reason()))]
    UnknownType(Undecodable),
}

impl Missed {
    /// Whether events may have been lost: the reader lagged, or there was a gap.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Lagged { .. } | Self::Gap(_))
    }
}

/// A time in which a subscription received nothing.
#[derive(Clone, Debug)]
pub struct Gap {
    pub(in crate::pubsub) away: Duration,
    pub(in crate::pubsub) reason: Option<Error>,
}

impl Gap {
    /// The length of the gap, from the moment when the loss was noticed. If the network fails
    /// without a sign, that is up to two heartbeats after it happened.
    #[must_use]
    pub fn away(&self) -> Duration {
        self.away
    }

    /// The error that ended the subscription. `None` if the broker cancelled it, for instance
    /// because its queue was deleted, or if its exchange did not exist any more.
    #[must_use]
    pub fn reason(&self) -> Option<&Error> {
        self.reason.as_ref()
    }

    /// Makes one gap of two that follow each other.
    pub(in crate::pubsub) fn merge(&mut self, later: Self) {
        self.away += later.away;
        self.reason = later.reason;
    }
}

/// An event that could not be decoded, as it was received.
#[derive(Clone)]
pub struct Undecodable {
    pub(super) event: Box<RawEvent>,
    pub(super) reason: String,
}

impl Undecodable {
    /// The reason: what was expected, and what was found.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The bytes of the payload.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.event.body
    }

    /// The routing key it was published with.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.event.info().routing_key
    }

    /// The exchange it was published to, by its name on the broker.
    #[must_use]
    pub fn exchange(&self) -> &str {
        &self.event.info().exchange
    }

    /// The event's type, if it names one (AMQP's `type`).
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        self.event.info().kind.as_deref()
    }

    /// The content type, if the event names one.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.event.info().content_type.as_deref()
    }

    /// The headers its publisher set.
    #[must_use]
    pub fn headers(&self) -> &Table {
        &self.event.info().headers
    }

    /// One of the headers.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.event.info().headers.get(name)
    }

    /// The time at which it was published, by its publisher's clock and to the second, if the
    /// publisher set it (AMQP's `timestamp`).
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        clock::from_unix_seconds(self.event.info().timestamp?)
    }

    /// The identity of the event, if the publisher set one (AMQP's `message_id`).
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.event.info().message_id.as_deref()
    }

    /// The name of the program that published it, if that set one (AMQP's `app_id`).
    #[must_use]
    pub fn app_id(&self) -> Option<&str> {
        self.event.info().app_id.as_deref()
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
