//! Errors of calls: the method's own error, or the failure of the call.

use std::error::Error as StdError;
use std::fmt;

use super::Error;
use crate::wire::status::Code;

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

    /// See [`Error::is_disconnected`].
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.rpc().is_some_and(Error::is_disconnected)
    }

    /// Whether the handler may have run: true for the method's own error, otherwise see
    /// [`Error::may_have_executed`].
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        self.rpc().is_none_or(Error::may_have_executed)
    }

    /// The code of the status that the server replied with, if it did.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.rpc().and_then(Error::code)
    }
}

impl<E> From<Error> for CallError<E> {
    fn from(error: Error) -> Self {
        Self::Rpc(error)
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
