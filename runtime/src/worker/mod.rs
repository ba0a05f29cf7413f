//! Consumers (`basic.consume`): the loop that receives deliveries, handles and settles them, and drains on
//! shutdown. Servers, work queues and subscriptions share it.

mod in_flight;
mod inline;
mod report;
mod running;
mod setup;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::link::{Channel, Connection, Delivery, Ended};
use crate::policy::backoff::Backoff;
use crate::random;
use crate::wire::topology::Topology;
use in_flight::InFlight;
#[cfg(test)]
pub(crate) use in_flight::handle_delivery;
pub(crate) use inline::INLINE_BUDGET;
use report::SetupFailures;
pub(crate) use report::report_loss;
pub use running::{Running, Until};
pub(crate) use setup::Setup;
use setup::{DeclaredSource, OpenConsumer, set_up};

/// A queue, and how it is consumed.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) topology: Topology,
    /// The queue's name without the namespace. For a consumer with a queue of another name on each
    /// connection, a name for the log.
    pub(crate) queue: String,
    /// The number of deliveries that are handled at once, which is also the prefetch (`basic.qos`).
    pub(crate) concurrency: u16,
    /// The longest that a shutdown waits for handlers.
    pub(crate) grace: Duration,
    /// Messages with a longer body, in bytes, are delivered without it, so that a message which is
    /// refused for its size is not held in memory.
    pub(crate) max_body: usize,
    pub(crate) on_loss: OnLoss,
}

/// The treatment of running handlers when their channel is gone. Their deliveries can no longer be
/// settled, and the broker delivers them again either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLoss {
    /// They are dropped at their next await.
    Drop,
    /// They run to their end, and count towards the concurrency until then.
    Finish,
}

/// The settlement of a delivery, decided by its handler.
pub(crate) enum Settlement {
    Ack,
    /// As `Ack`, and the write buffer is flushed by the I/O task rather than at once, so that what was
    /// published on the channel is written together with other frames.
    AckAndBatch,
    Requeue,
    Reject,
    /// Nothing is left to do: the handler has settled the delivery, or its channel is gone.
    Settled,
}

/// A handler of deliveries.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Whether each handler is polled once before the next delivery is received, so that what it does
    /// before its first await is done in the order of the deliveries.
    const IN_ORDER: bool = false;

    /// Handles one delivery. What is published on `channel`, from which the delivery came, is written
    /// before the settlement. Calling this must not panic; the future may.
    fn handle(
        self: Arc<Self>,
        channel: Arc<Channel>,
        delivery: Delivery,
    ) -> impl Future<Output = Settlement> + Send;

    /// Called when a consumer has started on this channel.
    fn started(&self, _: &Arc<Channel>) {}

    /// Called when a channel is gone. Deliveries that were not settled on it come again.
    fn lost(&self, queue: &str, _channel: &Arc<Channel>, reason: &Error) {
        report_loss(queue, reason);
    }

    /// Called when no more deliveries will come: running handlers should finish soon.
    fn drain(&self) {}

    /// A future that is polled while deliveries are received, and does not complete.
    fn oversee(&self) -> impl Future<Output = Infallible> + Send {
        std::future::pending()
    }
}

/// A consumer that has started, and whose deliveries nobody handles yet.
pub(crate) struct Worker {
    source: Source,
    /// Kept, so that the connection lives as long as the consumer.
    connection: Connection,
    setup: Arc<dyn Setup>,
    opened: OpenConsumer,
}

/// The reason for which a consumer's deliveries are no longer received.
enum StopReason {
    Shutdown,
    ConsumerEnded(Ended),
}

impl Worker {
    /// Declares the source's topology and starts consuming.
    ///
    /// # Errors
    /// The connection was closed, or the broker refuses: a mismatch, a missing permission.
    pub(crate) async fn start(connection: &Connection, source: Source) -> Result<Self, Error> {
        let setup = DeclaredSource::new(source.clone(), connection.namespace().clone());
        Self::start_with(connection, source, Arc::new(setup)).await
    }

    /// Starts consuming with a set-up that replaces the declaration of the source's topology.
    pub(crate) async fn start_with(
        connection: &Connection,
        source: Source,
        setup: Arc<dyn Setup>,
    ) -> Result<Self, Error> {
        let opened = loop {
            match set_up(connection, &setup).await {
                Err(error) if error.is_disconnected() && !error.is_closed() => {}
                result => break result?,
            }
        };
        Ok(Self {
            source,
            connection: connection.clone(),
            setup,
            opened,
        })
    }

    /// Handles deliveries until `shutdown` turns true, then drains. A consumer that ends earlier is set
    /// up again.
    ///
    /// # Errors
    /// The connection was closed.
    pub(crate) async fn run<H: Handler>(
        self,
        handler: Arc<H>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let Self {
            source,
            connection,
            setup,
            opened,
        } = self;
        let runtimes = (connection.tasks().clone(), connection.io().clone());
        let mut in_flight = InFlight::new(&source, handler, runtimes, connection.counters());
        let mut backoff = Backoff::new(connection.backoff());
        let mut opened = Some(opened);
        let result = loop {
            let OpenConsumer {
                queue,
                channel,
                mut consumer,
            } = match opened.take() {
                Some(opened) => opened,
                None => {
                    let again =
                        set_up_again(&connection, &source, &setup, &mut backoff, &mut shutdown);
                    match again.await {
                        Ok(Some(opened)) => opened,
                        Ok(None) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
            };
            tracing::info!(
                queue,
                concurrency = source.concurrency,
                generation = channel.session().generation(),
                "consuming"
            );
            let started = Instant::now();
            setup.started();
            match in_flight
                .consume(&channel, &mut consumer, &mut shutdown)
                .await
            {
                StopReason::Shutdown => {
                    tracing::info!(queue, "draining");
                    in_flight.drain(Some((&channel, consumer))).await;
                    return Ok(());
                }
                StopReason::ConsumerEnded(ended) => {
                    match &ended {
                        Ended::Cancelled => {
                            tracing::warn!(queue, "the broker cancelled the consumer");
                        }
                        Ended::Lost(error) => in_flight.channel_lost(&channel, error),
                    }
                    setup.ended(&ended);
                }
            }
            drop(consumer);
            backoff.reset_if_stable(started.elapsed());
            // A new connection is waited for by the link. A pause is needed where the connection is up:
            // the consumer was cancelled, or the channel was closed.
            if channel.session().is_up() && pause(&mut backoff, &mut shutdown).await.is_shutdown() {
                break Ok(());
            }
        };
        in_flight.drain(None).await;
        result
    }
}

/// Sets a consumer up after one has ended, and tries again with backoff until that succeeds; `None` if
/// a shutdown is requested first.
///
/// # Errors
/// The connection was closed.
async fn set_up_again(
    connection: &Connection,
    source: &Source,
    setup: &Arc<dyn Setup>,
    backoff: &mut Backoff,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<Option<OpenConsumer>, Error> {
    let mut failures = SetupFailures::default();
    loop {
        let result = tokio::select! {
            result = set_up(connection, setup) => result,
            () = shutdown_requested(shutdown) => return Ok(None),
        };
        match result {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) if error.is_closed() => return Err(error),
            Err(error) => {
                failures.report(source, &error);
                setup.failed(&error);
                if pause(backoff, shutdown).await.is_shutdown() {
                    return Ok(None);
                }
            }
        }
    }
}

/// The end of a pause.
#[derive(PartialEq, Eq)]
enum PauseEnd {
    Elapsed,
    Shutdown,
}

impl PauseEnd {
    fn is_shutdown(&self) -> bool {
        *self == Self::Shutdown
    }
}

/// Waits before the next attempt, or until a shutdown is requested.
async fn pause(backoff: &mut Backoff, shutdown: &mut watch::Receiver<bool>) -> PauseEnd {
    let pause = backoff.next(random::fraction());
    tokio::select! {
        () = shutdown_requested(shutdown) => PauseEnd::Shutdown,
        () = tokio::time::sleep(pause) => PauseEnd::Elapsed,
    }
}

async fn shutdown_requested(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone. That ends the consumer as well.
    let _ = shutdown.wait_for(|requested| *requested).await;
}
