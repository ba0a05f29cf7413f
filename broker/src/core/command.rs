//! What can happen to the broker, and what it wants done about it.

use std::sync::Arc;

use amq_protocol::protocol::AMQPClass;
use bytes::Bytes;

use crate::{
    exception::Exception,
    id::{ConnectionId, Name},
    message::Message,
    properties::Properties,
};

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Command {
    /// A client finished its handshake.
    Open(ConnectionId, Client),
    /// A method without content arrived.
    Method(ConnectionId, u16, AMQPClass),
    /// A whole message arrived.
    Publish(ConnectionId, u16, Publish),
    /// A command broke a rule that needs no state to see.
    Fail(ConnectionId, u16, Exception),
    /// Content worth so many bytes left for the client.
    Flushed(ConnectionId, usize),
    /// The connection is gone.
    Disconnected(ConnectionId),
    /// Time passed.
    Tick,
    /// Somebody outside of AMQP wants something.
    Operator(Operator),
}

/// What tests and operators do behind the clients' backs.
#[derive(Debug)]
pub(crate) enum Operator {
    DeleteQueue {
        vhost: Name,
        name: Name,
    },
    PurgeQueue {
        vhost: Name,
        name: Name,
    },
    /// Cancels the consumers of one queue, as a queue that fails over does.
    CancelConsumers {
        vhost: Name,
        queue: Name,
    },
    /// Takes the consumers of one queue off it without `basic.cancel`.
    ForgetConsumers {
        vhost: Name,
        queue: Name,
    },
    /// Cancels one consumer.
    CancelConsumer {
        connection: ConnectionId,
        channel: u16,
        tag: Name,
    },
    /// Closes a connection as `rabbitmqctl close_connection` does.
    Close(ConnectionId, Exception),
    WithholdConfirms(ConnectionId),
    ReleaseConfirms(ConnectionId),
    NackNext(ConnectionId, u32),
    /// Takes or gives back the permission to publish.
    DenyWrites(ConnectionId, bool),
    Block(ConnectionId, String),
    Unblock(ConnectionId),
}

/// Who connected.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) user: Name,
    pub(crate) vhost: Name,
    pub(crate) address: String,
    /// `connection_name` and `product` of the client's properties.
    pub(crate) name: Option<String>,
    pub(crate) product: Option<String>,
    pub(crate) supports_cancel_notify: bool,
    pub(crate) supports_blocked: bool,
    pub(crate) frame_max: usize,
    pub(crate) channel_max: u16,
    pub(crate) heartbeat: u16,
}

/// A `basic.publish` with its content.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) mandatory: bool,
    pub(crate) immediate: bool,
    pub(crate) properties: Properties,
    pub(crate) body: Bytes,
}

/// Something to be done for one connection, in the order given.
#[derive(Debug)]
pub(crate) struct Effect {
    pub(crate) connection: ConnectionId,
    pub(crate) action: Action,
}

#[derive(Debug)]
pub(crate) enum Action {
    /// Send a method without content.
    Send(u16, Box<AMQPClass>),
    /// Send a publisher confirm; those next to each other may be joined.
    Confirm {
        channel: u16,
        tag: u64,
        outcome: Outcome,
    },
    /// Send a message.
    Content(u16, Content),
    /// Send `connection.close` and wait for the answer.
    Close(Exception),
    /// Stop reading from the client, or go on.
    Pause,
    Resume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ack,
    Nack,
}

/// A message on its way to a client, and under which method.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) head: Head,
    pub(crate) message: Arc<Message>,
    /// How often a quorum queue took it back; sent as `x-delivery-count`.
    pub(crate) delivery_count: Option<u32>,
}

#[derive(Debug)]
pub(crate) enum Head {
    Deliver {
        consumer: Name,
        tag: u64,
        redelivered: bool,
    },
    GetOk {
        tag: u64,
        redelivered: bool,
        left: u32,
    },
    Return {
        code: u16,
        text: &'static str,
    },
}

impl Action {
    /// Roughly what it adds to the memory held for a client.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Action::Content(_, content) => content.message.size(),
            Action::Send(..) | Action::Close(_) => 256,
            Action::Confirm { .. } | Action::Pause | Action::Resume => 32,
        }
    }

    pub(crate) fn is_delivery(&self) -> bool {
        matches!(
            self,
            Action::Content(
                _,
                Content {
                    head: Head::Deliver { .. },
                    ..
                }
            )
        )
    }
}
