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
use crate::clock;
use crate::error::Error;
use crate::escape::Escaped;
use crate::link::{AckRange, Channel, Consumer, ConsumerEnd, Delivery, Flush};
use crate::policy::acks::{Ack, Acks};
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
    pub(super) channel: Arc<Channel>,
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
        channel: &Arc<Channel>,
        deliveries: &mut Consumer,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Stopped {
        self.acks = Acks::default();
        self.handler.began(channel);
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
                self.flush(channel);
            }
            if self.unsent >= most.min(TOGETHER) {
                self.send(channel);
            }
            if self.set.len() < limit
                && let Some(delivery) = waiting.pop_front()
            {
                // The broker may have closed the channel while it waited, and then it comes again:
                // it is not to be handled in vain.
                if channel.is_open() {
                    self.start(Arc::clone(channel), delivery);
                }
            }
            tokio::select! {
                biased;
                () = &mut stopping => break Stopped::Shutdown,
                Some(handled) = self.set.join_next(), if !self.set.is_empty() => {
                    self.settle(Some(channel), handled);
                }
                delivery = deliveries.next(), if waiting.len() < limit => match delivery {
                    Ok(delivery) => waiting.push_back(delivery),
                    Err(ended) => break Stopped::Ended(ended),
                },
                reason = channel.down(), if waiting.len() >= limit => {
                    break Stopped::Ended(ConsumerEnd::Lost(reason));
                }
                () = std::future::ready(()), if !waiting.is_empty() && self.set.len() < limit => {}
                // The last but one of a biased choice: nothing else is ready.
                () = std::future::ready(()), if self.unsent + self.acks.waiting() > 0 => {
                    self.flush(channel);
                }
                never = &mut overseeing => match never {},
            }
        };
        self.flush(channel);
        for delivery in waiting {
            channel.requeue(delivery.tag);
            self.acks.gone(delivery.tag);
        }
        stopped
    }

    fn start(&mut self, channel: Arc<Channel>, delivery: Delivery) {
        let (handler, counters) = (Arc::clone(&self.handler), Arc::clone(&self.counters));
        let current = Arc::clone(&channel);
        let mut work = Box::pin(work(handler, counters, channel, delivery));
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
        let work = work.inspect(|handled| handled.channel.flush(Flush::Inline));
        self.set.spawn_on(work, &self.tasks);
    }

    /// Settles a delivery; singly, where its channel is not the current one.
    fn settle(&mut self, current: Option<&Arc<Channel>>, handled: Result<Handled, JoinError>) {
        // An aborted handler's delivery goes back with its channel.
        let Ok(Handled {
            channel,
            tag,
            settlement,
        }) = handled
        else {
            return;
        };
        // The ledger is of the current channel; an earlier one's deliveries are settled singly.
        let current = current.is_some_and(|current| Arc::ptr_eq(&channel, current));
        match settlement {
            Settlement::Ack => self.ack(current, &channel, tag),
            Settlement::AckSoon => {
                self.is_soon = true;
                self.ack(current, &channel, tag);
            }
            Settlement::Requeue => {
                channel.requeue(tag);
                self.gone(current, tag);
            }
            Settlement::Reject => {
                channel.reject(tag);
                self.gone(current, tag);
            }
            Settlement::Settled => self.gone(current, tag),
        }
    }

    fn ack(&mut self, current: bool, channel: &Channel, tag: u64) {
        if current {
            self.acks.done(tag);
        } else {
            channel.ack(tag, AckRange::One);
        }
    }

    /// The channel is gone, and with it what was to be written or settled on it.
    pub(super) fn lose(&mut self, channel: &Arc<Channel>, reason: &Error) {
        self.handler.lost(&self.source.queue, channel, reason);
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
    fn send(&mut self, channel: &Channel) {
        self.unsent = 0;
        channel.flush(self.leave());
    }

    /// Sends the replies, and acknowledges their requests.
    fn flush(&mut self, channel: &Channel) {
        if self.acks.waiting() == 0 {
            return self.send(channel);
        }
        self.unsent = 0;
        let leave = self.leave();
        let acks = self.acks.flush().into_iter().map(|ack| match ack {
            Ack::One(tag) => (tag, AckRange::One),
            Ack::UpTo(tag) => (tag, AckRange::UpTo),
        });
        channel.ack_all(acks, leave);
    }

    fn leave(&mut self) -> Flush {
        if std::mem::take(&mut self.is_soon) {
            Flush::IoTask
        } else {
            Flush::Inline
        }
    }

    /// Cancels the consumer and waits for what is in hand, until the grace is over or a second
    /// signal comes. No step takes longer: an answer of the broker may not come, and a handler may
    /// hold its thread.
    pub(super) async fn finish(&mut self, consumer: Option<(&Arc<Channel>, Consumer)>) {
        let grace = self.source.grace;
        let end = clock::deadline(Instant::now(), grace);
        let patience = async {
            tokio::select! {
                () = tokio::time::sleep_until(end) => "the grace period is over, giving back the rest",
                () = second_signal() => "stopping at once, giving back the rest",
            }
        };
        tokio::pin!(patience);
        let channel = consumer.as_ref().map(|(channel, _)| Arc::clone(channel));
        // In a task of its own: it goes on when it is not waited for any more.
        let mut cancelling = consumer.map(|(_, deliveries)| self.io.spawn(deliveries.cancel()));
        let blocked = blocked(channel.clone());
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
                    self.settle(channel.as_ref(), handled);
                    if let Some(channel) = &channel {
                        self.flush(channel);
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
        let Some(channel) = channel else { return };
        // What was not finished goes back to the queue with the channel.
        let closing = self.io.spawn(async move { channel.close().await });
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
async fn blocked(channel: Option<Arc<Channel>>) {
    if let Some(channel) = channel {
        let mut blocked = channel.session().blocked();
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
    channel: Arc<Channel>,
    delivery: Delivery,
) -> impl Future<Output = Handled> + Send {
    let running = Gauge::raise(counters);
    let (tag, its_lane) = (delivery.tag, Arc::clone(&channel));
    let handling = AssertUnwindSafe(handler.handle(channel, delivery)).catch_unwind();
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
            channel: its_lane,
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
