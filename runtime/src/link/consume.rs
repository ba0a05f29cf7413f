//! A queue's deliveries, for as long as the consumer lives, and how it ended.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::Fuse;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};

use super::convert;
use super::lane::Lane;
use super::session::Session;
use crate::error::Error;
use crate::message::Incoming;

/// A delivery and the tag that settles it, on the channel it came from and no other.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) tag: u64,
    pub(crate) message: Incoming,
}

/// Why deliveries stopped.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The broker cancelled the consumer: its queue is gone, or its leader is.
    Cancelled,
    /// The channel or the session is gone.
    Lost(Error),
}

/// How a queue is consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Deliveries are settled; at most so many wait for it.
    Settled { prefetch: u16 },
    /// The broker forgets a message as it sends it. No prefetch bounds this: read on at once.
    NoAck,
}

/// A consumer. Dropping it cancels it.
pub(crate) struct Deliveries {
    lane: Arc<Lane>,
    consumer: Fuse<lapin::Consumer>,
    tag: ShortString,
    mode: Mode,
    /// The end of the session, listened to once for all deliveries.
    down: End,
}

type End = Pin<Box<dyn Future<Output = Error> + Send>>;

fn end_of(session: &Arc<Session>) -> End {
    let session = Arc::clone(session);
    Box::pin(async move { session.down().await })
}

impl std::fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliveries")
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

impl Deliveries {
    /// Starts consuming on a lane of its own, by the queue's name on the broker.
    pub(crate) async fn start(lane: &Arc<Lane>, queue: &str, mode: Mode) -> Result<Self, Error> {
        let (channel, session) = (lane.channel(), lane.session());
        if let Mode::Settled { prefetch } = mode {
            let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
            session.race(qos).await?;
            if prefetch == 1 {
                lane.take_one_at_a_time();
            }
        }
        let options = BasicConsumeOptions {
            no_ack: mode == Mode::NoAck,
            ..BasicConsumeOptions::default()
        };
        let consume = channel.basic_consume(
            convert::short(queue)?,
            ShortString::default(),
            options,
            FieldTable::default(),
        );
        let consumer = session.race(consume).await?;
        let tag = consumer.tag();
        // lapin's stream may hang when it is polled after its end.
        Ok(Self {
            lane: Arc::clone(lane),
            consumer: consumer.fuse(),
            tag,
            mode,
            down: end_of(session),
        })
    }

    fn is_settled(&self) -> bool {
        matches!(self.mode, Mode::Settled { .. })
    }

    /// The next delivery; where deliveries are settled, one that still can be.
    pub(crate) async fn next(&mut self) -> Result<Delivery, Ended> {
        let item = tokio::select! {
            biased;
            item = self.consumer.next() => item,
            reason = &mut self.down => {
                // Whoever asks again hears it again.
                self.down = end_of(self.lane.session());
                return Err(Ended::Lost(reason));
            }
        };
        let ended = match item {
            // What was buffered when the connection went is still given out: its tag means
            // nothing any more.
            Some(Ok(_)) if self.is_settled() && !self.lane.is_open() => {
                Ended::Lost(self.lane.dead())
            }
            Some(Ok(delivery)) => {
                if self.is_settled() {
                    self.lane.delivered(delivery.delivery_tag);
                }
                return Ok(Delivery {
                    tag: delivery.delivery_tag,
                    message: convert::incoming(delivery),
                });
            }
            Some(Err(error)) => Ended::Lost(convert::error(error)),
            None if self.lane.is_open() => Ended::Cancelled,
            None => Ended::Lost(self.lane.dead()),
        };
        // The end of the session explains the end of its consumers.
        Err(self.lane.session().reason().map_or(ended, Ended::Lost))
    }

    /// Stops new deliveries and gives those that were prefetched back to the queue.
    pub(crate) async fn cancel(mut self) {
        let session = Arc::clone(self.lane.session());
        let cancel = self
            .lane
            .channel()
            .basic_cancel(self.tag.clone(), BasicCancelOptions::default());
        if let Err(error) = session.race(cancel).await {
            tracing::debug!(%error, "a consumer was gone before it was cancelled");
            return;
        }
        if !self.is_settled() {
            return;
        }
        while let Ok(delivery) = self.next().await {
            self.lane.give_back(delivery.tag);
        }
    }
}

/// Takes one message from a queue without consuming (`basic.get`): `None` when it is empty. The
/// caller settles it on the lane.
pub(crate) async fn poll(lane: &Lane, queue: &str) -> Result<Option<Delivery>, Error> {
    let session: &Arc<Session> = lane.session();
    let get = lane
        .channel()
        .basic_get(convert::short(queue)?, BasicGetOptions { no_ack: false });
    let message = session.race(get).await?;
    if let Some(message) = &message {
        lane.delivered(message.delivery.delivery_tag);
    }
    Ok(message.map(|message| Delivery {
        tag: message.delivery.delivery_tag,
        message: convert::incoming(message.delivery),
    }))
}
