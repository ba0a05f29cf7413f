//! Tasks: jobs that run a method of an annotated trait, which the AMQP property `type` names.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::handler::JobRunner;
use super::job::{RawJob, payload_codec};
use super::job_publisher::JobPublisher;
use super::pool::PoolConfig;
use super::push::Push;
use super::push_all::PushAll;
use super::{DeadLetters, QueueSpec, WorkQueue};
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::Error;
use crate::link::Connection;
use crate::middleware::{Message, Middleware, Publication};
use crate::policy::retry::RetryPolicy;
use crate::policy::verdict::Verdict;
use crate::server::MethodTable;
use crate::service::{BoxFuture, Request, Tasks};
use crate::wire::codec::Codec;
use crate::worker::{Running, Until};

/// The untyped half of a generated producer. Cheap to clone.
#[derive(Clone)]
pub struct TaskProducer {
    publisher: JobPublisher,
    name: &'static str,
}

impl TaskProducer {
    /// A producer for the queue that the tasks' attribute names, a durable quorum queue.
    #[must_use]
    pub fn new(connection: &Connection, descriptor: &'static ServiceDescriptor) -> Self {
        Self::over(connection, descriptor, spec(descriptor))
    }

    /// A producer for a queue with other properties. Its workers need the same queue.
    ///
    /// Jobs are encoded with the codec that the tasks' attribute names; if it names none, with the
    /// queue's ([`WorkQueue::codec`]). If both name one, and not the same, a push fails with
    /// [`is_invalid`](Error::is_invalid).
    #[must_use]
    pub fn on<T>(
        connection: &Connection,
        descriptor: &'static ServiceDescriptor,
        queue: &WorkQueue<T>,
    ) -> Self {
        Self::over(connection, descriptor, spec_on(descriptor, &queue.spec))
    }

    fn over(
        connection: &Connection,
        descriptor: &'static ServiceDescriptor,
        spec: QueueSpec,
    ) -> Self {
        Self {
            publisher: JobPublisher::new(connection, spec),
            name: descriptor.name(),
        }
    }

    /// The time limit of a push, from the wait for a connection to the confirm. Default: 10 s.
    /// [`Push::timeout`] is that of one push.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.publisher.set_timeout(limit);
        self
    }

    /// The number of pushes that may be in flight at once, as
    /// [`Producer::max_in_flight`](super::Producer::max_in_flight). Default: 1024.
    #[must_use]
    pub fn max_in_flight(mut self, pushes: usize) -> Self {
        self.publisher.set_max_in_flight(pushes);
        self
    }

    /// Puts a layer around the pushes of this producer and its later clones ([`middleware`](crate::middleware)): the last one
    /// that is added sees a push first. A layer is a [`Middleware`] of [`Publication`]s, such as
    /// [`from_fn`](crate::middleware::from_fn) of a function.
    /// [`Producer::layer`](super::Producer::layer) has an example.
    #[must_use]
    pub fn layer(mut self, layer: impl Middleware<Publication>) -> Self {
        self.publisher.add_layer(layer);
        self
    }

    /// Pushes many tasks without waiting for each confirm before the next push. Returns one result for
    /// each push, in their order. A generated producer has the same method.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is not known which of the tasks were stored.
    pub async fn push_all(&self, pushes: impl IntoIterator<Item = Push>) -> Vec<Result<(), Error>> {
        let mut all = PushAll::new(&self.publisher);
        for push in pushes {
            all.push(push).await;
        }
        all.results().await
    }

    /// Prepares a push of one task. Generated producers use it.
    #[doc(hidden)]
    pub fn push<A: Serialize + ?Sized>(
        &self,
        method: &'static MethodDescriptor,
        arguments: &A,
    ) -> Push {
        Push::new(&self.publisher, Some(method.name()), arguments)
    }
}

impl fmt::Debug for TaskProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskProducer")
            .field("tasks", &self.name)
            .finish_non_exhaustive()
    }
}

/// A pool of workers that run tasks.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// #[lepus::tasks]
/// trait Images {
///     async fn resize(&self, id: u64, width: u32) -> Result<(), std::io::Error>;
/// }
///
/// struct Disk;
///
/// impl Images for Disk {
///     async fn resize(&self, id: u64, width: u32) -> Result<(), std::io::Error> {
///         println!("{id} to {width} pixels");
///         Ok(())
///     }
/// }
///
/// ImagesProducer::new(&connection).resize(7, 640).await?;
/// lepus::jobs::TaskPool::new(&connection, ImagesWorker::new(Disk))
///     .concurrency(4)
///     .run(lepus::shutdown_signal())
///     .await
/// # }
/// ```
#[must_use = "a pool works when it is run"]
pub struct TaskPool {
    config: PoolConfig,
    tasks: Arc<dyn Tasks>,
}

impl TaskPool {
    /// A pool for the queue that the tasks' attribute names.
    pub fn new(connection: &Connection, tasks: impl Tasks) -> Self {
        let spec = spec(tasks.descriptor());
        Self {
            config: PoolConfig::new(connection, spec),
            tasks: Arc::new(tasks),
        }
    }

    /// Consumes from a queue with other properties. Its producers need the same queue.
    ///
    /// Jobs without a content type are decoded with the codec that [`TaskProducer::on`] uses. If the
    /// attribute and the queue name different ones, [`start`](Self::start) fails.
    pub fn queue<T>(mut self, queue: &WorkQueue<T>) -> Self {
        *self.config.spec() = spec_on(self.tasks.descriptor(), &queue.spec);
        self
    }

    /// The number of attempts at a task, and the delays between them. Default: that of the queue
    /// ([`WorkQueue::retry`]).
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.config.spec().retry = policy;
        self
    }

    /// The number of tasks that run at once, and the channel's prefetch (`basic.qos`). Default: 1.
    pub fn concurrency(mut self, tasks: u16) -> Self {
        self.config.concurrency(tasks);
        self
    }

    /// The time limit of tasks that have no `timeout` of their own. Default: no limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.config.timeout(limit);
        self
    }

    /// The time that a shutdown waits for running tasks and for the broker. Default: 30 s.
    pub fn grace(mut self, limit: Duration) -> Self {
        self.config.grace(limit);
        self
    }

    /// Puts a layer around the handler ([`middleware`](crate::middleware)): the last one that is added sees a job
    /// first. A layer is a [`Middleware`] of [`Message`]s, such as [`from_fn`](crate::middleware::from_fn) of a
    /// function and most of the ready ones.
    /// [`WorkerPool::layer`](super::WorkerPool::layer) has an example.
    pub fn layer(mut self, layer: impl Middleware<Message>) -> Self {
        self.config.layer(layer);
        self
    }

    /// Starts the pool. When it returns, tasks are consumed. A task whose arguments do not decode goes
    /// to the dead-letter queue.
    ///
    /// A task that the trait does not have is retried with the policy's backoff, because a worker of a
    /// later version may have it. It gets as many attempts as the retry policy allows, but at least ten,
    /// which take about eight minutes with the default backoff; then it goes to the dead-letter queue.
    /// These attempts count: if the worker that has the task fails when none are left, the job is not
    /// tried again.
    ///
    /// # Errors
    /// As [`WorkerPool::start`](super::WorkerPool::start).
    pub fn start(self) -> BoxFuture<Result<Running, Error>> {
        let (runner, descriptor) = (Arc::new(self.router()), self.tasks.descriptor());
        Box::pin(self.config.start(runner, Some(descriptor)))
    }

    /// Consumes until `shutdown` completes, then drains.
    ///
    /// # Errors
    /// As [`WorkerPool::run`](super::WorkerPool::run).
    pub fn run<S: Future<Output = ()>>(self, shutdown: S) -> Until<S> {
        Until::new(self.start(), shutdown)
    }

    fn router(&self) -> TaskRouter {
        TaskRouter::new(Arc::clone(&self.tasks), self.config.codec())
    }
}

impl fmt::Debug for TaskPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskPool")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<T> DeadLetters<T> {
    /// The dead letters of tasks. `T` is the enum that `#[lepus::tasks]` generates with a worker: a
    /// variant for each task, with its arguments. The generated worker has this as `dead_letters`.
    #[must_use]
    pub fn of_tasks(connection: &Connection, descriptor: &'static ServiceDescriptor) -> Self {
        Self::by_task(connection, spec(descriptor))
    }

    /// The same for a queue with other properties, as that of [`TaskProducer::on`].
    #[must_use]
    pub fn of_tasks_on<Q>(
        connection: &Connection,
        descriptor: &'static ServiceDescriptor,
        queue: &WorkQueue<Q>,
    ) -> Self {
        Self::by_task(connection, spec_on(descriptor, &queue.spec))
    }
}

fn spec(descriptor: &'static ServiceDescriptor) -> QueueSpec {
    let mut spec = QueueSpec::new(descriptor.queue_name());
    spec.codec = Some(descriptor.default_codec());
    spec
}

/// The queue for these tasks, with the codec that is set on the queue or in the attribute.
fn spec_on(descriptor: &'static ServiceDescriptor, queue: &QueueSpec) -> QueueSpec {
    let mut spec = queue.clone();
    let (tasks, name) = (descriptor.chosen_codec(), descriptor.name());
    match (tasks, queue.codec) {
        (Some(tasks), Some(own)) if tasks != own => {
            spec.conflict = Some(Error::invalid(format!(
                "the tasks `{name}` are encoded as {tasks} (the codec of their attribute), and \
                 their queue `{}` has the codec {own}: leave out one of the two",
                queue.name
            )));
        }
        _ => spec.codec = tasks.or(queue.codec),
    }
    spec
}

/// Runs each job with the method that its `type` names.
struct TaskRouter {
    tasks: Arc<dyn Tasks>,
    methods: MethodTable,
    /// The codec of jobs without a content type.
    codec: Codec,
}

impl TaskRouter {
    fn new(tasks: Arc<dyn Tasks>, codec: Codec) -> Self {
        Self {
            methods: MethodTable::new(tasks.descriptor(), None),
            tasks,
            codec,
        }
    }

    /// # Errors
    /// The verdict on a job that cannot be run here.
    fn request(&self, job: &RawJob) -> Result<Request, Verdict> {
        let info = job.context.message();
        let name = info.kind.as_deref();
        let method = self.methods.find(name).ok_or_else(|| {
            let (named, names) = (name.unwrap_or_default(), self.methods.names());
            let error = format!("no task `{named}`; this worker has {names}");
            if named.is_empty() {
                // No worker can ever run a job that names no task.
                Verdict::reject(error)
            } else {
                Verdict::unknown_task(error)
            }
        })?;
        let codec = payload_codec(self.codec, info.content_type.as_deref());
        let codec = codec.map_err(Verdict::reject)?;
        Ok(Request::new(method, codec, job.body.clone()))
    }
}

impl JobRunner for TaskRouter {
    fn run(&self, job: RawJob) -> BoxFuture<Verdict> {
        let request = match self.request(&job) {
            Ok(request) => request,
            Err(verdict) => return Box::pin(std::future::ready(verdict)),
        };
        self.tasks.run(request)
    }

    fn tasks(&self) -> Option<&'static ServiceDescriptor> {
        Some(self.tasks.descriptor())
    }

    fn method(&self, task: Option<&str>) -> Option<&'static MethodDescriptor> {
        self.methods.find(task)
    }
}
