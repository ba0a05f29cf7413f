//! Pushing of jobs: a push ends when the broker has confirmed the job.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::QueueSpec;
use super::push::Push;
use super::push_all::PushAll;
use crate::error::{Error, Kind};
use crate::link::{Connection, Namespace};
use crate::publish::{MAX_UNCONFIRMED, OnMissing, Publisher, TIMEOUT, Target};

/// Pushes jobs to a work queue. Cheap to clone; clones share one channel.
pub struct Producer<T> {
    publisher: JobPublisher,
    payload: PhantomData<fn(T)>,
}

/// Publishes encoded jobs to one queue.
#[derive(Clone, Debug)]
pub(super) struct JobPublisher {
    queue: Arc<QueueContext>,
    publisher: Publisher,
    timeout: Duration,
}

/// The values that all pushes to a queue share.
#[derive(Debug)]
pub(super) struct QueueContext {
    pub(super) spec: QueueSpec,
    namespace: Namespace,
    /// The name of this program (AMQP's `app_id`).
    pub(super) app_id: Option<String>,
    pub(super) target: Target,
    /// The reaction to a missing queue, or an error if the queue's options are invalid.
    pub(super) on_missing: Result<OnMissing, Error>,
}

impl QueueContext {
    fn new(connection: &Connection, spec: QueueSpec) -> Self {
        let namespace = connection.namespace().clone();
        let topology = spec.check(&namespace).and_then(|()| spec.topology());
        Self {
            target: Target {
                service: spec.name.as_str().into(),
                method: "".into(),
                queue: namespace.scope(&spec.name).into(),
            },
            on_missing: topology.map(|topology| spec.on_missing(topology)),
            app_id: connection.given_name().map(str::to_owned),
            namespace,
            spec,
        }
    }

    /// The name of the delay queue for this delay, and the reaction if it is missing.
    pub(super) fn delay_queue(&self, delay: Duration) -> Result<(String, OnMissing), Error> {
        let queue = self.spec.delayed(delay)?;
        let name = self.namespace.scope(queue.name().as_str());
        let mut topology = self.spec.topology()?;
        topology.queues.push(queue);
        Ok((name, self.spec.on_missing(topology)))
    }
}

impl<T> Producer<T> {
    pub(super) fn new(connection: &Connection, spec: QueueSpec) -> Self {
        Self {
            publisher: JobPublisher::new(connection, spec),
            payload: PhantomData,
        }
    }

    /// The time limit of a push, from the wait for a connection to the confirm. Default 10 s.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.publisher.timeout = limit;
        self
    }

    /// The number of pushes that may be unconfirmed at once; further ones wait, within their timeout.
    /// Default 1024.
    #[must_use]
    pub fn max_unconfirmed(mut self, connection: &Connection, pushes: usize) -> Self {
        self.publisher.publisher = Publisher::new(connection, pushes);
        self
    }
}

impl<T: Serialize> Producer<T> {
    /// Prepares a push. Awaiting it publishes the job, and returns when the broker has confirmed it
    /// (`basic.ack` in confirm mode: a persistent job is then on disk, and on a quorum queue on most
    /// replicas).
    pub fn push(&self, job: &T) -> Push {
        self.publisher.push(None, job)
    }

    /// Pushes many jobs without waiting for each confirm before the next push. Returns one result for
    /// each job, in their order.
    ///
    /// Not cancel-safe: if the future is dropped, it is not known which of the jobs were stored.
    pub async fn push_all<'a>(
        &self,
        jobs: impl IntoIterator<Item = &'a T>,
    ) -> Vec<Result<(), Error>>
    where
        T: 'a,
    {
        let mut pushes = PushAll::new(&self.publisher);
        for job in jobs {
            pushes.push(self.push(job).encode()).await;
        }
        pushes.results().await
    }
}

impl JobPublisher {
    pub(super) fn new(connection: &Connection, spec: QueueSpec) -> Self {
        Self {
            queue: Arc::new(QueueContext::new(connection, spec)),
            publisher: Publisher::new(connection, MAX_UNCONFIRMED),
            timeout: TIMEOUT,
        }
    }

    pub(super) fn queue(&self) -> &QueueContext {
        &self.queue
    }

    pub(super) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Prepares a push of a job, or of a task with these arguments. If the payload cannot be encoded,
    /// the push fails when it is awaited.
    pub(super) fn push<A: Serialize + ?Sized>(&self, task: Option<&str>, payload: &A) -> Push {
        let body = self.queue.spec.codec().encode(payload);
        let body = body.map_err(|error| Error::new(Kind::Encode).caused_by(error));
        Push::new(self.clone(), task, body)
    }
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self {
            publisher: self.publisher.clone(),
            payload: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("queue", &self.publisher.queue.spec.name)
            .finish_non_exhaustive()
    }
}
