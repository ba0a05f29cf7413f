//! Deliveries in flight: their handlers, and their settlement (`basic.ack`, `basic.nack`, `basic.reject`).
//! Acknowledgements that are due at the same time share frames; requeues and rejects do not.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

use super::handler::{Handler, Settlement};
use super::inline::InlinePolicy;
use super::source::{OnLoss, Source};
use crate::clock;
use crate::error::Error;
use crate::escape::Escaped;
use crate::handler_guard::panic_text;
use crate::link::{AckRange, Channel, Consumer, ConsumerEnd, Delivery, Flush};
use crate::policy::acks::{Ack, Acks};
use crate::shutdown::stop_at_once;
use crate::stats::Counters;

/// After this many replies the write buffer is flushed even if more handlers could be polled: each of
/// them may take a moment, and the replies would wait for it.
const MAX_UNSENT_REPLIES: usize = 32;

/// The longest that a shutdown waits for the broker's `basic.cancel-ok` before it tells the handlers
/// that no more deliveries come.
const CANCEL_OK_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that a shutdown whose grace period is over waits for handlers to be dropped, and then
/// for the channel to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(250);

/// A delivery whose handler has ended, and the channel it came from.
pub(crate) struct Completed {
    pub(super) channel: Arc<Channel>,
    pub(super) tag: u64,
    pub(super) settlement: Settlement,
}

/// The reason for which a consumer's deliveries are no longer received.
pub(super) enum StopReason {
    Shutdown,
    ConsumerEnded(ConsumerEnd),
}

/// The deliveries that handlers work on, of the current channel and of earlier ones.
pub(super) struct InFlight<'a, H> {
    handlers: JoinSet<Completed>,
    /// Deliveries of the current channel that wait for a handler.
    waiting: VecDeque<Delivery>,
    /// Deliveries of the current channel that wait to be acknowledged.
    acks: Acks,
    /// The number of inline handlers that have ended and whose replies may not be flushed yet.
    unsent_replies: usize,
    /// Whether the next flush is left to the I/O task, so that more frames may join it.
    flush_on_io_task: bool,
    tasks: Handle,
    io: Handle,
    counters: Arc<Counters>,
    handler: Arc<H>,
    source: &'a Source,
    inline: InlinePolicy,
}

impl<'a, H: Handler> InFlight<'a, H> {
    pub(super) fn new(
        source: &'a Source,
        handler: Arc<H>,
        (tasks, io): (Handle, Handle),
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            handlers: JoinSet::new(),
            waiting: VecDeque::new(),
            acks: Acks::default(),
            unsent_replies: 0,
            flush_on_io_task: false,
            tasks,
            io,
            counters,
            handler,
            source,
            inline: InlinePolicy::new(source.concurrency),
        }
    }

    /// Consumes until the consumer ends or a shutdown is requested.
    pub(super) async fn consume(
        &mut self,
        channel: &Arc<Channel>,
        consumer: &mut Consumer,
        shutdown: &mut watch::Receiver<bool>,
    ) -> StopReason {
        self.acks = Acks::default();
        self.handler.started(channel);
        let concurrency = self.concurrency();
        // Acknowledgements are held back while there is other work, so that one frame can cover many,
        // but for half the prefetch at most: the broker sends no more when all of it is unsettled.
        let max_held_back = concurrency.div_ceil(2);
        // Deliveries are received even when all handlers are busy, because that is how the end of the
        // consumer is noticed. More deliveries than the concurrency arrive only if the broker has seen an
        // acknowledgement before its handler was removed from `handlers`; the prefetch bounds them.
        self.waiting.clear();
        let stopping = shutdown_requested(shutdown);
        let handler = Arc::clone(&self.handler);
        let overseeing = handler.oversee();
        tokio::pin!(stopping, overseeing);
        let reason = loop {
            if self.acks.waiting() >= max_held_back {
                self.flush_acks(channel);
            }
            if self.unsent_replies >= max_held_back.min(MAX_UNSENT_REPLIES) {
                self.flush_replies(channel);
            }
            self.start_next(channel);
            tokio::select! {
                biased;
                () = &mut stopping => break StopReason::Shutdown,
                Some(completed) = self.handlers.join_next(), if !self.handlers.is_empty() => {
                    self.settle(Some(channel), completed);
                }
                delivery = consumer.next(), if self.waiting.len() < concurrency => match delivery {
                    Ok(delivery) => self.waiting.push_back(delivery),
                    Err(ended) => break StopReason::ConsumerEnded(ended),
                },
                reason = channel.down(), if self.waiting.len() >= concurrency => {
                    break StopReason::ConsumerEnded(ConsumerEnd::Lost(reason));
                }
                () = std::future::ready(()), if !self.waiting.is_empty() && self.handlers.len() < concurrency => {}
                // The select is biased, so that nothing else is ready here: the held back frames are
                // written now.
                () = std::future::ready(()), if self.unsent_replies + self.acks.waiting() > 0 => {
                    self.flush_acks(channel);
                }
                never = &mut overseeing => match never {},
            }
        };
        self.flush_acks(channel);
        match &reason {
            // The drain handles them.
            StopReason::Shutdown if H::HANDLES_RECEIVED => {}
            // Their channel may still be open. All begin at once, beyond the concurrency, because the next consumer
            // has deliveries of its own. The permits of a server still bound the handlers that run.
            StopReason::ConsumerEnded(_) if H::HANDLES_RECEIVED => {
                while let Some(delivery) = self.waiting.pop_front() {
                    self.start_if_open(channel, delivery);
                }
            }
            StopReason::Shutdown | StopReason::ConsumerEnded(_) => {
                for delivery in std::mem::take(&mut self.waiting) {
                    self.give_back(channel, &delivery);
                }
            }
        }
        reason
    }

    fn concurrency(&self) -> usize {
        usize::from(self.source.concurrency.max(1))
    }

    /// Starts the handler of the delivery that has waited the longest, if another one may run.
    fn start_next(&mut self, channel: &Arc<Channel>) {
        if self.handlers.len() < self.concurrency()
            && let Some(delivery) = self.waiting.pop_front()
        {
            self.start_if_open(channel, delivery);
        }
    }

    /// Starts the handler of a delivery, unless the channel was closed while it waited: the broker delivers it again
    /// then.
    fn start_if_open(&mut self, channel: &Arc<Channel>, delivery: Delivery) {
        if channel.is_open() {
            self.start(Arc::clone(channel), delivery);
        }
    }

    /// Gives a delivery back that no handler has begun with.
    fn give_back(&mut self, channel: &Channel, delivery: &Delivery) {
        channel.requeue(delivery.tag);
        self.acks.gone(delivery.tag);
    }

    fn start(&mut self, channel: Arc<Channel>, delivery: Delivery) {
        let (handler, counters) = (Arc::clone(&self.handler), Arc::clone(&self.counters));
        let current = Arc::clone(&channel);
        let mut handling = Box::pin(handle_delivery(handler, counters, channel, delivery));
        if !H::IN_ORDER && !self.inline.is_inline() {
            let handling = self.inline.measured(handling);
            self.spawn(handling);
            return;
        }
        let mut context = Context::from_waker(Waker::noop());
        match self.inline.measure(|| handling.as_mut().poll(&mut context)) {
            Poll::Ready(completed) => {
                self.unsent_replies += 1;
                self.settle(Some(&current), Ok(completed));
            }
            // The task polls it once more, and registers its own waker.
            Poll::Pending => self.spawn(handling),
        }
    }

    fn spawn(&mut self, handling: impl Future<Output = Completed> + Send + 'static) {
        // The task flushes the reply itself, because the consumer may be busy with a new set-up.
        let handling = handling.inspect(|completed| completed.channel.flush(Flush::Inline));
        self.handlers.spawn_on(handling, &self.tasks);
    }

    /// Settles a delivery whose handler has ended. `current` is the channel that is consumed from.
    fn settle(&mut self, current: Option<&Arc<Channel>>, completed: Result<Completed, JoinError>) {
        // The delivery of an aborted handler is requeued when its channel is closed.
        let Ok(Completed {
            channel,
            tag,
            settlement,
        }) = completed
        else {
            return;
        };
        // `acks` has the tags of the current channel only. Deliveries of earlier channels are
        // acknowledged one by one.
        let is_current = current.is_some_and(|current| Arc::ptr_eq(&channel, current));
        match settlement {
            Settlement::Ack => self.ack(is_current, &channel, tag),
            Settlement::AckAndBatch => {
                self.flush_on_io_task = true;
                self.ack(is_current, &channel, tag);
            }
            Settlement::Requeue => {
                channel.requeue(tag);
                self.settled(is_current, tag);
            }
            Settlement::Reject => {
                channel.reject(tag);
                self.settled(is_current, tag);
            }
            Settlement::Settled => self.settled(is_current, tag),
        }
    }

    fn ack(&mut self, is_current: bool, channel: &Channel, tag: u64) {
        if is_current {
            self.acks.done(tag);
        } else {
            channel.ack(tag, AckRange::One);
        }
    }

    fn settled(&mut self, is_current: bool, tag: u64) {
        if is_current {
            self.acks.gone(tag);
        }
    }

    /// The channel was closed: its unwritten replies are lost, and its deliveries come again.
    pub(super) fn channel_lost(&mut self, channel: &Arc<Channel>, reason: &Error) {
        self.handler.lost(&self.source.queue, channel, reason);
        if self.source.on_loss == OnLoss::Drop {
            self.handlers.abort_all();
        }
    }

    /// Flushes the replies.
    fn flush_replies(&mut self, channel: &Channel) {
        self.unsent_replies = 0;
        channel.flush(self.next_flush());
    }

    /// Flushes the replies, and the acknowledgements of their requests behind them.
    fn flush_acks(&mut self, channel: &Channel) {
        if self.acks.waiting() == 0 {
            return self.flush_replies(channel);
        }
        self.unsent_replies = 0;
        let flush = self.next_flush();
        let acks = self.acks.flush().into_iter().map(|ack| match ack {
            Ack::One(tag) => (tag, AckRange::One),
            Ack::UpTo(tag) => (tag, AckRange::UpTo),
        });
        channel.ack_all(acks, flush);
    }

    fn next_flush(&mut self) -> Flush {
        if std::mem::take(&mut self.flush_on_io_task) {
            Flush::IoTask
        } else {
            Flush::Inline
        }
    }

    /// Cancels the consumer (`basic.cancel`), waits for the handlers, and closes the channel. Deliveries that came
    /// before `basic.cancel-ok` are handled or given back ([`Handler::HANDLES_RECEIVED`]).
    ///
    /// The grace period bounds it, and a second signal ends it. After that the broker, which may not answer, and
    /// handlers that block their threads hold it up for no longer than [`CLOSE_TIMEOUT`] each.
    pub(super) async fn drain(&mut self, consumer: Option<(&Arc<Channel>, Consumer)>) {
        let end = clock::deadline(Instant::now(), self.source.grace);
        let limit = async {
            tokio::select! {
                () = tokio::time::sleep_until(end) => "the grace period is over, requeueing unfinished deliveries",
                () = stop_at_once() => "second signal, stopping at once and requeueing unfinished deliveries",
            }
        };
        tokio::pin!(limit);
        let channel = consumer.as_ref().map(|(channel, _)| Arc::clone(channel));
        // A task of its own, which goes on when it is no longer waited for.
        let cancelling = consumer.map(|(_, consumer)| self.io.spawn(consumer.cancel()));
        let end = self
            .finish_handlers(channel.as_ref(), cancelling, limit.as_mut())
            .await;
        self.abort_handlers().await;
        let Some(channel) = channel else { return };
        // Closing the channel requeues the deliveries that are not settled.
        let closing = self.io.spawn(async move { channel.close().await });
        let too_long = async {
            match end {
                DrainEnd::Finished => {
                    limit.await;
                }
                DrainEnd::Blocked | DrainEnd::LimitReached => {
                    tokio::time::sleep(CLOSE_TIMEOUT).await;
                }
            }
        };
        tokio::select! {
            _ = closing => {}
            () = too_long => {
                let queue = self.source.queue.as_str();
                tracing::warn!(queue, "the broker has not confirmed that the channel is closed, not waiting for it");
            }
        }
    }

    /// Waits until all handlers have ended and the consumer is cancelled.
    async fn finish_handlers(
        &mut self,
        channel: Option<&Arc<Channel>>,
        mut cancelling: Option<JoinHandle<Vec<Delivery>>>,
        mut limit: Pin<&mut impl Future<Output = &'static str>>,
    ) -> DrainEnd {
        let blocked = connection_blocked(channel.cloned());
        let cancel_ok_timeout = tokio::time::sleep(CANCEL_OK_TIMEOUT);
        let handler = Arc::clone(&self.handler);
        let detached = handler.detached();
        tokio::pin!(blocked, cancel_ok_timeout, detached);
        let (mut is_told, mut is_blocked, mut has_detached) = (false, false, true);
        loop {
            // RabbitMQ does not read from a connection that it has blocked, so it does not answer
            // `basic.cancel` there.
            let is_cancelled = cancelling.is_none() || is_blocked;
            // The handlers are told only when the consumer is cancelled, if that is possible: each that
            // ends early makes the broker send another delivery, which would have to be requeued.
            if !is_told && is_cancelled {
                is_told = true;
                self.handler.drain();
            }
            if let Some(channel) = channel {
                while !self.waiting.is_empty() && self.handlers.len() < self.concurrency() {
                    self.start_next(channel);
                }
                self.flush_acks(channel);
            }
            if self.handlers.is_empty() && self.waiting.is_empty() && is_cancelled && !has_detached
            {
                return if is_blocked {
                    DrainEnd::Blocked
                } else {
                    DrainEnd::Finished
                };
            }
            tokio::select! {
                biased;
                received = join(&mut cancelling), if cancelling.is_some() => {
                    cancelling = None;
                    for delivery in received {
                        match channel {
                            Some(channel) if !H::HANDLES_RECEIVED => self.give_back(channel, &delivery),
                            _ => self.waiting.push_back(delivery),
                        }
                    }
                }
                Some(completed) = self.handlers.join_next(), if !self.handlers.is_empty() => {
                    self.settle(channel, completed);
                }
                () = &mut detached, if is_told && has_detached => has_detached = false,
                () = &mut blocked, if !is_blocked => is_blocked = true,
                () = &mut cancel_ok_timeout, if !is_told => {
                    is_told = true;
                    self.handler.drain();
                }
                reason = limit.as_mut() => {
                    tracing::warn!(queue = self.source.queue, "{reason}");
                    return DrainEnd::LimitReached;
                }
            }
        }
    }

    /// Aborts the handlers that are left. One that blocks its thread cannot be aborted.
    async fn abort_handlers(&mut self) {
        self.handler.end_detached();
        let handler = Arc::clone(&self.handler);
        let aborted = async {
            self.handlers.shutdown().await;
            handler.detached().await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, aborted).await.is_err() {
            let queue = self.source.queue.as_str();
            let handlers = self.handlers.len();
            tracing::warn!(
                queue,
                handlers,
                "handlers block their threads, not waiting for them"
            );
        }
    }
}

/// The reason for which a drain no longer waits for handlers.
enum DrainEnd {
    /// All have ended, and the consumer is cancelled.
    Finished,
    /// All have ended, and the connection is blocked.
    Blocked,
    /// The grace period is over, or a second signal came.
    LimitReached,
}

pub(super) async fn shutdown_requested(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone. That ends the consumer as well.
    let _ = shutdown.wait_for(|requested| *requested).await;
}

/// The deliveries that came before the consumer was cancelled.
async fn join(task: &mut Option<JoinHandle<Vec<Delivery>>>) -> Vec<Delivery> {
    match task {
        // The task does not panic, and it is aborted only with its runtime.
        Some(task) => task.await.unwrap_or_default(),
        None => Vec::new(),
    }
}

/// Completes when the broker has blocked the channel's connection; never without a channel.
async fn connection_blocked(channel: Option<Arc<Channel>>) {
    if let Some(channel) = channel {
        let mut blocked = channel.session().blocked();
        // An error means that the session has ended, and then nothing is blocked.
        if blocked.wait_for(Option::is_some).await.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

/// Handles a delivery; a panic of the handler rejects it.
///
/// Not an `async fn`, whose future would hold the handler's future twice.
pub(crate) fn handle_delivery<H: Handler>(
    handler: Arc<H>,
    counters: Arc<Counters>,
    channel: Arc<Channel>,
    delivery: Delivery,
) -> impl Future<Output = Completed> + Send {
    let running = RunningGauge::increment(counters);
    let (tag, delivered_on) = (delivery.tag, Arc::clone(&channel));
    let handling = AssertUnwindSafe(handler.handle(channel, delivery)).catch_unwind();
    handling.map(move |handled| {
        drop(running);
        let settlement = handled.unwrap_or_else(|panic| {
            tracing::error!(
                panic = %Escaped(panic_text(&*panic)),
                "handling a delivery panicked, the delivery is rejected"
            );
            Settlement::Reject
        });
        Completed {
            channel: delivered_on,
            tag,
            settlement,
        }
    })
}

/// Counts a handler as running until it is dropped.
struct RunningGauge(Arc<Counters>);

impl RunningGauge {
    fn increment(counters: Arc<Counters>) -> Self {
        counters.running.add();
        Self(counters)
    }
}

impl Drop for RunningGauge {
    fn drop(&mut self) {
        self.0.running.remove();
    }
}
