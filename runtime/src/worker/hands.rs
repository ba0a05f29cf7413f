//! The deliveries in hand: handled side by side, and settled in as few frames as the order allows.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

use super::pace::Pace;
use super::{Handler, OnLoss, Settlement, Source, Stopped, is_true};
use crate::acks::{Ack, Acks};
use crate::clock;
use crate::error::Error;
use crate::escape::Escaped;
use crate::link::{Deliveries, Delivery, Ended, Extent, Lane, Leave};
use crate::shutdown::second_signal;
use crate::stats::Counters;

/// So many replies leave at the latest, though more are at hand: each may wait for handlers that
/// hold the thread for a moment.
const TOGETHER: usize = 32;

/// So long after a shutdown began handlers are told of it, though the broker has not yet answered
/// that the consumer is cancelled.
const ANSWER: Duration = Duration::from_secs(1);
/// So long a shutdown waits for what it does when its grace is over: for handlers that are dropped,
/// and for the channel to be closed.
const FAREWELL: Duration = Duration::from_millis(250);

/// A delivery that is handled, on the channel it came from.
pub(crate) struct Handled {
    pub(super) lane: Arc<Lane>,
    pub(super) tag: u64,
    pub(super) settlement: Settlement,
}

/// The handlers under way, of this generation and of those before it.
pub(super) struct Hands<'a, H> {
    set: JoinSet<Handled>,
    acks: Acks,
    /// How many handlers ended here whose replies may not have been sent yet: they leave together.
    unsent: usize,
    /// Whether they are left to lapin's thread.
    is_soon: bool,
    tasks: Handle,
    io: Handle,
    counters: Arc<Counters>,
    handler: Arc<H>,
    source: &'a Source,
    pace: Pace,
}

impl<'a, H: Handler> Hands<'a, H> {
    pub(super) fn new(
        source: &'a Source,
        handler: Arc<H>,
        (tasks, io): (Handle, Handle),
        counters: Arc<Counters>,
    ) -> Self {
        let (set, acks) = (JoinSet::new(), Acks::default());
        Self {
            set,
            acks,
            unsent: 0,
            is_soon: false,
            tasks,
            io,
            counters,
            handler,
            source,
            pace: Pace::of(source.concurrency),
        }
    }

    pub(super) async fn consume(
        &mut self,
        lane: &Arc<Lane>,
        deliveries: &mut Deliveries,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Stopped {
        self.acks = Acks::default();
        self.handler.began(lane);
        let limit = usize::from(self.source.concurrency.max(1));
        // Held back until there is nothing else to do, but never so many that the broker runs dry.
        let most = limit.div_ceil(2);
        // With every place taken, deliveries are awaited all the same, for the consumer's end; those
        // that come (an early acknowledgement has made room for them, or one along with a reply)
        // wait here. They are not settled, so that there are no more than the prefetch.
        let mut waiting: VecDeque<Delivery> = VecDeque::new();
        let stopping = is_true(shutdown);
        let handler = Arc::clone(&self.handler);
        let overseeing = handler.oversee();
        tokio::pin!(stopping, overseeing);
        let stopped = loop {
            if self.acks.waiting() >= most {
                self.flush(lane);
            }
            if self.unsent >= most.min(TOGETHER) {
                self.send(lane);
            }
            if self.set.len() < limit
                && let Some(delivery) = waiting.pop_front()
            {
                // The broker may have closed the channel while it waited, and then it comes again:
                // it is not to be handled in vain.
                if lane.is_open() {
                    self.start(Arc::clone(lane), delivery);
                }
            }
            tokio::select! {
                biased;
                () = &mut stopping => break Stopped::Shutdown,
                Some(handled) = self.set.join_next(), if !self.set.is_empty() => {
                    self.settle(Some(lane), handled);
                }
                delivery = deliveries.next(), if waiting.len() < limit => match delivery {
                    Ok(delivery) => waiting.push_back(delivery),
                    Err(ended) => break Stopped::Ended(ended),
                },
                reason = lane.down(), if waiting.len() >= limit => {
                    break Stopped::Ended(Ended::Lost(reason));
                }
                () = std::future::ready(()), if !waiting.is_empty() && self.set.len() < limit => {}
                // The last but one of a biased choice: nothing else is ready.
                () = std::future::ready(()), if self.unsent + self.acks.waiting() > 0 => {
                    self.flush(lane);
                }
                never = &mut overseeing => match never {},
            }
        };
        self.flush(lane);
        for delivery in waiting {
            lane.give_back(delivery.tag);
            self.acks.gone(delivery.tag);
        }
        stopped
    }

    fn start(&mut self, lane: Arc<Lane>, delivery: Delivery) {
        let (handler, counters) = (Arc::clone(&self.handler), Arc::clone(&self.counters));
        let current = Arc::clone(&lane);
        let mut work = Box::pin(work(handler, counters, lane, delivery));
        if !H::IN_ORDER && !self.pace.is_quick() {
            let work = self.pace.watch(work);
            self.spawn(work);
            return;
        }
        let mut context = Context::from_waker(Waker::noop());
        match self.pace.time(|| work.as_mut().poll(&mut context)) {
            Poll::Ready(handled) => {
                self.unsent += 1;
                self.settle(Some(&current), Ok(handled));
            }
            // It is polled again by its task, which is then the one to be woken.
            Poll::Pending => self.spawn(work),
        }
    }

    fn spawn(&mut self, work: impl Future<Output = Handled> + Send + 'static) {
        // Nobody may be here to send its reply: this may be waiting to consume again.
        let work = work.inspect(|handled| handled.lane.send(Leave::Now));
        self.set.spawn_on(work, &self.tasks);
    }

    /// Settles a delivery; singly, where its channel is not the current one.
    fn settle(&mut self, current: Option<&Arc<Lane>>, handled: Result<Handled, JoinError>) {
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
        let current = current.is_some_and(|current| Arc::ptr_eq(&lane, current));
        match settlement {
            Settlement::Ack => self.ack(current, &lane, tag),
            Settlement::AckSoon => {
                self.is_soon = true;
                self.ack(current, &lane, tag);
            }
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
    pub(super) fn lose(&mut self, lane: &Arc<Lane>, reason: &Error) {
        self.handler.lost(&self.source.queue, lane, reason);
        if self.source.on_loss == OnLoss::Drop {
            self.set.abort_all();
        }
    }

    fn gone(&mut self, current: bool, tag: u64) {
        if current {
            self.acks.gone(tag);
        }
    }

    /// Sends the replies.
    fn send(&mut self, lane: &Lane) {
        self.unsent = 0;
        lane.send(self.leave());
    }

    /// Sends the replies, and acknowledges their requests.
    fn flush(&mut self, lane: &Lane) {
        if self.acks.waiting() == 0 {
            return self.send(lane);
        }
        self.unsent = 0;
        let leave = self.leave();
        let acks = self.acks.flush().into_iter().map(|ack| match ack {
            Ack::One(tag) => (tag, Extent::One),
            Ack::UpTo(tag) => (tag, Extent::UpTo),
        });
        lane.ack_all(acks, leave);
    }

    fn leave(&mut self) -> Leave {
        if std::mem::take(&mut self.is_soon) {
            Leave::Soon
        } else {
            Leave::Now
        }
    }

    /// Cancels the consumer and waits for what is in hand, until the grace is over or a second
    /// signal comes. No step takes longer: an answer of the broker may not come, and a handler may
    /// hold its thread.
    pub(super) async fn finish(&mut self, consumer: Option<(&Arc<Lane>, Deliveries)>) {
        let grace = self.source.grace;
        let end = clock::deadline(Instant::now(), grace);
        let patience = async {
            tokio::select! {
                () = tokio::time::sleep_until(end) => "the grace period is over, giving back the rest",
                () = second_signal() => "stopping at once, giving back the rest",
            }
        };
        tokio::pin!(patience);
        let lane = consumer.as_ref().map(|(lane, _)| Arc::clone(lane));
        // In a task of its own: it goes on when it is not waited for any more.
        let mut cancelling = consumer.map(|(_, deliveries)| self.io.spawn(deliveries.cancel()));
        let blocked = blocked(lane.clone());
        tokio::pin!(blocked);
        let (mut is_told, mut is_blocked, mut is_over) = (false, false, false);
        let telling = tokio::time::sleep(ANSWER);
        tokio::pin!(telling);
        loop {
            // Not before the consumer is cancelled, if that can be: whoever ends at this word makes
            // room, and what the broker sent for it would have to be given back.
            if !is_told && (cancelling.is_none() || is_blocked) {
                is_told = true;
                self.handler.drain();
            }
            // RabbitMQ does not read from a connection that it has blocked.
            if self.set.is_empty() && (cancelling.is_none() || is_blocked) {
                break;
            }
            tokio::select! {
                biased;
                () = ended(&mut cancelling), if cancelling.is_some() => cancelling = None,
                Some(handled) = self.set.join_next(), if !self.set.is_empty() => {
                    self.settle(lane.as_ref(), handled);
                    if let Some(lane) = &lane {
                        self.flush(lane);
                    }
                }
                () = &mut blocked, if !is_blocked => is_blocked = true,
                () = &mut telling, if !is_told => {
                    is_told = true;
                    self.handler.drain();
                }
                why = &mut patience => {
                    tracing::warn!(queue = self.source.queue, "{why}");
                    is_over = true;
                    break;
                }
            }
        }
        if tokio::time::timeout(FAREWELL, self.set.shutdown())
            .await
            .is_err()
        {
            let handlers = self.set.len();
            tracing::warn!(
                queue = self.source.queue,
                handlers,
                "handlers hold their threads and are not waited for"
            );
        }
        let Some(lane) = lane else { return };
        // What was not finished goes back to the queue with the channel.
        let closing = self.io.spawn(async move { lane.close().await });
        let farewell = async {
            if is_over || is_blocked {
                tokio::time::sleep(FAREWELL).await;
            } else {
                patience.await;
            }
        };
        tokio::select! {
            _ = closing => {}
            () = farewell => {
                let queue = self.source.queue.as_str();
                tracing::warn!(queue, "the broker has not yet answered that the channel is closed");
            }
        }
    }
}

async fn ended(task: &mut Option<JoinHandle<()>>) {
    if let Some(task) = task {
        // It does not panic, and one that was aborted has lost its connection.
        let _ = task.await;
    }
}

/// Completes when the broker does not read from the channel's connection; never without one.
async fn blocked(lane: Option<Arc<Lane>>) {
    if let Some(lane) = lane {
        let mut blocked = lane.session().blocked();
        // A session that is gone blocks nobody.
        if blocked.wait_for(Option::is_some).await.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

/// Handles a delivery, whatever the handler does. Without an `async` block: that would have a place
/// for the handler's future twice.
pub(crate) fn work<H: Handler>(
    handler: Arc<H>,
    counters: Arc<Counters>,
    lane: Arc<Lane>,
    delivery: Delivery,
) -> impl Future<Output = Handled> + Send {
    let running = Gauge::raise(counters);
    let (tag, its_lane) = (delivery.tag, Arc::clone(&lane));
    let handling = AssertUnwindSafe(handler.handle(lane, delivery)).catch_unwind();
    handling.map(move |handled| {
        drop(running);
        let settlement = handled.unwrap_or_else(|panic| {
            tracing::error!(
                panic = %Escaped(crate::panic::text(&*panic)),
                "a delivery is rejected"
            );
            Settlement::Reject
        });
        Handled {
            lane: its_lane,
            tag,
            settlement,
        }
    })
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
