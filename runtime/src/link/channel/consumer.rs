//! Consumers (`basic.consume`, `basic.deliver`, `basic.cancel`).

use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, basic};
use amq_protocol::types::FieldTable;
use tokio::sync::mpsc;

use super::Channel;
use super::consumer_end::{ConsumerEnd, ConsumerItem};
use super::queue_check::{IdleCheck, QueueCheck};
use crate::error::Error;
use crate::escape::Escaped;
use crate::link::convert;
use crate::link::socket::channels::{ChannelEvent, ChannelHandler, Delivery};
use crate::random;
use crate::stats::Counters;

/// Receives deliveries on the I/O task, one after the other. Must not block.
pub(crate) type DeliveryCallback = Arc<dyn Fn(Delivery) + Send + Sync>;

/// The acknowledgement mode of a consumer (`no-ack` of `basic.consume`).
#[derive(Clone)]
pub(crate) enum ConsumeMode {
    /// Every delivery has to be settled. The broker sends at most `prefetch` unsettled ones.
    ManualAck { prefetch: u16 },
    /// The broker considers a message settled when it sends it (`no-ack`). No prefetch bounds how many
    /// arrive, so they are not buffered here: the callback gets each one as it is read.
    NoAck(DeliveryCallback),
}

impl std::fmt::Debug for ConsumeMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ManualAck { prefetch } => f
                .debug_struct("ManualAck")
                .field("prefetch", prefetch)
                .finish(),
            Self::NoAck(_) => f.debug_struct("NoAck").finish_non_exhaustive(),
        }
    }
}

/// A consumer of one queue. Dropping it cancels it (`basic.cancel`).
#[derive(Debug)]
pub(crate) struct Consumer {
    channel: Arc<Channel>,
    /// Unique on the broker, so that an operator can tell consumers apart.
    consumer_tag: String,
    /// Unbounded, but never holds more than the prefetch and, last, the end of the consumer.
    deliveries: mpsc::UnboundedReceiver<ConsumerItem>,
    end: Option<ConsumerEnd>,
    _check: Option<QueueCheck>,
}

impl Consumer {
    /// Starts a consumer of a queue, given by its name on the broker. The channel must have no other
    /// user. While the consumer is idle, its queue is checked if deliveries are acknowledged, and also
    /// what `idle_check` checks, if it is given.
    ///
    /// Cancel-safe, if the channel is dropped with the future.
    ///
    /// # Errors
    /// The broker refused the consumer, or the session is down.
    pub(crate) async fn start(
        channel: &Arc<Channel>,
        queue: &str,
        mode: ConsumeMode,
        idle_check: Option<IdleCheck>,
    ) -> Result<Self, Error> {
        let callback = match mode {
            ConsumeMode::NoAck(callback) => Some(callback),
            ConsumeMode::ManualAck { prefetch } => {
                let qos = basic::AMQPMethod::Qos(basic::Qos {
                    prefetch_count: prefetch,
                    global: false,
                });
                channel.call(AMQPClass::Basic(qos)).await?;
                if prefetch == 1 {
                    channel.set_prefetch_one();
                }
                None
            }
        };
        let consumer_tag = format!("lepus.{}", random::identity());
        let consume = basic::AMQPMethod::Consume(basic::Consume {
            queue: convert::short(queue)?,
            consumer_tag: convert::short(consumer_tag.as_str())?,
            no_local: false,
            no_ack: callback.is_some(),
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        });
        let is_checked = callback.is_none() || idle_check.is_some();
        let (sender, deliveries) = mpsc::unbounded_channel();
        let items = sender.clone();
        channel.set_handler(Arc::new(DeliverySink {
            sender,
            callback,
            counters: Arc::clone(channel.session().counters()),
        }));
        channel.call(AMQPClass::Basic(consume)).await?;
        let check = is_checked.then(|| QueueCheck::start(channel, queue, items, idle_check));
        Ok(Self {
            channel: Arc::clone(channel),
            consumer_tag,
            deliveries,
            end: None,
            _check: check,
        })
    }

    /// The next delivery. Deliveries that can no longer be settled are skipped. Cancel-safe.
    ///
    /// # Errors
    /// The reason why there are no more deliveries.
    pub(crate) async fn next(&mut self) -> Result<Delivery, ConsumerEnd> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        let end = loop {
            match self.deliveries.recv().await {
                Some(Ok(delivery)) if self.track_if_open(&delivery) => return Ok(*delivery),
                // It was buffered when the channel closed. It can no longer be settled, and the broker
                // delivers it again. The reason of the close follows in the buffer.
                Some(Ok(_)) => {}
                Some(Err(end)) => break *end,
                None => break ConsumerEnd::Lost(self.channel.closed_error()),
            }
        };
        Err(self.end.insert(end).clone())
    }

    /// Records a delivery as unsettled, unless the channel has closed.
    fn track_if_open(&self, delivery: &Delivery) -> bool {
        let is_open = self.channel.is_open();
        if is_open {
            self.channel.track_delivery(delivery.tag);
        }
        is_open
    }

    /// Cancels the consumer and waits for the reply. The result are the deliveries that were received and not taken
    /// by [`next`](Self::next); the caller settles them.
    #[must_use]
    pub(crate) async fn cancel(mut self) -> Vec<Delivery> {
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
            tracing::debug!(%error, "consumer not cancelled: its channel is closed");
            return Vec::new();
        }
        // The broker sends no delivery after `basic.cancel-ok`, so the buffer is complete now.
        self.deliveries.close();
        self.end.get_or_insert(ConsumerEnd::Cancelled);
        let mut received = Vec::new();
        while let Ok(item) = self.deliveries.try_recv() {
            if let Ok(delivery) = item
                && self.track_if_open(&delivery)
            {
                received.push(*delivery);
            }
        }
        received
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if self.end.is_none() && self.channel.is_open() {
            self.channel.cancel(&self.consumer_tag);
        }
    }
}

/// Receives the events of a consumer's channel and passes them to the consumer.
struct DeliverySink {
    sender: mpsc::UnboundedSender<ConsumerItem>,
    /// Gets the deliveries instead of `sender` in [`ConsumeMode::NoAck`].
    callback: Option<DeliveryCallback>,
    counters: Arc<Counters>,
}

impl ChannelHandler for DeliverySink {
    fn on_event(&self, event: ChannelEvent) {
        let item = match event {
            ChannelEvent::Delivered(delivery) => match &self.callback {
                Some(callback) => return callback(*delivery),
                None => Ok(delivery),
            },
            ChannelEvent::Cancelled => Err(Box::new(ConsumerEnd::Cancelled)),
            ChannelEvent::Closed(reason) => Err(Box::new(ConsumerEnd::Lost(reason))),
            ChannelEvent::Returned(message) => {
                self.counters.returned_replies.add();
                let (queue, reason) = (Escaped(&message.routing_key), Escaped(&message.text));
                tracing::debug!(%queue, %reason, "reply returned: the caller's reply queue is gone");
                return;
            }
            ChannelEvent::Confirmed(_) => return,
        };
        // If the consumer was dropped, its channel is about to be closed, and the broker requeues the
        // delivery.
        drop(self.sender.send(item));
    }
}
