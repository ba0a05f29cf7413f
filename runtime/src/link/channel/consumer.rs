//! A queue's deliveries, for as long as the consumer lives, and how it ended.

use std::sync::{Arc, Weak};
use std::time::Duration;

use amq_protocol::protocol::{AMQPClass, basic};
use amq_protocol::types::FieldTable;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Channel;
use super::declare::count_named;
use super::{ChannelEvent, ChannelHandler, Delivery};
use crate::error::Error;
use crate::escape::Escaped;
use crate::link::convert;
use crate::random;
use crate::stats::Counters;

/// Why deliveries stopped.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    /// The broker cancelled the consumer: its queue is gone, or its leader is.
    Cancelled,
    /// The channel or the session is gone.
    Lost(Error),
}

/// An idle consumer looks at its queue after so many heartbeat intervals.
const CHECKED_EVERY: u32 = 3;
/// AMQP's reply code for a queue that is not there.
const NOT_FOUND: u16 = 404;

/// Takes deliveries on the I/O task, one after the other. Must not block.
pub(crate) type Sink = Arc<dyn Fn(Delivery) + Send + Sync>;

/// How a queue is consumed.
#[derive(Clone)]
pub(crate) enum Mode {
    /// Consumer are settled; at most so many wait for it.
    Settled { prefetch: u16 },
    /// The broker forgets a message as it sends it. No prefetch bounds how many come, so there is no
    /// queue for them here: each is given away as it is read.
    NoAck(Sink),
}

impl std::fmt::Debug for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Settled { prefetch } => f
                .debug_struct("Settled")
                .field("prefetch", prefetch)
                .finish(),
            Self::NoAck(_) => f.debug_struct("NoAck").finish_non_exhaustive(),
        }
    }
}

/// A consumer. Dropping it cancels it.
#[derive(Debug)]
pub(crate) struct Consumer {
    channel: Arc<Channel>,
    /// Unique on the broker, so that an operator can tell consumers apart.
    consumer_tag: String,
    /// As many as the broker sends ahead, which the prefetch bounds; last the end of the consumer.
    coming: mpsc::UnboundedReceiver<Item>,
    ended: Option<Ended>,
    _check: Option<AbortOnDrop>,
}

type Item = Result<Box<Delivery>, Box<Ended>>;

impl Consumer {
    /// Starts consuming on a channel of its own, by the queue's name on the broker.
    ///
    /// # Errors
    /// The broker's refusal, or the session went. Cancel-safe: the channel is to be dropped then.
    pub(crate) async fn start(
        channel: &Arc<Channel>,
        queue: &str,
        mode: Mode,
    ) -> Result<Self, Error> {
        let sink = match mode {
            Mode::NoAck(sink) => Some(sink),
            Mode::Settled { prefetch } => {
                let qos = basic::AMQPMethod::Qos(basic::Qos {
                    prefetch_count: prefetch,
                    global: false,
                });
                channel.call(AMQPClass::Basic(qos)).await?;
                if prefetch == 1 {
                    channel.take_one_at_a_time();
                }
                None
            }
        };
        let consumer_tag = format!("lepus.{}", random::identity());
        let consume = basic::AMQPMethod::Consume(basic::Consume {
            queue: convert::short(queue)?,
            consumer_tag: convert::short(consumer_tag.as_str())?,
            no_local: false,
            no_ack: sink.is_some(),
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        });
        let (feed, coming) = mpsc::unbounded_channel();
        let is_settled = sink.is_none();
        let items = feed.clone();
        channel.set_handler(Arc::new(Feed {
            items: feed,
            sink,
            counters: Arc::clone(channel.session().counters()),
        }));
        channel.call(AMQPClass::Basic(consume)).await?;
        let check = is_settled.then(|| {
            let check = check_queue(Arc::downgrade(channel), queue.to_owned(), items);
            AbortOnDrop(channel.session().io().spawn(check).abort_handle())
        });
        Ok(Self {
            channel: Arc::clone(channel),
            consumer_tag,
            coming,
            ended: None,
            _check: check,
        })
    }

    /// The next delivery that can still be settled. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Delivery, Ended> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        let ended = loop {
            match self.coming.recv().await {
                Some(Ok(delivery)) if self.take(&delivery) => return Ok(*delivery),
                // It had come when the channel went: its tag means nothing any more, and the reason
                // of the end follows.
                Some(Ok(_)) => {}
                Some(Err(ended)) => break *ended,
                None => break Ended::Lost(self.channel.dead()),
            }
        };
        Err(self.ended.insert(ended).clone())
    }

    /// Whether a delivery can still be settled.
    fn take(&self, delivery: &Delivery) -> bool {
        let is_open = self.channel.is_open();
        if is_open {
            self.channel.delivered(delivery.tag);
        }
        is_open
    }

    /// Stops new deliveries and gives those that were prefetched back to the queue.
    pub(crate) async fn cancel(mut self) {
        let cancel = convert::short(self.consumer_tag.as_str()).map(|consumer_tag| {
            AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel {
                consumer_tag,
                nowait: false,
            }))
        });
        let cancelled = match cancel {
            Ok(cancel) => self.channel.call(cancel).await,
            Err(error) => Err(error),
        };
        if let Err(error) = cancelled {
            tracing::debug!(%error, "a consumer was gone before it was cancelled");
            return;
        }
        // The broker sends none after its cancel-ok.
        self.coming.close();
        self.ended.get_or_insert(Ended::Cancelled);
        while let Ok(item) = self.coming.try_recv() {
            if let Ok(delivery) = item {
                self.channel.requeue(delivery.tag);
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if self.ended.is_none() && self.channel.is_open() {
            self.channel.cancel(&self.consumer_tag);
        }
    }
}

/// Ends a task with its owner.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends the consumer when its queue has no consumer any more although the broker has sent no
/// `basic.cancel`. An idle consumer asks for the count of consumers (a passive `queue.declare`)
/// every three heartbeat intervals.
///
/// RabbitMQ forgets consumers in silence when a quorum queue is deleted right after it was declared
/// (seen on 3.10.8): the channel stays open and nothing is delivered on it. Where other consumers of
/// the queue are known, the count does not tell that this one is not.
async fn check_queue(channel: Weak<Channel>, queue: String, items: mpsc::UnboundedSender<Item>) {
    let mut last = 0;
    loop {
        let Some(interval) = channel.upgrade().map(|channel| {
            let heartbeat = channel.session().heartbeat();
            heartbeat.max(Duration::from_secs(1)) * CHECKED_EVERY
        }) else {
            return;
        };
        tokio::time::sleep(interval).await;
        let Some(channel) = channel.upgrade() else {
            return;
        };
        let delivered = channel.last_delivery();
        let is_idle =
            std::mem::replace(&mut last, delivered) == delivered && !channel.has_unsettled();
        if !is_idle {
            continue;
        }
        match count_named(channel.session(), &queue).await {
            Ok(counts) if counts.consumers > 0 => {}
            Err(error) if error.amqp_code() != Some(NOT_FOUND) => {
                tracing::debug!(queue, %error, "the consumers of a queue could not be counted");
            }
            // The broker answers in the order of its work: one that was counted before it was
            // cancelled has its `basic.cancel` by now, and this second end is not read.
            Ok(_) | Err(_) => {
                tracing::warn!(
                    queue,
                    "the broker has no consumer on the queue and has not sent `basic.cancel`: \
                     consuming it again"
                );
                // Whoever consumed is gone otherwise.
                let _ = items.send(Err(Box::new(Ended::Cancelled)));
                return;
            }
        }
    }
}

/// Hands deliveries over to the consumer's owner.
struct Feed {
    items: mpsc::UnboundedSender<Item>,
    /// Takes the deliveries instead, if they are not settled.
    sink: Option<Sink>,
    counters: Arc<Counters>,
}

impl ChannelHandler for Feed {
    fn on_event(&self, word: ChannelEvent) {
        let item = match word {
            ChannelEvent::Delivered(delivery) => match &self.sink {
                Some(sink) => return sink(*delivery),
                None => Ok(delivery),
            },
            ChannelEvent::Cancelled => Err(Box::new(Ended::Cancelled)),
            ChannelEvent::Closed(reason) => Err(Box::new(Ended::Lost(reason))),
            ChannelEvent::Returned(message) => {
                self.counters.returned_replies.add();
                let (queue, reason) = (Escaped(&message.routing_key), Escaped(&message.text));
                tracing::debug!(%queue, %reason, "a reply came back: its caller is gone");
                return;
            }
            ChannelEvent::Confirmed(_) => return,
        };
        // When nobody consumes any more, the channel is about to be closed, and it goes back.
        drop(self.items.send(item));
    }
}
