//! Jobs taken one at a time, when asked.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use super::Spec;
use super::polling::{Apart, PolledQueue};
use super::pool::codec;
use crate::error::{Error, Kind};
use crate::link::{AckRange, Channel, Connection};
use crate::wire::codec::CodecError;
use crate::wire::envelope::JobHead;
use crate::wire::message::Incoming;
use crate::wire::value::Table;

/// Takes jobs from a queue with `basic.get`, for programs that look when it suits them. A worker
/// pool is the better choice for all others: polling costs a round trip a job.
pub struct Getter<T> {
    connection: Connection,
    spec: Spec,
    polling: Mutex<Option<Arc<PolledQueue>>>,
    payload: PhantomData<fn() -> T>,
}

impl<T> Getter<T> {
    pub(super) fn new(connection: &Connection, spec: Spec) -> Self {
        Self {
            connection: connection.clone(),
            spec,
            polling: Mutex::new(None),
            payload: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> Getter<T> {
    /// The next job, or `None` when the queue is empty. It stays the taker's until it is
    /// [`done`](Taken::done) or given back; dropping it gives it back.
    ///
    /// A queue that is [`passive`](super::WorkQueue::passive) may be of any type: the first look at
    /// it is taken over an AMQP connection of its own, because RabbitMQ closes the connection that
    /// asks a stream.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses the queue. A stream cannot be
    /// polled: the broker's 540 (NOT_IMPLEMENTED).
    ///
    /// Cancel-safe: a job taken by a dropped future goes back.
    pub async fn next(&self) -> Result<Option<Taken<T>>, Error> {
        let polling = self.polling().await?;
        let tasks = self.connection.tasks();
        // In a task of its own: what the broker answers to a dropped request would be nobody's.
        let taking = tasks.spawn(async move {
            let taken = polling.poll().await?;
            Ok::<_, Error>(taken.map(|delivery| {
                (
                    Hold {
                        channel: Arc::clone(polling.channel()),
                        tag: Some(delivery.tag),
                        _apart: polling.apart(),
                    },
                    delivery.message,
                )
            }))
        });
        let taken = taking
            .await
            .map_err(|ended| Error::new(Kind::Closed).caused_by(ended))??;
        Ok(taken.map(|(hold, message)| {
            let head = JobHead::read(&message.properties);
            let codec = codec(self.spec.codec(), head.content_type.as_deref());
            let payload = codec
                .map_err(|reason| Error::new(Kind::Decode).caused_by(reason))
                .and_then(|codec| {
                    codec
                        .decode(&message.body)
                        .map_err(|error: CodecError| Error::new(Kind::Decode).caused_by(error))
                });
            Taken {
                payload,
                head,
                message,
                hold,
            }
        }))
    }

    async fn polling(&self) -> Result<Arc<PolledQueue>, Error> {
        let mut slot = self.polling.lock().await;
        if let Some(polling) = slot.as_ref().filter(|polling| !polling.is_over()) {
            return Ok(Arc::clone(polling));
        }
        let (connection, is_foreign) = (self.connection.clone(), self.spec.passive);
        let queue = connection.namespace().scope(&self.spec.name);
        let topology = self.spec.topology()?;
        let opening = self.connection.tasks().spawn(async move {
            PolledQueue::open(&connection, queue, &topology, is_foreign).await
        });
        let polling = opening
            .await
            .map_err(|ended| Error::new(Kind::Closed).caused_by(ended))??;
        let polling = Arc::new(polling);
        *slot = Some(Arc::clone(&polling));
        Ok(polling)
    }
}

impl<T> fmt::Debug for Getter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Getter")
            .field("queue", &self.spec.name)
            .finish_non_exhaustive()
    }
}

/// A job that was taken and is not settled yet. Dropping it gives it back to its queue.
pub struct Taken<T> {
    payload: Result<T, Error>,
    head: JobHead,
    message: Incoming,
    hold: Hold,
}

impl<T> Taken<T> {
    /// The payload.
    ///
    /// # Errors
    /// [`is_decode`](Error::is_decode) when it does not decode.
    pub fn payload(&self) -> Result<&T, &Error> {
        self.payload.as_ref()
    }

    /// The payload's bytes, as they came.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.message.body
    }

    /// The headers its producer set.
    #[must_use]
    pub fn headers(&self) -> &Table {
        &self.head.headers
    }

    /// The job's idempotency key.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.head.message_id.as_deref()
    }

    /// Whether it had been delivered before.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.message.redelivered
    }

    /// The job is done: acknowledges it, and gives the payload.
    ///
    /// # Errors
    /// [`is_decode`](Error::is_decode) when the payload does not decode; it is acknowledged all
    /// the same. An acknowledgement that is lost with the connection is a redelivery.
    pub fn done(mut self) -> Result<T, Error> {
        self.hold
            .settle(|channel, tag| channel.ack(tag, AckRange::One));
        self.payload
    }

    /// The job goes back to its queue.
    pub fn requeue(self) {
        drop(self);
    }

    /// The job is rejected (`basic.reject` without requeue): the broker dead-letters it where the
    /// queue says, and a classic queue without dead letters drops it.
    pub fn reject(mut self) {
        self.hold.settle(Channel::reject);
    }
}

impl<T> fmt::Debug for Taken<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken")
            .field("message_id", &self.head.message_id)
            .field("bytes", &self.message.body.len())
            .finish_non_exhaustive()
    }
}

/// An unsettled delivery.
struct Hold {
    channel: Arc<Channel>,
    tag: Option<u64>,
    /// Its connection, if that is its own: not closed before it is settled.
    _apart: Option<Arc<Apart>>,
}

impl Hold {
    fn settle(&mut self, how: impl FnOnce(&Channel, u64)) {
        if let Some(tag) = self.tag.take() {
            how(&self.channel, tag);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.settle(Channel::requeue);
    }
}
