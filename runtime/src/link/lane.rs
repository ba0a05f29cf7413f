//! A channel of one session: publishing, acknowledging, and what the broker gave back.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use lapin::Channel;

use super::convert;
use super::frame::{self, Settling};
use super::outbox::{Leave, Mark};
use super::session::{Counted, Session};
use crate::error::{Error, Kind};
use crate::message::{Outgoing, Properties};

/// A channel, for as long as it and its session live.
#[derive(Debug)]
pub(crate) struct Lane {
    session: Arc<Session>,
    channel: Counted,
    /// The tags of deliveries that are to be settled.
    unsettled: Mutex<BTreeSet<u64>>,
    /// Each delivery comes when the one before it is settled.
    one_at_a_time: AtomicBool,
}

/// A mandatory message that no queue took (`basic.return`).
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) text: String,
    pub(crate) routing_key: String,
    pub(crate) properties: Properties,
}

impl Lane {
    /// Opens a channel.
    pub(crate) async fn open(session: &Arc<Session>) -> Result<Arc<Self>, Error> {
        let channel = session.channel().await?;
        Ok(Arc::new(Self {
            session: Arc::clone(session),
            channel,
            unsettled: Mutex::default(),
            one_at_a_time: AtomicBool::new(false),
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

    /// Puts frames of this channel on their way.
    fn put(
        &self,
        leave: Leave,
        put: impl FnOnce(&mut BytesMut, u16) -> Result<(), Error>,
    ) -> Result<Mark, Error> {
        let channel = &self.channel;
        let is_open = || channel.status().connected();
        let outbox = self.session.outbox();
        outbox.put(leave, is_open, |out| put(out, channel.id()))
    }

    /// Hands a message over to be written, without confirms: on a channel where lapin publishes
    /// nothing. [`written`](Self::written) waits for that.
    ///
    /// # Errors
    /// The message was not sent: it cannot be said in AMQP, or the channel is gone.
    pub(crate) fn publish(&self, message: &Outgoing, leave: Leave) -> Result<Mark, Error> {
        let frame_max = self.session.frame_max();
        self.put(leave, |out, channel| {
            frame::put_message(out, channel, message, frame_max)
        })
    }

    /// Answers a delivery of this channel. Where no other has come along with it, it is
    /// acknowledged as well, and that is true; else its acknowledgement is to follow, and both leave
    /// when somebody [sends](Self::send) them.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and the delivery is not acknowledged.
    pub(crate) fn reply(&self, message: &Outgoing, tag: u64) -> Result<bool, Error> {
        let frame_max = self.session.frame_max();
        if !self.one_at_a_time.load(Ordering::Relaxed) {
            self.publish(message, Leave::Later)?;
            return Ok(false);
        }
        self.put(Leave::Now, |out, channel| {
            frame::put_message(out, channel, message, frame_max)?;
            frame::put_settling(out, channel, tag, Settling::Ack { multiple: false });
            Ok(())
        })?;
        self.settled(tag, Extent::One);
        Ok(true)
    }

    /// Has what was handed over to leave later leave now or soon.
    pub(crate) fn send(&self, leave: Leave) {
        match leave {
            Leave::Now => self.session.outbox().send(),
            Leave::Soon => self.session.ring(),
            Leave::Later => {}
        }
    }

    /// From now on the broker sends a delivery when the one before it is settled.
    pub(super) fn take_one_at_a_time(&self) {
        self.one_at_a_time.store(true, Ordering::Relaxed);
    }

    /// Completes when what was handed over up to a mark is in the socket.
    ///
    /// # Errors
    /// The session went before that.
    pub(crate) async fn written(&self, mark: Mark) -> Result<(), Error> {
        tokio::select! {
            biased;
            written = self.session.outbox().written(mark) => {
                written.map_err(|error| self.session.reason().unwrap_or(error))
            }
            reason = self.session.down() => Err(reason),
        }
    }

    /// Acknowledges a delivery of this channel, and all before it where that is the extent.
    ///
    /// Only handed over: an acknowledgement that is lost with the connection is a redelivery, and
    /// waiting for it would change nothing.
    pub(crate) fn ack(&self, tag: u64, extent: Extent) {
        self.ack_all([(tag, extent)], Leave::Now);
    }

    /// Several, in this order.
    pub(crate) fn ack_all(&self, acks: impl IntoIterator<Item = (u64, Extent)>, last: Leave) {
        let mut acks = acks.into_iter().peekable();
        while let Some((tag, extent)) = acks.next() {
            let leave = match acks.peek() {
                Some(_) => Leave::Later,
                None => last,
            };
            let multiple = extent == Extent::UpTo;
            self.settle(tag, Settling::Ack { multiple }, leave);
            self.settled(tag, extent);
        }
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
        self.settle(tag, Settling::Requeue, Leave::Now);
        self.settled(tag, Extent::One);
    }

    /// Rejects a delivery for good: the queue's dead-letter exchange gets it, if there is one.
    pub(crate) fn reject(&self, tag: u64) {
        self.settle(tag, Settling::Reject, Leave::Now);
        self.settled(tag, Extent::One);
    }

    fn settle(&self, tag: u64, settling: Settling, leave: Leave) {
        let put = self.put(leave, |out, channel| {
            frame::put_settling(out, channel, tag, settling);
            Ok(())
        });
        if let Err(error) = put {
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
