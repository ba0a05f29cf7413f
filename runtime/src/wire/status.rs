//! Statuses: the error that a server replies with, a gRPC status code and a message.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::escape::Escaped;

/// The code of a [`Status`], with the meaning of gRPC's canonical codes.
///
/// On the wire it is its name in lower snake case, in the reply's `rpc-status` header.
///
/// ```
/// use lepus::Code;
///
/// assert_eq!(Code::InvalidArgument.to_string(), "invalid_argument");
/// assert_eq!("not_found".parse(), Ok(Code::NotFound));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The operation was cancelled.
    Cancelled,
    /// An unknown error. A code on the wire that is not known is decoded as this one.
    Unknown,
    /// The arguments do not decode, or are not valid in any state of the system.
    InvalidArgument,
    /// The deadline passed before the handler returned.
    DeadlineExceeded,
    /// An entity that was asked for does not exist.
    NotFound,
    /// An entity that was to be created exists.
    AlreadyExists,
    /// The caller has no permission for this operation.
    PermissionDenied,
    /// A quota or a size limit is used up.
    ResourceExhausted,
    /// The system is not in the state that the operation requires.
    FailedPrecondition,
    /// The operation was aborted, for instance by a conflict.
    Aborted,
    /// A value is outside of the valid range.
    OutOfRange,
    /// The service has no such method.
    Unimplemented,
    /// The handler panicked, or its reply could not be encoded.
    Internal,
    /// The service is not available now. A later attempt may succeed.
    Unavailable,
    /// Data was lost or corrupted.
    DataLoss,
    /// The caller is not authenticated.
    Unauthenticated,
}

const CODES: [(Code, &str); 16] = [
    (Code::Cancelled, "cancelled"),
    (Code::Unknown, "unknown"),
    (Code::InvalidArgument, "invalid_argument"),
    (Code::DeadlineExceeded, "deadline_exceeded"),
    (Code::NotFound, "not_found"),
    (Code::AlreadyExists, "already_exists"),
    (Code::PermissionDenied, "permission_denied"),
    (Code::ResourceExhausted, "resource_exhausted"),
    (Code::FailedPrecondition, "failed_precondition"),
    (Code::Aborted, "aborted"),
    (Code::OutOfRange, "out_of_range"),
    (Code::Unimplemented, "unimplemented"),
    (Code::Internal, "internal"),
    (Code::Unavailable, "unavailable"),
    (Code::DataLoss, "data_loss"),
    (Code::Unauthenticated, "unauthenticated"),
];

impl Code {
    /// All codes, in the order of their discriminants.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        CODES.into_iter().map(|(code, _)| code)
    }

    /// The name on the wire, such as `invalid_argument`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        CODES
            .iter()
            .find(|(code, _)| *code == self)
            .map_or("unknown", |(_, name)| name)
    }

    /// The HTTP status code that corresponds to this one, by the mapping of `google.rpc.Code`: for instance
    /// 404 for [`NotFound`](Self::NotFound) and 504 for [`DeadlineExceeded`](Self::DeadlineExceeded).
    ///
    /// ```
    /// use lepus::{CallError, Code, Error, Outcome};
    ///
    /// // The response of an HTTP gateway to a call that failed.
    /// fn response(error: &CallError) -> (u16, String) {
    ///     (error.grpc_code().http(), error.public_message())
    /// }
    ///
    /// let timeout = Error::timeout(Outcome::SentNoReply).into();
    /// assert_eq!(response(&timeout), (504, "the deadline passed".to_owned()));
    /// assert_eq!(Code::Unavailable.http(), 503);
    /// ```
    #[must_use]
    pub fn http(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Aborted => 409,
            Self::ResourceExhausted => 429,
            Self::Cancelled => 499,
            Self::Unknown | Self::Internal | Self::DataLoss => 500,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error of parsing a text that is not a status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of gRPC's status codes in lower snake case")]
pub struct UnknownCode;

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        CODES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(code, _)| *code)
            .ok_or(UnknownCode)
    }
}

/// The status that a server replies with instead of a value: a [`Code`] and a message for people. `Display`
/// escapes control characters in the message.
///
/// A method that returns `Result<T, Status>` chooses the status. Its caller gets a
/// [`CallError::Rpc`](crate::CallError) with this [status](crate::Error::status); the message is cut to
/// 1024 bytes. A status with the code `invalid_argument` or `unimplemented` tells that nothing was done
/// ([`may_have_executed`](crate::Error::may_have_executed) is false).
///
/// Besides the message for people, it may have two parts for programs:
/// [`retry_after`](Self::with_retry_after), the time until another attempt makes sense, and
/// [`details`](Self::with_details), bytes whose meaning the service and its callers have agreed on.
///
/// ```
/// use lepus::{Code, Status};
///
/// #[lepus::service]
/// trait Directory {
///     async fn number(&self, name: String) -> Result<u32, Status>;
/// }
///
/// struct Empty;
///
/// impl Directory for Empty {
///     async fn number(&self, name: String) -> Result<u32, Status> {
///         Err(Status::new(Code::NotFound, format!("nobody is called `{name}`")))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = DirectoryClient::local(Empty).number("Hare".to_owned()).await.unwrap_err();
/// assert_eq!(error.code(), Some(Code::NotFound));
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {}", Escaped(.message))]
pub struct Status {
    code: Code,
    message: Box<str>,
    /// Boxed, because few statuses have it, and each reply has room for a status.
    extra: Option<Box<StatusExtra>>,
}

/// The parts of a status that few statuses have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct StatusExtra {
    retry_after: Option<Duration>,
    details: Box<[u8]>,
}

/// The most bytes of details. Together with a message of the greatest length, and with the other properties
/// of a reply, they fit into the smallest frame that AMQP allows, 4096 bytes.
pub(crate) const MAX_DETAILS: usize = 2048;

impl Status {
    /// A status with its message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self {
            code,
            message: message.into(),
            extra: None,
        }
    }

    /// Sets the time after which the caller may try again, counted from the reply. It is a hint: nothing
    /// waits or retries because of it. It is sent in whole milliseconds, rounded up, and at most 2³² of them
    /// (49 days).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use lepus::{Code, Status};
    ///
    /// let status = Status::new(Code::Unavailable, "the store restarts")
    ///     .with_retry_after(Duration::from_secs(2))
    ///     .with_details(b"store-7");
    /// assert_eq!(status.retry_after(), Some(Duration::from_secs(2)));
    /// assert_eq!(status.details(), b"store-7");
    /// ```
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.extra.get_or_insert_default().retry_after = Some(delay);
        self
    }

    /// Sets the details: bytes for programs, in any encoding that the service and its callers have agreed on.
    ///
    /// There may be 2048 bytes. Longer details are left out, and a warning is logged, because the reply has
    /// to fit into one frame; an error that needs more room is better the method's own.
    #[must_use]
    pub fn with_details(mut self, details: impl AsRef<[u8]>) -> Self {
        let details = details.as_ref();
        let size = details.len();
        if size > MAX_DETAILS {
            let code = self.code.as_str();
            tracing::warn!(
                code,
                size,
                limit = MAX_DETAILS,
                "the details of a status are too long, left out"
            );
        } else {
            self.extra.get_or_insert_default().details = details.into();
        }
        self
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The time after which the caller may try again, if the server knows it. The
    /// [`RateLimit`](crate::middleware::RateLimit) sets it.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.extra.as_ref()?.retry_after
    }

    /// The details; empty if there are none.
    #[must_use]
    pub fn details(&self) -> &[u8] {
        match &self.extra {
            Some(extra) => &extra.details,
            None => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for (code, name) in CODES {
            assert_eq!(code.as_str(), name);
            assert_eq!(name.parse(), Ok(code));
        }
        assert_eq!("OK".parse::<Code>(), Err(UnknownCode));
    }

    #[test]
    fn details_that_are_too_long_are_left_out() {
        let status = Status::new(Code::Aborted, "conflict");
        assert_eq!((status.retry_after(), status.details()), (None, &[][..]));
        let most = status.with_details(vec![7; MAX_DETAILS]);
        assert_eq!(most.details(), [7; MAX_DETAILS]);
        let status = Status::new(Code::Aborted, "conflict").with_retry_after(Duration::ZERO);
        let status = status.with_details(vec![7; MAX_DETAILS + 1]);
        assert_eq!(status.details(), b"");
        assert_eq!(status.retry_after(), Some(Duration::ZERO));
    }

    /// Each reply has room for a status, and futures hold replies.
    #[test]
    fn a_status_stays_small() {
        assert!(size_of::<Status>() <= 32);
    }
}
