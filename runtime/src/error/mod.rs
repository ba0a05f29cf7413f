//! Errors of calls, publishes and connections. They are not sent to a peer; the error that is sent is
//! [`Status`].

mod call;
mod kind;
mod site;
mod source;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::escape::Escaped;
use crate::wire::name::NameError;
use crate::wire::status::{Code, Status};
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

    /// The outcome of the call or publish, if the error is about one.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.inner.site.as_ref().map(|site| site.outcome)
    }

    /// The time from the start of the call or publish to its failure, if the error is about one.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.inner.site.as_ref().map(|site| site.elapsed)
    }

    /// Whether the request may have been executed although the call failed: it was sent and no reply came,
    /// or the handler failed.
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        match (self.outcome(), &self.inner.kind) {
            (Some(Outcome::Answered), ErrorKind::Status(status)) => {
                !matches!(status.code(), Code::Unimplemented | Code::InvalidArgument)
            }
            (Some(Outcome::SentNoReply | Outcome::Answered), _) => true,
            (Some(_), _) => false,
            (None, kind) => matches!(kind, ErrorKind::Unconfirmed),
        }
    }

    /// The deadline passed: no reply came in time, the message could not be sent in time, or the server
    /// replied `deadline_exceeded`.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Timeout | ErrorKind::Connect(ConnectFault::Timeout(_))
        ) || self.code() == Some(Code::DeadlineExceeded)
    }

    /// The broker has no queue for the message: no server has declared the service's queue, or no
    /// subscription takes the event.
    #[must_use]
    pub fn is_unroutable(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Unroutable)
    }

    /// The connection was lost or closed before the reply or the confirm came.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Disconnected | ErrorKind::Closed | ErrorKind::Unconfirmed
        )
    }

    /// The program closed the connection with [`Connection::close`](crate::Connection::close).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Closed)
    }

    /// No connection to the broker could be opened. For a broker with several addresses, `Display` has the
    /// error of each, and the `is_*` methods apply to the attempt that got furthest.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Connect(_))
    }

    /// The broker refused the user or the password.
    #[must_use]
    pub fn is_bad_credentials(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Connect(ConnectFault::Credentials)
        )
    }

    /// The virtual host does not exist, or the user has no access to it.
    #[must_use]
    pub fn is_bad_virtual_host(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Connect(ConnectFault::VirtualHost)
        )
    }

    /// The TLS handshake failed: a certificate, a host name, or a port without TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Connect(ConnectFault::Tls))
    }

    /// The broker blocked the connection until the deadline, over a memory or disk alarm.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Blocked(_))
    }

    /// The broker refused the message (`basic.nack`), for instance because its queue is full.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Rejected)
    }

    /// The message was published and no confirm came: the broker may or may not have it.
    #[must_use]
    pub fn is_unconfirmed(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Unconfirmed)
    }

    /// The message is larger than the limit of this connection, and was not sent; or larger than the
    /// broker's limit (`max_message_size` of RabbitMQ), and the broker refused it.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::TooLarge { .. })
    }

    /// The arguments or the payload could not be encoded. Nothing was sent.
    #[must_use]
    pub fn is_encode(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Encode)
    }

    /// The reply or the payload could not be decoded.
    #[must_use]
    pub fn is_decode(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Decode)
    }

    /// A queue or exchange exists with other properties than those declared (AMQP's 406
    /// PRECONDITION_FAILED). The text names it, the argument and both values.
    #[must_use]
    pub fn is_mismatch(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Mismatch(_))
    }

    /// A setting or a name is not valid. Nothing was sent.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Invalid(_))
    }

    /// The status that the server replied with, if it did.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match &self.inner.kind {
            ErrorKind::Status(status) => Some(status),
            _ => None,
        }
    }

    /// The code of the status that the server replied with, if it did.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.status().map(Status::code)
    }

    /// AMQP's reply code, if the broker closed the channel or the connection: 403, 404, 405 and others.
    #[must_use]
    pub fn amqp_code(&self) -> Option<u16> {
        match &self.inner.kind {
            ErrorKind::Broker { code, .. } => Some(*code),
            ErrorKind::Mismatch(_) => Some(406),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text of a status comes from a peer, and the broker's text may quote one.
        Escaped(&*self.inner).fmt(f)
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            site,
            address,
            addresses,
            ..
        } = self;
        if !addresses.is_empty() {
            f.write_str("no connection to any address of the broker: ")?;
            for (index, failure) in addresses.iter().enumerate() {
                let separator = if index > 0 { "; " } else { "" };
                write!(f, "{separator}{failure}")?;
                if let Some(cause) = failure.source() {
                    write!(f, ": {cause}")?;
                }
            }
            return Ok(());
        }
        match (site, address) {
            (None, None) => kind.fmt(f),
            (None, Some(address)) => write!(f, "{kind} ({address})"),
            (Some(site), _) => {
                let (elapsed, outcome) = (site.elapsed.as_secs_f64(), site.outcome);
                write!(f, "{site}: {kind} after {elapsed:.3} s ({outcome})")
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.inner.kind);
        if let Some(site) = &self.inner.site {
            debug.field("site", site);
        }
        if let Some(address) = &self.inner.address {
            debug.field("address", address);
        }
        if !self.inner.addresses.is_empty() {
            debug.field("addresses", &self.inner.addresses);
        }
        if let Some(source) = &self.inner.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
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
