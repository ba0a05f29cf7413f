//! A channel of one session: publishing, acknowledging, and what the broker gave back.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::BytesMut;
use lapin::Channel;

use super::frame::{self, Settling};
use super::inbox::{Listener, Listening, Word};
use super::outbox::{Leave, Mark};
use super::session::{Counted, Session};
use crate::error::{Error, Kind};
use crate::message::Outgoing;

/// A channel, for as long as it and its session live.
#[derive(Debug)]
pub(crate) struct Lane {
    session: Arc<Session>,
    channel: Counted,
    /// The tags of deliveries that are to be settled.
    unsettled: Mutex<BTreeSet<u64>>,
    /// Each delivery comes when the one before it is settled.
    one_at_a_time: AtomicBool,
    heard: OnceLock<Heard>,
}

/// What is heard on a channel, for as long as it is held.
struct Heard {
    ear: Arc<Ear>,
    _listening: Listening,
}

/// Hears that the channel is closed before lapin knows, and tells all else.
struct Ear {
    is_closed: AtomicBool,
    listener: Arc<dyn Listener>,
}

impl Listener for Ear {
    fn hear(&self, word: Word) {
        if let Word::Closed(_) = &word {
            self.is_closed.store(true, Ordering::Relaxed);
        }
        self.listener.hear(word);
    }
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heard").finish_non_exhaustive()
    }
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
            heard: OnceLock::new(),
        }))
    }

    /// From now on a listener hears what the broker says on it, and nobody else does. There is one,
    /// and it comes before anything is published or consumed.
    pub(crate) fn listen(&self, listener: Arc<dyn Listener>) {
        self.heard.get_or_init(|| {
            let ear = Arc::new(Ear {
                is_closed: AtomicBool::new(false),
                listener,
            });
            let inbox = self.session.inbox();
            Heard {
                _listening: inbox.listen(self.channel.id(), Arc::clone(&ear) as _),
                ear,
            }
        });
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether the channel and its session are up.
    pub(crate) fn is_open(&self) -> bool {
        self.session.is_up() && self.takes_frames()
    }

    fn takes_frames(&self) -> bool {
        let heard = self.heard.get();
        let is_closed = heard.is_some_and(|heard| heard.ear.is_closed.load(Ordering::Relaxed));
        !is_closed && self.channel.status().connected()
    }

    /// Puts frames of this channel on their way.
    fn put(
        &self,
        leave: Leave,
        put: impl FnOnce(&mut BytesMut, u16) -> Result<(), Error>,
    ) -> Result<Mark, Error> {
        let channel = self.channel.id();
        let outbox = self.session.outbox();
        outbox.put(leave, || self.takes_frames(), |out| put(out, channel))
    }

    /// Hands a message over to be written, on a channel where lapin publishes nothing.
    /// [`written`](Self::written) waits for that.
    ///
    /// # Errors
    /// The message was not sent: it cannot be said in AMQP, or the channel is gone.
    pub(crate) fn publish(&self, message: &Outgoing, leave: Leave) -> Result<Mark, Error> {
        self.publish_noted(message, leave, || Ok(()))
    }

    /// The same, and notes it in the order in which messages are handed over, before it can leave.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), or what `note` says: it was not sent.
    pub(super) fn publish_noted(
        &self,
        message: &Outgoing,
        leave: Leave,
        note: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Mark, Error> {
        let frame_max = self.session.frame_max();
        self.put(leave, |out, channel| {
            let start = out.len();
            frame::put_message(out, channel, message, frame_max)?;
            note().inspect_err(|_| out.truncate(start))
        })
    }

    /// Has the broker confirm what is published from now on.
    ///
    /// # Errors
    /// The channel is gone.
    pub(super) fn select_confirms(&self) -> Result<(), Error> {
        let asked = self.put(Leave::Later, |out, channel| {
            frame::put_confirm_select(out, channel);
            Ok(())
        });
        asked.map(drop)
    }

    /// Asks for a message of a queue, by its name on the broker; `note` is called in the order of the
    /// answers.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub(super) fn get(&self, queue: &str, note: impl FnOnce()) -> Result<(), Error> {
        let asked = self.put(Leave::Now, |out, channel| {
            frame::put_get(out, channel, queue)?;
            note();
            Ok(())
        });
        asked.map(drop)
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
