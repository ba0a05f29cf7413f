//! A pool of workers on one queue.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::QueueSpec;
use super::handler::{JobHandler, JobRunner};
use super::job::{Job, RawJob, payload_codec};
use super::layered::layered;
use crate::control::{self, Served};
use crate::descriptor::ServiceDescriptor;
use crate::error::Error;
use crate::link::Connection;
use crate::middleware::{Message, MessageLayers, Middleware};
use crate::policy::retry::RetryPolicy;
use crate::policy::verdict::{IntoVerdict, Verdict};
use crate::service::BoxFuture;
use crate::shutdown::GRACE;
use crate::wire::codec::Codec;
use crate::worker::{OnLoss, Source, Worker};
use crate::worker::{Running, Until};

/// A pool of workers that run a handler for each job of a queue.
///
/// # Handlers
///
/// A handler is a closure or a function that takes a [`Job`] and returns a future of `()` or of
/// `Result<(), E>`, where `E` is a [`Failure`](crate::jobs::Failure). It is called once for each job, and its
/// futures run at the same time, up to [`concurrency`](Self::concurrency). A handler that needs a state
/// of the program clones it for each job:
///
/// ```no_run
/// use std::sync::Arc;
///
/// use lepus::{Connection, Error, Job, WorkQueue, retry};
///
/// struct Store;
///
/// impl Store {
///     async fn save(&self, text: &str) -> Result<(), std::io::Error> {
///         println!("{text} is stored");
///         Ok(())
///     }
/// }
///
/// async fn work(connection: &Connection, store: Arc<Store>) -> Result<(), Error> {
///     let save = move |job: Job<String>| {
///         let store = Arc::clone(&store);
///         async move { store.save(job.payload()).await.map_err(retry) }
///     };
///     let texts = WorkQueue::<String>::new("texts");
///     let pool = texts.worker(connection).concurrency(8);
///     pool.run(save, lepus::shutdown_signal()).await
/// }
/// ```
///
/// An async closure does where nothing is captured: `async |job: Job<String>| …`. With captures,
/// `async move |job| store.save(…)` does not compile, because its futures borrow the captured values
/// from the closure, and the future of a handler has to own what it uses (`'static`): it may run on
/// another thread, and as long as those of later calls.
#[must_use = "a pool works when it is run"]
pub struct WorkerPool<T> {
    config: PoolConfig,
    payload: PhantomData<fn() -> T>,
}

/// The options of a pool of workers, be it for jobs of one type or for tasks.
#[derive(Clone, Debug)]
pub(super) struct PoolConfig {
    connection: Connection,
    spec: QueueSpec,
    concurrency: u16,
    timeout: Option<Duration>,
    grace: Duration,
    layers: MessageLayers,
}

impl PoolConfig {
    pub(super) fn new(connection: &Connection, spec: QueueSpec) -> Self {
        Self {
            connection: connection.clone(),
            spec,
            concurrency: 1,
            timeout: None,
            grace: GRACE,
            layers: MessageLayers::default(),
        }
    }

    pub(super) fn spec(&mut self) -> &mut QueueSpec {
        &mut self.spec
    }

    pub(super) fn codec(&self) -> Codec {
        self.spec.codec()
    }

    pub(super) fn concurrency(&mut self, jobs: u16) {
        self.concurrency = jobs.max(1);
    }

    pub(super) fn timeout(&mut self, limit: Duration) {
        self.timeout = Some(limit);
    }

    pub(super) fn grace(&mut self, limit: Duration) {
        self.grace = limit;
    }

    pub(super) fn layer(&mut self, layer: impl Middleware<Message>) {
        self.layers.add(layer);
    }

    /// Starts a pool; `tasks` describes its jobs if they are tasks.
    pub(super) async fn start(
        self,
        runner: Arc<dyn JobRunner>,
        tasks: Option<&'static ServiceDescriptor>,
    ) -> Result<Running, Error> {
        let Self {
            connection,
            spec,
            concurrency,
            timeout,
            grace,
            layers,
        } = self;
        spec.check(connection.namespace())?;
        let topology = spec.topology()?;
        let source = Source {
            topology: topology.clone(),
            queue: spec.name.clone(),
            concurrency,
            grace,
            // A job may have to be moved to another queue, which needs its body whatever its size.
            max_body: usize::MAX,
            on_loss: OnLoss::Finish,
        };
        let worker = Worker::start(&connection, source).await?;
        let mut running = Running::new();
        let runner = layered(runner, &layers, Some(spec.retry.max_attempts()));
        let views = [worker.view()];
        let served = match tasks {
            Some(tasks) => Served::tasks(&connection, tasks, (&spec.name, spec.codec()), &views),
            None => Served::queue(&connection, (&spec.name, spec.codec()), &views),
        };
        let served = served.declared_by(&topology);
        let handler = JobHandler::new(&connection, spec, runner, timeout);
        running.add(worker, Arc::new(handler), connection.tasks());
        control::announce(&connection, &mut running, served)?;
        Ok(running)
    }
}

impl<T> WorkerPool<T> {
    pub(super) fn new(connection: &Connection, spec: QueueSpec) -> Self {
        Self {
            config: PoolConfig::new(connection, spec),
            payload: PhantomData,
        }
    }

    /// The number of attempts at a job, and the delays between them. Default: that of the queue
    /// ([`WorkQueue::retry`](super::WorkQueue::retry)).
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.config.spec.retry = policy;
        self
    }

    /// The number of jobs that run at once, and the channel's prefetch (`basic.qos`). Default: 1, with
    /// which an idle worker is always preferred over a busy one.
    pub fn concurrency(mut self, jobs: u16) -> Self {
        self.config.concurrency(jobs);
        self
    }

    /// The time limit of a handler. A handler that exceeds it is dropped, and the job counts as
    /// failed. Default: no limit but the broker's own `consumer_timeout`, 30 minutes on RabbitMQ
    /// unless configured. After that the broker closes the channel and redelivers all unacknowledged
    /// jobs of it. [`Job::cancelled`](super::Job::cancelled) tells their handlers; it is logged at
    /// ERROR, and at WARN when four fifths of the time have passed. It does not count as a failed
    /// attempt.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.config.timeout(limit);
        self
    }

    /// The time that a shutdown waits for running handlers and for the broker. Default: 30 s. Jobs
    /// that are not done by then go back to the queue. A handler that blocks its thread is not waited
    /// for.
    pub fn grace(mut self, limit: Duration) -> Self {
        self.config.grace(limit);
        self
    }

    /// Puts a layer around the handler ([`middleware`](crate::middleware)): the last one that is added sees a job
    /// first. A layer is a [`Middleware`] of [`Message`]s, such as [`from_fn`](crate::middleware::from_fn) of a
    /// function and most of the ready ones.
    ///
    /// ```no_run
    /// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
    /// use lepus::jobs::Verdict;
    /// use lepus::middleware::{AccessLog, Message, Next, from_fn};
    /// use lepus::{Job, WorkQueue, reject};
    ///
    /// /// Jobs without a tenant become dead letters. The handler reads `x-tenant` too.
    /// async fn tenant(message: Message, next: Next<Message>) -> Verdict {
    ///     if message.header("x-tenant").is_none() {
    ///         return reject("no tenant").into();
    ///     }
    ///     next.run(message).await
    /// }
    ///
    /// let send = async |job: Job<String>| println!("a mail to {}", job.payload());
    /// let mails = WorkQueue::<String>::new("mails");
    /// let pool = mails.worker(&connection).layer(from_fn(tenant)).layer(AccessLog::new());
    /// pool.run(send, lepus::shutdown_signal()).await
    /// # }
    /// ```
    pub fn layer(mut self, layer: impl Middleware<Message>) -> Self {
        self.config.layer(layer);
        self
    }

    /// Starts the pool with a [handler](Self#handlers). When it returns, jobs are consumed.
    ///
    /// A panic of the handler counts as a failure. A payload that does not decode goes to the
    /// dead-letter queue at once.
    ///
    /// # Errors
    /// The broker refuses the queue: it exists with other properties
    /// ([`is_mismatch`](Error::is_mismatch)), or the user lacks a permission. Also a name or an option
    /// that is invalid, and that the connection was closed.
    pub fn start<H, F>(self, handler: H) -> BoxFuture<Result<Running, Error>>
    where
        T: DeserializeOwned + Send + 'static,
        H: Fn(Job<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        let runner = self.runner(handler);
        Box::pin(self.config.start(runner, None))
    }

    /// Consumes with a [handler](Self#handlers) until `shutdown` completes, then drains: stops consuming, lets running handlers finish
    /// within the grace period, and requeues the rest. A second signal ends it at once, if `shutdown`
    /// is [`shutdown_signal`](crate::shutdown_signal).
    ///
    /// # Errors
    /// Those of [`start`](Self::start), and that the connection was closed meanwhile.
    pub fn run<H, F, S>(self, handler: H, shutdown: S) -> Until<S>
    where
        T: DeserializeOwned + Send + 'static,
        H: Fn(Job<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
        S: Future<Output = ()>,
    {
        Until::new(self.start(handler), shutdown)
    }

    fn runner<H, F>(&self, handler: H) -> Arc<dyn JobRunner>
    where
        T: DeserializeOwned + Send + 'static,
        H: Fn(Job<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        let codec = self.config.spec.codec();
        Arc::new(TypedRunner {
            handler: Arc::new(handler),
            codec,
            payload: PhantomData::<fn() -> T>,
        })
    }
}

impl<T> fmt::Debug for WorkerPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool")
            .field("queue", &self.config.spec.name)
            .field("concurrency", &self.config.concurrency)
            .finish_non_exhaustive()
    }
}

/// Runs jobs of one type with a closure.
struct TypedRunner<T, H> {
    handler: Arc<H>,
    codec: Codec,
    payload: PhantomData<fn() -> T>,
}

impl<T, H, F> JobRunner for TypedRunner<T, H>
where
    T: DeserializeOwned + Send + 'static,
    H: Fn(Job<T>) -> F + Send + Sync + 'static,
    F: Future<Output: IntoVerdict> + Send + 'static,
{
    fn run(&self, job: RawJob) -> BoxFuture<Verdict> {
        match decode(self.codec, &job) {
            Ok(payload) => {
                let handler = Arc::clone(&self.handler);
                let job = Job {
                    payload,
                    body: job.body,
                    context: job.context,
                    cancellation: job.cancellation,
                };
                Box::pin(async move { handler(job).await.into_verdict() })
            }
            Err(reason) => Box::pin(std::future::ready(Verdict::reject(reason))),
        }
    }
}

fn decode<T: DeserializeOwned>(own: Codec, job: &RawJob) -> Result<T, String> {
    let content_type = job.context.message().content_type.as_deref();
    let codec = payload_codec(own, content_type)?;
    codec.decode(&job.body).map_err(|error| {
        let bytes = job.body.len();
        format!("the payload does not decode: {error} ({bytes} bytes)")
    })
}
