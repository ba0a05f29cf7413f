//! Questions about an error: its kind, its outcome and its details.

use std::time::Duration;

use super::Error;
use super::kind::{ConnectFault, ErrorKind};
use super::site::Outcome;
use crate::wire::reply_code;
use crate::wire::status::{Code, Status};

impl Error {
    /// The outcome of the call or publish, if the error is about one.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.inner.outcome
    }

    /// The time from the start of the call or publish to its failure, if the error is about one.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.inner.elapsed
    }

    /// Whether the request may have been executed although the call failed: it was sent and no reply came,
    /// or the handler failed.
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        match (self.outcome(), &self.inner.kind) {
            (Some(Outcome::Answered), ErrorKind::Status(status)) => {
                !matches!(status.code(), Code::Unimplemented | Code::InvalidArgument)
            }
            (Some(Outcome::SentNoReply | Outcome::Answered), _) => true,
            (Some(_), _) => false,
            (None, kind) => matches!(kind, ErrorKind::Unconfirmed),
        }
    }

    /// The deadline passed: no reply or confirm came in time, the message could not be sent in time, the
    /// server replied `deadline_exceeded`, or a connection could not be opened in time (an error that is
    /// [`is_connect`](Self::is_connect) as well).
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Timeout | ErrorKind::Connect(ConnectFault::Timeout(_))
        ) || self.code() == Some(Code::DeadlineExceeded)
    }

    /// The broker has no queue for the message: no server has declared the service's queue, or no
    /// subscription takes the event.
    #[must_use]
    pub fn is_unroutable(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Unroutable)
    }

    /// No server consumed the queue of a call that was to [fail fast](crate::rpc::ClientBuilder::fail_fast): the queue
    /// exists, but has no consumer. The request was not sent. The text names the queue.
    #[must_use]
    pub fn is_unserved(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Unserved)
    }

    /// The connection was lost before the reply came. Lepus opens it again. A connection that the program
    /// closed is [`is_closed`](Self::is_closed), and a job or an event whose confirm did not come is
    /// [`is_unconfirmed`](Self::is_unconfirmed).
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Disconnected)
    }

    /// The program closed the connection with [`Connection::close`](crate::Connection::close), or the tokio
    /// runtime that it runs on has ended. It is not opened again.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Closed)
    }

    /// Whether the connection or the channel has ended, in whatever way.
    pub(crate) fn is_disconnected_or_closed(&self) -> bool {
        self.is_disconnected() || self.is_closed()
    }

    /// No connection to the broker could be opened. For a broker with several addresses, `Display` has the
    /// error of each, and the `is_*` methods apply to the attempt that got furthest.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Connect(_))
    }

    /// The broker refused the user or the password.
    #[must_use]
    pub fn is_bad_credentials(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Connect(ConnectFault::Credentials)
        )
    }

    /// The virtual host does not exist, or the user has no access to it.
    #[must_use]
    pub fn is_bad_virtual_host(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Connect(ConnectFault::VirtualHost)
        )
    }

    /// The TLS handshake failed: a certificate, a host name, or a port without TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Connect(ConnectFault::Tls))
    }

    /// The broker blocked the connection until the deadline, over a memory or disk alarm.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Blocked(_))
    }

    /// The broker refused the message (`basic.nack`), for instance because its queue is full.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Rejected)
    }

    /// A job, an event or a one-way call was published, and the connection or the channel was lost before
    /// its confirm: the broker may or may not have it.
    #[must_use]
    pub fn is_unconfirmed(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Unconfirmed)
    }

    /// The message is larger than the limit of this connection, and was not sent; or larger than the
    /// broker's limit (`max_message_size` of RabbitMQ), and the broker refused it.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::TooLarge { .. })
    }

    /// The arguments or the payload could not be encoded. Nothing was sent.
    #[must_use]
    pub fn is_encode(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Encode)
    }

    /// The reply or the payload could not be decoded.
    #[must_use]
    pub fn is_decode(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Decode)
    }

    /// A queue or exchange exists with other properties than those declared (AMQP's 406
    /// PRECONDITION_FAILED). The text names it, the argument and both values.
    #[must_use]
    pub fn is_mismatch(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Mismatch(_))
    }

    /// A setting or a name is not valid. Nothing was sent.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Invalid(_))
    }

    /// The status that the server replied with, if it did.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match &self.inner.kind {
            ErrorKind::Status(status) => Some(status),
            _ => None,
        }
    }

    /// The code of the status that the server replied with, if it did. [`grpc_code`](Self::grpc_code) gives
    /// every other error a code as well.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.status().map(Status::code)
    }

    /// AMQP's reply code, if the broker closed the channel or the connection: 403, 404, 405 and others.
    #[must_use]
    pub fn amqp_code(&self) -> Option<u16> {
        match &self.inner.kind {
            ErrorKind::Broker { code, .. } => Some(*code),
            ErrorKind::Mismatch(_) => Some(reply_code::PRECONDITION_FAILED),
            _ => None,
        }
    }
}
