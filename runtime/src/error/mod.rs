//! Errors of calls, publishes and connections. They are not sent to a peer; the error that is sent is
//! [`Status`].

mod call;
mod display;
mod kind;
mod questions;
mod site;
mod source;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::clock;
use crate::wire::name::NameError;
pub use call::{CallError, Never};
pub(crate) use kind::{ConnectFault, ErrorKind, Mismatch};
pub use site::Outcome;
pub(crate) use site::Site;
use source::{SharedSource, without_repetition};

/// The error of a call, a publish or a connection.
///
/// It is opaque. The `is_*` methods tell its kind, and [`outcome`](Error::outcome) what is known of the
/// message. `Display` does not include the text of the [`source`](StdError::source). Control characters in
/// the text of a peer or of the broker are escaped.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    site: Option<Site>,
    /// The broker's address, without credentials, if no connection to it could be opened.
    address: Option<String>,
    /// The error of each address, if the broker has several and none could be connected to.
    addresses: Arc<[Error]>,
    source: Option<SharedSource>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self {
            inner: Arc::new(Inner {
                kind,
                site: None,
                address: None,
                addresses: Arc::default(),
                source: None,
            }),
        }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid(text.into()))
    }

    pub(crate) fn caused_by(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.source = without_repetition(&inner.kind, source.into());
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn at(self, site: Site) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.site = Some(site);
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Adds the address of the broker, which must not contain credentials: errors are logged and shown.
    pub(crate) fn connecting_to(self, address: &impl fmt::Display) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.address = Some(address.to_string());
        Self {
            inner: Arc::new(inner),
        }
    }

    /// One error for all addresses of a broker. Its kind is that of the attempt that got furthest, because a
    /// broker that answers tells more than one that cannot be reached.
    pub(crate) fn of_addresses(mut failures: Vec<Self>) -> Self {
        let furthest = failures.iter().max_by_key(|failure| failure.progress());
        let Some(furthest) = furthest.cloned() else {
            return Self::invalid("no address to connect to");
        };
        if failures.len() < 2 {
            return failures.pop().unwrap_or(furthest);
        }
        let mut inner = Arc::unwrap_or_clone(furthest.inner);
        inner.addresses = failures.into();
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The number of the step at which an attempt to connect failed.
    fn progress(&self) -> u8 {
        match &self.inner.kind {
            ErrorKind::Connect(fault) => match fault {
                ConnectFault::Address => 0,
                ConnectFault::Refused => 1,
                ConnectFault::Timeout(_) => 2,
                ConnectFault::Protocol => 3,
                ConnectFault::Tls => 4,
                ConnectFault::Credentials => 5,
                ConnectFault::VirtualHost => 6,
            },
            _ => 7,
        }
    }

    /// # Errors
    /// This thread is not in a tokio runtime, which the caller needs for timers and tasks.
    pub(crate) fn check_runtime() -> Result<(), Self> {
        if clock::is_in_runtime() {
            return Ok(());
        }
        Err(Self::invalid(
            "this thread is not in a tokio runtime: use `Runtime::block_on`, or `Handle::enter`, \
             around what calls Lepus",
        ))
    }

    /// Whether both are copies of one error.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn kind(&self) -> &ErrorKind {
        &self.inner.kind
    }
}

/// For generic conversions of which some cannot fail.
impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Self::invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::status::{Code, Status};
    use std::time::Duration;

    static_assertions::assert_impl_all!(Error: Send, Sync, std::error::Error);
    static_assertions::assert_impl_all!(CallError: Send, Sync, std::error::Error);

    fn at(kind: ErrorKind, outcome: Outcome) -> Error {
        Error::new(kind).at(Site {
            service: "calculator".into(),
            method: "divide".into(),
            queue: "calc".into(),
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

    #[derive(Debug, thiserror::Error)]
    #[error("IO error: {0}")]
    struct Shows(#[source] std::io::Error);

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
        let of =
            |fault, address: &str| Error::new(ErrorKind::Connect(fault)).connecting_to(&address);
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
}
