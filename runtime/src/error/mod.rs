//! Errors of calls, publishes and connections. They are not sent to a peer; the error that is sent is
//! [`Status`].

mod call;
mod construct;
mod display;
mod gateway;
mod kind;
mod questions;
mod site;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::wire::name::NameError;
pub use call::{CallError, Never};
pub(crate) use kind::{ConnectFault, ErrorKind, Mismatch};
pub use site::Outcome;
pub(crate) use site::{Site, SiteNames};
use source::SharedSource;

/// The error of a call, a publish or a connection.
///
/// It is opaque: methods tell its kind, and [`outcome`](Error::outcome) tells what is known of the message.
/// `Display` does not include the text of the [`source`](std::error::Error::source). Control characters in the text of
/// a peer or of the broker are escaped.
///
/// # Kinds
///
/// Each error is of one kind, so that only one of these is true:
///
/// | question | meaning | executed? | try again? |
/// |---|---|---|---|
/// | [`is_timeout`](Self::is_timeout) | the deadline passed | if it was sent, perhaps | yes, if it may be executed twice |
/// | [`is_unroutable`](Self::is_unroutable) | the broker has no queue for the message | no | yes, when there is a server or a subscription |
/// | [`is_unserved`](Self::is_unserved) | the service's queue has no consumer, and the call was to [fail fast](crate::rpc::ClientBuilder::fail_fast) | no | yes, when there is a server |
/// | [`is_disconnected`](Self::is_disconnected) | the connection was lost before the reply | if it was sent, perhaps | yes, if it may be executed twice; Lepus itself does so with idempotent calls |
/// | [`is_unconfirmed`](Self::is_unconfirmed) | a job, an event or a one-way call was sent, and its channel or connection was lost before the confirm | perhaps | yes, if it may be executed twice |
/// | [`is_closed`](Self::is_closed) | the program closed the connection | if it was sent, perhaps | no, except on another connection |
/// | [`is_rejected`](Self::is_rejected) | the broker refused the message, mostly because its queue is full | no | yes, later |
/// | [`is_blocked`](Self::is_blocked) | the broker took no messages until the deadline, because of an alarm | no | yes, later |
/// | [`is_too_large`](Self::is_too_large) | the message or the reply is over a limit | if the reply is, yes | no |
/// | [`is_encode`](Self::is_encode) | the arguments or the payload cannot be encoded | no | no |
/// | [`is_decode`](Self::is_decode) | the reply or the payload cannot be decoded | of a call, yes | no |
/// | [`is_invalid`](Self::is_invalid) | a name, a header or a setting is not valid | no | no |
/// | [`is_mismatch`](Self::is_mismatch) | a queue or an exchange exists with other properties | no | no |
/// | [`is_connect`](Self::is_connect) | no connection could be opened | no | yes, unless the user, the virtual host or TLS is wrong |
/// | [`status`](Self::status) is `Some` | the server replied with a status | unless it is `unimplemented` or `invalid_argument` | `unavailable` and `aborted`, yes |
/// | [`amqp_code`](Self::amqp_code) is `Some` | the broker closed the channel or the connection, for instance for want of a permission (403) | if the outcome is [`Rejected`](Outcome::Rejected), no | no |
///
/// [`may_have_executed`](Self::may_have_executed) answers the third column for an error at hand. Three of the
/// kinds answer to another question as well: of `is_connect`, one of
/// [`is_bad_credentials`](Self::is_bad_credentials), [`is_bad_virtual_host`](Self::is_bad_virtual_host),
/// [`is_tls`](Self::is_tls) and `is_timeout` may tell the reason; a status `deadline_exceeded` is `is_timeout`;
/// and `is_mismatch` has the `amqp_code` 406.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// # let queue = lepus::WorkQueue::<String>::new("mails");
/// use std::time::Duration;
///
/// let producer = queue.producer(&connection);
/// let mail = "to: hare".to_owned();
/// loop {
///     let Err(error) = producer.push(&mail).await else { break };
///     if !(error.is_rejected() || error.is_blocked()) {
///         // What it is, what is known of the message, and whether the broker may have it.
///         println!("{error}, may have been stored: {}", error.may_have_executed());
///         return Err(error);
///     }
///     // The queue is full, or the broker has an alarm: it has not got the job.
///     tokio::time::sleep(Duration::from_secs(1)).await;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    /// The call or publish that failed.
    names: Option<SiteNames>,
    /// The time since its start.
    elapsed: Option<Duration>,
    outcome: Option<Outcome>,
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
                names: None,
                elapsed: None,
                outcome: None,
                address: None,
                addresses: Arc::default(),
                source: None,
            }),
        }
    }

    fn with(self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        change(&mut inner);
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn at(self, site: Site) -> Self {
        let Site {
            names,
            elapsed,
            outcome,
        } = site;
        self.with(|inner| {
            inner.names = Some(names);
            inner.elapsed = Some(elapsed);
            inner.outcome = Some(outcome);
        })
    }

    /// Adds the reason why there is no connection, if it is known, as the source.
    pub(crate) fn caused_by_trouble(self, trouble: Option<Self>) -> Self {
        match trouble {
            Some(trouble) => self.caused_by(trouble),
            None => self,
        }
    }

    /// Adds the address of the broker, which must not contain credentials: errors are logged and shown.
    pub(crate) fn connecting_to(self, address: &impl fmt::Display) -> Self {
        self.with(|inner| inner.address = Some(address.to_string()))
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
        furthest.with(|inner| inner.addresses = failures.into())
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

    /// The text with that of the source, for the source of another error of the same kind.
    pub(crate) fn with_reason(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
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
