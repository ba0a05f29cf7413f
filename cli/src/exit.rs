//! Exit codes.

use std::process::ExitCode;

use lepus::Code;

/// The code of a status is gRPC's, above the codes that programs and shells use.
const STATUS: u8 = 64;

/// The way the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done. Of a check: all is well.
    Ok,
    /// 1: the arguments, or a file that they name, are not valid.
    Usage,
    /// 2: the broker cannot be connected to.
    Connect,
    /// 3: the method returned its own error, which is on stdout.
    OwnError,
    /// 4: nobody serves what was asked for.
    Unserved,
    /// 64 and gRPC's code: the server replied with a status, or the failure is equivalent to one, as a timeout is to
    /// `deadline_exceeded` (68).
    Status(Code),
    /// 5: the program cannot work here, for instance because its output cannot be written.
    Internal,
    /// 130: stopped by a signal.
    Interrupted,
    /// 0 to 3: the result of a check.
    Check(Level),
}

/// The result of a check, as monitoring plugins have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// All is well.
    Ok = 0,
    /// Above the lower limit.
    Warning = 1,
    /// Above the higher limit, or not there.
    Critical = 2,
    /// The check could not be made.
    Unknown = 3,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Usage => 1,
            Self::Connect => 2,
            Self::OwnError => 3,
            Self::Unserved => 4,
            Self::Status(code) => STATUS + grpc_number(code),
            Self::Internal => 5,
            Self::Interrupted => 130,
            Self::Check(level) => level as u8,
        }
    }

    /// The name of the reason, for counts of failures.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Connect => "not connected".to_owned(),
            Self::OwnError => "application".to_owned(),
            Self::Unserved => "nobody serves it".to_owned(),
            Self::Status(code) => code.to_string(),
            other => format!("exit code {}", other.code()),
        }
    }

    /// The code of an error: its kind's own, or that of the equivalent status.
    pub(crate) fn of_error(error: &lepus::Error) -> Self {
        if error.is_connect() {
            Self::Connect
        } else if error.is_unroutable() || error.is_unserved() {
            Self::Unserved
        } else if error.is_invalid() || error.is_encode() {
            Self::Usage
        } else if error.amqp_code() == Some(403) {
            Self::Status(Code::PermissionDenied)
        } else {
            Self::Status(error.grpc_code())
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The number that gRPC has for a code. One of a later version counts as `unknown`.
fn grpc_number(code: Code) -> u8 {
    match code {
        Code::Cancelled => 1,
        Code::InvalidArgument => 3,
        Code::DeadlineExceeded => 4,
        Code::NotFound => 5,
        Code::AlreadyExists => 6,
        Code::PermissionDenied => 7,
        Code::ResourceExhausted => 8,
        Code::FailedPrecondition => 9,
        Code::Aborted => 10,
        Code::OutOfRange => 11,
        Code::Unimplemented => 12,
        Code::Internal => 13,
        Code::Unavailable => 14,
        Code::DataLoss => 15,
        Code::Unauthenticated => 16,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use lepus::{Error, Outcome, Status};

    use super::*;

    #[test]
    fn no_code_has_two_meanings() {
        let codes = [
            Exit::Ok,
            Exit::Usage,
            Exit::Connect,
            Exit::OwnError,
            Exit::Unserved,
            Exit::Internal,
            Exit::Interrupted,
        ];
        let statuses = STATUS + 1..=STATUS + 16;
        for (at, exit) in codes.iter().enumerate() {
            assert!(!statuses.contains(&exit.code()), "{exit:?}");
            assert!(!codes[..at].iter().any(|other| other.code() == exit.code()));
        }
    }

    #[test]
    fn each_kind_of_error_has_its_code() {
        let codes = [
            (Error::unroutable(), 4),
            (Error::unserved(), 4),
            (Error::invalid("a name is too long"), 1),
            (Error::timeout(Outcome::NotSent), 68),
            (Error::refused(403, "no access"), 71),
            (Error::rejected(), 72),
            (Error::disconnected(Outcome::SentNoReply), 78),
            (Status::new(Code::NotFound, "no such image").into(), 69),
            (Status::new(Code::Unauthenticated, "").into(), 80),
        ];
        for (error, code) in codes {
            assert_eq!(Exit::of_error(&error).code(), code, "{error}");
        }
    }
}
