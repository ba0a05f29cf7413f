//! Kinds of errors, and their texts.

use std::fmt;
use std::time::Duration;

use crate::wire::status::Status;

/// The kind of an error, which its `is_*` methods ask for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ErrorKind {
    /// The program closed the connection.
    Closed,
    /// The connection to the broker was lost.
    Disconnected,
    /// No connection to the broker could be opened.
    Connect(ConnectFault),
    /// The broker has blocked the connection (`connection.blocked`, a memory or disk alarm), with its reason.
    Blocked(String),
    Timeout,
    Unroutable,
    /// The queue of a call has no consumer.
    Unserved,
    /// The broker answered a publish with `basic.nack`.
    Rejected,
    /// The connection was lost between a publish and its confirm, or the broker closed the channel over
    /// another message.
    Unconfirmed,
    TooLarge {
        size: usize,
        limit: usize,
    },
    Encode,
    Decode,
    /// The server replied with a status.
    Status(Status),
    /// A queue or exchange exists with other properties than those declared.
    Mismatch(Mismatch),
    /// The broker closed the channel or the connection with this reply code and text.
    Broker {
        code: u16,
        text: String,
    },
    /// A setting or a name is not valid.
    Invalid(String),
}

/// The step at which a connection could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectFault {
    Address,
    Refused,
    Credentials,
    VirtualHost,
    Tls,
    Timeout(Duration),
    Protocol,
}

/// A queue or exchange that exists with another value than the one declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) entity: String,
    pub(crate) argument: String,
    pub(crate) ours: String,
    pub(crate) theirs: String,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection is closed"),
            Self::Disconnected => f.write_str("the connection to the broker was lost"),
            Self::Connect(fault) => fault.fmt(f),
            Self::Blocked(reason) => write!(f, "the broker takes no messages: {reason}"),
            Self::Timeout => f.write_str("timed out"),
            Self::Unroutable => f.write_str("the broker has no queue for it"),
            Self::Unserved => f.write_str("no server consumes the queue"),
            Self::Rejected => f.write_str("the broker refused the message"),
            Self::Unconfirmed => {
                f.write_str("the channel or the connection was lost before the confirm")
            }
            Self::TooLarge { size, limit } => {
                write!(f, "the message has {size} bytes, the limit is {limit}")
            }
            Self::Encode => f.write_str("the message could not be encoded"),
            Self::Decode => f.write_str("the message could not be decoded"),
            Self::Status(status) => status.fmt(f),
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::Broker { code, text } => write!(f, "the broker answered {code}: {text}"),
            Self::Invalid(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for ConnectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("the broker's host name does not resolve"),
            Self::Refused => f.write_str("no connection to the broker"),
            Self::Credentials => f.write_str("the broker refuses this user or password"),
            Self::VirtualHost => {
                f.write_str("the virtual host does not exist, or this user may not enter it")
            }
            Self::Tls => f.write_str("the TLS handshake with the broker failed"),
            Self::Timeout(limit) => {
                write!(
                    f,
                    "the broker did not finish the handshake within {limit:?}"
                )
            }
            Self::Protocol => f.write_str("the other side does not speak AMQP 0-9-1 as expected"),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            entity,
            argument,
            ours,
            theirs,
        } = self;
        write!(
            f,
            "{entity} exists with `{argument}` = {theirs}, declared here with {ours}"
        )
    }
}
