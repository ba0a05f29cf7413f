//! Channels: one as its owner sees it ([`Channel`]), its state machine without I/O (`core.rs`), and the
//! table of all channels of a connection (`table.rs`).

mod confirms;
mod consumer;
mod core;
mod declare;
#[cfg(test)]
pub(super) mod dice;
mod get;
#[cfg(test)]
mod simulation;
mod table;

pub(crate) use confirms::{ConfirmChannel, Confirmation};
pub(crate) use consumer::{Consumer, Ended, Mode, Sink};
pub(crate) use core::Delivery;
#[cfg(test)]
pub(super) use core::Returned;
pub(super) use core::{Answer, Core, CoreEvent, Frame, Violation, closed};
pub(crate) use declare::{QueueCounts, bind, count, declare, delete, purge, unbind};
pub(crate) use get::GetChannel;
pub(crate) use table::{ChannelEvent, ChannelHandler};
pub(super) use table::{Channels, Endpoint, Handle, Reply, unexpected};

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use amq_protocol::protocol::AMQPClass;
use bytes::BytesMut;

use crate::error::Error;
use crate::link::frame::SettleMethod;
use crate::link::session::Session;
use crate::link::socket::{Flush, WriteOffset};
use crate::sync::lock;
use crate::wire::message::Outgoing;

/// A channel, for as long as it and its session live. Dropping it closes it; deliveries that were
/// not settled go back to their queue then.
#[derive(Debug)]
pub(crate) struct Channel {
    session: Arc<Session>,
    handle: Handle,
    /// The tags of deliveries that are to be settled.
    unsettled: Mutex<BTreeSet<u64>>,
    /// Each delivery comes when the one before it is settled.
    one_at_a_time: AtomicBool,
    last_delivery: AtomicU64,
}

impl Channel {
    /// Opens a channel. Cancel-safe: a channel that nobody waits for any more is closed.
    ///
    /// # Errors
    /// The session went, or has no channel left.
    pub(crate) async fn open(session: &Arc<Session>) -> Result<Arc<Self>, Error> {
        let handle = session.open_channel().await?;
        Ok(Arc::new(Self {
            session: Arc::clone(session),
            handle,
            unsettled: Mutex::default(),
            one_at_a_time: AtomicBool::new(false),
            last_delivery: AtomicU64::new(0),
        }))
    }

    /// Registers the receiver of the channel's events. There is one, registered before anything is
    /// published or consumed.
    pub(crate) fn set_handler(&self, listener: Arc<dyn ChannelHandler>) {
        self.handle.set_handler(listener);
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Whether the channel and its session are up.
    pub(crate) fn is_open(&self) -> bool {
        self.handle.is_open() && self.session.is_up()
    }

    /// From now on messages with a longer body come without it, and with their size.
    pub(crate) fn limit_bodies(&self, most: usize) {
        self.handle.limit_bodies(most as u64);
    }

    /// Calls a synchronous method.
    ///
    /// # Errors
    /// The broker's refusal, which closes the channel; or the channel or the session went.
    pub(in crate::link) async fn call(&self, method: AMQPClass) -> Result<AMQPClass, Error> {
        match self.ask(method).await? {
            Answer::Method(method) => Ok(method),
            Answer::Got(_) => Err(unexpected()),
        }
    }

    /// Asks for a message (`basic.get`).
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(in crate::link) async fn ask(&self, method: AMQPClass) -> Result<Answer, Error> {
        let answer = self.handle.call(method).await;
        // The end of the session explains the end of its channels.
        answer.map_err(|error| self.session.explain(error))
    }

    /// Cancels a consumer without waiting for the answer. Consumer may still come.
    pub(in crate::link) fn cancel(&self, consumer_tag: &str) {
        if let Err(error) = self.put(Flush::Inline, |core, out| core.cancel(out, consumer_tag)) {
            tracing::debug!(%error, "a consumer was gone before it was cancelled");
        }
    }

    /// Puts frames of this channel on their way.
    fn put(
        &self,
        leave: Flush,
        put: impl FnOnce(&mut Core<Reply>, &mut BytesMut) -> Result<(), Error>,
    ) -> Result<WriteOffset, Error> {
        self.handle.ask(leave, put)
    }

    /// Hands a message over to be written, on a channel where lapin publishes nothing.
    /// [`written`](Self::written) waits for that.
    ///
    /// # Errors
    /// The message was not sent: it cannot be said in AMQP, or the channel is gone.
    pub(crate) fn publish(&self, message: &Outgoing, leave: Flush) -> Result<WriteOffset, Error> {
        self.publish_noted(message, leave, || Ok(()))
    }

    /// The same, and notes it in the order in which messages are handed over, before it can leave.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), or what `note` says: it was not sent.
    pub(crate) fn publish_noted(
        &self,
        message: &Outgoing,
        leave: Flush,
        note: impl FnOnce() -> Result<(), Error>,
    ) -> Result<WriteOffset, Error> {
        self.put(leave, |core, out| {
            core.publish(out, message)?;
            note()
        })
    }

    /// Has the broker confirm what is published from now on.
    ///
    /// # Errors
    /// The channel is gone.
    pub(in crate::link) fn select_confirms(&self) -> Result<(), Error> {
        let asked = self.put(Flush::Deferred, |core, out| core.select_confirms(out));
        asked.map(drop)
    }

    /// Answers a delivery of this channel. Where no other has come along with it, it is
    /// acknowledged as well, and that is true; else its acknowledgement is to follow, and both leave
    /// when somebody [sends](Self::send) them.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and the delivery is not acknowledged.
    pub(crate) fn reply(&self, message: &Outgoing, tag: u64) -> Result<bool, Error> {
        if !self.one_at_a_time.load(Ordering::Relaxed) {
            self.publish(message, Flush::Deferred)?;
            return Ok(false);
        }
        self.put(Flush::Inline, |core, out| {
            core.publish(out, message)?;
            core.settle(out, tag, SettleMethod::Ack { multiple: false })
        })?;
        self.settled(tag, AckRange::One);
        Ok(true)
    }

    /// Has what was handed over to leave later leave now or soon.
    pub(crate) fn send(&self, leave: Flush) {
        match leave {
            Flush::Inline => self.session.send(),
            Flush::IoTask => self.session.wake_io(),
            Flush::Deferred => {}
        }
    }

    /// From now on the broker sends a delivery when the one before it is settled.
    pub(in crate::link) fn take_one_at_a_time(&self) {
        self.one_at_a_time.store(true, Ordering::Relaxed);
    }

    /// Completes when what was handed over up to a mark is in the socket.
    ///
    /// # Errors
    /// The session went before that.
    pub(crate) async fn written(&self, mark: WriteOffset) -> Result<(), Error> {
        tokio::select! {
            biased;
            written = self.session.written(mark) => {
                written.map_err(|error| self.session.explain(error))
            }
            reason = self.session.down() => Err(reason),
        }
    }

    /// Acknowledges a delivery of this channel, and all before it where that is the extent.
    ///
    /// Only handed over: an acknowledgement that is lost with the connection is a redelivery, and
    /// waiting for it would change nothing.
    pub(crate) fn ack(&self, tag: u64, extent: AckRange) {
        self.ack_all([(tag, extent)], Flush::Inline);
    }

    /// Several, in this order.
    pub(crate) fn ack_all(&self, acks: impl IntoIterator<Item = (u64, AckRange)>, last: Flush) {
        let mut acks = acks.into_iter().peekable();
        while let Some((tag, extent)) = acks.next() {
            let leave = match acks.peek() {
                Some(_) => Flush::Deferred,
                None => last,
            };
            let multiple = extent == AckRange::UpTo;
            self.settle(tag, SettleMethod::Ack { multiple }, leave);
            self.settled(tag, extent);
        }
    }

    /// A delivery has come that is to be settled.
    pub(in crate::link) fn delivered(&self, tag: u64) {
        self.last_delivery.store(tag, Ordering::Relaxed);
        if self.unsettled().insert(tag) {
            self.session.counters().unsettled.add();
        }
    }

    /// The tag of the last delivery that is to be settled; 0 before the first.
    fn last_delivery(&self) -> u64 {
        self.last_delivery.load(Ordering::Relaxed)
    }

    fn has_unsettled(&self) -> bool {
        !self.unsettled().is_empty()
    }

    fn settled(&self, tag: u64, extent: AckRange) {
        let mut unsettled = self.unsettled();
        let before = unsettled.len();
        match extent {
            AckRange::One => drop(unsettled.remove(&tag)),
            AckRange::UpTo => {
                while unsettled.first().is_some_and(|first| *first <= tag) {
                    unsettled.pop_first();
                }
            }
        }
        let settled = before - unsettled.len();
        self.session.counters().unsettled.remove_all(settled);
    }

    fn unsettled(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        lock(&self.unsettled)
    }

    /// Gives a delivery back to its queue. Never counts as a failed attempt on quorum queues of
    /// RabbitMQ 4.3 and later.
    pub(crate) fn requeue(&self, tag: u64) {
        self.settle(tag, SettleMethod::Requeue, Flush::Inline);
        self.settled(tag, AckRange::One);
    }

    /// Rejects a delivery for good: the queue's dead-letter exchange gets it, if there is one.
    pub(crate) fn reject(&self, tag: u64) {
        self.settle(tag, SettleMethod::Reject, Flush::Inline);
        self.settled(tag, AckRange::One);
    }

    fn settle(&self, tag: u64, settling: SettleMethod, leave: Flush) {
        let put = self.put(leave, |core, out| core.settle(out, tag, settling));
        if let Err(error) = put {
            tracing::debug!(%error, "a delivery could not be settled: the broker will redeliver it");
        }
    }

    /// Completes when the session is down; a channel that dies alone is found by `is_open`.
    pub(crate) async fn down(&self) -> Error {
        self.session.down().await
    }

    /// Closes the channel and waits until that is done; deliveries that were not settled go back to
    /// their queue.
    pub(crate) async fn close(&self) {
        self.handle.close().await;
    }

    /// The error for a channel that is found dead.
    pub(crate) fn dead(&self) -> Error {
        closed()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The broker has them back.
        let left = self.unsettled().len();
        self.session.counters().unsettled.remove_all(left);
    }
}

/// How far a settlement reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckRange {
    /// The one delivery.
    One,
    /// It and every earlier one of the channel that is not settled yet.
    UpTo,
}
