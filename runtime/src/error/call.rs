//! Errors of calls: the method's own error, or the failure of the call.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use super::Error;
use super::site::Outcome;
use crate::escape::Escaped;
use crate::wire::status::{Code, Status};

/// The error of a method that has no error of its own. It has no values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {}

impl fmt::Display for Never {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl StdError for Never {}

impl<'de> serde::Deserialize<'de> for Never {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom(
            "the method has no error of its own",
        ))
    }
}

/// The error of a call: the method's own error, or the failure of the call.
///
/// The `is_*` methods ask about the failure of the call, and are false for the method's own error. The table
/// in the documentation of [`Error`] tells what each means.
///
/// ```
/// # #[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
/// # #[error("divided by zero")]
/// # struct DivideByZero;
/// # #[lepus::service]
/// # trait Calculator {
/// #     async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero>;
/// # }
/// # struct Pocket;
/// # impl Calculator for Pocket {
/// #     async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero> {
/// #         dividend.checked_div(divisor).ok_or(DivideByZero)
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use lepus::CallError;
///
/// let calculator = CalculatorClient::local(Pocket);
/// match calculator.divide(1, 0).await {
///     Ok(quotient) => println!("{quotient}"),
///     Err(CallError::Service(DivideByZero)) => println!("the method's own error"),
///     Err(error) if error.is_unroutable() => println!("no server has declared the queue"),
///     Err(error) if error.may_have_executed() => println!("perhaps divided: {error}"),
///     Err(error) => println!("not divided: {error}"),
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub enum CallError<E = Never> {
    /// The method returned `Err` with its own error.
    Service(E),
    /// The call failed. The error tells whether the request may have run.
    Rpc(Error),
}

impl<E> CallError<E> {
    /// The error of the call itself, if it is one.
    #[must_use]
    pub fn rpc(&self) -> Option<&Error> {
        match self {
            Self::Service(_) => None,
            Self::Rpc(error) => Some(error),
        }
    }

    /// The method's own error, if it is one.
    #[must_use]
    pub fn service(&self) -> Option<&E> {
        match self {
            Self::Service(error) => Some(error),
            Self::Rpc(_) => None,
        }
    }

    /// See [`Error::is_timeout`].
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.rpc().is_some_and(Error::is_timeout)
    }

    /// See [`Error::is_unroutable`].
    #[must_use]
    pub fn is_unroutable(&self) -> bool {
        self.rpc().is_some_and(Error::is_unroutable)
    }

    /// See [`Error::is_unserved`].
    #[must_use]
    pub fn is_unserved(&self) -> bool {
        self.rpc().is_some_and(Error::is_unserved)
    }

    /// See [`Error::is_disconnected`].
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.rpc().is_some_and(Error::is_disconnected)
    }

    /// See [`Error::is_closed`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.rpc().is_some_and(Error::is_closed)
    }

    /// See [`Error::is_unconfirmed`]: only of a one-way call.
    #[must_use]
    pub fn is_unconfirmed(&self) -> bool {
        self.rpc().is_some_and(Error::is_unconfirmed)
    }

    /// See [`Error::is_rejected`]: only of a one-way call, and of one that [fails
    /// fast](crate::rpc::ClientBuilder::fail_fast).
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        self.rpc().is_some_and(Error::is_rejected)
    }

    /// See [`Error::is_blocked`].
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.rpc().is_some_and(Error::is_blocked)
    }

    /// See [`Error::is_too_large`].
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.rpc().is_some_and(Error::is_too_large)
    }

    /// See [`Error::is_encode`].
    #[must_use]
    pub fn is_encode(&self) -> bool {
        self.rpc().is_some_and(Error::is_encode)
    }

    /// See [`Error::is_decode`].
    #[must_use]
    pub fn is_decode(&self) -> bool {
        self.rpc().is_some_and(Error::is_decode)
    }

    /// See [`Error::is_invalid`].
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.rpc().is_some_and(Error::is_invalid)
    }

    /// Whether the handler may have run: true for the method's own error, otherwise see
    /// [`Error::may_have_executed`].
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        self.rpc().is_none_or(Error::may_have_executed)
    }

    /// The outcome of the request: [`Outcome::Answered`] for the method's own error, otherwise see
    /// [`Error::outcome`].
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Service(_) => Some(Outcome::Answered),
            Self::Rpc(error) => error.outcome(),
        }
    }

    /// See [`Error::elapsed`]. `None` for the method's own error.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.rpc().and_then(Error::elapsed)
    }

    /// The status that the server replied with, if it did.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        self.rpc().and_then(Error::status)
    }

    /// The code of the status that the server replied with, if it did.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.rpc().and_then(Error::code)
    }

    /// See [`Error::amqp_code`].
    #[must_use]
    pub fn amqp_code(&self) -> Option<u16> {
        self.rpc().and_then(Error::amqp_code)
    }
}

impl<E> CallError<E> {
    /// The equivalent gRPC status code: that of the failure of the call ([`Error::grpc_code`]), and `unknown`
    /// for the method's own error, as gRPC has it for an error of an application.
    #[must_use]
    pub fn grpc_code(&self) -> Code {
        self.rpc().map_or(Code::Unknown, Error::grpc_code)
    }
}

impl<E: fmt::Display> CallError<E> {
    /// A text that may be shown to a client outside of the system: that of the method's own error, otherwise
    /// [`Error::public_message`].
    #[must_use]
    pub fn public_message(&self) -> String {
        match self {
            Self::Service(error) => Escaped(error).to_string(),
            Self::Rpc(error) => error.public_message(),
        }
    }
}

impl<E> From<Error> for CallError<E> {
    fn from(error: Error) -> Self {
        Self::Rpc(error)
    }
}

/// The error of a call that the server answered with a status, as [`Error::from`] makes it.
///
/// ```
/// use lepus::{CallError, Code, Status};
///
/// let error: CallError = Status::new(Code::NotFound, "no such image").into();
/// assert_eq!(error.code(), Some(Code::NotFound));
/// ```
impl<E> From<Status> for CallError<E> {
    fn from(status: Status) -> Self {
        Self::Rpc(status.into())
    }
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(error) => error.fmt(f),
            Self::Rpc(error) => error.fmt(f),
        }
    }
}

impl<E: StdError + 'static> StdError for CallError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Service(error) => error.source(),
            Self::Rpc(error) => error.source(),
        }
    }
}
