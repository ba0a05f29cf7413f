//! Tests of errors: questions, constructors and texts.

use super::*;
use crate::wire::status::{Code, Status};
use std::error::Error as _;

static_assertions::assert_impl_all!(Error: Send, Sync, std::error::Error);
static_assertions::assert_impl_all!(CallError: Send, Sync, std::error::Error);

fn at(kind: ErrorKind, outcome: Outcome) -> Error {
    Error::new(kind).at(Site {
        names: SiteNames {
            service: "calculator".into(),
            method: "divide".into(),
            queue: "calc".into(),
        },
        elapsed: Duration::from_millis(2004),
        outcome,
    })
}

#[test]
fn a_failed_call_names_service_method_queue_time_and_outcome() {
    let error = at(ErrorKind::Timeout, Outcome::SentNoReply);
    assert_eq!(
        error.to_string(),
        "calculator.divide on queue `calc`: timed out after 2.004 s (sent, no reply)"
    );
    assert!(error.is_timeout() && error.may_have_executed());
}

#[test]
fn only_sent_calls_may_have_run() {
    assert!(!at(ErrorKind::Timeout, Outcome::NotSent).may_have_executed());
    assert!(!at(ErrorKind::Unroutable, Outcome::Unroutable).may_have_executed());
    let unknown = Status::new(Code::Unimplemented, "no such method");
    assert!(!at(ErrorKind::Status(unknown), Outcome::Answered).may_have_executed());
    let broken = Status::new(Code::Internal, "panicked");
    assert!(at(ErrorKind::Status(broken), Outcome::Answered).may_have_executed());
}

#[test]
fn constructed_errors_are_of_their_kind() {
    let errors: [(Error, Question, Outcome); 12] = [
        (
            Error::timeout(Outcome::NotSent),
            Error::is_timeout,
            Outcome::NotSent,
        ),
        (
            Error::disconnected(Outcome::SentNoReply),
            Error::is_disconnected,
            Outcome::SentNoReply,
        ),
        (
            Error::closed(Outcome::NotSent),
            Error::is_closed,
            Outcome::NotSent,
        ),
        (
            Error::unroutable(),
            Error::is_unroutable,
            Outcome::Unroutable,
        ),
        (Error::rejected(), Error::is_rejected, Outcome::Rejected),
        (
            Error::unconfirmed(),
            Error::is_unconfirmed,
            Outcome::SentNoReply,
        ),
        (
            Error::blocked("low on memory"),
            Error::is_blocked,
            Outcome::NotSent,
        ),
        (
            Error::too_large(2, 1),
            Error::is_too_large,
            Outcome::NotSent,
        ),
        (
            Error::encode("no number"),
            Error::is_encode,
            Outcome::NotSent,
        ),
        (
            Error::decode("no number"),
            Error::is_decode,
            Outcome::Answered,
        ),
        (
            Error::refused(403, "ACCESS_REFUSED"),
            |error| error.amqp_code() == Some(403),
            Outcome::Rejected,
        ),
        (
            Status::new(Code::Aborted, "conflict").into(),
            |error| error.code() == Some(Code::Aborted),
            Outcome::Answered,
        ),
    ];
    for (error, is_kind, outcome) in errors {
        assert!(is_kind(&error), "{error:?}");
        assert_eq!(error.outcome(), Some(outcome), "{error:?}");
        let may_have_run = matches!(outcome, Outcome::SentNoReply | Outcome::Answered);
        assert_eq!(error.may_have_executed(), may_have_run, "{error:?}");
        assert_eq!(error.elapsed(), None);
    }
    assert_eq!(Error::invalid("no name").to_string(), "no name");
    assert_eq!(
        Error::unroutable().to_string(),
        "the broker has no queue for it (unroutable)"
    );
    let call: CallError<String> = Status::new(Code::Internal, "broken").into();
    assert_eq!(call.code(), Some(Code::Internal));
}

#[derive(Debug, thiserror::Error)]
#[error("IO error: {0}")]
struct Shows(#[source] std::io::Error);

type Question = fn(&Error) -> bool;
type CallQuestion = fn(&CallError<String>) -> bool;

/// The kinds, each with its questions.
fn kinds() -> Vec<(ErrorKind, Vec<&'static str>)> {
    let connect = |fault| ErrorKind::Connect(fault);
    let status = |code| ErrorKind::Status(Status::new(code, ""));
    let mismatch = Mismatch {
        entity: "queue `a`".into(),
        argument: "durable".into(),
        ours: "true".into(),
        theirs: "false".into(),
    };
    let broker = ErrorKind::Broker {
        code: 403,
        text: "ACCESS_REFUSED".into(),
    };
    vec![
        (ErrorKind::Closed, vec!["closed"]),
        (ErrorKind::Disconnected, vec!["disconnected"]),
        (ErrorKind::Unconfirmed, vec!["unconfirmed"]),
        (ErrorKind::Timeout, vec!["timeout"]),
        (ErrorKind::Unroutable, vec!["unroutable"]),
        (ErrorKind::Rejected, vec!["rejected"]),
        (ErrorKind::Blocked("alarm".into()), vec!["blocked"]),
        (ErrorKind::TooLarge { size: 2, limit: 1 }, vec!["too_large"]),
        (ErrorKind::Encode, vec!["encode"]),
        (ErrorKind::Decode, vec!["decode"]),
        (ErrorKind::Invalid("name".into()), vec!["invalid"]),
        (ErrorKind::Mismatch(mismatch), vec!["mismatch", "amqp_code"]),
        (broker, vec!["amqp_code"]),
        (status(Code::Internal), vec!["status"]),
        (status(Code::DeadlineExceeded), vec!["timeout", "status"]),
        (connect(ConnectFault::Address), vec!["connect"]),
        (connect(ConnectFault::Refused), vec!["connect"]),
        (connect(ConnectFault::Protocol), vec!["connect"]),
        (
            connect(ConnectFault::Timeout(Duration::ZERO)),
            vec!["timeout", "connect"],
        ),
        (
            connect(ConnectFault::Credentials),
            vec!["connect", "bad_credentials"],
        ),
        (
            connect(ConnectFault::VirtualHost),
            vec!["connect", "bad_virtual_host"],
        ),
        (connect(ConnectFault::Tls), vec!["connect", "tls"]),
    ]
}

#[test]
fn each_kind_answers_to_its_own_questions_alone() {
    let questions: [(&str, Question); 18] = [
        ("timeout", Error::is_timeout),
        ("unroutable", Error::is_unroutable),
        ("disconnected", Error::is_disconnected),
        ("unconfirmed", Error::is_unconfirmed),
        ("closed", Error::is_closed),
        ("rejected", Error::is_rejected),
        ("blocked", Error::is_blocked),
        ("too_large", Error::is_too_large),
        ("encode", Error::is_encode),
        ("decode", Error::is_decode),
        ("invalid", Error::is_invalid),
        ("mismatch", Error::is_mismatch),
        ("connect", Error::is_connect),
        ("bad_credentials", Error::is_bad_credentials),
        ("bad_virtual_host", Error::is_bad_virtual_host),
        ("tls", Error::is_tls),
        ("amqp_code", |error| error.amqp_code().is_some()),
        ("status", |error| error.status().is_some()),
    ];
    for (kind, expected) in kinds() {
        let error = Error::new(kind);
        let asked = questions.iter().filter(|(_, question)| question(&error));
        let answers: Vec<&str> = asked.map(|(name, _)| *name).collect();
        assert_eq!(answers, expected, "{error:?}");
    }
}

#[test]
fn the_error_of_a_call_answers_as_its_cause() {
    let questions: [(Question, CallQuestion); 11] = [
        (Error::is_timeout, CallError::is_timeout),
        (Error::is_unroutable, CallError::is_unroutable),
        (Error::is_disconnected, CallError::is_disconnected),
        (Error::is_unconfirmed, CallError::is_unconfirmed),
        (Error::is_closed, CallError::is_closed),
        (Error::is_rejected, CallError::is_rejected),
        (Error::is_blocked, CallError::is_blocked),
        (Error::is_too_large, CallError::is_too_large),
        (Error::is_encode, CallError::is_encode),
        (Error::is_decode, CallError::is_decode),
        (Error::is_invalid, CallError::is_invalid),
    ];
    let own = CallError::Service("broken".to_owned());
    assert!(questions.iter().all(|(_, question)| !question(&own)));
    assert_eq!(own.outcome(), Some(Outcome::Answered));
    assert_eq!(
        (own.status(), own.elapsed(), own.amqp_code()),
        (None, None, None)
    );
    for (kind, _) in kinds() {
        let error = at(kind, Outcome::SentNoReply);
        let call = CallError::<String>::from(error.clone());
        for (asked, question) in questions {
            assert_eq!(question(&call), asked(&error), "{error:?}");
        }
        assert_eq!(call.outcome(), error.outcome());
        assert_eq!((call.status(), call.code()), (error.status(), error.code()));
        assert_eq!(call.elapsed(), error.elapsed());
        assert_eq!(call.amqp_code(), error.amqp_code());
    }
}

fn causes(error: &Error) -> Vec<String> {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    texts
}

#[test]
fn no_cause_repeats_another_one() {
    let io = || std::io::Error::other("broken pipe");
    let lost = Error::new(ErrorKind::Disconnected).caused_by(Shows(io()));
    assert_eq!(causes(&lost), ["IO error: broken pipe"]);
    let again = Error::new(ErrorKind::Unconfirmed).caused_by(lost.clone());
    let connection = "the connection to the broker was lost";
    assert_eq!(causes(&again), [connection, "IO error: broken pipe"]);
    let broker = || ErrorKind::Broker {
        code: 404,
        text: "NOT_FOUND - no queue".into(),
    };
    let refused = Error::new(broker()).caused_by("AMQP error: NOT_FOUND - no queue");
    assert_eq!(causes(&refused), [""; 0]);
    // An error that says nothing twice is given as it is.
    let plain = Error::new(broker()).caused_by(io());
    let cause = plain.source().and_then(|cause| cause.downcast_ref());
    assert!(matches!(cause, Some(io) if std::io::Error::kind(io) == std::io::ErrorKind::Other));
}

#[test]
fn an_error_of_several_addresses_names_each_with_its_fault() {
    let of = |fault, address: &str| Error::new(ErrorKind::Connect(fault)).connecting_to(&address);
    let refused = of(ConnectFault::Refused, "amqp://one:5672").caused_by("refused (111)");
    let login = of(ConnectFault::Credentials, "amqp://two:5672");
    let error = Error::of_addresses(vec![login.clone(), refused.clone()]);
    assert_eq!(
        error.to_string(),
        "no connection to any address of the broker: \
         the broker refuses this user or password (amqp://two:5672); \
         no connection to the broker (amqp://one:5672): refused (111)"
    );
    assert!(error.is_connect() && error.is_bad_credentials());
    // One alone is itself.
    let error = Error::of_addresses(vec![refused]);
    assert_eq!(
        error.to_string(),
        "no connection to the broker (amqp://one:5672)"
    );
    assert!(!error.is_bad_credentials());
    assert!(Error::of_addresses(Vec::new()).is_invalid());
}

#[test]
fn display_does_not_repeat_the_source() {
    let error = Error::new(ErrorKind::Decode).caused_by("expected a map");
    assert_eq!(error.to_string(), "the message could not be decoded");
    assert_eq!(
        error.source().map(ToString::to_string).as_deref(),
        Some("expected a map")
    );
}

#[test]
fn each_kind_has_an_equivalent_code() {
    for (kind, questions) in kinds() {
        let error = at(kind, Outcome::SentNoReply);
        let expected = match questions.as_slice() {
            ["timeout", ..] if error.is_connect() => Code::Unavailable,
            ["timeout", ..] => Code::DeadlineExceeded,
            [
                "closed" | "disconnected" | "unconfirmed" | "unroutable" | "blocked" | "connect",
                ..,
            ] => Code::Unavailable,
            ["rejected" | "too_large"] => Code::ResourceExhausted,
            ["invalid"] => Code::InvalidArgument,
            _ => Code::Internal,
        };
        assert_eq!(error.grpc_code(), expected, "{error:?}");
        let public = error.public_message();
        for internal in ["calculator", "alarm", "ACCESS_REFUSED", "durable", "queue"] {
            assert!(!public.contains(internal), "{public}");
        }
        let call = CallError::<String>::from(error.clone());
        assert_eq!(
            (call.grpc_code(), call.public_message()),
            (expected, public)
        );
    }
    let own = CallError::Service("broken\n".to_owned());
    assert_eq!(own.grpc_code(), Code::Unknown);
    assert_eq!(own.public_message(), "broken\\n");
    let forced = ErrorKind::Broker {
        code: 320,
        text: "CONNECTION_FORCED".into(),
    };
    assert_eq!(Error::new(forced).grpc_code(), Code::Unavailable);
}
