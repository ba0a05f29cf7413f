//! A queue's deliveries, for as long as the consumer lives, and how it ended.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::mpsc;

use super::convert;
use super::inbox::{Delivery, Listener, Word};
use super::lane::Lane;
use crate::error::Error;
use crate::stats::Counters;

/// Why deliveries stopped.
#[derive(Clone, Debug)]
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
    /// As many as the broker sends ahead, which the prefetch bounds.
    coming: mpsc::UnboundedReceiver<Box<Delivery>>,
    tag: ShortString,
    mode: Mode,
    end: Pin<Box<dyn Future<Output = Ended> + Send>>,
    ended: Option<Ended>,
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
        let (feed, coming) = mpsc::unbounded_channel();
        lane.listen(Arc::new(Feed {
            deliveries: feed,
            counters: Arc::clone(session.counters()),
        }));
        let consumer = session.race(consume).await?;
        Ok(Self {
            lane: Arc::clone(lane),
            coming,
            tag: consumer.tag(),
            mode,
            end: Box::pin(end_of(Arc::clone(lane), consumer)),
            ended: None,
        })
    }

    fn is_settled(&self) -> bool {
        matches!(self.mode, Mode::Settled { .. })
    }

    /// The next delivery; where deliveries are settled, one that still can be.
    pub(crate) async fn next(&mut self) -> Result<Delivery, Ended> {
        let ended = match &self.ended {
            Some(ended) => ended.clone(),
            None => tokio::select! {
                biased;
                Some(delivery) = self.coming.recv() => return self.take(delivery),
                ended = &mut self.end => self.ended.insert(ended).clone(),
            },
        };
        // What came before the end, and after the look at what comes.
        match self.coming.try_recv() {
            Ok(delivery) => self.take(delivery),
            Err(_) => Err(ended),
        }
    }

    fn take(&self, delivery: Box<Delivery>) -> Result<Delivery, Ended> {
        if self.is_settled() {
            // What came when the connection went is still here: its tag means nothing any more.
            if !self.lane.is_open() {
                let reason = self.lane.session().reason();
                return Err(Ended::Lost(reason.unwrap_or_else(|| self.lane.dead())));
            }
            self.lane.delivered(delivery.tag);
        }
        Ok(*delivery)
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

/// How a consumer ends; lapin gives it nothing else.
async fn end_of(lane: Arc<Lane>, mut consumer: lapin::Consumer) -> Ended {
    let session = lane.session();
    let ended = loop {
        tokio::select! {
            biased;
            item = consumer.next() => match item {
                Some(Ok(_)) => {}
                Some(Err(error)) => break Ended::Lost(convert::error(error)),
                None if lane.is_open() => break Ended::Cancelled,
                None => break Ended::Lost(lane.dead()),
            },
            reason = session.down() => return Ended::Lost(reason),
        }
    };
    // The end of the session explains the end of its consumers.
    session.reason().map_or(ended, Ended::Lost)
}

/// Hands deliveries over to who consumes them.
struct Feed {
    deliveries: mpsc::UnboundedSender<Box<Delivery>>,
    counters: Arc<Counters>,
}

impl Listener for Feed {
    fn hear(&self, word: Word) {
        match word {
            // Nobody consumes any more: the channel is about to be closed, and it goes back.
            Word::Delivered(delivery) => drop(self.deliveries.send(delivery)),
            Word::Returned(message) => {
                self.counters.returned_replies.add();
                let (queue, reason) = (&message.routing_key, &message.text);
                tracing::debug!(queue, reason, "a reply came back: its caller is gone");
            }
            Word::Confirmed(_) | Word::Got(_) | Word::Closed(_) => {}
        }
    }
}
