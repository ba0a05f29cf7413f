//! The error that travels: a gRPC status code and a message.

use std::fmt;
use std::str::FromStr;

use crate::escape::Escaped;

/// What went wrong on the other side, in gRPC's canonical codes.
///
/// On the wire it is the lower-snake-case name, in the reply's `rpc-status` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The operation was cancelled.
    Cancelled,
    /// No better code is known; also what an unknown code is read as.
    Unknown,
    /// The arguments do not decode, or make no sense whatever the system's state.
    InvalidArgument,
    /// The deadline passed before the handler was done.
    DeadlineExceeded,
    /// Something asked for was not found.
    NotFound,
    /// Something to be created is there already.
    AlreadyExists,
    /// The caller may not do this.
    PermissionDenied,
    /// A quota or a size limit is used up.
    ResourceExhausted,
    /// The system is not in the state that the operation needs.
    FailedPrecondition,
    /// The operation was aborted, mostly by a conflict.
    Aborted,
    /// Past the valid range.
    OutOfRange,
    /// The service has no such method.
    Unimplemented,
    /// The handler broke: a panic, or a reply that could not be encoded.
    Internal,
    /// The service cannot work now; a later try may succeed.
    Unavailable,
    /// Data was lost or corrupted.
    DataLoss,
    /// Who the caller is, is not known.
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
    /// The name on the wire, such as `invalid_argument`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        CODES
            .iter()
            .find(|(code, _)| *code == self)
            .map_or("unknown", |(_, name)| name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no status code.
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

/// A status a server answers with instead of a value: a [`Code`] and a message for people. Its
/// `Display` escapes the message's control characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {}", Escaped(.message))]
pub struct Status {
    code: Code,
    message: String,
}

impl Status {
    /// A status with its message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
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
}
