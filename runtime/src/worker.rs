//! The one consumer loop: consume, handle, settle, and drain. Server, work queue and subscription
//! share it.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::acks::{Ack, Acks};
use crate::error::{Error, Kind};
use crate::link::{
    self, Connection, Deliveries, Delivery, Ended, Extent, Lane, Link, Mode, Namespace, Session,
    Writing,
};
use crate::retry::RetryPolicy;
use crate::service::BoxFuture;
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
pub(crate) enum Settlement {
    Ack,
    /// Acknowledged when this has been written: lapin would write the acknowledgement first.
    AckOnceWritten(Writing),
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
    /// written before the settlement.
    fn handle(
        &self,
        lane: Arc<Lane>,
        delivery: Delivery,
    ) -> impl Future<Output = Settlement> + Send;

    /// No further delivery will come: those in hand had better come to an end.
    fn drain(&self) {}
}

/// How a consumer is set up on each connection, where declaring its source is not all.
pub(crate) trait Setup: Send + Sync + 'static {
    /// Makes what it needs be there, and says which queue to consume, by its name on the broker.
    fn prepare(&self, session: Arc<Session>) -> BoxFuture<Result<String, Error>>;

    /// How that queue is consumed.
    fn mode(&self) -> Mode;

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
        let mut running = Running::new(&source, handler, tasks.clone(), connection.counters());
        let mut ready = Some(ready);
        let mut failures = 0;
        loop {
            let Ready {
                lane,
                mut deliveries,
            } = match ready.take() {
                Some(ready) => ready,
                None => {
                    let result = tokio::select! {
                        result = setting_up(tasks, link, &setup) => result,
                        () = is_true(&mut shutdown) => {
                            running.finish(None, source.grace).await;
                            return Ok(());
                        }
                    };
                    match result {
                        Ok(ready) => ready,
                        Err(error) if error.is_closed() => {
                            running.finish(None, source.grace).await;
                            return Err(error);
                        }
                        Err(error) => {
                            failures += 1;
                            report(&source, &error, failures);
                            setup.failed(&error);
                            if !pause(backoff, failures, &mut shutdown).await {
                                running.finish(None, source.grace).await;
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
            setup.started();
            match running.consume(&lane, &mut deliveries, &mut shutdown).await {
                Stopped::Shutdown => {
                    tracing::info!(queue = source.queue, "draining");
                    deliveries.cancel().await;
                    running.finish(Some(&lane), source.grace).await;
                    return Ok(());
                }
                Stopped::Ended(ended) => {
                    match &ended {
                        Ended::Cancelled => {
                            tracing::warn!(
                                queue = source.queue,
                                "the broker cancelled the consumer"
                            );
                        }
                        Ended::Lost(error) => {
                            running.lose();
                            tracing::debug!(queue = source.queue, %error, "the consumer was lost");
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
                    running.finish(None, source.grace).await;
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
        let prefetch = self.source.concurrency;
        if self.source.exclusive {
            Mode::Exclusive { prefetch }
        } else {
            Mode::Settled { prefetch }
        }
    }

    fn started(&self) {}

    fn ended(&self, _: &Ended) {}

    fn failed(&self, _: &Error) {}
}

async fn set_up(link: &Link, setup: &dyn Setup) -> Result<Ready, Error> {
    let session = link.session().await?;
    let queue = setup.prepare(Arc::clone(&session)).await?;
    let lane = Lane::open(&session).await?;
    let deliveries = Deliveries::start(&lane, &queue, setup.mode()).await?;
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

/// A delivery that is handled, on the channel it came from.
struct Handled {
    lane: Arc<Lane>,
    tag: u64,
    settlement: Settlement,
}

/// A reply on its way out.
type Leaving = Pin<Box<dyn Future<Output = Handled> + Send>>;

/// The handlers under way, of this generation and of those before it.
struct Running<'a, H> {
    set: JoinSet<Handled>,
    leaving: FuturesUnordered<Leaving>,
    acks: Acks,
    tasks: Handle,
    counters: Arc<Counters>,
    handler: Arc<H>,
    source: &'a Source,
}

impl<'a, H: Handler> Running<'a, H> {
    fn new(source: &'a Source, handler: Arc<H>, tasks: Handle, counters: Arc<Counters>) -> Self {
        let (set, leaving, acks) = (JoinSet::new(), FuturesUnordered::new(), Acks::default());
        Self {
            set,
            leaving,
            acks,
            tasks,
            counters,
            handler,
            source,
        }
    }

    async fn consume(
        &mut self,
        lane: &Arc<Lane>,
        deliveries: &mut Deliveries,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Stopped {
        self.acks = Acks::default();
        let mut returns = tokio::time::interval(RETURNS);
        returns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let limit = usize::from(self.source.concurrency.max(1));
        // Held back until there is nothing else to do, but never so many that the broker runs dry.
        let most = limit.div_ceil(2);
        // With every place taken, deliveries are awaited all the same, for the consumer's end; one
        // that comes (an early acknowledgement has made room for it) waits here.
        let mut next: Option<Delivery> = None;
        let stopped = loop {
            if self.acks.waiting() >= most {
                self.flush(lane);
            }
            if self.set.len() + self.leaving.len() < limit
                && let Some(delivery) = next.take()
            {
                self.start(Arc::clone(lane), delivery);
            }
            tokio::select! {
                biased;
                () = is_true(shutdown) => break Stopped::Shutdown,
                Some(handled) = self.set.join_next(), if !self.set.is_empty() => {
                    self.settle(lane, handled);
                }
                Some(written) = self.leaving.next(), if !self.leaving.is_empty() => {
                    self.settle(lane, Ok(written));
                }
                delivery = deliveries.next(), if next.is_none() => match delivery {
                    Ok(delivery) => next = Some(delivery),
                    Err(ended) => break Stopped::Ended(ended),
                },
                reason = lane.down(), if next.is_some() => {
                    break Stopped::Ended(Ended::Lost(reason));
                }
                _ = returns.tick() => collect_returns(&self.counters, lane).await,
                // The last branch of a biased choice: nothing else is ready.
                () = std::future::ready(()), if self.acks.waiting() > 0 => self.flush(lane),
            }
        };
        self.flush(lane);
        if let Some(delivery) = next {
            lane.give_back(delivery.tag);
            self.acks.gone(delivery.tag);
        }
        stopped
    }

    fn start(&mut self, lane: Arc<Lane>, delivery: Delivery) {
        let (handler, counters) = (Arc::clone(&self.handler), Arc::clone(&self.counters));
        let current = Arc::clone(&lane);
        let work = async move {
            let _running = Gauge::raise(counters);
            let tag = delivery.tag;
            let handling = AssertUnwindSafe(handler.handle(Arc::clone(&lane), delivery));
            let settlement = handling.catch_unwind().await.unwrap_or_else(|panic| {
                tracing::error!(
                    panic = crate::panic::text(&*panic),
                    "a delivery is rejected"
                );
                Settlement::Reject
            });
            Handled {
                lane,
                tag,
                settlement,
            }
        };
        if H::IN_ORDER {
            let mut work = Box::pin(work);
            let first = work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            // What waits is polled again by its task, which is then the one to be woken.
            match first {
                Poll::Ready(handled) => self.settle(&current, Ok(handled)),
                Poll::Pending => drop(self.set.spawn_on(work, &self.tasks)),
            }
        } else {
            self.set.spawn_on(work, &self.tasks);
        }
    }

    fn settle(&mut self, current: &Arc<Lane>, handled: Result<Handled, JoinError>) {
        // An aborted handler's delivery goes back with its channel.
        let Ok(Handled {
            lane,
            tag,
            settlement,
        }) = handled
        else {
            return;
        };
        // The ledger is of the current channel; an earlier one's deliveries are settled singly.
        let current = Arc::ptr_eq(&lane, current);
        match settlement {
            Settlement::Ack => self.ack(current, &lane, tag),
            Settlement::AckOnceWritten(writing) => match writing {
                Writing::Done(Ok(())) => self.ack(current, &lane, tag),
                Writing::Done(Err(error)) => not_sent(&error),
                Writing::Pending(pending) => self.leaving.push(Box::pin(async move {
                    let settlement = match pending.await {
                        Ok(()) => Settlement::Ack,
                        Err(error) => {
                            not_sent(&error);
                            Settlement::Settled
                        }
                    };
                    Handled {
                        lane,
                        tag,
                        settlement,
                    }
                })),
            },
            Settlement::GiveBack => {
                lane.give_back(tag);
                self.gone(current, tag);
            }
            Settlement::Reject => {
                lane.reject(tag);
                self.gone(current, tag);
            }
            Settlement::Settled => self.gone(current, tag),
        }
    }

    fn ack(&mut self, current: bool, lane: &Lane, tag: u64) {
        if current {
            self.acks.done(tag);
        } else {
            lane.ack(tag, Extent::One);
        }
    }

    /// The channel is gone, and with it what was to be written or settled on it.
    fn lose(&mut self) {
        // lapin may never end a write that was under way then.
        self.leaving.clear();
        if self.source.on_loss == OnLoss::Drop {
            self.set.abort_all();
        }
    }

    fn gone(&mut self, current: bool, tag: u64) {
        if current {
            self.acks.gone(tag);
        }
    }

    fn flush(&mut self, lane: &Lane) {
        for ack in self.acks.flush() {
            match ack {
                Ack::One(tag) => lane.ack(tag, Extent::One),
                Ack::UpTo(tag) => lane.ack(tag, Extent::UpTo),
            }
        }
    }

    /// Waits for what is in hand, for as long as the grace lasts.
    async fn finish(&mut self, lane: Option<&Arc<Lane>>, grace: Duration) {
        // Not before the consumer is cancelled: whoever ends at this word makes room, and what
        // the broker sent for it would have to be given back.
        self.handler.drain();
        let patience = async {
            tokio::select! {
                () = tokio::time::sleep(grace) => "the grace period is over, giving back the rest",
                () = second_signal() => "stopping at once, giving back the rest",
            }
        };
        tokio::pin!(patience);
        while !self.set.is_empty() || !self.leaving.is_empty() {
            let handled = tokio::select! {
                Some(handled) = self.set.join_next(), if !self.set.is_empty() => handled,
                Some(written) = self.leaving.next(), if !self.leaving.is_empty() => Ok(written),
                why = &mut patience => {
                    tracing::warn!(queue = self.source.queue, "{why}");
                    break;
                }
            };
            match (lane, handled) {
                (Some(lane), handled) => {
                    self.settle(lane, handled);
                    self.flush(lane);
                }
                (None, Ok(handled)) => {
                    let own = Arc::clone(&handled.lane);
                    self.acks = Acks::default();
                    self.settle(&own, Ok(handled));
                    self.flush(&own);
                }
                (None, Err(_)) => {}
            }
        }
        self.set.shutdown().await;
        if let Some(lane) = lane {
            // What was not finished goes back to the queue with the channel.
            lane.close().await;
        }
    }
}

fn not_sent(error: &dyn std::fmt::Display) {
    tracing::debug!(%error, "a reply was not sent: its request comes again");
}

/// Replies whose caller is gone come back; lapin keeps them until somebody looks.
async fn collect_returns(counters: &Counters, lane: &Lane) {
    let Ok(returned) = lane.returned().await else {
        return;
    };
    for message in returned {
        counters.returned_replies.add();
        let (queue, reason) = (&message.routing_key, &message.text);
        tracing::debug!(queue, reason, "a reply came back: its caller is gone");
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
