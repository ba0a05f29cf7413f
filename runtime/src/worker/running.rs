//! Running consumers, and their shutdown.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::handler::Handler;
use super::run::Worker;
use super::setup::Setup;
use super::source::Source;
use super::state::{ConsumerView, RunningState, RunningWatch};
use crate::error::{Error, ErrorKind};
use crate::link::Connection;
use crate::service::BoxFuture;

/// The running consumers of a server, a worker pool or a subscription. Dropping it stops them at once;
/// deliveries that are not settled go back to their queue.
#[derive(Debug)]
#[must_use = "dropping it stops the work"]
pub struct Running {
    shutdown: watch::Sender<bool>,
    consumers: JoinSet<Result<(), Error>>,
    views: Vec<ConsumerView>,
    kept: Vec<Box<dyn Kept>>,
}

/// A value that is dropped with a [`Running`], and no earlier.
pub(crate) trait Kept: fmt::Debug + Send + Sync {}

impl Running {
    pub(crate) fn new() -> Self {
        Self {
            shutdown: watch::Sender::new(false),
            consumers: JoinSet::new(),
            views: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Starts one consumer with a set-up of its own.
    pub(crate) async fn started<H: Handler>(
        connection: &Connection,
        source: Source,
        setup: Arc<dyn Setup>,
        handler: H,
    ) -> Result<Self, Error> {
        let worker = Worker::start_with(connection, source, setup).await?;
        let mut running = Self::new();
        running.add(worker, Arc::new(handler), connection.tasks());
        Ok(running)
    }

    pub(crate) fn add<H: Handler>(&mut self, worker: Worker, handler: Arc<H>, tasks: &Handle) {
        self.views.push(worker.view());
        self.consumers
            .spawn_on(worker.run(handler, self.shutdown.subscribe()), tasks);
    }

    /// Keeps a value until this is dropped, or has stopped.
    pub(crate) fn keep(&mut self, kept: impl Kept + 'static) {
        self.kept.push(Box::new(kept));
    }

    /// The views of its consumers.
    pub(crate) fn views(&self) -> &[ConsumerView] {
        &self.views
    }

    /// The states of its consumers now. A consumer that was started may stop consuming later: because the
    /// connection is lost, or because its queue was deleted and declared by another program with other
    /// properties. It then [waits](crate::control::ConsumerState::Waiting), and tells why.
    ///
    /// ```no_run
    /// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
    /// # let queue = lepus::WorkQueue::<String>::new("mails");
    /// let running = queue.worker(&connection).start(async |mail: lepus::Job<String>| drop(mail)).await?;
    /// if !running.state().is_ready() {
    ///     for consumer in running.state().consumers {
    ///         println!("{consumer}");
    ///     }
    /// }
    /// # running.stop().await
    /// # }
    /// ```
    #[must_use]
    pub fn state(&self) -> RunningState {
        self.watch().state()
    }

    /// A watch of the states of its consumers.
    ///
    /// ```no_run
    /// # async fn example(running: lepus::Running) {
    /// let mut watch = running.watch();
    /// tokio::spawn(async move {
    ///     while let Some(state) = watch.changed().await {
    ///         println!("ready: {}", state.is_ready());
    ///     }
    /// });
    /// # running.stop().await;
    /// # }
    /// ```
    #[must_use]
    pub fn watch(&self) -> RunningWatch {
        RunningWatch::new(&self.views)
    }

    /// Starts consumers and runs them [until](Self::until) `shutdown` completes, which ends the start
    /// as well.
    pub(crate) async fn run(
        starting: impl Future<Output = Result<Self, Error>>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        tokio::pin!(shutdown);
        let running = tokio::select! {
            running = starting => running?,
            () = &mut shutdown => return Ok(()),
        };
        running.until(shutdown).await
    }

    /// Works on until `shutdown` completes, then drains.
    ///
    /// # Errors
    /// The connection was closed.
    pub async fn until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        tokio::select! {
            () = shutdown => {}
            // A consumer ends without a shutdown only if the connection is closed, which ends all of
            // them.
            ended = self.consumers.join_next() => match ended {
                Some(Ok(result)) => result?,
                Some(Err(failed)) => return Err(Error::new(ErrorKind::Closed).caused_by(failed)),
                None => {}
            },
        }
        self.stop().await
    }

    /// Drains and stops: within the grace period of each consumer, whatever the broker answers, and
    /// at once when a second signal comes after [`shutdown_signal`](crate::shutdown_signal).
    ///
    /// # Errors
    /// The connection was closed before it could drain.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.shutdown.send_replace(true);
        while let Some(ended) = self.consumers.join_next().await {
            match ended {
                Ok(result) => result?,
                Err(failed) => return Err(Error::new(ErrorKind::Closed).caused_by(failed)),
            }
        }
        Ok(())
    }
}

/// A future that starts consumers, runs them until the future `S` completes, and drains them. Dropping
/// it stops them at once.
///
/// It is a named type that does not depend on the handler's type, so that rustc reports a handler with
/// the wrong signature once, and not again for the call, its future and its `await`.
#[must_use = "nothing is started before this is awaited"]
pub struct Until<S> {
    /// The future that requests the shutdown, and the channel it is reported on. `None` once it has
    /// completed.
    shutdown: Option<(Pin<Box<S>>, oneshot::Sender<()>)>,
    work: BoxFuture<Result<(), Error>>,
}

impl<S> Until<S> {
    pub(crate) fn new(starting: BoxFuture<Result<Running, Error>>, shutdown: S) -> Self {
        let (request, requested) = oneshot::channel();
        let work = async move {
            let requested = async {
                // The sender is dropped only together with this future.
                let _ = requested.await;
            };
            Running::run(starting, requested).await
        };
        Self {
            shutdown: Some((Box::pin(shutdown), request)),
            work: Box::pin(work),
        }
    }
}

impl<S: Future<Output = ()>> Future for Until<S> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let is_requested =
            |(shutdown, _): &mut (Pin<Box<S>>, _)| shutdown.as_mut().poll(cx).is_ready();
        if let Some((_, request)) = self.shutdown.take_if(is_requested) {
            // The consumers may have ended already.
            let _ = request.send(());
        }
        self.work.as_mut().poll(cx)
    }
}

impl<S> fmt::Debug for Until<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Until")
            .field("shutdown", &self.shutdown.is_none())
            .finish_non_exhaustive()
    }
}
