//! Errors at a gateway to another protocol: the equivalent gRPC code, and a text for clients that must not see
//! internals.

use super::Error;
use super::kind::ErrorKind;
use crate::escape::Escaped;
use crate::wire::reply_code;
use crate::wire::status::Code;

impl Error {
    /// The equivalent gRPC status code of any error, for a gateway to gRPC or, with [`Code::http`], to HTTP. It
    /// differs from [`code`](Self::code), which is that of the status that the server replied with.
    ///
    /// | error | code |
    /// |---|---|
    /// | [`status`](Self::status) is `Some` | its code |
    /// | [`is_connect`](Self::is_connect), [`is_disconnected`](Self::is_disconnected), [`is_closed`](Self::is_closed), [`is_unconfirmed`](Self::is_unconfirmed), [`is_blocked`](Self::is_blocked), [`is_unroutable`](Self::is_unroutable), [`is_unserved`](Self::is_unserved) | `unavailable` |
    /// | [`is_timeout`](Self::is_timeout) | `deadline_exceeded` |
    /// | [`is_rejected`](Self::is_rejected), [`is_too_large`](Self::is_too_large) | `resource_exhausted` |
    /// | [`is_invalid`](Self::is_invalid) | `invalid_argument` |
    /// | [`is_encode`](Self::is_encode), [`is_decode`](Self::is_decode), [`is_mismatch`](Self::is_mismatch), [`amqp_code`](Self::amqp_code) is `Some` | `internal`; 320 (the connection was closed by an operator) `unavailable` |
    ///
    /// ```
    /// use lepus::{Code, Error, Outcome, Status};
    ///
    /// assert_eq!(Error::timeout(Outcome::NotSent).grpc_code(), Code::DeadlineExceeded);
    /// assert_eq!(Error::unroutable().grpc_code(), Code::Unavailable);
    /// assert_eq!(Error::unroutable().code(), None);
    /// assert_eq!(Error::from(Status::new(Code::NotFound, "")).grpc_code(), Code::NotFound);
    /// ```
    #[must_use]
    pub fn grpc_code(&self) -> Code {
        match self.kind() {
            ErrorKind::Status(status) => status.code(),
            ErrorKind::Timeout => Code::DeadlineExceeded,
            ErrorKind::Closed
            | ErrorKind::Disconnected
            | ErrorKind::Connect(_)
            | ErrorKind::Blocked(_)
            | ErrorKind::Unroutable
            | ErrorKind::Unserved
            | ErrorKind::Unconfirmed
            | ErrorKind::Broker {
                code: reply_code::CONNECTION_FORCED,
                ..
            } => Code::Unavailable,
            ErrorKind::Rejected | ErrorKind::TooLarge { .. } => Code::ResourceExhausted,
            ErrorKind::Invalid(_) => Code::InvalidArgument,
            ErrorKind::Encode
            | ErrorKind::Decode
            | ErrorKind::Mismatch(_)
            | ErrorKind::Broker { .. } => Code::Internal,
        }
    }

    /// A text that may be shown to a client outside of the system: without names of queues, addresses, texts
    /// of the broker and texts of panics. `Display` has all of them, for the log.
    ///
    /// The message of a status is shown as it is, because the method chose it for its caller, except for the
    /// codes `internal`, `unknown`, `data_loss`, `unimplemented` and `deadline_exceeded`: their messages tell
    /// of the implementation. Control characters are escaped.
    ///
    /// ```
    /// use lepus::{Code, Error, Status};
    ///
    /// let error = Error::from(Status::new(Code::NotFound, "nobody is called `Hare`"));
    /// assert_eq!(error.public_message(), "nobody is called `Hare`");
    /// let error = Error::from(Status::new(Code::Internal, "`divide` panicked: at line 7"));
    /// assert_eq!(error.public_message(), "internal error");
    /// ```
    #[must_use]
    pub fn public_message(&self) -> String {
        match self.kind() {
            ErrorKind::Status(status) if is_for_callers(status.code()) => {
                Escaped(status.message()).to_string()
            }
            ErrorKind::TooLarge { size, limit } => {
                format!("the message has {size} bytes, the limit is {limit}")
            }
            _ => generic_text(self.grpc_code()).to_owned(),
        }
    }
}

/// Whether the message of a status with this code is for the caller, and not for the operator of the service.
fn is_for_callers(code: Code) -> bool {
    !matches!(
        code,
        Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::Unimplemented
            | Code::DeadlineExceeded
    )
}

fn generic_text(code: Code) -> &'static str {
    match code {
        Code::DeadlineExceeded => "the deadline passed",
        Code::Unavailable => "the service is not available now",
        Code::ResourceExhausted => "the service takes no more messages now",
        Code::InvalidArgument => "the request is not valid",
        Code::Unimplemented => "not implemented",
        Code::Unknown => "unknown error",
        _ => "internal error",
    }
}
