//! The one consumer loop: consume, handle, settle, and drain. Server, work queue and subscription
//! share it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::{Error, Kind};
use crate::link::{
    self, Connection, Deliveries, Delivery, Ended, Extent, Lane, Link, Mode, Namespace,
};
use crate::retry::RetryPolicy;
use crate::shutdown::second_signal;
use crate::stats::Counters;
use crate::topology::Topology;

/// A consumer that worked this long starts its backoff anew when it ends.
const STABLE: Duration = Duration::from_secs(5);
/// How often replies that came back are collected while there are replies.
const RETURNS: Duration = Duration::from_millis(500);

/// What to consume, and how.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) topology: Topology,
    /// As the user knows it; the namespace is added here.
    pub(crate) queue: String,
    /// How many deliveries are handled at once: the prefetch.
    pub(crate) concurrency: u16,
    pub(crate) grace: Duration,
    /// Whether a handler is dropped when the channel it would settle on is gone. Its message is
    /// delivered again either way.
    pub(crate) on_loss: OnLoss,
    pub(crate) exclusive: bool,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Ack,
    GiveBack,
    Reject,
    /// The handler has settled it itself.
    Settled,
}

/// What handles deliveries.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Handles one delivery. The lane is the channel it came from: what is published there is
    /// written before the settlement.
    fn handle(
        &self,
        lane: Arc<Lane>,
        delivery: Delivery,
    ) -> impl Future<Output = Settlement> + Send;
}

/// A consumer that is set up: its queue is there and the broker delivers.
#[derive(Debug)]
pub(crate) struct Worker {
    source: Source,
    /// Held until the work ends: nothing else may hold it.
    connection: Connection,
    ready: Ready,
}

#[derive(Debug)]
struct Ready {
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
        let link = connection.consuming().clone();
        let namespace = connection.namespace().clone();
        let setting_up = {
            let (link, source, namespace) = (link.clone(), source.clone(), namespace.clone());
            async move {
                loop {
                    match set_up(&link, &source, &namespace).await {
                        Err(error) if error.is_disconnected() && !error.is_closed() => {}
                        result => return result,
                    }
                }
            }
        };
        // In a task of its own: a set-up that is dropped half-way leaks a channel.
        let ready = connection.tasks().spawn(setting_up).await;
        let ready = ready.map_err(|ended| Error::new(Kind::Closed).caused_by(ended))??;
        Ok(Self {
            source,
            connection: connection.clone(),
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
            ready,
        } = self;
        let (link, namespace) = (connection.consuming(), connection.namespace());
        let backoff = connection.backoff();
        let mut running = Running {
            set: JoinSet::new(),
            tasks: connection.tasks().clone(),
            counters: connection.counters(),
            handler,
            source: &source,
        };
        let mut ready = Some(ready);
        let mut failures = 0;
        loop {
            let Ready {
                lane,
                mut deliveries,
            } = match ready.take() {
                Some(ready) => ready,
                None => {
                    let set_up = set_up(link, &source, namespace);
                    let result = tokio::select! {
                        result = set_up => result,
                        () = is_true(&mut shutdown) => {
                            running.finish(source.grace).await;
                            return Ok(());
                        }
                    };
                    match result {
                        Ok(ready) => ready,
                        Err(error) if error.is_closed() => {
                            running.finish(source.grace).await;
                            return Err(error);
                        }
                        Err(error) => {
                            failures += 1;
                            report(&source, &error, failures);
                            if !pause(backoff, failures, &mut shutdown).await {
                                running.finish(source.grace).await;
                                return Ok(());
                            }
                            continue;
                        }
                    }
                }
            };
            tracing::info!(
                queue = source.queue,
                concurrency = source.concurrency,
                generation = lane.session().generation(),
                "consuming"
            );
            let since = Instant::now();
            match running.consume(&lane, &mut deliveries, &mut shutdown).await {
                Stopped::Shutdown => {
                    tracing::info!(queue = source.queue, "draining");
                    deliveries.cancel().await;
                    running.finish(source.grace).await;
                    // What was not finished goes back to the queue with the channel.
                    lane.close().await;
                    return Ok(());
                }
                Stopped::Ended(Ended::Cancelled) => {
                    tracing::warn!(queue = source.queue, "the broker cancelled the consumer");
                }
                Stopped::Ended(Ended::Lost(error)) => {
                    tracing::debug!(queue = source.queue, %error, "the consumer was lost");
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
                    running.finish(source.grace).await;
                    return Ok(());
                }
            }
        }
    }
}

async fn set_up(link: &Link, source: &Source, namespace: &Namespace) -> Result<Ready, Error> {
    let session = link.session().await?;
    link::declare(&session, &source.topology, namespace).await?;
    let lane = Lane::open(&session).await?;
    let prefetch = source.concurrency;
    let mode = if source.exclusive {
        Mode::Exclusive { prefetch }
    } else {
        Mode::Settled { prefetch }
    };
    let deliveries = Deliveries::start(&lane, &namespace.scope(&source.queue), mode).await?;
    Ok(Ready { lane, deliveries })
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
    let pause = backoff.jittered(failures, link::random());
    tokio::select! {
        () = is_true(shutdown) => false,
        () = tokio::time::sleep(pause) => true,
    }
}

async fn is_true(flag: &mut watch::Receiver<bool>) {
    // A sender that is gone asks for nothing any more, and cannot take it back.
    let _ = flag.wait_for(|flag| *flag).await;
}

/// The handlers under way, of this generation and of those before it.
struct Running<'a, H> {
    set: JoinSet<()>,
    tasks: Handle,
    counters: Arc<Counters>,
    handler: Arc<H>,
    source: &'a Source,
}

impl<H: Handler> Running<'_, H> {
    async fn consume(
        &mut self,
        lane: &Arc<Lane>,
        deliveries: &mut Deliveries,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Stopped {
        let mut returns = tokio::time::interval(RETURNS);
        returns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let limit = usize::from(self.source.concurrency.max(1));
        // With every place taken, deliveries are awaited all the same, for the consumer's end; one
        // that comes (an early acknowledgement has made room for it) waits here.
        let mut next = None;
        let stopped = loop {
            // Those that have ended, without waiting for more.
            while self.set.try_join_next().is_some() {}
            if self.set.len() < limit
                && let Some(delivery) = next.take()
            {
                self.start(Arc::clone(lane), delivery);
            }
            tokio::select! {
                biased;
                () = is_true(shutdown) => break Stopped::Shutdown,
                _ = self.set.join_next(), if self.set.len() >= limit => {}
                delivery = deliveries.next(), if next.is_none() => match delivery {
                    Ok(delivery) => next = Some(delivery),
                    Err(ended) => break Stopped::Ended(ended),
                },
                reason = lane.down(), if next.is_some() => {
                    break Stopped::Ended(Ended::Lost(reason));
                }
                _ = returns.tick() => self.collect_returns(lane).await,
            }
        };
        if let Some(delivery) = next {
            lane.give_back(delivery.tag);
        }
        stopped
    }

    fn start(&mut self, lane: Arc<Lane>, delivery: Delivery) {
        let (handler, counters) = (Arc::clone(&self.handler), Arc::clone(&self.counters));
        let on_loss = self.source.on_loss;
        let work = async move {
            let _running = Gauge::raise(counters);
            let tag = delivery.tag;
            let handling = handler.handle(Arc::clone(&lane), delivery);
            let settlement = match on_loss {
                OnLoss::Finish => handling.await,
                OnLoss::Drop => tokio::select! {
                    biased;
                    settlement = handling => settlement,
                    _ = lane.down() => Settlement::Settled,
                },
            };
            match settlement {
                Settlement::Ack => lane.ack(tag, Extent::One),
                Settlement::GiveBack => lane.give_back(tag),
                Settlement::Reject => lane.reject(tag),
                Settlement::Settled => {}
            }
        };
        self.set.spawn_on(work, &self.tasks);
    }

    /// Replies whose caller is gone come back; lapin keeps them until somebody looks.
    async fn collect_returns(&self, lane: &Lane) {
        let Ok(returned) = lane.returned().await else {
            return;
        };
        for message in returned {
            self.counters.returned_replies.add();
            let (queue, reason) = (&message.routing_key, &message.text);
            tracing::debug!(queue, reason, "a reply came back: its caller is gone");
        }
    }

    /// Waits for what is in hand, for as long as the grace lasts.
    async fn finish(&mut self, grace: Duration) {
        let all = async { while self.set.join_next().await.is_some() {} };
        tokio::select! {
            () = all => {}
            () = tokio::time::sleep(grace) => {
                tracing::warn!(queue = self.source.queue, "the grace period is over, giving back the rest");
            }
            () = second_signal() => {
                tracing::warn!(queue = self.source.queue, "stopping at once, giving back the rest");
            }
        }
        self.set.shutdown().await;
    }
}

/// Counts a handler as running, however it ends.
struct Gauge(Arc<Counters>);

impl Gauge {
    fn raise(counters: Arc<Counters>) -> Self {
        counters.running.add();
        Self(counters)
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.running.remove();
    }
}
