//! A job or an event at its publisher, as layers see it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::operation::{Handle, Next, Operation, sealed};
use crate::clock;
use crate::error::{Error, Outcome};
use crate::service::BoxFuture;
use crate::wire::envelope::check_headers;
use crate::wire::message::Outgoing;
use crate::wire::status::Status;
use crate::wire::value::{Table, Value};

/// A job that is being pushed, or an event that is being published, on its way through the
/// [layers](super#layers-of-producers-and-publishers) of a producer or a publisher. The output is the result of the
/// push or the publish.
///
/// Cheap to clone until it is changed.
#[derive(Clone)]
pub struct Publication {
    destination: Arc<str>,
    message: Arc<Outgoing>,
    deadline: Instant,
    /// The first reserved name of a header that a layer has set.
    invalid: Option<Error>,
    exit: Arc<Exit<SendMessage>>,
}

/// Publishes a message within a time.
type SendMessage = dyn Fn(Arc<Outgoing>, Duration) -> BoxFuture<Result<(), Error>> + Send + Sync;

/// The end of the layers, where a message is sent.
struct Exit<S: ?Sized> {
    /// Whether a message has left the layers, so that it may have been sent.
    has_left: AtomicBool,
    send: S,
}

impl Publication {
    pub(crate) fn new(
        destination: Arc<str>,
        mut message: Arc<Outgoing>,
        deadline: Instant,
        send: impl Fn(Arc<Outgoing>, Duration) -> BoxFuture<Result<(), Error>> + Send + Sync + 'static,
    ) -> Self {
        if !message.properties.trace.is_empty() {
            // To layers, the trace is a part of the headers.
            let properties = &mut Arc::make_mut(&mut message).properties;
            std::mem::take(&mut properties.trace).move_into(&mut properties.headers);
        }
        Self {
            destination,
            message,
            deadline,
            invalid: None,
            exit: Arc::new(Exit {
                has_left: AtomicBool::new(false),
                send,
            }),
        }
    }

    /// Passes the layers, until the deadline at the latest. `Err` tells whether it may have been sent by then.
    pub(crate) async fn pass(self, layers: Next<Self>) -> Result<Result<(), Error>, Outcome> {
        let (deadline, exit) = (self.deadline, Arc::clone(&self.exit));
        let passed = timeout_at(deadline, layers.run(self)).await;
        passed.map_err(|_| {
            if exit.has_left.load(Ordering::Relaxed) {
                Outcome::SentNoReply
            } else {
                Outcome::NotSent
            }
        })
    }

    /// The queue of a job, or the exchange of an event, without the namespace of the connection.
    #[must_use]
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// The routing key, as it is on the broker. That of a job is the name of its queue, or of the queue in which
    /// its delay passes.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.message.routing_key
    }

    /// The task of a job, or the type of an event, if there is one (AMQP's `type`).
    #[must_use]
    pub fn message_type(&self) -> Option<&str> {
        self.message.properties.kind.as_deref()
    }

    /// The identity of the message (AMQP's `message_id`).
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.message.properties.message_id.as_deref()
    }

    /// The headers that are going to be sent, those of the trace and the propagated ones included.
    #[must_use]
    pub fn headers(&self) -> &Table {
        &self.message.properties.headers
    }

    /// One of the headers.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.headers().get(name)
    }

    /// The encoded payload.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.message.body
    }

    /// The time at which the push or the publish ends at the latest.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Adds a header, in place of one of the same name.
    ///
    /// With a [reserved](Table#reserved-names-of-headers) name the push or the publish fails with
    /// [`is_invalid`](Error::is_invalid), and nothing is sent.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<Value>) -> Self {
        let name = name.to_owned();
        match check_headers([&name]) {
            Ok(()) => {
                let message = Arc::make_mut(&mut self.message);
                message.properties.headers.insert(name, value.into());
            }
            Err(error) => {
                self.invalid.get_or_insert(error);
            }
        }
        self
    }
}

/// The innermost part of the layers: it sends.
pub(super) struct SendPublication;

impl Handle<Publication> for SendPublication {
    fn call(&self, publication: Publication) -> BoxFuture<Result<(), Error>> {
        let Publication {
            message,
            deadline,
            invalid,
            exit,
            ..
        } = publication;
        match invalid {
            Some(error) => Box::pin(std::future::ready(Err(error))),
            None => {
                exit.has_left.store(true, Ordering::Relaxed);
                let left = deadline.saturating_duration_since(Instant::now());
                (exit.send)(message, left)
            }
        }
    }
}

impl sealed::Sealed for Publication {}

impl Operation for Publication {
    type Output = Result<(), Error>;
    type Rest = dyn Handle<Self>;

    fn run(self, rest: &Self::Rest) -> BoxFuture<Result<(), Error>> {
        rest.call(self)
    }

    fn target(&self, _: &Self::Rest) -> String {
        self.destination.to_string()
    }

    fn latest(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    fn within(mut self, limit: Duration) -> Self {
        self.deadline = self.deadline.min(clock::deadline(Instant::now(), limit));
        self
    }

    fn refused(status: Status) -> Result<(), Error> {
        Err(status.into())
    }
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication")
            .field("destination", &self.destination)
            .field("key", &self.key())
            .field("type", &self.message_type())
            .field("bytes", &self.body().len())
            .finish_non_exhaustive()
    }
}
