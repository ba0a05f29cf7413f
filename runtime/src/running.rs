//! Consumers under way, and how they are stopped.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::{Error, Kind};
use crate::link::Connection;
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

    /// Drains and stops.
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
