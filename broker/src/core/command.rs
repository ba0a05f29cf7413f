//! Commands to the core, and the effects that the core returns.

use std::sync::Arc;

use amq_protocol::protocol::AMQPClass;
use bytes::Bytes;

use crate::{
    exception::Exception,
    id::{ConnectionId, Name},
    message::Message,
    properties::Properties,
};

/// An input of the core.
#[derive(Debug)]
pub(crate) enum Command {
    /// A client has opened a virtual host (`connection.open`).
    Open(ConnectionId, Client),
    /// A method without content arrived.
    Method(ConnectionId, u16, AMQPClass),
    /// A `basic.publish` with its whole content arrived.
    Publish(ConnectionId, u16, Publish),
    /// The session has found an error of the client on this channel.
    Fail(ConnectionId, u16, Exception),
    /// Deliveries of this cost were written to the client's socket.
    Flushed(ConnectionId, usize),
    /// The connection has ended.
    Disconnected(ConnectionId),
    /// A timeout may be due.
    Tick,
    /// An operator's command.
    Operator(Operator),
}

/// A command of an operator or a test, which clients cannot give.
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
    /// Cancels the consumers of a queue (`basic.cancel`), as when its leader moves to another node.
    CancelConsumers {
        vhost: Name,
        queue: Name,
    },
    /// Removes the consumers of a queue without `basic.cancel`.
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
    /// Denies or grants the permission to publish.
    DenyWrites(ConnectionId, bool),
    /// Denies or grants the permission to declare queues.
    DenyQueues(ConnectionId, bool),
    Block(ConnectionId, String),
    Unblock(ConnectionId),
}

/// The properties of a client and of its connection.
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

/// An action of the core for one connection. Effects are carried out in their order.
#[derive(Debug)]
pub(crate) struct Effect {
    pub(crate) connection: ConnectionId,
    pub(crate) action: Action,
}

#[derive(Debug)]
pub(crate) enum Action {
    /// Send a method without content.
    Send(u16, Box<AMQPClass>),
    /// Send a publisher confirm. Adjacent confirms may be joined.
    Confirm {
        channel: u16,
        tag: u64,
        outcome: Outcome,
    },
    /// Send a message.
    Content(u16, Content),
    /// Send `connection.close` and wait for `close-ok`.
    Close(Exception),
    /// Stop reading from the client, or resume.
    Pause,
    Resume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ack,
    Nack,
}

/// A message for a client, and the method that it is sent with.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) head: Head,
    pub(crate) message: Arc<Message>,
    /// The number of times that a quorum queue has requeued the message (`x-delivery-count`).
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
    /// The approximate number of bytes that the action occupies until it is sent.
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
