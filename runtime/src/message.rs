//! A message as AMQP carries it: where it goes, its properties, its bytes.

use bytes::Bytes;

use crate::value::Table;

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
