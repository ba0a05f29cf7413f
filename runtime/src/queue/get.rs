//! Jobs taken from a queue one at a time (`basic.get`).

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::QueueSpec;
use super::job::decode_payload;
use super::polled_queue::{DedicatedConnection, PolledQueue};
use crate::error::Error;
use crate::link::{AckRange, Channel, Connection};
use crate::publish::CachedChannel;
use crate::wire::envelope::JobHead;
use crate::wire::message::{MessageInfo, message_accessors};

/// Takes jobs from a queue with `basic.get`, for programs that look for one now and then. For all
/// others a worker pool is the better choice: polling costs a round trip for each job.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// let getter = lepus::WorkQueue::<String>::new("mails").getter(&connection);
/// while let Some(job) = getter.next().await? {
///     match job.payload() {
///         Ok(address) => println!("a mail to {address}"),
///         Err(error) => println!("{:?} does not decode: {error}", job.bytes()),
///     }
///     if job.attempt() > 3 {
///         job.reject();
///     } else {
///         job.ack()?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Getter<T> {
    connection: Connection,
    spec: QueueSpec,
    queue: CachedChannel<PolledQueue>,
    payload: PhantomData<fn() -> T>,
}

impl<T> Getter<T> {
    pub(super) fn new(connection: &Connection, spec: QueueSpec) -> Self {
        Self {
            connection: connection.clone(),
            spec,
            queue: CachedChannel::default(),
            payload: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> Getter<T> {
    /// The next job, or `None` when the queue is empty. The job is reserved for the caller until it
    /// is [acknowledged](PolledJob::ack), requeued or rejected; dropping it requeues it.
    ///
    /// A queue that is [`passive`](super::WorkQueue::passive) may be of any type: it is first polled
    /// over an AMQP connection of its own, because RabbitMQ closes a connection on which a stream is
    /// polled.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses the queue. A stream cannot be
    /// polled: the broker's 540 (NOT_IMPLEMENTED).
    ///
    /// # Cancel safety
    /// A job that was taken by a dropped future goes back to its queue.
    pub async fn next(&self) -> Result<Option<PolledJob<T>>, Error> {
        let queue = self.queue.get_or_open(|_| self.open()).await?;
        let Some(delivery) = queue.poll().await? else {
            return Ok(None);
        };
        let unsettled = Unsettled {
            channel: Arc::clone(queue.channel()),
            tag: Some(delivery.tag),
            _connection: queue.connection(),
        };
        let mut message = delivery.message;
        self.spec.remove_untrusted_headers(&mut message);
        let head = JobHead::read(&message.properties);
        let attempt = head.attempt.saturating_add(head.unsettled);
        let info = head.into_info(&message, attempt);
        Ok(Some(PolledJob {
            payload: decode_payload(
                self.spec.codec(),
                info.content_type.as_deref(),
                &message.body,
            ),
            info,
            body: message.body,
            unsettled,
        }))
    }

    async fn open(&self) -> Result<Arc<PolledQueue>, Error> {
        let queue = self.connection.namespace().scope(&self.spec.name);
        let topology = self.spec.polled()?;
        PolledQueue::open(&self.connection, queue, &topology, self.spec.passive).await
    }
}

impl<T> fmt::Debug for Getter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Getter")
            .field("queue", &self.spec.name)
            .finish_non_exhaustive()
    }
}

/// A job that a [`Getter`] has taken and that is not settled yet. Dropping it requeues it.
///
/// See [`Getter`] for an example.
pub struct PolledJob<T> {
    payload: Result<T, Error>,
    info: MessageInfo,
    body: Bytes,
    unsettled: Unsettled,
}

impl<T> PolledJob<T> {
    fn info(&self) -> &MessageInfo {
        &self.info
    }

    /// The payload. [`ack`](Self::ack) returns it by value.
    ///
    /// # Errors
    /// [`is_decode`](Error::is_decode) when it does not decode.
    pub fn payload(&self) -> Result<&T, &Error> {
        self.payload.as_ref()
    }

    message_accessors! {
        bytes key exchange content_type message_id timestamp app_id headers header trace redelivered
        attempt
    }

    /// The task, if the queue carries tasks (AMQP's `type`).
    #[must_use]
    pub fn task(&self) -> Option<&str> {
        self.info.kind.as_deref()
    }

    /// Acknowledges the job (`basic.ack`), and returns its payload.
    ///
    /// # Errors
    /// [`is_decode`](Error::is_decode) when the payload does not decode; the job is acknowledged all
    /// the same. If the acknowledgement is lost with the connection, the job is delivered again.
    pub fn ack(mut self) -> Result<T, Error> {
        self.unsettled
            .settle(|channel, tag| channel.ack(tag, AckRange::One));
        self.payload
    }

    /// Returns the job to its queue (`basic.reject` with requeue).
    pub fn requeue(self) {
        drop(self);
    }

    /// Rejects the job (`basic.reject` without requeue): the broker dead-letters it if the queue has
    /// a dead-letter exchange, and drops it if not.
    pub fn reject(mut self) {
        self.unsettled.settle(Channel::reject);
    }
}

impl<T> fmt::Debug for PolledJob<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolledJob")
            .field("message_id", &self.info.message_id)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A delivery that is requeued when it is dropped unsettled.
struct Unsettled {
    channel: Arc<Channel>,
    /// `None` once it is settled.
    tag: Option<u64>,
    /// The channel's connection, if it has one of its own: it must not be closed before the delivery
    /// is settled.
    _connection: Option<Arc<DedicatedConnection>>,
}

impl Unsettled {
    fn settle(&mut self, settle: impl FnOnce(&Channel, u64)) {
        if let Some(tag) = self.tag.take() {
            settle(&self.channel, tag);
        }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.settle(Channel::requeue);
    }
}
