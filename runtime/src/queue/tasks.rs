//! Tasks: jobs that are methods of an annotated trait.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::handler::Work;
use super::job::RawJob;
use super::pool::{Bench, codec};
use super::producer::{Push, Till};
use super::{Spec, WorkQueue};
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::{Error, Kind};
use crate::link::Connection;
use crate::policy::retry::RetryPolicy;
use crate::policy::verdict::Verdict;
use crate::server::MethodTable;
use crate::service::{BoxFuture, Request, Tasks};
use crate::wire::codec::Codec;
use crate::worker::Running;

/// The untyped half of a generated producer. Cheap to clone.
#[derive(Clone)]
pub struct TaskProducer {
    till: Till,
    name: &'static str,
}

impl TaskProducer {
    /// A producer for the queue that the tasks' attribute names, a durable quorum queue.
    #[must_use]
    pub fn new(connection: &Connection, descriptor: &'static ServiceDescriptor) -> Self {
        Self::over(connection, descriptor, spec(descriptor))
    }

    /// A producer for a queue with other properties. Its workers have to be given the same.
    ///
    /// Jobs are written in the codec that the tasks' attribute names; where it names none, in the
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

    fn over(connection: &Connection, descriptor: &'static ServiceDescriptor, spec: Spec) -> Self {
        Self {
            till: Till::new(connection, spec),
            name: descriptor.name(),
        }
    }

    /// Prepares a push of one task; awaiting it makes it.
    pub fn push<A: Serialize + ?Sized>(
        &self,
        method: &'static MethodDescriptor,
        arguments: &A,
    ) -> Push {
        let body = self.till.codec().encode(arguments);
        let body = body.map_err(|error| Error::new(Kind::Encode).caused_by(error));
        self.till.push(Some(method.name()), body)
    }
}

impl fmt::Debug for TaskProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskProducer")
            .field("tasks", &self.name)
            .finish_non_exhaustive()
    }
}

/// Works on tasks.
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
/// lepus::TaskPool::new(&connection, ImagesWorker::new(Disk))
///     .concurrency(4)
///     .run(lepus::shutdown_signal())
///     .await
/// # }
/// ```
#[must_use = "a pool works when it is run"]
pub struct TaskPool {
    bench: Bench,
    tasks: Arc<dyn Tasks>,
}

impl TaskPool {
    /// A pool for the queue that the tasks' attribute names.
    pub fn new(connection: &Connection, tasks: impl Tasks) -> Self {
        let spec = spec(tasks.descriptor());
        Self {
            bench: Bench::new(connection, spec),
            tasks: Arc::new(tasks),
        }
    }

    /// A queue with other properties. Its producers have to be given the same.
    ///
    /// Jobs that name no content type are read in the codec that [`TaskProducer::on`] writes. If
    /// the attribute and the queue disagree on it, [`start`](Self::start) fails.
    pub fn queue<T>(mut self, queue: &WorkQueue<T>) -> Self {
        *self.bench.spec() = spec_on(self.tasks.descriptor(), &queue.spec);
        self
    }

    /// How often and how far apart a failed task is tried again. Default: as
    /// [`WorkQueue::retry`].
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.bench.spec().retry = policy;
        self
    }

    /// How many tasks are worked on at once: the channel's prefetch. Default 1.
    pub fn concurrency(mut self, tasks: u16) -> Self {
        self.bench.concurrency(tasks);
        self
    }

    /// How long a task may take that has no `timeout` of its own. Default: no limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.bench.timeout(limit);
        self
    }

    /// How long a shutdown waits for the tasks in hand. Default 30 s.
    pub fn grace(mut self, limit: Duration) -> Self {
        self.bench.grace(limit);
        self
    }

    /// Starts the pool: when it returns, tasks are taken. A task that the trait does not have
    /// goes to the dead-letter queue, as does one whose arguments do not decode.
    ///
    /// # Errors
    /// As [`WorkerPool::start`](super::WorkerPool::start).
    pub async fn start(self) -> Result<Running, Error> {
        let work = Arc::new(self.desk());
        self.bench.start(work).await
    }

    /// Works until `shutdown` completes, then drains.
    ///
    /// # Errors
    /// As [`WorkerPool::run`](super::WorkerPool::run).
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let work = Arc::new(self.desk());
        self.bench.run(work, shutdown).await
    }

    fn desk(&self) -> Desk {
        Desk::new(Arc::clone(&self.tasks), self.bench.codec())
    }
}

impl fmt::Debug for TaskPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskPool")
            .field("bench", &self.bench)
            .finish_non_exhaustive()
    }
}

fn spec(descriptor: &'static ServiceDescriptor) -> Spec {
    let mut spec = Spec::new(descriptor.queue_name());
    spec.codec = Some(descriptor.default_codec());
    spec
}

/// The queue for these tasks: its own properties, and the codec that both agree on.
fn spec_on(descriptor: &'static ServiceDescriptor, queue: &Spec) -> Spec {
    let mut spec = queue.clone();
    let (tasks, name) = (descriptor.chosen_codec(), descriptor.name());
    match (tasks, queue.codec) {
        (Some(tasks), Some(own)) if tasks != own => {
            spec.fault = Some(Error::invalid(format!(
                "the tasks `{name}` are written in {tasks} (the codec of their attribute), and \
                 their queue `{}` says {own}: leave out one of the two",
                queue.name
            )));
        }
        _ => spec.codec = tasks.or(queue.codec),
    }
    spec
}

/// Finds the task a job is for.
struct Desk {
    tasks: Arc<dyn Tasks>,
    methods: MethodTable,
    /// Of jobs that name none.
    codec: Codec,
}

impl Desk {
    fn new(tasks: Arc<dyn Tasks>, codec: Codec) -> Self {
        Self {
            methods: MethodTable::new(tasks.descriptor(), None),
            tasks,
            codec,
        }
    }

    fn request(&self, job: &RawJob) -> Result<Request, String> {
        let head = &job.facts.head;
        let name = head.task.as_deref();
        let method = self.methods.find(name).ok_or_else(|| {
            let (name, names) = (name.unwrap_or_default(), self.methods.names());
            format!("no task `{name}`; this worker has {names}")
        })?;
        let codec = codec(self.codec, head.content_type.as_deref())?;
        Ok(Request::new(method, codec, job.body.clone()))
    }
}

impl Work for Desk {
    fn perform(&self, job: RawJob) -> BoxFuture<Verdict> {
        let request = match self.request(&job) {
            Ok(request) => request,
            Err(reason) => return Box::pin(std::future::ready(Verdict::hopeless(reason))),
        };
        self.tasks.run(request)
    }

    fn limit(&self, task: Option<&str>) -> Option<Duration> {
        self.methods.find(task)?.timeout()
    }
}
