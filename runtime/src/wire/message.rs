//! Messages: exchange, routing key, properties (AMQP's `basic` class) and body.

use bytes::Bytes;

use crate::wire::value::{Table, Value};

/// AMQP's basic properties, as far as Lepus reads or writes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Properties {
    pub(crate) content_type: Option<String>,
    pub(crate) headers: Table,
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
    /// The headers that are written as they were received.
    pub(crate) fn unchanged(&self) -> impl Iterator<Item = &WireHeader> {
        let headers = self.uncommon.iter().flat_map(|it| &it.wire_headers);
        headers.filter(|header| self.headers.get(&header.name) == Some(&header.value))
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
    pub(crate) trace: Table,
    pub(crate) redelivered: bool,
    /// 1 for the first attempt.
    pub(crate) attempt: u32,
}

/// A message that was received (`basic.deliver`, `basic.get-ok`).
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
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
