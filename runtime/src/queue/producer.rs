//! Pushing jobs: done when the broker has them.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;

use super::Spec;
use super::many::Many;
use crate::context::Context;
use crate::error::{Error, Kind};
use crate::link::{Connection, Namespace};
use crate::publish::{MAX_UNCONFIRMED, OnMissing, PublishFailure, Publisher, TIMEOUT, Target};
use crate::random;
use crate::wire::codec::Codec;
use crate::wire::envelope;
use crate::wire::message::{Outgoing, Properties};
use crate::wire::topology::{LONGEST_DELAY, Topology};
use crate::wire::value::{Table, Value};

/// Pushes jobs to a work queue. Cheap to clone; clones share one channel.
pub struct Producer<T> {
    till: Till,
    payload: PhantomData<fn(T)>,
}

/// Where pushes go out, whatever their type.
#[derive(Clone, Debug)]
pub(super) struct Till {
    usual: Arc<Usual>,
    publisher: Publisher,
    timeout: Duration,
}

/// What every push to a queue has in common.
#[derive(Debug)]
struct Usual {
    spec: Spec,
    namespace: Namespace,
    caller: Option<String>,
    what: Target,
    /// Where a job arrives that is not to wait first; or what is wrong with the queue.
    home: Result<OnMissing, Error>,
}

impl Usual {
    fn new(connection: &Connection, spec: Spec) -> Self {
        let namespace = connection.namespace().clone();
        let topology = spec.check(&namespace).and_then(|()| spec.topology());
        Self {
            what: Target {
                service: spec.name.as_str().into(),
                method: "".into(),
                queue: namespace.scope(&spec.name).into(),
            },
            home: topology.map(|topology| spec.home(topology)),
            caller: connection.given_name().map(str::to_owned),
            namespace,
            spec,
        }
    }

    /// Where a job waits for this long first: the queue's name, and what has to be there.
    fn waiting(&self, delay: Duration) -> Result<(String, OnMissing), Error> {
        let queue = self.spec.delayed(delay)?;
        let name = self.namespace.scope(queue.name().as_str());
        let mut topology: Topology = self.spec.topology()?;
        topology.queues.push(queue);
        Ok((name, self.spec.home(topology)))
    }
}

impl<T> Producer<T> {
    pub(super) fn new(connection: &Connection, spec: Spec) -> Self {
        Self {
            till: Till::new(connection, spec),
            payload: PhantomData,
        }
    }

    /// How long a push may take, from the wait for a connection to the confirm. Default 10 s.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.till.timeout = limit;
        self
    }

    /// How many pushes may wait for their confirm; further ones wait for a place, within their
    /// timeout. Default 1024.
    #[must_use]
    pub fn max_unconfirmed(mut self, connection: &Connection, pushes: usize) -> Self {
        self.till.publisher = Publisher::new(connection, pushes);
        self
    }
}

impl<T: Serialize> Producer<T> {
    /// Prepares a push; awaiting it makes it, and returns when the broker has confirmed the job
    /// (`basic.ack` in confirm mode: a persistent job is on disk then, on a quorum queue on most
    /// replicas).
    pub fn push(&self, job: &T) -> Push {
        self.till
            .push(None, self.till.codec().encode(job).map_err(encode_error))
    }

    /// Pushes many jobs, without waiting for each confirm before the next push. One outcome a
    /// job, in their order.
    ///
    /// Not cancel-safe: a dropped future leaves the outcome of what was pushed unknown.
    pub async fn push_all<'a>(
        &self,
        jobs: impl IntoIterator<Item = &'a T>,
    ) -> Vec<Result<(), Error>>
    where
        T: 'a,
    {
        let mut many = Many::new(&self.till);
        for job in jobs {
            many.push(self.push(job).pack()).await;
        }
        many.outcomes().await
    }
}

fn encode_error(error: crate::wire::codec::CodecError) -> Error {
    Error::new(Kind::Encode).caused_by(error)
}

impl Till {
    pub(super) fn new(connection: &Connection, spec: Spec) -> Self {
        Self {
            usual: Arc::new(Usual::new(connection, spec)),
            publisher: Publisher::new(connection, MAX_UNCONFIRMED),
            timeout: TIMEOUT,
        }
    }

    pub(super) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub(super) fn limit(&self) -> Duration {
        self.timeout
    }

    pub(super) fn codec(&self) -> Codec {
        self.usual.spec.codec()
    }

    pub(super) fn push(&self, task: Option<&str>, body: Result<Bytes, Error>) -> Push {
        Push {
            till: self.clone(),
            task: task.map(str::to_owned),
            body,
            delay: None,
            priority: None,
            message_id: None,
            headers: Table::new(),
        }
    }
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self {
            till: self.till.clone(),
            payload: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("queue", &self.till.usual.spec.name)
            .finish_non_exhaustive()
    }
}

/// A push that is not made yet: await it.
///
/// # Errors
/// When it is awaited, and each about this job and no other:
/// [`is_unroutable`](Error::is_unroutable) (only a [`passive`](super::WorkQueue::passive) queue
/// that is not there), [`is_rejected`](Error::is_rejected) (the queue is full),
/// [`is_unconfirmed`](Error::is_unconfirmed) (the connection went before the confirm: the broker
/// may have the job), [`is_timeout`](Error::is_timeout), [`is_blocked`](Error::is_blocked),
/// [`is_too_large`](Error::is_too_large) (for this connection or for the broker; also for headers,
/// which have to fit in one frame of 128 KiB), [`amqp_code`](Error::amqp_code) (the broker closed
/// the channel over this job: 403 without the right to write, 406 for a property that is wrong),
/// [`is_encode`](Error::is_encode), [`is_invalid`](Error::is_invalid) (an option that
/// makes no sense), [`is_closed`](Error::is_closed).
///
/// A job that was under way on a channel which the broker closed over another one is published
/// again with the same `message_id`, within its time: the queue may have it twice.
///
/// Dropping the future does not unsend a job that has left.
#[must_use = "a push is made when it is awaited"]
#[derive(Debug)]
pub struct Push {
    till: Till,
    task: Option<String>,
    body: Result<Bytes, Error>,
    delay: Option<Duration>,
    priority: Option<u8>,
    message_id: Option<String>,
    headers: Table,
}

impl Push {
    /// The job is delivered no earlier than this long after it was pushed; it waits on the broker,
    /// in whole milliseconds, 49 days at most.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// The job's priority, on a queue with priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// The job's idempotency key, kept over retries. Default: a fresh one, of 22 letters and
    /// digits.
    pub fn message_id(mut self, id: &str) -> Self {
        self.message_id = Some(id.to_owned());
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

    /// Several headers, as [`header`](Self::header) adds one. One that was added before under the
    /// same name is replaced.
    pub fn headers(mut self, headers: Table) -> Self {
        self.headers.extend(headers);
        self
    }

    fn pack(self) -> Result<Parcel, Error> {
        let Self {
            till,
            task,
            body,
            delay,
            priority,
            message_id,
            mut headers,
        } = self;
        let usual = &till.usual;
        usual.home.as_ref().map_err(Clone::clone)?;
        envelope::check_headers(headers.keys())?;
        let delay = delay.filter(|delay| !delay.is_zero());
        if delay.is_some_and(|delay| delay > LONGEST_DELAY) {
            return Err(Error::invalid(format!(
                "the broker holds a job for {LONGEST_DELAY:?} at most"
            )));
        }
        headers.extend(Context::current().trace().clone());
        let (queue, waiting) = match delay {
            None => (usual.what.queue.to_string(), None),
            Some(delay) => {
                let (queue, home) = usual.waiting(delay)?;
                (queue, Some(home))
            }
        };
        let properties = Properties {
            content_type: Some(usual.spec.codec().content_type().to_owned()),
            headers,
            persistent: usual.spec.durable,
            priority,
            expiration: delay.map(envelope::expiration),
            message_id: Some(message_id.unwrap_or_else(random::identity)),
            timestamp: now(),
            kind: task,
            app_id: usual.caller.clone(),
            ..Properties::default()
        };
        let message = Arc::new(Outgoing {
            exchange: String::new(),
            routing_key: queue,
            mandatory: true,
            properties,
            body: body?,
        });
        Ok(Parcel {
            till,
            message,
            waiting,
        })
    }
}

/// A job as it goes out.
pub(super) struct Parcel {
    till: Till,
    message: Arc<Outgoing>,
    /// Where it arrives, if it is to wait there first.
    waiting: Option<OnMissing>,
}

impl Parcel {
    pub(super) async fn push(self) -> Result<(), Error> {
        let message = Arc::clone(&self.message);
        let Till {
            publisher, timeout, ..
        } = &self.till;
        let published = publisher.publish_or_declare(message, *timeout, self.home()?);
        published.await.map_err(|fault| self.failed(fault))
    }

    /// After a first try that failed.
    pub(super) async fn push_again(self, fault: PublishFailure) -> Result<(), Error> {
        let message = Arc::clone(&self.message);
        let Till {
            publisher, timeout, ..
        } = &self.till;
        let published = publisher.redeclare_and_retry(fault, message, *timeout, self.home()?);
        published.await.map_err(|fault| self.failed(fault))
    }

    pub(super) fn message(&self) -> Arc<Outgoing> {
        Arc::clone(&self.message)
    }

    fn home(&self) -> Result<&OnMissing, Error> {
        match &self.waiting {
            Some(home) => Ok(home),
            None => self.till.usual.home.as_ref().map_err(Clone::clone),
        }
    }

    pub(super) fn failed(&self, fault: PublishFailure) -> Error {
        let mut what = self.till.usual.what.clone();
        if let Some(task) = self.message.properties.kind.as_deref() {
            what.method = task.into();
        }
        if self.waiting.is_some() {
            what.queue = self.message.routing_key.as_str().into();
        }
        fault.into_error(&what)
    }
}

impl IntoFuture for Push {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async { self.pack()?.push().await })
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> Option<u64> {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_of_future;

    /// Thousands of them may wait at once, and each is moved to the heap.
    #[test]
    fn the_future_of_a_push_stays_small() {
        let push = size_of_future(Parcel::push);
        assert!(push <= 1024, "{push}");
    }
}
