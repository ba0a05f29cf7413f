//! Outcomes as attributes and as the status of a span.

use lepus::Code;
use lepus::observe::HandlerOutcome;

/// The status as gRPC writes it.
pub(crate) fn status_code(outcome: HandlerOutcome) -> &'static str {
    let code = match outcome {
        HandlerOutcome::Ok => return "OK",
        HandlerOutcome::OwnError => return "APPLICATION",
        HandlerOutcome::Status(code) => code,
        HandlerOutcome::Stopped => Code::DeadlineExceeded,
        HandlerOutcome::Panicked => Code::Internal,
        HandlerOutcome::Cancelled => Code::Cancelled,
        _ => Code::Unknown,
    };
    match code {
        Code::Cancelled => "CANCELLED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}

/// The kind of an error of a job, an event or a publish; `None` if it succeeded.
pub(crate) fn error_type(outcome: HandlerOutcome) -> Option<&'static str> {
    match outcome {
        HandlerOutcome::Ok => None,
        HandlerOutcome::Panicked => Some("panic"),
        other => Some(other.as_str()),
    }
}

/// Whether the status of a server's span is an error: it is not if the client is to blame. That is how the
/// semantic conventions have it for gRPC.
pub(crate) fn is_error_of_server(outcome: HandlerOutcome) -> bool {
    match outcome {
        HandlerOutcome::Stopped | HandlerOutcome::Panicked => true,
        HandlerOutcome::Status(code) => matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_name_of_grpc() {
        for code in [
            Code::Cancelled,
            Code::Unknown,
            Code::InvalidArgument,
            Code::DeadlineExceeded,
            Code::NotFound,
            Code::AlreadyExists,
            Code::PermissionDenied,
            Code::ResourceExhausted,
            Code::FailedPrecondition,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::DataLoss,
            Code::Unauthenticated,
        ] {
            let name = status_code(HandlerOutcome::Status(code));
            assert_eq!(name, code.as_str().to_uppercase());
        }
        assert_eq!(status_code(HandlerOutcome::Panicked), "INTERNAL");
    }
}
