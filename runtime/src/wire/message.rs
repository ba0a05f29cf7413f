//! Messages: exchange, routing key, properties (AMQP's `basic` class) and body.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::wire::trace_headers::TraceHeaders;
use crate::wire::value::{Table, Value};

/// AMQP's basic properties, as far as Lepus reads or writes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Properties {
    pub(crate) content_type: Option<String>,
    /// The headers, without those of the trace.
    pub(crate) headers: Table,
    /// The trace headers.
    pub(crate) trace: TraceHeaders,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    /// Bytes rather than text, so that a reply repeats it exactly, whatever a peer has written.
    pub(crate) correlation_id: Option<Vec<u8>>,
    pub(crate) reply_to: Option<String>,
    /// Milliseconds, as decimal text.
    pub(crate) expiration: Option<String>,
    pub(crate) message_id: Option<String>,
    /// Seconds since the Unix epoch.
    pub(crate) timestamp: Option<u64>,
    pub(crate) kind: Option<String>,
    pub(crate) app_id: Option<String>,
    /// Properties that most messages do not have. Boxed, so that futures which hold a message stay small.
    pub(crate) uncommon: Option<Box<Uncommon>>,
}

/// Properties that are kept only so that a copy of a message has them too.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Uncommon {
    pub(crate) content_encoding: Option<String>,
    /// The publisher's user name. The broker closes the channel (406) over a name that is not the
    /// connection's own.
    pub(crate) user_id: Option<String>,
    /// The headers whose type [`Value`] does not keep, as they were received.
    pub(crate) wire_headers: Vec<WireHeader>,
}

/// A header of a type that [`Value`] does not distinguish from another one, such as a decimal or a 32-bit
/// integer. It is written as it was received, unless its value was changed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WireHeader {
    pub(crate) name: String,
    pub(crate) value: Value,
    /// The type's letter and the value.
    pub(crate) bytes: Bytes,
}

impl Properties {
    /// The headers that are written as they were received, by their names.
    pub(crate) fn unchanged(&self) -> BTreeMap<&str, &WireHeader> {
        let headers = self.uncommon.iter().flat_map(|it| &it.wire_headers);
        let value = |name: &str| {
            self.headers
                .get(name)
                .or_else(|| self.trace.others().get(name))
        };
        let unchanged = headers.filter(|header| value(&header.name) == Some(&header.value));
        unchanged
            .map(|header| (header.name.as_str(), header))
            .collect()
    }

    /// All headers, those of the trace included.
    pub(crate) fn all_headers(&self) -> Table {
        let mut headers = self.headers.clone();
        self.trace.clone().move_into(&mut headers);
        headers
    }
}

/// A message that is to be published (`basic.publish`).
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    /// Empty for the default exchange, which routes to the queue that the routing key names.
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    /// Whether the broker returns the message if no queue takes it (`basic.return`).
    pub(crate) mandatory: bool,
    pub(crate) properties: Properties,
    pub(crate) body: Bytes,
}

/// The facts of a received message that its handler can read, without the payload.
#[derive(Clone, Debug, Default)]
pub(crate) struct MessageInfo {
    /// The exchange and the routing key that it was first published to.
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    /// AMQP's `type`: the task of a job, the type of an event.
    pub(crate) kind: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) message_id: Option<String>,
    /// Seconds since the Unix epoch.
    pub(crate) timestamp: Option<u64>,
    /// The name of the program that sent it.
    pub(crate) app_id: Option<String>,
    /// Those that its sender set.
    pub(crate) headers: Table,
    /// The W3C trace headers.
    pub(crate) trace: TraceHeaders,
    pub(crate) redelivered: bool,
    /// 1 for the first attempt.
    pub(crate) attempt: u32,
}

/// The time at which a message was sent, as it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SentAt {
    /// Milliseconds since the Unix epoch.
    Millis(u64),
    /// Seconds since the Unix epoch.
    Seconds(u64),
}

impl SentAt {
    /// The time until `now`, in milliseconds since the Unix epoch; zero if that is earlier, because clocks
    /// differ. If the message tells seconds, both times are rounded down to them, which is right on average.
    pub(crate) fn elapsed(self, now: u64) -> Duration {
        match self {
            Self::Millis(sent) => Duration::from_millis(now.saturating_sub(sent)),
            Self::Seconds(sent) => Duration::from_secs((now / 1000).saturating_sub(sent)),
        }
    }
}

/// Implements accessors of a received message, so that they have the same names and docs on all types.
///
/// The type needs a method `info(&self) -> &MessageInfo`; for `bytes`, a field `body: Bytes`.
macro_rules! message_accessors {
    ($($name:ident)*) => {
        $($crate::wire::message::message_accessors!(@$name);)*
    };
    (@bytes) => {
        /// The bytes of the payload, as they were received.
        #[must_use]
        pub fn bytes(&self) -> &[u8] {
            &self.body
        }
    };
    (@key) => {
        /// The routing key that the message was published with. For a job that was pushed to its
        /// queue, it is the queue's name on the broker.
        #[must_use]
        pub fn key(&self) -> &str {
            &self.info().routing_key
        }
    };
    (@exchange) => {
        /// The exchange that the message was published to, by its name on the broker. Empty for a
        /// job that was pushed to its queue.
        #[must_use]
        pub fn exchange(&self) -> &str {
            &self.info().exchange
        }
    };
    (@content_type) => {
        /// The content type of the payload, if the message names one.
        #[must_use]
        pub fn content_type(&self) -> Option<&str> {
            self.info().content_type.as_deref()
        }
    };
    (@message_id) => {
        /// The identity of the message, if its sender set one (AMQP's `message_id`; senders that use
        /// Lepus do). It is the same for every attempt and every delivery, so that a handler can
        /// recognize a message that it has handled before.
        #[must_use]
        pub fn message_id(&self) -> Option<&str> {
            self.info().message_id.as_deref()
        }
    };
    (@timestamp) => {
        /// The time at which the message was first published, by the clock of its sender and to the
        /// second, if its sender set it (AMQP's `timestamp`; senders that use Lepus do).
        #[must_use]
        pub fn timestamp(&self) -> Option<::std::time::SystemTime> {
            $crate::clock::from_unix_seconds(self.info().timestamp?)
        }
    };
    (@app_id) => {
        /// The name of the program that sent the message, if it set one (AMQP's `app_id`).
        #[must_use]
        pub fn app_id(&self) -> Option<&str> {
            self.info().app_id.as_deref()
        }
    };
    (@headers) => {
        /// The headers that the sender of the message set.
        #[must_use]
        pub fn headers(&self) -> &$crate::wire::value::Table {
            &self.info().headers
        }
    };
    (@header) => {
        /// One of the [headers](Self::headers).
        #[must_use]
        pub fn header(&self, name: &str) -> Option<&$crate::wire::value::Value> {
            self.info().headers.get(name)
        }
    };
    (@trace) => {
        /// The W3C trace headers of the message: `traceparent`, `tracestate`, `baggage`.
        #[must_use]
        pub fn trace(&self) -> &$crate::wire::value::Table {
            self.info().trace.as_table()
        }
    };
    (@redelivered) => {
        /// Whether the broker has delivered the message before: a handler may have seen it already,
        /// and may have run in part or to its end.
        #[must_use]
        pub fn redelivered(&self) -> bool {
            self.info().redelivered
        }
    };
    (@attempt) => {
        /// The number of this attempt, from 1. Deliveries that were not settled, for instance because
        /// the handler's process crashed, count as attempts as far as the broker counts them.
        #[must_use]
        pub fn attempt(&self) -> u32 {
            self.info().attempt
        }
    };
}
pub(crate) use message_accessors;

/// A message that was received (`basic.deliver`, `basic.get-ok`).
#[derive(Clone, Debug)]
pub(crate) struct IncomingMessage {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    /// Whether the broker may have delivered it before.
    pub(crate) redelivered: bool,
    pub(crate) properties: Properties,
    /// The size of the body in bytes, even if the body was left out because it is larger than the limit.
    /// `u32::MAX` if it does not fit.
    pub(crate) size: u32,
    pub(crate) body: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_never_waited_for_less_than_no_time() {
        let elapsed = |sent: SentAt| sent.elapsed(12_345).as_millis();
        assert_eq!(elapsed(SentAt::Millis(12_300)), 45);
        assert_eq!(elapsed(SentAt::Millis(12_400)), 0);
        assert_eq!(elapsed(SentAt::Seconds(10)), 2000);
        assert_eq!(elapsed(SentAt::Seconds(12)), 0);
        assert_eq!(elapsed(SentAt::Seconds(13)), 0);
    }
}
