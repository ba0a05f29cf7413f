//! Work queues: jobs are confirmed by the broker when they are pushed, retried with backoff when they
//! fail, and moved to a dead-letter queue after their last attempt.

mod ack_timeout;
mod dead_letters;
mod get;
mod handler;
mod job;
mod job_meters;
mod job_publisher;
mod layered;
mod polled_queue;
mod pool;
mod producer;
mod push;
mod push_all;
mod spec;
mod tasks;

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

pub use dead_letters::{DeadLetter, DeadLetterReader, DeadLetters};
pub use get::{Getter, PolledJob};
pub use job::Job;
pub use pool::WorkerPool;
pub use producer::Producer;
pub use push::Push;
pub use tasks::{TaskPool, TaskProducer};

pub(crate) use handler::{JobHandler, JobRunner};
pub(crate) use job::{RawJob, payload_codec};
pub(crate) use layered::layered;
pub(crate) use spec::QueueSpec;
use spec::check_delay;

use crate::error::Error;
use crate::link::{self, Connection, QueueCounts};
use crate::policy::retry::RetryPolicy;
use crate::publish::Publisher;
use crate::wire::codec::Codec;
use crate::wire::topology::{QueueKind, Topology};

/// A queue of jobs of one type: the name and properties from which producers, workers and the
/// dead-letter queue are made.
///
/// On the broker it consists of these queues. Each is declared when it is first needed, unless the
/// queue is [`passive`](Self::passive):
///
/// - the queue itself, a durable quorum queue unless [`classic`](Self::classic);
/// - `<queue>.dead` for jobs that failed for good, with the reason;
/// - `<queue>.retry.<milliseconds>`, one for each step of delay, in which retries wait.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// use lepus::{Job, WorkQueue};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Resize {
///     id: u64,
///     width: u32,
/// }
///
/// let queue = WorkQueue::<Resize>::new("resize");
/// queue.producer(&connection).push(&Resize { id: 7, width: 640 }).await?;
///
/// let resize = async |job: Job<Resize>| -> Result<(), std::io::Error> {
///     println!("{} to {} pixels", job.payload().id, job.payload().width);
///     Ok(())
/// };
/// queue.worker(&connection).concurrency(4).run(resize, lepus::shutdown_signal()).await
/// # }
/// ```
pub struct WorkQueue<T> {
    spec: QueueSpec,
    payload: PhantomData<fn(T) -> T>,
}

impl<T> WorkQueue<T> {
    /// A durable quorum queue of this name, in MessagePack. A name that AMQP does not allow is
    /// an [`is_invalid`](Error::is_invalid) error where the queue is first used.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            spec: QueueSpec::new(name),
            payload: PhantomData,
        }
    }

    /// A classic queue: on one node of the broker, and the only kind with priorities.
    ///
    /// Its declaration names the type (`x-queue-type`), and so do those of its dead-letter queue and
    /// its delay queues, so that they are classic in a virtual host with another default type too. In
    /// other virtual hosts RabbitMQ treats that like a declaration without arguments, which other
    /// programs may use. A queue that exists as a quorum queue, because of such a default, is used as
    /// it is, and a warning is logged.
    #[must_use]
    pub fn classic(mut self) -> Self {
        self.spec.kind = QueueKind::Classic;
        self.spec.declares_type = true;
        self
    }

    /// A classic queue that does not survive a restart of the broker, and neither do its messages.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.spec.kind = QueueKind::Classic;
        self.spec.durable = false;
        self
    }

    /// The codec of payloads. Default: MessagePack. Workers use the codec that a job's content type
    /// names, and this one for jobs without a content type.
    ///
    /// Tasks ([`TaskProducer::on`], [`TaskPool::queue`]) use the codec of their attribute,
    /// `#[lepus::tasks(codec = "…")]`, if it names one; a different one here is then an error.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.spec.codec = Some(codec);
        self
    }

    /// Priorities from 0 to `max` (`x-max-priority`), on a classic queue.
    #[must_use]
    pub fn max_priority(mut self, max: u8) -> Self {
        self.spec.max_priority = Some(max);
        self
    }

    /// The number of jobs that may wait; further pushes are rejected (`x-overflow: reject-publish`).
    ///
    /// The limit applies to jobs whose delay has passed as well. The delay queues are therefore quorum
    /// queues: RabbitMQ keeps a job that the full queue refuses, and offers it again every three
    /// minutes unless configured otherwise (`dead_letter_worker_publisher_confirm_timeout`).
    #[must_use]
    pub fn max_length(mut self, jobs: u32) -> Self {
        self.spec.max_length = Some(jobs);
        self
    }

    /// The time that a job may wait before it is dead-lettered as expired (`x-message-ttl`), in whole
    /// milliseconds, rounded up.
    #[must_use]
    pub fn message_ttl(mut self, ttl: Duration) -> Self {
        self.spec.message_ttl = Some(ttl);
        self
    }

    /// The number of attempts at a job, and the delays between them. Default: 5 attempts, with delays
    /// of 1, 2, 4 and 8 s and jitter.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.spec.retry = policy;
        self
    }

    /// The queue for jobs that failed for good. Default: `<queue>.dead`.
    #[must_use]
    pub fn dead_letter_queue(mut self, name: &str) -> Self {
        self.spec.dead = Some(name.to_owned());
        self
    }

    /// Declares nothing: the queues exist already, or another program declares them.
    #[must_use]
    pub fn passive(mut self) -> Self {
        self.spec.passive = true;
        self
    }

    /// The queue's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Declares the queue and its dead-letter queue now, instead of when they are first needed.
    ///
    /// # Errors
    /// [`is_mismatch`](Error::is_mismatch) when one exists with other properties; the message
    /// names the queue, the argument and both values. [`is_invalid`](Error::is_invalid) for a
    /// name or a combination of options that is invalid.
    pub async fn declare(&self, connection: &Connection) -> Result<(), Error> {
        let publisher = Publisher::without_size_limit(connection);
        publisher.declare(self.spec.topology()?).await
    }

    /// Declares the queue in which jobs wait for this delay, and neither the queue itself nor another one. It is for
    /// a program that pushes to a queue of another program ([`passive`](Self::passive)), with a delay that nobody has
    /// used before. The kind and the limit of this value have to be those of the queue.
    ///
    /// ```no_run
    /// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
    /// use std::time::Duration;
    ///
    /// let (mails, delay) = (lepus::WorkQueue::<String>::new("mails"), Duration::from_secs(300));
    /// let producer = mails.clone().passive().producer(&connection);
    /// let push = || producer.push(&"hare@example.org".to_owned()).delay(delay);
    /// match push().await {
    ///     Err(error) if error.is_unroutable() => {
    ///         mails.declare_delay_queue(&connection, delay).await?;
    ///         push().await
    ///     }
    ///     pushed => pushed,
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`declare`](Self::declare). [`is_invalid`](Error::is_invalid) for a delay of more than 49 days, which is
    /// the longest that the broker has.
    pub async fn declare_delay_queue(
        &self,
        connection: &Connection,
        delay: Duration,
    ) -> Result<(), Error> {
        self.spec.check(connection.namespace())?;
        let topology = Topology::queue(self.spec.delayed(check_delay(delay)?)?);
        let publisher = Publisher::without_size_limit(connection);
        publisher.declare(topology).await
    }

    /// The number of jobs that are ready in the queue, and of its consumers. Jobs that wait for their next
    /// attempt or for their delay are not counted, and neither are those that a worker has.
    ///
    /// ```no_run
    /// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
    /// let queue = lepus::WorkQueue::<String>::new("mails");
    /// let counts = queue.count(&connection).await?;
    /// println!("{} mails wait for {} workers", counts.messages, counts.consumers);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The queue does not exist ([`amqp_code`](Error::amqp_code) 404), the connection was lost or closed, or
    /// the broker refuses.
    pub async fn count(&self, connection: &Connection) -> Result<QueueCounts, Error> {
        let session = connection.consuming().session().await?;
        link::count(&session, &self.spec.main()?, connection.namespace()).await
    }

    /// Removes the jobs that are ready in the queue for good, and returns their number. Those that wait for
    /// their next attempt or for their delay stay, and so do those that a worker has.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub async fn purge(&self, connection: &Connection) -> Result<u32, Error> {
        let session = connection.consuming().session().await?;
        link::purge(&session, &self.spec.main()?, connection.namespace()).await
    }

    /// Deletes the queue with all queues that Lepus declares for it: its delay queues and its dead-letter
    /// queue. Their jobs are lost. Queues that do not exist are no error.
    ///
    /// The workers of the queue and its producers declare it again when they next need it, so stop them
    /// first. A dead-letter queue that other work queues use as well is deleted all the same.
    ///
    /// # Errors
    /// [`is_invalid`](Error::is_invalid) for a [`passive`](Self::passive) queue, which belongs to another
    /// program. The connection was lost or closed, or the broker refuses; some of the queues may be deleted
    /// then.
    ///
    /// # Cancel safety
    /// If the future is dropped, some of the queues may be deleted.
    pub async fn delete(&self, connection: &Connection) -> Result<(), Error> {
        if self.spec.passive {
            return Err(Error::invalid(format!(
                "queue `{}` is passive, so that Lepus has declared nothing that it could delete",
                self.spec.name
            )));
        }
        let session = connection.consuming().session().await?;
        link::delete(&session, &self.spec.all_names()?, connection.namespace()).await
    }

    /// A producer, which pushes jobs.
    #[must_use]
    pub fn producer(&self, connection: &Connection) -> Producer<T> {
        Producer::new(connection, self.spec.clone())
    }

    /// A pool of workers, which run jobs.
    pub fn worker(&self, connection: &Connection) -> WorkerPool<T> {
        WorkerPool::new(connection, self.spec.clone())
    }

    /// A getter, which takes one job at a time (`basic.get`). RabbitMQ does not support that on
    /// streams.
    #[must_use]
    pub fn getter(&self, connection: &Connection) -> Getter<T> {
        Getter::new(connection, self.spec.clone())
    }

    /// The jobs that failed for good, to be listed, replayed and purged.
    #[must_use]
    pub fn dead_letters(&self, connection: &Connection) -> DeadLetters<T> {
        DeadLetters::new(connection, self.spec.clone())
    }
}

impl<T> WorkQueue<T> {
    /// A queue whose declaration has no arguments, so that other programs can declare it too.
    fn plain(name: &str) -> Self {
        let mut queue = Self::new(name);
        queue.spec.kind = QueueKind::Classic;
        queue
    }

    pub(crate) fn of(spec: QueueSpec) -> Self {
        Self {
            spec,
            payload: PhantomData,
        }
    }
}

impl WorkQueue<String> {
    /// A queue of plain text (`text/plain`), for programs in any language: what the RabbitMQ
    /// tutorials use. It is declared without arguments, as they do, and so is classic unless its
    /// virtual host has another default type.
    #[must_use]
    pub fn text(name: &str) -> Self {
        Self::plain(name).codec(Codec::Text)
    }
}

impl WorkQueue<Vec<u8>> {
    /// A queue of plain bytes (`application/octet-stream`), declared without arguments as
    /// [`text`](WorkQueue::text) is.
    #[must_use]
    pub fn bytes(name: &str) -> Self {
        Self::plain(name).codec(Codec::Bytes)
    }
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self {
            spec: self.spec.clone(),
            payload: PhantomData,
        }
    }
}

impl<T> fmt::Debug for WorkQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.spec, f)
    }
}
