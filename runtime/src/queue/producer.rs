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
use crate::middleware::{Middleware, Publication};

/// Pushes jobs to a work queue. Cheap to clone; clones share one channel and one limit of pushes in
/// flight.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// use std::time::Duration;
///
/// let producer = lepus::WorkQueue::<String>::new("mails").producer(&connection);
/// producer.push(&"hare@example.org".to_owned()).await?;
/// let late = "rabbit@example.org".to_owned();
/// producer.push(&late).delay(Duration::from_secs(3600)).header("tenant", "burrow").await?;
///
/// let many: Vec<String> = (0..1000).map(|number| format!("{number}@example.org")).collect();
/// for (address, result) in many.iter().zip(producer.push_all(&many).await) {
///     if let Err(error) = result {
///         println!("{address} is not in the queue: {error}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
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

    /// The time limit of a push, from the wait for a connection to the confirm. Default: 10 s.
    /// [`Push::timeout`] is that of one push.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.publisher.set_timeout(limit);
        self
    }

    /// The number of pushes that may be in flight at once, which are those that are not confirmed yet;
    /// further ones wait, within their timeout. Default: 1024. The producer no longer shares its
    /// channel and its limit with the one it was cloned from.
    #[must_use]
    pub fn max_in_flight(mut self, pushes: usize) -> Self {
        self.publisher.set_max_in_flight(pushes);
        self
    }

    /// Puts a layer around the pushes of this producer and its later clones ([`middleware`](crate::middleware)): the last one
    /// that is added sees a push first. A layer is a [`Middleware`] of [`Publication`]s, such as
    /// [`from_fn`](crate::middleware::from_fn) of a function.
    ///
    /// ```no_run
    /// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
    /// use lepus::middleware::{AccessLog, Next, Publication, from_fn};
    ///
    /// let signed = from_fn(async |push: Publication, next: Next<Publication>| {
    ///     next.run(push.with_header("authorization", "Bearer carrot")).await
    /// });
    /// let mails = lepus::WorkQueue::<String>::new("mails");
    /// let producer = mails.producer(&connection).layer(signed).layer(AccessLog::new());
    /// producer.push(&"hare@example.org".to_owned()).await
    /// # }
    /// ```
    #[must_use]
    pub fn layer(mut self, layer: impl Middleware<Publication>) -> Self {
        self.publisher.add_layer(layer);
        self
    }

    /// Prepares a push. Awaiting it publishes the job, and returns when the broker has confirmed it
    /// (`basic.ack` in confirm mode: a persistent job is then on disk, and on a quorum queue on most
    /// replicas).
    pub fn push(&self, job: &T) -> Push
    where
        T: Serialize,
    {
        Push::new(&self.publisher, None, job)
    }

    /// Pushes many jobs without waiting for each confirm before the next push. Returns one result for
    /// each job, in their order.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is not known which of the jobs were stored.
    pub async fn push_all<'a>(
        &self,
        jobs: impl IntoIterator<Item = &'a T>,
    ) -> Vec<Result<(), Error>>
    where
        T: Serialize + 'a,
    {
        let mut pushes = PushAll::new(&self.publisher);
        for job in jobs {
            pushes.push(self.push(job)).await;
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
