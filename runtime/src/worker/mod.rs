//! The one consumer loop: consume, handle, settle, and drain. Server, work queue and subscription
//! share it.

mod hands;
mod pace;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Kind};
use crate::link::{
    self, Connection, Deliveries, Delivery, Ended, Lane, Link, Mode, Namespace, Session,
};
use crate::random;
use crate::retry::RetryPolicy;
use crate::service::BoxFuture;
use crate::topology::Topology;
use hands::Hands;
#[cfg(test)]
pub(crate) use hands::work;
pub(crate) use pace::HEAVY;

/// A consumer that worked this long starts its backoff anew when it ends.
const STABLE: Duration = Duration::from_secs(5);

/// What to consume, and how.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) topology: Topology,
    /// As the user knows it; the namespace is added here. Where a consumer has a queue of another
    /// name on each connection, this is for the log while there is none.
    pub(crate) queue: String,
    /// How many deliveries are handled at once: the prefetch.
    pub(crate) concurrency: u16,
    pub(crate) grace: Duration,
    /// Messages with a longer body come without it, in bytes: what is refused for its size is not
    /// gathered first.
    pub(crate) max_body: usize,
    /// Whether a handler is dropped when the channel it would settle on is gone. Its message is
    /// delivered again either way.
    pub(crate) on_loss: OnLoss,
}

/// What becomes of a running handler whose delivery can no longer be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLoss {
    /// It is dropped at its next await.
    Drop,
    /// It goes on, and holds its place: no more handlers run than the concurrency says.
    Finish,
}

/// What becomes of a delivery once it is handled.
pub(crate) enum Settlement {
    Ack,
    /// The same, and what was published on its channel meets others on its way out: it is left to
    /// lapin's thread.
    AckSoon,
    GiveBack,
    Reject,
    /// The handler has settled it itself, or nobody can any more.
    Settled,
}

/// What handles deliveries.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Whether each handler is polled once before the next delivery is looked at: what it does
    /// before it first waits is done in the order of the deliveries.
    const IN_ORDER: bool = false;

    /// Handles one delivery. The lane is the channel it came from: what is published there is
    /// written before the settlement. What may panic is in the future, not in making it.
    fn handle(
        self: Arc<Self>,
        lane: Arc<Lane>,
        delivery: Delivery,
    ) -> impl Future<Output = Settlement> + Send;

    /// The broker delivers on this channel from now on.
    fn began(&self, _: &Arc<Lane>) {}

    /// The channel is gone, for this reason: what was not settled on it comes again.
    fn lost(&self, queue: &str, reason: &Error) {
        if reason.amqp_code().is_some() {
            tracing::error!(queue, error = %reason, "a consumer was ended by the broker");
        } else {
            tracing::debug!(queue, error = %reason, "the consumer was lost");
        }
    }

    /// No further delivery will come: those in hand had better come to an end.
    fn drain(&self) {}
}

/// How a consumer is set up on each connection, where declaring its source is not all.
pub(crate) trait Setup: Send + Sync + 'static {
    /// Makes what it needs be there, and says which queue to consume, by its name on the broker.
    fn prepare(&self, session: Arc<Session>) -> BoxFuture<Result<String, Error>>;

    /// How that queue is consumed.
    fn mode(&self) -> Mode;

    /// Messages with a longer body come without it, in bytes.
    fn max_body(&self) -> usize {
        usize::MAX
    }

    /// The broker delivers.
    fn started(&self);

    /// It delivers no more.
    fn ended(&self, ended: &Ended);

    /// It could not be set up; that is tried again. Called for every try.
    fn failed(&self, error: &Error);
}

/// A consumer that is set up: its queue is there and the broker delivers.
pub(crate) struct Worker {
    source: Source,
    /// Held until the work ends: nothing else may hold it.
    connection: Connection,
    setup: Arc<dyn Setup>,
    ready: Ready,
}

#[derive(Debug)]
struct Ready {
    /// By its name on the broker.
    queue: String,
    lane: Arc<Lane>,
    deliveries: Deliveries,
}

/// Why a consumer stopped being one.
enum Stopped {
    Shutdown,
    Ended(Ended),
}

impl Worker {
    /// Declares what the source needs and starts consuming.
    ///
    /// # Errors
    /// The connection was closed, or the broker refuses: a mismatch, a missing permission.
    pub(crate) async fn start(connection: &Connection, source: Source) -> Result<Self, Error> {
        let setup = Plain {
            source: source.clone(),
            namespace: connection.namespace().clone(),
        };
        Self::start_with(connection, source, Arc::new(setup)).await
    }

    /// As [`start`](Self::start), set up in another way. The source's topology is not declared,
    /// and its queue is for the log alone.
    pub(crate) async fn start_with(
        connection: &Connection,
        source: Source,
        setup: Arc<dyn Setup>,
    ) -> Result<Self, Error> {
        let link = connection.consuming().clone();
        let ready = loop {
            match setting_up(connection.tasks(), &link, &setup).await {
                Err(error) if error.is_disconnected() && !error.is_closed() => {}
                result => break result?,
            }
        };
        Ok(Self {
            source,
            connection: connection.clone(),
            setup,
            ready,
        })
    }

    /// Works until `shutdown` turns true, then drains.
    ///
    /// # Errors
    /// The connection was closed under it.
    pub(crate) async fn run<H: Handler>(
        self,
        handler: Arc<H>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let Self {
            source,
            connection,
            setup,
            ready,
        } = self;
        let (link, backoff, tasks) = (
            connection.consuming(),
            connection.backoff(),
            connection.tasks(),
        );
        let mut hands = Hands::new(&source, handler, tasks.clone(), connection.counters());
        let mut ready = Some(ready);
        let mut failures = 0;
        loop {
            let Ready {
                queue,
                lane,
                mut deliveries,
            } = match ready.take() {
                Some(ready) => ready,
                None => {
                    let result = tokio::select! {
                        result = setting_up(tasks, link, &setup) => result,
                        () = is_true(&mut shutdown) => {
                            hands.finish(None, source.grace).await;
                            return Ok(());
                        }
                    };
                    match result {
                        Ok(ready) => ready,
                        Err(error) if error.is_closed() => {
                            hands.finish(None, source.grace).await;
                            return Err(error);
                        }
                        Err(error) => {
                            failures += 1;
                            report(&source, &error, failures);
                            setup.failed(&error);
                            if !pause(backoff, failures, &mut shutdown).await {
                                hands.finish(None, source.grace).await;
                                return Ok(());
                            }
                            continue;
                        }
                    }
                }
            };
            tracing::info!(
                queue,
                concurrency = source.concurrency,
                generation = lane.session().generation(),
                "consuming"
            );
            let since = Instant::now();
            setup.started();
            match hands.consume(&lane, &mut deliveries, &mut shutdown).await {
                Stopped::Shutdown => {
                    tracing::info!(queue, "draining");
                    deliveries.cancel().await;
                    hands.finish(Some(&lane), source.grace).await;
                    return Ok(());
                }
                Stopped::Ended(ended) => {
                    match &ended {
                        Ended::Cancelled => {
                            tracing::warn!(queue, "the broker cancelled the consumer");
                        }
                        Ended::Lost(error) => {
                            hands.lose(error);
                        }
                    }
                    setup.ended(&ended);
                }
            }
            drop(deliveries);
            if since.elapsed() >= STABLE {
                failures = 0;
            }
            // The link waits between connections by itself; a consumer that is cancelled again
            // and again, or a channel that dies, has to be held back here.
            if lane.session().is_up() {
                failures += 1;
                if !pause(backoff, failures, &mut shutdown).await {
                    hands.finish(None, source.grace).await;
                    return Ok(());
                }
            }
        }
    }
}

/// In a task of its own: a set-up that is dropped half-way leaks a channel and a consumer.
async fn setting_up(tasks: &Handle, link: &Link, setup: &Arc<dyn Setup>) -> Result<Ready, Error> {
    let (link, setup) = (link.clone(), Arc::clone(setup));
    let task = tasks.spawn(async move { set_up(&link, &*setup).await });
    task.await
        .map_err(|ended| Error::new(Kind::Closed).caused_by(ended))?
}

/// What the source says, declared anew on each connection.
struct Plain {
    source: Source,
    namespace: Namespace,
}

impl Setup for Plain {
    fn prepare(&self, session: Arc<Session>) -> BoxFuture<Result<String, Error>> {
        let queue = self.namespace.scope(&self.source.queue);
        let (topology, namespace) = (self.source.topology.clone(), self.namespace.clone());
        Box::pin(async move {
            link::declare(&session, &topology, &namespace).await?;
            Ok(queue)
        })
    }

    fn mode(&self) -> Mode {
        Mode::Settled {
            prefetch: self.source.concurrency,
        }
    }

    fn max_body(&self) -> usize {
        self.source.max_body
    }

    fn started(&self) {}

    fn ended(&self, _: &Ended) {}

    fn failed(&self, _: &Error) {}
}

async fn set_up(link: &Link, setup: &dyn Setup) -> Result<Ready, Error> {
    let session = link.session().await?;
    let mut again = true;
    loop {
        let queue = setup.prepare(Arc::clone(&session)).await?;
        let lane = Lane::open(&session).await?;
        lane.limit_bodies(setup.max_body());
        match Deliveries::start(&lane, &queue, setup.mode()).await {
            Ok(deliveries) => {
                return Ok(Ready {
                    queue,
                    lane,
                    deliveries,
                });
            }
            // It was there a moment ago and was deleted since. Whoever starts would not try
            // again, for what a first set-up runs into is the user's to know.
            Err(error) if again && error.amqp_code() == Some(404) => again = false,
            Err(error) => return Err(error),
        }
    }
}

/// Once clearly, then quietly: the same refusal again is no news.
fn report(source: &Source, error: &Error, failures: u32) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    if failures == 1 {
        tracing::error!(queue = source.queue, %error, ?cause, "cannot consume, trying again");
    } else {
        tracing::debug!(queue = source.queue, %error, ?cause, failures, "cannot consume yet");
    }
}

/// Waits before another try; false when it is time to stop instead.
async fn pause(backoff: &RetryPolicy, failures: u32, shutdown: &mut watch::Receiver<bool>) -> bool {
    let pause = backoff.jittered(failures, random::fraction());
    tokio::select! {
        () = is_true(shutdown) => false,
        () = tokio::time::sleep(pause) => true,
    }
}

async fn is_true(flag: &mut watch::Receiver<bool>) {
    // A sender that is gone asks for nothing any more, and cannot take it back.
    let _ = flag.wait_for(|flag| *flag).await;
}
