//! Work queues: jobs that are stored before `push` returns, retried with backoff, and end
//! somewhere.

mod dead;
mod get;
mod handler;
mod in_hand;
mod job;
mod many;
mod polling;
mod pool;
mod producer;
mod spec;
mod tasks;

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

pub use dead::{DeadLetter, DeadLetters};
pub use get::{Getter, Taken};
pub use job::{Cancelled, Job};
pub use pool::WorkerPool;
pub use producer::{Producer, Push};
pub use tasks::{TaskPool, TaskProducer};

pub(crate) use handler::{JobHandler, Work};
pub(crate) use job::RawJob;
pub(crate) use pool::codec;
pub(crate) use producer::now;
pub(crate) use spec::Spec;

use crate::error::Error;
use crate::link::Connection;
use crate::policy::retry::RetryPolicy;
use crate::wire::codec::Codec;
use crate::wire::topology::QueueKind;

/// A queue of jobs of one type: its name and properties, from which producers, workers and the
/// dead-letter queue are made.
///
/// What the broker gets to see, all of it declared when it is first needed unless
/// [`passive`](Self::passive):
///
/// - the queue itself, a durable quorum queue unless [`classic`](Self::classic);
/// - `<queue>.dead` for jobs that were given up, with their reason;
/// - `<queue>.retry.<milliseconds>`, one for each step of delay, where retries wait.
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
    spec: Spec,
    payload: PhantomData<fn(T) -> T>,
}

impl<T> WorkQueue<T> {
    /// A durable quorum queue of this name, in MessagePack. A name that AMQP does not allow is
    /// an [`is_invalid`](Error::is_invalid) error where the queue is first used.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            spec: Spec::new(name),
            payload: PhantomData,
        }
    }

    /// A classic queue: on one node of the broker, and the only kind with priorities.
    ///
    /// It says so in its declaration (`x-queue-type`), and in those of its dead-letter queue and its
    /// delay queues, so that they are classic in a virtual host with another default type too.
    /// Everywhere else RabbitMQ takes that for the same as a declaration without arguments, which
    /// other programs may use. A queue that exists and is a quorum queue, by such a default, is used
    /// as it is, and a warning is logged.
    #[must_use]
    pub fn classic(mut self) -> Self {
        self.spec.kind = QueueKind::Classic;
        self.spec.says_classic = true;
        self
    }

    /// A classic queue that goes with a restart of the broker, with messages that do so too.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.spec.kind = QueueKind::Classic;
        self.spec.durable = false;
        self
    }

    /// How payloads are encoded. Default: MessagePack. Workers take any codec that a job's
    /// content type names, and this one for jobs that name none.
    ///
    /// Tasks ([`TaskProducer::on`], [`TaskPool::queue`]) have the codec of their attribute,
    /// `#[lepus::tasks(codec = "…")]`, if it names one; another one here is an error then.
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

    /// How many jobs may wait; further pushes end as rejected (`x-overflow: reject-publish`).
    ///
    /// Jobs that come back from a delay meet the same limit. They wait in quorum queues then,
    /// where RabbitMQ keeps what is refused and offers it again, every three minutes unless it is
    /// set otherwise (`dead_letter_worker_publisher_confirm_timeout`).
    #[must_use]
    pub fn max_length(mut self, jobs: u32) -> Self {
        self.spec.max_length = Some(jobs);
        self
    }

    /// How long a job may wait before it is dead-lettered as expired (`x-message-ttl`), in whole
    /// milliseconds, rounded up.
    #[must_use]
    pub fn message_ttl(mut self, ttl: Duration) -> Self {
        self.spec.message_ttl = Some(ttl);
        self
    }

    /// How often and how far apart a failed job is tried again. Default: 5 attempts in all, after
    /// 1, 2, 4 and 8 s, with jitter.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.spec.retry = policy;
        self
    }

    /// The queue for jobs that were given up. Default: `<queue>.dead`.
    #[must_use]
    pub fn dead_letter_queue(mut self, name: &str) -> Self {
        self.spec.dead = Some(name.to_owned());
        self
    }

    /// Declares nothing: the queues are there already, or somebody else sees to them.
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
    /// name or a combination that makes no sense.
    pub async fn declare(&self, connection: &Connection) -> Result<(), Error> {
        let publisher = crate::publish::Publisher::without_size_limit(connection);
        publisher.declare(self.spec.topology()?).await
    }

    /// Pushes jobs.
    #[must_use]
    pub fn producer(&self, connection: &Connection) -> Producer<T> {
        Producer::new(connection, self.spec.clone())
    }

    /// Works on jobs with a pool of handlers.
    pub fn worker(&self, connection: &Connection) -> WorkerPool<T> {
        WorkerPool::new(connection, self.spec.clone())
    }

    /// Takes jobs one at a time, when asked (`basic.get`). Not from a stream, which RabbitMQ has no
    /// `basic.get` for.
    #[must_use]
    pub fn getter(&self, connection: &Connection) -> Getter<T> {
        Getter::new(connection, self.spec.clone())
    }

    /// Looks after the jobs that were given up.
    #[must_use]
    pub fn dead_letters(&self, connection: &Connection) -> DeadLetters<T> {
        DeadLetters::new(connection, self.spec.clone())
    }
}

impl<T> WorkQueue<T> {
    /// Declared as any program would.
    fn plain(name: &str) -> Self {
        let mut queue = Self::new(name);
        queue.spec.kind = QueueKind::Classic;
        queue
    }

    pub(crate) fn of(spec: Spec) -> Self {
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
