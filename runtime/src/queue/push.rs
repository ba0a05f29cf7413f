//! One push as its user writes it: options, then `await`, which publishes the job (`basic.publish`).

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use serde::Serialize;
use tokio::time::Instant;

use super::job_publisher::JobPublisher;
use super::spec::check_delay;
use crate::clock;
use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::middleware::{Next, Publication};
use crate::observe::{Published, publish_outcome};
use crate::publish::{OnMissing, PublishFailure, Target};
use crate::random;
use crate::span::MessageSpan;
use crate::stats::{HandlerKind, HandlerOutcome};
use crate::wire::envelope::{self, NewJob};
use crate::wire::message::Outgoing;
use crate::wire::value::{Table, Value};

/// A push, which is made when it is awaited.
///
/// # Errors
/// When it is awaited. Each error is about this job and no other:
/// [`is_unroutable`](Error::is_unroutable) (only if a [`passive`](super::WorkQueue::passive) queue
/// does not exist), [`is_rejected`](Error::is_rejected) (the queue is full),
/// [`is_unconfirmed`](Error::is_unconfirmed) (the connection was lost before the confirm: the broker
/// may have the job), [`is_timeout`](Error::is_timeout), [`is_blocked`](Error::is_blocked),
/// [`is_too_large`](Error::is_too_large) (for this connection or for the broker; also for headers,
/// which have to fit in one frame of 128 KiB), [`amqp_code`](Error::amqp_code) (the broker closed
/// the channel because of this job: 403 without the right to write, 406 for a property that is
/// wrong), [`is_encode`](Error::is_encode), [`is_invalid`](Error::is_invalid) (an option that is
/// invalid), [`is_closed`](Error::is_closed).
///
/// A job that is unconfirmed when the broker closes its channel because of another job is published
/// again with the same `message_id`, within its timeout: the queue may have it twice.
///
/// Dropping the future does not recall a job that was sent.
#[must_use = "a push is made when it is awaited"]
#[derive(Debug)]
pub struct Push {
    publisher: JobPublisher,
    task: Option<String>,
    body: Result<Bytes, Error>,
    delay: Option<Duration>,
    priority: Option<u8>,
    message_id: Option<String>,
    headers: Table,
    timeout: Duration,
}

impl Push {
    /// Prepares a push of a job, or of a task with these arguments. If the payload cannot be encoded,
    /// the push fails when it is awaited.
    pub(super) fn new<A: Serialize + ?Sized>(
        publisher: &JobPublisher,
        task: Option<&str>,
        payload: &A,
    ) -> Self {
        let body = publisher.queue().spec.codec().encode(payload);
        Self {
            publisher: publisher.clone(),
            task: task.map(str::to_owned),
            body: body.map_err(|error| Error::new(ErrorKind::Encode).caused_by(error)),
            delay: None,
            priority: None,
            message_id: None,
            headers: Table::new(),
            timeout: publisher.timeout(),
        }
    }

    /// Delays the job: it is delivered no earlier than this long after it was pushed. It waits on the
    /// broker, in whole milliseconds, 49 days at most.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// The time limit of this push, from the wait for a connection to the confirm. Default: that of
    /// its producer, which is 10 s unless set. Inside a handler or a [`Context`](crate::Context) with a
    /// deadline, it ends with that at the latest.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// The job's priority, on a queue with priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// The job's idempotency key, kept over retries. Default: a new one, of 22 letters and digits.
    pub fn message_id(mut self, id: &str) -> Self {
        self.message_id = Some(id.to_owned());
        self
    }

    /// Sets the task (AMQP's `type`), for a queue whose jobs are methods of a trait
    /// ([`tasks`](macro@crate::tasks)) that this program does not have. The payload is a map or an object with the
    /// arguments by their names.
    ///
    /// ```no_run
    /// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
    /// use std::collections::BTreeMap;
    ///
    /// let images = lepus::WorkQueue::<BTreeMap<&str, u64>>::new("images").passive();
    /// let arguments = BTreeMap::from([("id", 7), ("width", 640)]);
    /// images.producer(&connection).push(&arguments).task("resize").await
    /// # }
    /// ```
    pub fn task(mut self, name: &str) -> Self {
        self.task = Some(name.to_owned());
        self
    }

    /// A header for the handler to read.
    ///
    /// A name that is [reserved](Table#reserved-names-of-headers) makes the push fail with
    /// [`is_invalid`](Error::is_invalid), and nothing is sent.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.headers.insert(name.to_owned(), value.into());
        self
    }

    /// Several headers. A header that was added before under the same name is replaced. Names are
    /// restricted as for [`header`](Self::header).
    pub fn headers(mut self, headers: Table) -> Self {
        self.headers.extend(headers);
        self
    }

    /// Makes the message of it.
    pub(super) fn encode(self) -> Result<EncodedJob, Error> {
        let Self {
            publisher,
            task,
            body,
            delay,
            priority,
            message_id,
            mut headers,
            timeout,
        } = self;
        let context = Context::current();
        let timeout = context
            .time_left()
            .map_or(timeout, |left| left.min(timeout));
        let queue = publisher.queue();
        queue.on_missing.as_ref().map_err(Clone::clone)?;
        envelope::check_headers(headers.keys())?;
        queue.propagated.add(&context, &mut headers);
        let delay = delay.filter(|delay| !delay.is_zero());
        let delay = delay.map(check_delay).transpose()?;
        let (routing_key, delay_queue_missing) = match delay {
            None => (queue.target.queue.to_string(), None),
            Some(delay) => {
                let (name, on_missing) = queue.delay_queue(delay)?;
                (name, Some(on_missing))
            }
        };
        let message_id = message_id.unwrap_or_else(random::identity);
        let mut trace = context.message().trace.clone();
        let (target, id) = (("", &*routing_key), Some(&*message_id));
        let span = MessageSpan::publish(&queue.hooks, &queue.spec.name, target, id, &mut trace);
        let job = NewJob {
            task,
            message_id,
            content_type: queue.spec.codec().content_type(),
            pushed_at: clock::unix_seconds(),
            producer: queue.app_id.clone(),
            persistent: queue.spec.durable,
            priority,
            delay,
            headers,
            trace,
        };
        let message = Arc::new(Outgoing {
            exchange: String::new(),
            routing_key,
            mandatory: true,
            properties: job.into_properties(),
            body: body?,
        });
        Ok(EncodedJob {
            publisher,
            message,
            delay_queue_missing,
            timeout,
            started: Instant::now(),
            span: Some(span),
        })
    }
}

/// A job as it is published.
#[derive(Clone)]
pub(super) struct EncodedJob {
    publisher: JobPublisher,
    message: Arc<Outgoing>,
    /// The reaction to a missing delay queue, for a job with a delay.
    delay_queue_missing: Option<OnMissing>,
    timeout: Duration,
    started: Instant,
    /// `None` inside layers, around which the end is reported.
    span: Option<MessageSpan>,
}

impl EncodedJob {
    pub(super) fn push(self) -> impl Future<Output = Result<(), Error>> + Send {
        match self.publisher.layers().cloned() {
            None => Either::Left(self.send()),
            // Boxed, so that the future of a push without layers stays small.
            Some(layers) => Either::Right(Box::pin(self.push_through(layers))),
        }
    }

    async fn send(self) -> Result<(), Error> {
        let (message, timeout) = (Arc::clone(&self.message), self.timeout);
        let publisher = self.publisher.publisher();
        let published = publisher.publish_or_declare(message, timeout, self.on_missing()?);
        published.await.map_err(|failure| self.error(failure))?;
        self.ended(HandlerOutcome::Ok);
        Ok(())
    }

    /// Whether the push passes layers.
    pub(super) fn is_layered(&self) -> bool {
        self.publisher.layers().is_some()
    }

    /// Passes the layers, and sends inside them.
    async fn push_through(self, layers: Next<Publication>) -> Result<(), Error> {
        let queue = Arc::from(self.publisher.queue().spec.name.as_str());
        let deadline = clock::deadline(self.started, self.timeout);
        let inner = Self {
            span: None,
            ..self.clone()
        };
        let publication =
            Publication::new(queue, self.message(), deadline, move |message, timeout| {
                let job = Self {
                    message,
                    timeout,
                    ..inner.clone()
                };
                Box::pin(job.send())
            });
        let pushed = publication.pass(layers).await.unwrap_or_else(|outcome| {
            let late = Error::new(ErrorKind::Timeout);
            Err(self.target().describe(late, self.started, outcome))
        });
        self.ended(publish_outcome(&pushed));
        pushed
    }

    /// Pushes after a first attempt that failed.
    pub(super) async fn push_again(self, failure: PublishFailure) -> Result<(), Error> {
        let (message, timeout) = (Arc::clone(&self.message), self.timeout);
        let (publisher, on_missing) = (self.publisher.publisher(), self.on_missing()?);
        let published = publisher.redeclare_and_retry(failure, message, timeout, on_missing);
        published.await.map_err(|failure| self.error(failure))?;
        self.ended(HandlerOutcome::Ok);
        Ok(())
    }

    pub(super) fn message(&self) -> Arc<Outgoing> {
        Arc::clone(&self.message)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    fn on_missing(&self) -> Result<&OnMissing, Error> {
        match &self.delay_queue_missing {
            Some(on_missing) => Ok(on_missing),
            None => {
                let on_missing = self.publisher.queue().on_missing.as_ref();
                on_missing.map_err(Clone::clone)
            }
        }
    }

    /// The error for the caller.
    pub(super) fn error(&self, failure: PublishFailure) -> Error {
        let error = failure.into_error(&self.target());
        self.ended(HandlerOutcome::Status(error.grpc_code()));
        error
    }

    /// The name of the push in errors.
    fn target(&self) -> Target {
        let mut target = self.publisher.queue().target.clone();
        if let Some(task) = self.message.properties.kind.as_deref() {
            target.method = task.into();
        }
        if self.delay_queue_missing.is_some() {
            target.queue = self.message.routing_key.as_str().into();
        }
        target
    }

    /// Reports the end of the push, unless it is reported around layers.
    pub(super) fn ended(&self, outcome: HandlerOutcome) {
        let Some(span) = &self.span else { return };
        span.published(outcome);
        let queue = self.publisher.queue();
        if let Some(observe) = &queue.hooks.observe {
            observe.published(&Published {
                kind: HandlerKind::Job,
                destination: &queue.spec.name,
                outcome,
                duration: self.started.elapsed(),
            });
        }
    }
}

impl IntoFuture for Push {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async { self.encode()?.push().await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_of_future;

    /// Thousands of them may wait at once, and each is moved to the heap.
    #[test]
    fn the_future_of_a_push_stays_small() {
        let push = size_of_future(EncodedJob::push);
        assert!(push <= 1024, "{push}");
    }
}
