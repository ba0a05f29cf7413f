//! Consumers under way, and how they are stopped.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::error::{Error, Kind};
use crate::link::Connection;
use crate::service::BoxFuture;
use crate::worker::{Handler, Setup, Source, Worker};

/// Consumers at work: a server's, a worker pool's. Dropping it stops them at once; what is in hand
/// goes back to its queue.
#[derive(Debug)]
#[must_use = "dropping it stops the work"]
pub struct Running {
    shutdown: watch::Sender<bool>,
    running: JoinSet<Result<(), Error>>,
}

impl Running {
    pub(crate) fn new() -> Self {
        Self {
            shutdown: watch::Sender::new(false),
            running: JoinSet::new(),
        }
    }

    /// One consumer with a set-up of its own, at work.
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
        self.running
            .spawn_on(worker.run(handler, self.shutdown.subscribe()), tasks);
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
    /// The connection was closed under it.
    pub async fn until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        tokio::select! {
            () = shutdown => {}
            // A worker ends by itself only when its connection is closed, which ends all.
            ended = self.running.join_next() => match ended {
                Some(Ok(result)) => result?,
                Some(Err(failed)) => return Err(Error::new(Kind::Closed).caused_by(failed)),
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
        while let Some(ended) = self.running.join_next().await {
            match ended {
                Ok(result) => result?,
                Err(failed) => return Err(Error::new(Kind::Closed).caused_by(failed)),
            }
        }
        Ok(())
    }
}

/// Consumers that are started, work until the future `S` completes, and drain: to be awaited.
/// Dropping it stops them at once.
///
/// It is a type of its own so that it does not depend on the handler's: rustc reports a handler that
/// does not fit once then, and not for the call, its future and its `await`.
#[must_use = "nothing is started before this is awaited"]
pub struct Until<S> {
    /// While it has not completed.
    shutdown: Option<(Pin<Box<S>>, oneshot::Sender<()>)>,
    work: BoxFuture<Result<(), Error>>,
}

impl<S> Until<S> {
    pub(crate) fn new(starting: BoxFuture<Result<Running, Error>>, shutdown: S) -> Self {
        let (ask, asked) = oneshot::channel();
        let work = async move {
            let asked = async {
                // Nobody takes this away and leaves the work.
                let _ = asked.await;
            };
            Running::run(starting, asked).await
        };
        Self {
            shutdown: Some((Box::pin(shutdown), ask)),
            work: Box::pin(work),
        }
    }
}

impl<S: Future<Output = ()>> Future for Until<S> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let is_over = |(shutdown, _): &mut (Pin<Box<S>>, _)| shutdown.as_mut().poll(cx).is_ready();
        if let Some((_, ask)) = self.shutdown.take_if(is_over) {
            // The work may have ended by itself.
            let _ = ask.send(());
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
