//! A message as AMQP carries it: where it goes, its properties, its bytes.

use bytes::Bytes;

use crate::wire::value::{Table, Value};

/// AMQP's basic properties, as far as Lepus reads or writes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Properties {
    pub(crate) content_type: Option<String>,
    pub(crate) headers: Table,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    /// Bytes: it comes back as it is, whatever a peer has put into it.
    pub(crate) correlation_id: Option<Vec<u8>>,
    pub(crate) reply_to: Option<String>,
    /// Milliseconds, as text: what AMQP carries.
    pub(crate) expiration: Option<String>,
    pub(crate) message_id: Option<String>,
    /// Seconds since the Unix epoch.
    pub(crate) timestamp: Option<u64>,
    pub(crate) kind: Option<String>,
    pub(crate) app_id: Option<String>,
    /// What most messages do not have. Boxed, to keep the futures small that hold a message.
    pub(crate) uncommon: Option<Box<Uncommon>>,
}

/// What a message may have come with, and a copy of it keeps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Uncommon {
    pub(crate) content_encoding: Option<String>,
    /// The publisher's user name. The broker closes the channel (406) over any but the
    /// connection's own.
    pub(crate) user_id: Option<String>,
    /// Those of the headers, as they came, whose values do not say all of it.
    pub(crate) wire_headers: Vec<WireHeader>,
}

/// A header of a type that [`Value`] does not tell apart from another one: a decimal, a 32-bit
/// integer. It is written as it came for as long as it has the value that it came with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WireHeader {
    pub(crate) name: String,
    pub(crate) value: Value,
    /// The type's letter and the value.
    pub(crate) bytes: Bytes,
}

impl Properties {
    /// The headers that are written as they came.
    pub(crate) fn unchanged(&self) -> impl Iterator<Item = &WireHeader> {
        let headers = self.uncommon.iter().flat_map(|it| &it.wire_headers);
        headers.filter(|header| self.headers.get(&header.name) == Some(&header.value))
    }
}

/// A message on its way out.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    /// Empty: the default exchange, where the routing key is a queue's name.
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    /// Whether the broker gives the message back when no queue takes it.
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

/// A message that came in.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    /// Whether it was delivered before and not acknowledged.
    pub(crate) redelivered: bool,
    pub(crate) properties: Properties,
    /// The body's size in bytes, also where the body is left out because it is larger than is taken;
    /// `u32::MAX` stands for all larger ones.
    pub(crate) size: u32,
    pub(crate) body: Bytes,
}
