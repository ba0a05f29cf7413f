//! The errors that stay here: what happened to a call, a publish or a connection.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::escape::Escaped;
use crate::wire::name::NameError;
use crate::wire::status::{Code, Status};

/// What is known about a request or message that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It never left this process: nobody executed it.
    NotSent,
    /// The broker had no queue for it and gave it back: nobody executed it.
    Unroutable,
    /// The broker refused it: with `basic.nack`, for instance because the queue is full, or by
    /// closing the channel over it. Nobody executed it.
    Rejected,
    /// It was sent, and no answer came: it may have been executed.
    SentNoReply,
    /// The other side answered.
    Answered,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSent => "not sent",
            Self::Unroutable => "unroutable",
            Self::Rejected => "rejected by the broker",
            Self::SentNoReply => "sent, no reply",
            Self::Answered => "answered",
        })
    }
}

/// Why a call, a publish or a connection failed.
///
/// Opaque: ask it with the `is_*` methods, and with [`outcome`](Error::outcome) what is known of
/// the message. `Display` is this error's own level; [`source`](StdError::source) has the rest.
/// Control characters in the words of a peer or of the broker are escaped.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: Kind,
    site: Option<Site>,
    /// The broker's address, without credentials, where it is about connecting to it.
    address: Option<String>,
    /// Of several addresses: each with its own fault, where none could be connected to.
    addresses: Arc<[Error]>,
    source: Option<Source>,
}

/// Which call or publish failed, for how long it had been under way, and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) service: String,
    pub(crate) method: String,
    pub(crate) queue: String,
    pub(crate) elapsed: Duration,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// The connection was closed here, by its owner.
    Closed,
    /// The connection to the broker was lost.
    Disconnected,
    /// No connection could be made.
    Connect(ConnectFault),
    /// The broker refuses publishes (memory or disk alarm), with its reason.
    Blocked(String),
    Timeout,
    Unroutable,
    /// The broker answered a publish with `basic.nack`.
    Rejected,
    /// The connection was lost between a publish and its confirm, or the broker closed the channel
    /// over another message.
    Unconfirmed,
    TooLarge {
        size: usize,
        limit: usize,
    },
    Encode,
    Decode,
    /// The server answered with a status.
    Status(Status),
    /// A queue or exchange exists with other properties.
    Mismatch(Mismatch),
    /// The broker answered with an AMQP error: reply code and text.
    Broker {
        code: u16,
        text: String,
    },
    /// What was asked for makes no sense: a setting or a name.
    Invalid(String),
}

/// Why no connection could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectFault {
    Address,
    Refused,
    Credentials,
    VirtualHost,
    Tls,
    Timeout(Duration),
    Protocol,
}

/// A queue or exchange that exists with another value than the one asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) entity: String,
    pub(crate) argument: String,
    pub(crate) ours: String,
    pub(crate) theirs: String,
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Self {
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
        Self::new(Kind::Invalid(text.into()))
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

    /// Says which broker it is about. Not with credentials: errors are shown to anybody.
    pub(crate) fn connecting_to(self, address: &impl fmt::Display) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.address = Some(address.to_string());
        Self {
            inner: Arc::new(inner),
        }
    }

    /// One error for all the addresses of a broker. Of its kind is the one that got furthest: a
    /// broker that answers tells more than one that is away.
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

    /// How far an attempt to connect got before it failed.
    fn progress(&self) -> u8 {
        match &self.inner.kind {
            Kind::Connect(fault) => match fault {
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
    /// This thread is not in a tokio runtime, whose timers and tasks are needed from here on.
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

    pub(crate) fn kind(&self) -> &Kind {
        &self.inner.kind
    }

    /// What is known of the message, if the error is about one.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.inner.site.as_ref().map(|site| site.outcome)
    }

    /// How long the call or publish had been under way, if the error is about one.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.inner.site.as_ref().map(|site| site.elapsed)
    }

    /// Whether the request may have been executed although it failed here: it was sent and not
    /// answered, or the handler itself failed.
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        match (self.outcome(), &self.inner.kind) {
            (Some(Outcome::Answered), Kind::Status(status)) => {
                !matches!(status.code(), Code::Unimplemented | Code::InvalidArgument)
            }
            (Some(Outcome::SentNoReply | Outcome::Answered), _) => true,
            (Some(_), _) => false,
            (None, kind) => matches!(kind, Kind::Unconfirmed),
        }
    }

    /// The deadline passed: nobody answered in time, or there was no way to send in time, or the
    /// server answered `deadline_exceeded`.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.inner.kind,
            Kind::Timeout | Kind::Connect(ConnectFault::Timeout(_))
        ) || self.code() == Some(Code::DeadlineExceeded)
    }

    /// The broker has no queue for the message: nobody ever declared the service, or nobody
    /// listens to the event.
    #[must_use]
    pub fn is_unroutable(&self) -> bool {
        matches!(self.inner.kind, Kind::Unroutable)
    }

    /// The connection was lost (or closed) before the answer or the confirm came.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(
            self.inner.kind,
            Kind::Disconnected | Kind::Closed | Kind::Unconfirmed
        )
    }

    /// The connection was closed by its owner: [`Connection::close`](crate::Connection::close).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.inner.kind, Kind::Closed)
    }

    /// No connection could be made. Where a broker has several addresses, `Display` names each
    /// with its own fault, and the `is_*` methods speak of the one that got furthest.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self.inner.kind, Kind::Connect(_))
    }

    /// The broker knows no such user or password.
    #[must_use]
    pub fn is_bad_credentials(&self) -> bool {
        matches!(self.inner.kind, Kind::Connect(ConnectFault::Credentials))
    }

    /// The virtual host does not exist, or this user may not enter it.
    #[must_use]
    pub fn is_bad_virtual_host(&self) -> bool {
        matches!(self.inner.kind, Kind::Connect(ConnectFault::VirtualHost))
    }

    /// The TLS handshake failed: a certificate, a host name, or a port that speaks no TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.inner.kind, Kind::Connect(ConnectFault::Tls))
    }

    /// The broker refused publishes (memory or disk alarm) until the deadline.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        matches!(self.inner.kind, Kind::Blocked(_))
    }

    /// The broker refused this message (`basic.nack`), for instance because its queue is full.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        matches!(self.inner.kind, Kind::Rejected)
    }

    /// Published, and the confirm never came: the broker may or may not have the message.
    #[must_use]
    pub fn is_unconfirmed(&self) -> bool {
        matches!(self.inner.kind, Kind::Unconfirmed)
    }

    /// The message is larger than the limit of this connection, and nothing was sent; or than the
    /// broker's (`max_message_size` of RabbitMQ), which refused it.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self.inner.kind, Kind::TooLarge { .. })
    }

    /// The arguments or the payload could not be encoded; nothing was sent.
    #[must_use]
    pub fn is_encode(&self) -> bool {
        matches!(self.inner.kind, Kind::Encode)
    }

    /// What the other side sent could not be decoded.
    #[must_use]
    pub fn is_decode(&self) -> bool {
        matches!(self.inner.kind, Kind::Decode)
    }

    /// A queue or exchange exists with other properties than the ones declared (AMQP's 406
    /// PRECONDITION_FAILED); the message names it, the argument and both values.
    #[must_use]
    pub fn is_mismatch(&self) -> bool {
        matches!(self.inner.kind, Kind::Mismatch(_))
    }

    /// A setting or a name makes no sense; nothing was tried.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self.inner.kind, Kind::Invalid(_))
    }

    /// The status the server answered with, if it did.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match &self.inner.kind {
            Kind::Status(status) => Some(status),
            _ => None,
        }
    }

    /// The code of the server's status, if it answered with one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.status().map(Status::code)
    }

    /// AMQP's reply code, if the broker answered with an error: 404, 405, 403 and the like.
    #[must_use]
    pub fn amqp_code(&self) -> Option<u16> {
        match &self.inner.kind {
            Kind::Broker { code, .. } => Some(*code),
            Kind::Mismatch(_) => Some(406),
            _ => None,
        }
    }
}

type Source = Arc<dyn StdError + Send + Sync>;

/// An error's causes, without those that say again what was said above them: many errors show
/// their own cause as part of their text, and give it as their source as well.
fn without_repetition(kind: &Kind, source: Box<dyn StdError + Send + Sync>) -> Option<Source> {
    let mut said = vec![kind.to_string()];
    let mut is_repeated = false;
    let mut next: Option<&(dyn StdError + 'static)> = Some(&*source);
    while let Some(cause) = next {
        let text = cause.to_string();
        let is_known = match kind {
            Kind::Broker { text: words, .. } => !words.is_empty() && text.contains(&**words),
            _ => false,
        };
        if is_known || said.iter().any(|above| above.contains(&*text)) {
            is_repeated = true;
        } else {
            said.push(text);
        }
        next = cause.source();
    }
    if !is_repeated {
        return Some(Arc::from(source));
    }
    let causes = said.into_iter().skip(1).rev();
    causes.fold(None, |source, text| Some(Arc::new(Said { text, source })))
}

/// The text of a cause.
#[derive(Debug)]
struct Said {
    text: String,
    source: Option<Source>,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Said {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if !self.method.is_empty() {
            write!(f, ".{}", self.method)?;
        }
        if self.queue.is_empty() {
            return Ok(());
        }
        write!(f, " on queue `{}`", self.queue)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A status, and what the broker says, may be a peer's words.
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
            for (place, failure) in addresses.iter().enumerate() {
                let separator = if place > 0 { "; " } else { "" };
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

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection is closed"),
            Self::Disconnected => f.write_str("the connection to the broker was lost"),
            Self::Connect(fault) => fault.fmt(f),
            Self::Blocked(reason) => write!(f, "the broker takes no messages: {reason}"),
            Self::Timeout => f.write_str("timed out"),
            Self::Unroutable => f.write_str("the broker has no queue for it"),
            Self::Rejected => f.write_str("the broker refused the message"),
            Self::Unconfirmed => {
                f.write_str("the channel or the connection was lost before the confirm")
            }
            Self::TooLarge { size, limit } => {
                write!(f, "the message has {size} bytes, the limit is {limit}")
            }
            Self::Encode => f.write_str("the message could not be encoded"),
            Self::Decode => f.write_str("the message could not be decoded"),
            Self::Status(status) => status.fmt(f),
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::Broker { code, text } => write!(f, "the broker answered {code}: {text}"),
            Self::Invalid(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for ConnectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("the broker's host name does not resolve"),
            Self::Refused => f.write_str("no connection to the broker"),
            Self::Credentials => f.write_str("the broker refuses this user or password"),
            Self::VirtualHost => {
                f.write_str("the virtual host does not exist, or this user may not enter it")
            }
            Self::Tls => f.write_str("the TLS handshake with the broker failed"),
            Self::Timeout(limit) => {
                write!(
                    f,
                    "the broker did not finish the handshake within {limit:?}"
                )
            }
            Self::Protocol => f.write_str("the other side does not speak AMQP 0-9-1 as expected"),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            entity,
            argument,
            ours,
            theirs,
        } = self;
        write!(
            f,
            "{entity} exists with `{argument}` = {theirs}, declared here with {ours}"
        )
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

/// For conversions that cannot fail, where others can.
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

/// The error of a method that has none: no value of it exists.
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

/// How a call failed: with the method's own error, or on the way.
#[derive(Clone, Debug)]
pub enum CallError<E = Never> {
    /// The method returned `Err`: its own, typed error.
    Service(E),
    /// The call itself failed: the error says how far it got.
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

    /// Whether the handler may have run: always for the method's own error, else see
    /// [`Error::may_have_executed`].
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        self.rpc().is_none_or(Error::may_have_executed)
    }

    /// The code of the server's status, if it answered with one.
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

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_impl_all!(Error: Send, Sync, std::error::Error);
    static_assertions::assert_impl_all!(CallError: Send, Sync, std::error::Error);

    fn at(kind: Kind, outcome: Outcome) -> Error {
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
        let error = at(Kind::Timeout, Outcome::SentNoReply);
        assert_eq!(
            error.to_string(),
            "calculator.divide on queue `calc`: timed out after 2.004 s (sent, no reply)"
        );
        assert!(error.is_timeout() && error.may_have_executed());
    }

    #[test]
    fn only_sent_calls_may_have_run() {
        assert!(!at(Kind::Timeout, Outcome::NotSent).may_have_executed());
        assert!(!at(Kind::Unroutable, Outcome::Unroutable).may_have_executed());
        let unknown = Status::new(Code::Unimplemented, "no such method");
        assert!(!at(Kind::Status(unknown), Outcome::Answered).may_have_executed());
        let broken = Status::new(Code::Internal, "panicked");
        assert!(at(Kind::Status(broken), Outcome::Answered).may_have_executed());
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
        let lost = Error::new(Kind::Disconnected).caused_by(Shows(io()));
        assert_eq!(causes(&lost), ["IO error: broken pipe"]);
        let again = Error::new(Kind::Unconfirmed).caused_by(lost.clone());
        let connection = "the connection to the broker was lost";
        assert_eq!(causes(&again), [connection, "IO error: broken pipe"]);
        let broker = || Kind::Broker {
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
        let of = |fault, address: &str| Error::new(Kind::Connect(fault)).connecting_to(&address);
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
        let error = Error::new(Kind::Decode).caused_by("expected a map");
        assert_eq!(error.to_string(), "the message could not be decoded");
        assert_eq!(
            error.source().map(ToString::to_string).as_deref(),
            Some("expected a map")
        );
    }
}
