//! Public constructors of errors, for implementations of a client that do not call a broker.

use std::error::Error as StdError;

use super::Error;
use super::kind::ErrorKind;
use super::site::{Outcome, SiteNames};
use super::source::without_repetition;
use crate::wire::status::Status;

/// # Constructors
///
/// Lepus makes the errors of its own calls. These constructors are for code that stands in for Lepus, such as
/// a client in a test that fails on purpose, and for errors that a program passes on.
///
/// ```
/// use lepus::{CallError, Error, Outcome, Status, Code};
///
/// /// Decides whether a call is made again.
/// fn tries_again(error: &CallError) -> bool {
///     error.is_unroutable() || !error.may_have_executed() && error.is_timeout()
/// }
///
/// assert!(tries_again(&Error::unroutable().into()));
/// assert!(tries_again(&Error::timeout(Outcome::NotSent).into()));
/// assert!(!tries_again(&Error::timeout(Outcome::SentNoReply).into()));
/// assert!(!tries_again(&Status::new(Code::NotFound, "no such image").into()));
/// ```
impl Error {
    /// An error as of a call or publish whose deadline passed: [`is_timeout`](Self::is_timeout).
    #[must_use]
    pub fn timeout(outcome: Outcome) -> Self {
        Self::new(ErrorKind::Timeout).with_outcome(outcome)
    }

    /// An error as of a call whose connection was lost: [`is_disconnected`](Self::is_disconnected).
    #[must_use]
    pub fn disconnected(outcome: Outcome) -> Self {
        Self::new(ErrorKind::Disconnected).with_outcome(outcome)
    }

    /// An error as of a call or publish on a connection that the program closed:
    /// [`is_closed`](Self::is_closed).
    #[must_use]
    pub fn closed(outcome: Outcome) -> Self {
        Self::new(ErrorKind::Closed).with_outcome(outcome)
    }

    /// An error as of a message for which the broker has no queue: [`is_unroutable`](Self::is_unroutable).
    #[must_use]
    pub fn unroutable() -> Self {
        Self::new(ErrorKind::Unroutable).with_outcome(Outcome::Unroutable)
    }

    /// An error as of a call to a queue without a consumer: [`is_unserved`](Self::is_unserved).
    #[must_use]
    pub fn unserved() -> Self {
        Self::new(ErrorKind::Unserved).with_outcome(Outcome::NotSent)
    }

    /// An error as of a publish that the broker refused with `basic.nack`:
    /// [`is_rejected`](Self::is_rejected).
    #[must_use]
    pub fn rejected() -> Self {
        Self::new(ErrorKind::Rejected).with_outcome(Outcome::Rejected)
    }

    /// An error as of a publish without a confirm: [`is_unconfirmed`](Self::is_unconfirmed).
    #[must_use]
    pub fn unconfirmed() -> Self {
        Self::new(ErrorKind::Unconfirmed).with_outcome(Outcome::SentNoReply)
    }

    /// An error as of a message that the broker did not take because of an alarm, with the broker's reason:
    /// [`is_blocked`](Self::is_blocked).
    #[must_use]
    pub fn blocked(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Blocked(reason.into())).with_outcome(Outcome::NotSent)
    }

    /// An error as of a message over the limit of its connection, both in bytes:
    /// [`is_too_large`](Self::is_too_large).
    #[must_use]
    pub fn too_large(size: usize, limit: usize) -> Self {
        Self::new(ErrorKind::TooLarge { size, limit }).with_outcome(Outcome::NotSent)
    }

    /// An error as of arguments or a payload that cannot be encoded: [`is_encode`](Self::is_encode).
    #[must_use]
    pub fn encode(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let error = Self::new(ErrorKind::Encode).caused_by(cause);
        error.with_outcome(Outcome::NotSent)
    }

    /// An error as of a reply that cannot be decoded: [`is_decode`](Self::is_decode).
    #[must_use]
    pub fn decode(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let error = Self::new(ErrorKind::Decode).caused_by(cause);
        error.with_outcome(Outcome::Answered)
    }

    /// An error of a name, a header or a setting that is not valid: [`is_invalid`](Self::is_invalid). The
    /// text says which, and why.
    #[must_use]
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid(text.into()))
    }

    /// An error as of a message over which the broker closed the channel, with AMQP's reply code and text:
    /// [`amqp_code`](Self::amqp_code).
    #[must_use]
    pub fn refused(code: u16, text: impl Into<String>) -> Self {
        let text = text.into();
        Self::new(ErrorKind::Broker { code, text }).with_outcome(Outcome::Rejected)
    }

    /// Adds the names of the call to the text of the error: its service, its method and its queue.
    ///
    /// ```
    /// use lepus::{Error, Outcome};
    ///
    /// let error = Error::timeout(Outcome::SentNoReply).of_call("calculator", "divide", "calculator");
    /// assert_eq!(
    ///     error.to_string(),
    ///     "calculator.divide on queue `calculator`: timed out (sent, no reply)"
    /// );
    /// ```
    #[must_use]
    pub fn of_call(self, service: &str, method: &str, queue: &str) -> Self {
        let names = SiteNames {
            service: service.to_owned(),
            method: method.to_owned(),
            queue: queue.to_owned(),
        };
        self.with(|inner| inner.names = Some(names))
    }

    /// Sets the [`source`](StdError::source) of the error.
    ///
    /// ```
    /// use std::error::Error as _;
    /// use lepus::{Error, Outcome};
    ///
    /// let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    /// let error = Error::disconnected(Outcome::SentNoReply).caused_by(reset);
    /// assert!(error.source().is_some());
    /// ```
    #[must_use]
    pub fn caused_by(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        self.with(|inner| inner.source = without_repetition(&inner.kind, source))
    }

    fn with_outcome(self, outcome: Outcome) -> Self {
        self.with(|inner| inner.outcome = Some(outcome))
    }
}

/// The error of a call that the server answered with a status.
///
/// ```
/// use lepus::{Code, Error, Status};
///
/// let error = Error::from(Status::new(Code::Unavailable, "starting"));
/// assert_eq!(error.code(), Some(Code::Unavailable));
/// assert_eq!(error.to_string(), "unavailable: starting (answered)");
/// ```
impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::new(ErrorKind::Status(status)).with_outcome(Outcome::Answered)
    }
}
