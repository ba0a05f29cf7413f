//! Pushing of jobs: a push ends when the broker has confirmed the job.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;

use super::QueueSpec;
use super::job_publisher::JobPublisher;
use super::push::Push;
use super::push_all::PushAll;
use crate::error::Error;
use crate::link::Connection;

/// Pushes jobs to a work queue. Cheap to clone; clones share one channel.
pub struct Producer<T> {
    publisher: JobPublisher,
    payload: PhantomData<fn(T)>,
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
        self.publisher.set_timeout(limit);
        self
    }

    /// The number of pushes that may be unconfirmed at once; further ones wait, within their timeout.
    /// Default 1024.
    #[must_use]
    pub fn max_unconfirmed(mut self, connection: &Connection, pushes: usize) -> Self {
        self.publisher.set_max_unconfirmed(connection, pushes);
        self
    }
}

impl<T: Serialize> Producer<T> {
    /// Prepares a push. Awaiting it publishes the job, and returns when the broker has confirmed it
    /// (`basic.ack` in confirm mode: a persistent job is then on disk, and on a quorum queue on most
    /// replicas).
    pub fn push(&self, job: &T) -> Push {
        Push::new(&self.publisher, None, job)
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
            .field("queue", &self.publisher.queue().spec.name)
            .finish_non_exhaustive()
    }
}
