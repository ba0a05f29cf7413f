//! A channel of one session: publishing, acknowledging, and what the broker gave back.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicPublishOptions, BasicRejectOptions};

use super::convert;
use super::session::{Counted, Session};
use super::socket::Following;
use crate::error::{Error, Kind};
use crate::message::{Outgoing, Properties};

/// A channel, for as long as it and its session live.
#[derive(Debug)]
pub(crate) struct Lane {
    session: Arc<Session>,
    channel: Counted,
    order: Mutex<()>,
    /// The tags of deliveries that are to be settled.
    unsettled: Mutex<BTreeSet<u64>>,
    /// Where deliveries come one at a time: each reply is followed by its acknowledgement.
    one_at_a_time: OnceLock<Following>,
}

/// A mandatory message that no queue took (`basic.return`).
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) text: String,
    pub(crate) routing_key: String,
    pub(crate) properties: Properties,
}

/// A publish in lapin's terms. Boxed: lapin's future is large by itself, and would be half as large
/// again with this in it.
pub(super) struct Prepared {
    exchange: lapin::types::ShortString,
    routing_key: lapin::types::ShortString,
    options: BasicPublishOptions,
    properties: lapin::BasicProperties,
    pub(super) body: bytes::Bytes,
}

impl Prepared {
    pub(super) fn new(message: Outgoing, lane: &Lane) -> Result<Box<Self>, Error> {
        Ok(Box::new(Self {
            exchange: convert::short(message.exchange)?,
            routing_key: convert::short(message.routing_key)?,
            options: BasicPublishOptions {
                mandatory: message.mandatory,
                immediate: false,
            },
            properties: convert::properties(message.properties, lane.session.frame_max())?,
            body: message.body,
        }))
    }
}

/// Publishes; the message is with lapin after the first poll.
pub(super) async fn publish_on(
    lane: impl Deref<Target = Lane>,
    prepared: Box<Prepared>,
) -> lapin::Result<lapin::PublisherConfirm> {
    let Prepared {
        exchange,
        routing_key,
        options,
        properties,
        body,
    } = *prepared;
    let channel = &lane.channel;
    channel
        .basic_publish(exchange, routing_key, options, &body, properties)
        .await
}

/// Publishes where there are no confirms. Without an `async` block, which would have a place for
/// lapin's future twice.
fn write_on(
    lane: Arc<Lane>,
    prepared: Box<Prepared>,
) -> impl Future<Output = lapin::Result<()>> + Send {
    publish_on(lane, prepared).map(|written| written.map(drop))
}

impl Lane {
    /// Opens a channel.
    pub(crate) async fn open(session: &Arc<Session>) -> Result<Arc<Self>, Error> {
        let channel = session.channel().await?;
        Ok(Arc::new(Self {
            session: Arc::clone(session),
            channel,
            order: Mutex::new(()),
            unsettled: Mutex::default(),
            one_at_a_time: OnceLock::new(),
        }))
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether the channel and its session are up.
    pub(crate) fn is_open(&self) -> bool {
        self.session.is_up() && self.channel.status().connected()
    }

    /// lapin numbers a publish and queues its frames in two steps, both within the first poll:
    /// whoever polls a publish for the first time holds this.
    pub(super) fn order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a publish. lapin sends what was polled once, whether or not anybody waits for it; the
    /// thread that writes finds it when it is rung for, or looks by itself.
    fn begin<F: Future + ?Sized>(&self, publish: Pin<&mut F>) -> Poll<F::Output> {
        let _order = self.order();
        publish.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Hands a message over to be written when the lane is [rung](Self::ring) for, so that several
    /// can leave together; [`written`](Self::written) waits for that.
    ///
    /// # Errors
    /// The message cannot be said in AMQP. A channel that is gone is told by `written`.
    pub(super) fn hand_over(self: &Arc<Self>, message: Outgoing) -> Result<Writing, Error> {
        let mut writing = self.writing(message)?;
        Ok(match self.begin(writing.as_mut()) {
            Poll::Ready(written) => Writing::Done(written.map_err(convert::error)),
            Poll::Pending => Writing::Pending(writing),
        })
    }

    /// Hands a message over to be written; [`written`](Self::written) waits for that.
    ///
    /// # Errors
    /// As [`hand_over`](Self::hand_over).
    pub(crate) fn write(self: &Arc<Self>, message: Outgoing) -> Result<Writing, Error> {
        let writing = self.hand_over(message)?;
        self.ring();
        Ok(writing)
    }

    /// Has what was handed over written.
    pub(crate) fn ring(&self) {
        self.session.ring();
    }

    /// A message that is to be written once this is polled.
    pub(super) fn writing(self: &Arc<Self>, message: Outgoing) -> Result<PendingWrite, Error> {
        let prepared = Prepared::new(message, self)?;
        Ok(Box::pin(write_on(Arc::clone(self), prepared)))
    }

    pub(super) fn takes_one_at_a_time(&self) -> bool {
        self.one_at_a_time.get().is_some()
    }

    /// From now on the broker sends a delivery when the one before it is settled.
    pub(super) fn take_one_at_a_time(&self) {
        self.one_at_a_time.get_or_init(|| self.session.follow());
    }

    /// Completes when a message is written to the socket, or waits for it along with the
    /// acknowledgement of a request that was answered on the same session.
    pub(crate) async fn written(&self, writing: Writing) -> Result<(), Error> {
        match writing {
            Writing::Done(result) => result,
            Writing::Pending(pending) => self.session.hear(pending).await,
        }
    }

    /// Hands a message over to be written, and does not wait for that.
    ///
    /// # Errors
    /// The channel is gone: the message was not sent.
    pub(crate) fn publish_now(&self, message: Outgoing) -> Result<(), Error> {
        let publish = pin!(publish_on(self, Prepared::new(message, self)?));
        let first = self.begin(publish);
        self.ring();
        match first {
            Poll::Ready(written) => written.map(drop).map_err(convert::error),
            Poll::Pending => Ok(()),
        }
    }

    /// Acknowledges a delivery of this channel, and all before it where `multiple`.
    ///
    /// Only handed over: an acknowledgement that is lost with the connection is a redelivery, and
    /// waiting for it would change nothing.
    pub(crate) fn ack(&self, tag: u64, extent: Extent) {
        let options = BasicAckOptions {
            multiple: extent == Extent::UpTo,
        };
        self.start(self.channel.basic_ack(tag, options));
        self.settled(tag, extent);
    }

    /// A delivery has come that is to be settled.
    pub(super) fn delivered(&self, tag: u64) {
        if self.unsettled().insert(tag) {
            self.session.counters().unsettled.add();
        }
    }

    fn settled(&self, tag: u64, extent: Extent) {
        let mut unsettled = self.unsettled();
        let before = unsettled.len();
        match extent {
            Extent::One => drop(unsettled.remove(&tag)),
            Extent::UpTo => {
                while unsettled.first().is_some_and(|first| *first <= tag) {
                    unsettled.pop_first();
                }
            }
        }
        let settled = before - unsettled.len();
        self.session.counters().unsettled.remove_all(settled);
    }

    fn unsettled(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a delivery back to its queue. Never counts as a failed attempt on quorum queues of
    /// RabbitMQ 4.3 and later.
    pub(crate) fn give_back(&self, tag: u64) {
        let options = BasicNackOptions {
            multiple: false,
            requeue: true,
        };
        self.start(self.channel.basic_nack(tag, options));
        self.settled(tag, Extent::One);
    }

    /// Rejects a delivery for good: the queue's dead-letter exchange gets it, if there is one.
    pub(crate) fn reject(&self, tag: u64) {
        let options = BasicRejectOptions { requeue: false };
        self.start(self.channel.basic_reject(tag, options));
        self.settled(tag, Extent::One);
    }

    fn start(&self, settlement: impl Future<Output = lapin::Result<()>>) {
        let settlement = pin!(settlement);
        let first = settlement.poll(&mut Context::from_waker(Waker::noop()));
        self.session.ring();
        if let Poll::Ready(Err(error)) = first {
            tracing::debug!(%error, "a delivery could not be settled: the broker will redeliver it");
        }
    }

    /// What the broker returned since the last look. Only for channels without confirms.
    pub(crate) async fn returned(&self) -> Result<Vec<Returned>, Error> {
        let returned = self.session.hear(self.channel.wait_for_confirms()).await?;
        Ok(returned.into_iter().map(Returned::from_lapin).collect())
    }

    /// Completes when the session is down; a channel that dies alone is found by `is_open`.
    pub(crate) async fn down(&self) -> Error {
        self.session.down().await
    }

    /// Closes the channel; deliveries that were not settled go back to their queue.
    pub(crate) async fn close(&self) {
        let text = lapin::types::ShortString::try_new("done").unwrap_or_default();
        if let Err(error) = self.session.race(self.channel.close(200, text)).await {
            tracing::debug!(%error, "a channel was gone before it was closed");
        }
    }

    /// The error for a channel that is found dead.
    pub(crate) fn dead(&self) -> Error {
        Error::new(Kind::Disconnected).caused_by("the channel was closed")
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // The broker has them back.
        let left = self.unsettled().len();
        self.session.counters().unsettled.remove_all(left);
    }
}

/// A message that lapin has and that is written or about to be.
pub(crate) enum Writing {
    Done(Result<(), Error>),
    Pending(PendingWrite),
}

/// Completes when a message is written; perhaps never, if the session is lost before.
pub(crate) type PendingWrite = Pin<Box<dyn Future<Output = lapin::Result<()>> + Send>>;

/// How far a settlement reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The one delivery.
    One,
    /// It and every earlier one of the channel that is not settled yet.
    UpTo,
}

impl Returned {
    pub(super) fn from_lapin(message: lapin::message::BasicReturnMessage) -> Self {
        Self {
            text: message.reply_text.to_string(),
            routing_key: message.delivery.routing_key.to_string(),
            properties: convert::from_properties(&message.delivery.properties),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_of_future;

    /// One a message, and each is moved to the heap. 1,064 bytes of it are lapin's: a little too much
    /// for where the allocator is fast.
    #[test]
    fn the_future_of_a_publish_stays_small() {
        type Given = (Arc<Lane>, Box<Prepared>);
        let publish = size_of_future(|(lane, prepared): Given| publish_on(lane, prepared));
        let write = size_of_future(|(lane, prepared): Given| write_on(lane, prepared));
        assert!(publish <= 1152 && write <= 1152, "{publish}, {write}");
    }
}
