//! A pool of workers on one queue.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::Spec;
use super::handler::{JobHandler, Work};
use super::job::{Job, RawJob};
use crate::error::Error;
use crate::link::Connection;
use crate::policy::verdict::{IntoVerdict, Verdict};
use crate::service::BoxFuture;
use crate::shutdown::GRACE;
use crate::wire::codec::Codec;
use crate::worker::{OnLoss, Source, Worker};
use crate::worker::{Running, Until};

/// Works on the jobs of a queue.
#[must_use = "a pool works when it is run"]
pub struct WorkerPool<T> {
    bench: Bench,
    payload: PhantomData<fn() -> T>,
}

/// A pool's options, whatever does its work.
#[derive(Clone, Debug)]
pub(super) struct Bench {
    connection: Connection,
    spec: Spec,
    concurrency: u16,
    timeout: Option<Duration>,
    grace: Duration,
}

impl Bench {
    pub(super) fn new(connection: &Connection, spec: Spec) -> Self {
        Self {
            connection: connection.clone(),
            spec,
            concurrency: 1,
            timeout: None,
            grace: GRACE,
        }
    }

    pub(super) fn spec(&mut self) -> &mut Spec {
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

    pub(super) async fn start(self, work: Arc<dyn Work>) -> Result<Running, Error> {
        let Self {
            connection,
            spec,
            concurrency,
            timeout,
            grace,
        } = self;
        spec.check(connection.namespace())?;
        let source = Source {
            topology: spec.topology()?,
            queue: spec.name.clone(),
            concurrency,
            grace,
            // A job is moved as it is, whatever its size.
            max_body: usize::MAX,
            on_loss: OnLoss::Finish,
        };
        let worker = Worker::start(&connection, source).await?;
        let mut running = Running::new();
        let handler = JobHandler::new(&connection, spec, work, timeout);
        running.add(worker, Arc::new(handler), connection.tasks());
        Ok(running)
    }

    pub(super) async fn run(
        self,
        work: Arc<dyn Work>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        tokio::pin!(shutdown);
        let running = tokio::select! {
            running = self.start(work) => running?,
            () = &mut shutdown => return Ok(()),
        };
        running.until(shutdown).await
    }
}

impl<T> WorkerPool<T> {
    pub(super) fn new(connection: &Connection, spec: Spec) -> Self {
        Self {
            bench: Bench::new(connection, spec),
            payload: PhantomData,
        }
    }
}

impl<T: DeserializeOwned + Send + 'static> WorkerPool<T> {
    /// How many jobs are worked on at once: the channel's prefetch (`basic.qos`). Default 1: a
    /// busy worker gets no further job while another one is idle.
    pub fn concurrency(mut self, jobs: u16) -> Self {
        self.bench.concurrency(jobs);
        self
    }

    /// How long a handler may take; then it is dropped, and the job counts as failed. Default:
    /// no limit but the broker's own `consumer_timeout`, 30 minutes on RabbitMQ unless set: the
    /// broker closes the channel then and delivers all jobs in hand again.
    /// [`Job::cancelled`](super::Job::cancelled) tells their handlers, the log has it at ERROR, and
    /// a warning when four fifths of the time are gone. No job is given up for it.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.bench.timeout(limit);
        self
    }

    /// How long a shutdown waits for the jobs in hand and for the broker. Default 30 s; what is not
    /// done by then goes back to the queue. A handler that holds its thread is not waited for.
    pub fn grace(mut self, limit: Duration) -> Self {
        self.bench.grace(limit);
        self
    }

    /// Starts the pool: when it returns, jobs are taken.
    ///
    /// The handler returns `()` or `Result<(), E>` where `E` is a [`Failure`](crate::Failure). A
    /// panic counts as a failure; a payload that does not decode goes to the dead-letter queue at
    /// once.
    ///
    /// # Errors
    /// The broker refuses the queue: it exists with other properties
    /// ([`is_mismatch`](Error::is_mismatch)), or is not for this user. Also a name or an option
    /// that makes no sense, and that the connection was closed.
    pub fn start<H, F>(self, handler: H) -> BoxFuture<Result<Running, Error>>
    where
        H: Fn(Job<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        let work = self.typed(handler);
        Box::pin(self.bench.start(work))
    }

    /// Works until `shutdown` completes, then drains: stops consuming, finishes what is in hand
    /// within the grace period, gives the rest back. A second signal ends it at once, if
    /// `shutdown` is [`shutdown_signal`](crate::shutdown_signal).
    ///
    /// # Errors
    /// As [`start`](Self::start); and that the connection was closed under it.
    pub fn run<H, F, S>(self, handler: H, shutdown: S) -> Until<S>
    where
        H: Fn(Job<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
        S: Future<Output = ()>,
    {
        Until::new(self.start(handler), shutdown)
    }

    fn typed<H, F>(&self, handler: H) -> Arc<dyn Work>
    where
        H: Fn(Job<T>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoVerdict> + Send + 'static,
    {
        let codec = self.bench.spec.codec();
        Arc::new(Typed {
            handler: Arc::new(handler),
            codec,
            payload: PhantomData::<fn() -> T>,
        })
    }
}

impl<T> fmt::Debug for WorkerPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool")
            .field("queue", &self.bench.spec.name)
            .field("concurrency", &self.bench.concurrency)
            .finish_non_exhaustive()
    }
}

/// A closure over jobs of one type.
struct Typed<T, H> {
    handler: Arc<H>,
    codec: Codec,
    payload: PhantomData<fn() -> T>,
}

impl<T, H, F> Work for Typed<T, H>
where
    T: DeserializeOwned + Send + 'static,
    H: Fn(Job<T>) -> F + Send + Sync + 'static,
    F: Future<Output: IntoVerdict> + Send + 'static,
{
    fn perform(&self, job: RawJob) -> BoxFuture<Verdict> {
        match decode(self.codec, &job) {
            Ok(payload) => {
                let handler = Arc::clone(&self.handler);
                let job = Job {
                    payload,
                    facts: job.facts,
                };
                Box::pin(async move { handler(job).await.into_verdict() })
            }
            Err(reason) => Box::pin(std::future::ready(Verdict::hopeless(reason))),
        }
    }
}

/// The payload, in the codec that its content type names.
pub(super) fn decode<T: DeserializeOwned>(own: Codec, job: &RawJob) -> Result<T, String> {
    let codec = codec(own, job.facts.head.content_type.as_deref())?;
    codec
        .decode(&job.body)
        .map_err(|error| format!("the payload does not decode: {error}"))
}

pub(crate) fn codec(own: Codec, content_type: Option<&str>) -> Result<Codec, String> {
    own.for_content_type(content_type)
        .map_err(|unknown| format!("{unknown}, the queue's is {own}"))
}
