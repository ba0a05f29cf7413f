//! Handle of an open AMQP channel ([`Channel`]), and its uses: publisher confirms, `basic.consume`,
//! `basic.get` and declarations. Its state machine is in `socket/channels/`.

mod confirms;
mod consumer;
mod consumer_end;
mod declare;
mod get;
mod queue_check;

pub(crate) use confirms::{ConfirmChannel, Confirmation};
pub(crate) use consumer::{ConsumeMode, Consumer, DeliveryCallback};
pub(crate) use consumer_end::ConsumerEnd;
pub use declare::QueueCounts;
pub(in crate::link) use declare::delete_declared;
pub(crate) use declare::{bind, count, declare, delete, purge, unbind};
pub(crate) use get::GetChannel;
pub(crate) use queue_check::IdleCheck;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use amq_protocol::protocol::AMQPClass;
use bytes::BytesMut;

use crate::error::Error;
use crate::link::frame::SettleMethod;
use crate::link::session::Session;
use crate::link::socket::channels::{
    ChannelHandle, ChannelHandler, Core, MethodReply, MethodReplySender, channel_closed,
    unexpected_reply,
};
use crate::link::socket::{Flush, WriteOffset};
use crate::sync::lock;
use crate::wire::message::Outgoing;

/// A channel of a session. Dropping it closes it (`channel.close`), and the broker requeues the
/// deliveries that were not settled.
#[derive(Debug)]
pub(crate) struct Channel {
    session: Arc<Session>,
    handle: ChannelHandle,
    /// The tags of deliveries that are not settled yet.
    unsettled: Mutex<BTreeSet<u64>>,
    /// The prefetch is 1: a delivery arrives only when the one before it is settled.
    prefetches_one: AtomicBool,
    last_delivery: AtomicU64,
}

impl Channel {
    /// Opens a channel (`channel.open`). Cancel-safe: if the future is dropped, the channel is closed.
    ///
    /// # Errors
    /// The session is down, or has no free channel number.
    pub(crate) async fn open(session: &Arc<Session>) -> Result<Arc<Self>, Error> {
        let handle = session.open_channel().await?;
        Ok(Arc::new(Self {
            session: Arc::clone(session),
            handle,
            unsettled: Mutex::default(),
            prefetches_one: AtomicBool::new(false),
            last_delivery: AtomicU64::new(0),
        }))
    }

    /// Sets the handler of the channel's events, before anything is published or consumed. Only the
    /// first handler is kept.
    pub(crate) fn set_handler(&self, handler: Arc<dyn ChannelHandler>) {
        self.handle.set_handler(handler);
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Whether the channel is open and its session is up.
    pub(crate) fn is_open(&self) -> bool {
        self.handle.is_open() && self.session.is_up()
    }

    /// From now on messages with a longer body are delivered without it, with its size alone.
    pub(crate) fn limit_bodies(&self, max: usize) {
        self.handle.limit_bodies(max as u64);
    }

    /// Calls a synchronous method and waits for its reply.
    ///
    /// # Errors
    /// The broker refused the method, which closes the channel; or the channel or the session was
    /// closed.
    pub(in crate::link) async fn call(&self, method: AMQPClass) -> Result<AMQPClass, Error> {
        match self.call_for_reply(method).await? {
            MethodReply::Method(method) => Ok(method),
            MethodReply::Got(_) => Err(unexpected_reply()),
        }
    }

    /// Calls a synchronous method whose reply may be a message (`basic.get`).
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(in crate::link) async fn call_for_reply(
        &self,
        method: AMQPClass,
    ) -> Result<MethodReply, Error> {
        let reply = self.handle.call(method).await;
        // When the session went down, its reason is the better explanation.
        reply.map_err(|error| self.session.explain(error))
    }

    /// Cancels a consumer without waiting for the reply. Deliveries may still arrive.
    pub(in crate::link) fn cancel(&self, consumer_tag: &str) {
        if let Err(error) = self.append(Flush::Inline, |core, out| core.cancel(out, consumer_tag)) {
            tracing::debug!(%error, consumer_tag, "consumer not cancelled: its channel is closed");
        }
    }

    /// Appends frames of this channel to the write buffer.
    fn append(
        &self,
        flush: Flush,
        append: impl FnOnce(&mut Core<MethodReplySender>, &mut BytesMut) -> Result<(), Error>,
    ) -> Result<WriteOffset, Error> {
        self.handle.append(flush, append)
    }

    /// Publishes a message without waiting until it is written; [`flushed`](Self::flushed) waits for
    /// that.
    ///
    /// # Errors
    /// The message was not sent: it cannot be encoded, or the channel is closed.
    pub(crate) fn publish(&self, message: &Outgoing, flush: Flush) -> Result<WriteOffset, Error> {
        self.publish_recorded(message, flush, || Ok(()))
    }

    /// Publishes a message and calls `record` under the lock of the write buffer, before the message
    /// can be written: `record` is called in the order in which the broker reads the messages, and
    /// before any reply to them can arrive.
    ///
    /// # Errors
    /// As [`publish`](Self::publish). If `record` fails, the message is not sent.
    pub(crate) fn publish_recorded(
        &self,
        message: &Outgoing,
        flush: Flush,
        record: impl FnOnce() -> Result<(), Error>,
    ) -> Result<WriteOffset, Error> {
        self.append(flush, |core, out| {
            core.publish(out, message)?;
            record()
        })
    }

    /// Puts the channel into confirm mode (`confirm.select`, no-wait).
    ///
    /// # Errors
    /// The channel is closed.
    pub(in crate::link) fn select_confirms(&self) -> Result<(), Error> {
        let appended = self.append(Flush::Deferred, |core, out| core.select_confirms(out));
        appended.map(drop)
    }

    /// Publishes the reply to a delivery of this channel.
    ///
    /// With a prefetch of 1 the delivery is acknowledged in the same write, behind the reply, and the
    /// result is `true`. With a larger prefetch the result is `false`: the caller acknowledges it
    /// later, together with others, and then calls [`flush`](Self::flush), which writes both.
    ///
    /// # Errors
    /// As [`publish`](Self::publish). The delivery is not acknowledged then.
    pub(crate) fn reply(&self, message: &Outgoing, tag: u64) -> Result<bool, Error> {
        if !self.prefetches_one.load(Ordering::Relaxed) {
            self.publish(message, Flush::Deferred)?;
            return Ok(false);
        }
        self.append(Flush::Inline, |core, out| {
            core.publish(out, message)?;
            core.settle(out, tag, SettleMethod::Ack { multiple: false })
        })?;
        self.untrack(tag, AckRange::One);
        Ok(true)
    }

    /// Writes the frames that were appended with [`Flush::Deferred`].
    pub(crate) fn flush(&self, how: Flush) {
        match how {
            Flush::Inline => self.session.flush(),
            Flush::IoTask => self.session.wake_io(),
            Flush::Deferred => {}
        }
    }

    /// Notes that the prefetch of the channel's consumer is 1.
    pub(in crate::link) fn set_prefetch_one(&self) {
        self.prefetches_one.store(true, Ordering::Relaxed);
    }

    /// Completes when everything appended up to `offset` has been written to the socket.
    ///
    /// # Errors
    /// The session went down before that.
    pub(crate) async fn flushed(&self, offset: WriteOffset) -> Result<(), Error> {
        tokio::select! {
            biased;
            flushed = self.session.flushed(offset) => {
                flushed.map_err(|error| self.session.explain(error))
            }
            reason = self.session.down() => Err(reason),
        }
    }

    /// Acknowledges a delivery of this channel, or all deliveries up to it (`basic.ack`).
    ///
    /// Does not wait until it is written: the broker sends no reply, and an acknowledgement that is
    /// lost with the connection leads to a redelivery in any case.
    pub(crate) fn ack(&self, tag: u64, range: AckRange) {
        self.ack_all([(tag, range)], Flush::Inline);
    }

    /// Acknowledges several, in this order; `last` is how the last one is written.
    pub(crate) fn ack_all(&self, acks: impl IntoIterator<Item = (u64, AckRange)>, last: Flush) {
        let mut acks = acks.into_iter().peekable();
        while let Some((tag, range)) = acks.next() {
            let flush = match acks.peek() {
                Some(_) => Flush::Deferred,
                None => last,
            };
            let multiple = range == AckRange::UpTo;
            self.settle(tag, SettleMethod::Ack { multiple }, flush);
            self.untrack(tag, range);
        }
    }

    /// Records a delivery that has to be settled.
    pub(in crate::link) fn track_delivery(&self, tag: u64) {
        self.last_delivery.store(tag, Ordering::Relaxed);
        if self.unsettled().insert(tag) {
            self.session.counters().unsettled.add();
        }
    }

    /// The tag of the last delivery that has to be settled, 0 before the first.
    fn last_delivery(&self) -> u64 {
        self.last_delivery.load(Ordering::Relaxed)
    }

    fn has_unsettled(&self) -> bool {
        !self.unsettled().is_empty()
    }

    /// Forgets deliveries that were settled.
    fn untrack(&self, tag: u64, range: AckRange) {
        let mut unsettled = self.unsettled();
        let before = unsettled.len();
        match range {
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

    /// Requeues a delivery (`basic.nack` with requeue). On quorum queues of RabbitMQ 4.3 and later this
    /// does not count towards the delivery limit.
    pub(crate) fn requeue(&self, tag: u64) {
        self.settle(tag, SettleMethod::Requeue, Flush::Inline);
        self.untrack(tag, AckRange::One);
    }

    /// Rejects a delivery without requeueing it (`basic.reject`): it goes to the queue's dead-letter
    /// exchange, or is dropped if there is none.
    pub(crate) fn reject(&self, tag: u64) {
        self.settle(tag, SettleMethod::Reject, Flush::Inline);
        self.untrack(tag, AckRange::One);
    }

    fn settle(&self, tag: u64, settlement: SettleMethod, flush: Flush) {
        let appended = self.append(flush, |core, out| core.settle(out, tag, settlement));
        if let Err(error) = appended {
            tracing::debug!(%error, tag, "delivery not settled, the broker will redeliver it");
        }
    }

    /// Completes when the session goes down. A close of the channel alone is not reported here; see
    /// [`is_open`](Self::is_open).
    pub(crate) async fn down(&self) -> Error {
        self.session.down().await
    }

    /// Closes the channel and waits for the reply. The broker requeues the deliveries that were not
    /// settled.
    pub(crate) async fn close(&self) {
        self.handle.close().await;
    }

    /// The error of operations on a closed channel.
    pub(crate) fn closed_error(&self) -> Error {
        channel_closed()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The broker requeues them as the channel closes.
        let unsettled = self.unsettled().len();
        self.session.counters().unsettled.remove_all(unsettled);
    }
}

/// The deliveries that an acknowledgement covers (the `multiple` bit of `basic.ack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckRange {
    /// One delivery.
    One,
    /// The delivery and all earlier ones of the channel that are not settled yet.
    UpTo,
}

#[cfg(test)]
mod tests;
