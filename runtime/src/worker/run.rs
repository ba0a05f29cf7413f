//! The loop of a consumer: it receives deliveries until the consumer ends, sets it up again, and drains on
//! shutdown.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::handler::Handler;
use super::in_flight::{InFlight, StopReason, shutdown_requested};
use super::report::SetupFailures;
use super::setup::{DeclaredSource, OpenConsumer, Setup, set_up};
use super::source::Source;
use super::state::{ConsumerView, StateReporter};
use crate::error::{Error, ErrorKind};
use crate::link::{Connection, ConsumerEnd};
use crate::policy::backoff::Backoff;
use crate::random;

/// A consumer that has started, and whose deliveries nobody handles yet.
pub(crate) struct Worker {
    source: Source,
    /// Kept, so that the connection lives as long as the consumer.
    connection: Connection,
    setup: Arc<dyn Setup>,
    opened: OpenConsumer,
    reporter: StateReporter,
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
        let reporter = StateReporter::new(connection, &source.queue);
        let opened = loop {
            match set_up(connection, &setup).await {
                Err(error) if error.is_disconnected() => reporter.waiting(error),
                result => break result?,
            }
        };
        reporter.consuming();
        Ok(Self {
            source,
            connection: connection.clone(),
            setup,
            opened,
            reporter,
        })
    }

    /// The state of the consumer, to read or to wait on.
    pub(crate) fn view(&self) -> ConsumerView {
        self.reporter.view()
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
            reporter,
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
                    let (setup, reporter) = (&setup, &reporter);
                    let again = set_up_again(
                        (&connection, &source),
                        (setup, reporter),
                        &mut backoff,
                        &mut shutdown,
                    );
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
            reporter.consuming();
            match in_flight
                .consume(&channel, &mut consumer, &mut shutdown)
                .await
            {
                StopReason::Shutdown => {
                    tracing::info!(queue, "draining");
                    reporter.draining();
                    in_flight.drain(Some((&channel, consumer))).await;
                    return Ok(());
                }
                StopReason::ConsumerEnded(ended) => {
                    match &ended {
                        ConsumerEnd::Cancelled => {
                            tracing::warn!(queue, "the broker cancelled the consumer");
                            let lost = Error::new(ErrorKind::Disconnected);
                            reporter.waiting(lost.caused_by("the broker cancelled the consumer"));
                        }
                        ConsumerEnd::Lost(error) => {
                            reporter.waiting(error.clone());
                            in_flight.channel_lost(&channel, error);
                        }
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
        reporter.draining();
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
    (connection, source): (&Connection, &Source),
    (setup, reporter): (&Arc<dyn Setup>, &StateReporter),
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
                reporter.waiting(error);
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
