//! An acknowledgement that follows a reply onto the wire without a detour.
//!
//! lapin would write an acknowledgement before a reply that was queued earlier, so it may only be
//! given one when the reply is written. To wait for that in a task takes two hand-overs between
//! threads, in which the broker waits for the acknowledgement before it sends the next request.
//! Here the thread that writes the reply gives lapin the acknowledgement, and writes it next. No
//! task is woken up for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

use super::convert;
use super::lane::{Extent, Lane, PendingWrite, Writing};
use super::socket::Errand;
use crate::error::{Error, Kind};
use crate::message::Outgoing;

/// A reply that is on its way, and the acknowledgement of its request.
pub(crate) enum Replying {
    /// When it is written, its request is to be acknowledged, with others that are done by then.
    Alone(Writing),
    /// Its request is acknowledged along with it.
    WithAck(AckAfter),
}

impl Replying {
    /// Hands over a reply to a delivery of this channel, which is acknowledged after it. It leaves
    /// when the lane is rung for; at once where there is no other to put its acknowledgement together
    /// with.
    ///
    /// # Errors
    /// The message cannot be said in AMQP.
    pub(crate) fn begin(lane: &Arc<Lane>, message: Outgoing, tag: u64) -> Result<Self, Error> {
        if lane.takes_one_at_a_time() {
            let reply = lane.writing(message)?;
            let both = AckAfter::begin(Arc::clone(lane), tag, reply);
            return Ok(Self::WithAck(both));
        }
        lane.hand_over(message).map(Self::Alone)
    }
}

/// A reply on its way out and the request that is acknowledged after it.
pub(crate) struct AckAfter(Arc<Inner>);

struct Inner {
    lane: Arc<Lane>,
    tag: u64,
    state: Mutex<State>,
    task: AtomicWaker,
}

enum State {
    Writing(PendingWrite),
    /// The reply is written and its request acknowledged, or neither was done.
    Done(Result<(), Error>),
}

impl AckAfter {
    /// Begins to write a reply. The thread that writes is only told when it will be heard of that:
    /// else it would often be done before, and the acknowledgement leave in a packet of its own.
    fn begin(lane: Arc<Lane>, tag: u64, reply: PendingWrite) -> Self {
        let inner = Arc::new(Inner {
            lane,
            tag,
            state: Mutex::new(State::Writing(reply)),
            task: AtomicWaker::new(),
        });
        let order = inner.lane.order();
        // Whoever has it looks at how it went.
        let _ = inner.advance();
        drop(order);
        inner.lane.ring();
        Self(inner)
    }

    /// What became of it, if it is known. Nobody is woken up when it is.
    pub(crate) fn result(&self) -> Option<Result<(), Error>> {
        match &*self.0.state() {
            State::Writing(_) => None,
            State::Done(result) => Some(result.clone()),
        }
    }

    /// Ready when the reply is written and its request acknowledged.
    ///
    /// # Errors
    /// The reply was not written, nor its request acknowledged.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.task.register(context.waker());
        self.0.advance()
    }
}

impl Drop for AckAfter {
    /// What is being written holds a waker that holds it.
    fn drop(&mut self) {
        let gone = State::Done(Err(Error::new(Kind::Disconnected)));
        drop(std::mem::replace(&mut *self.0.state(), gone));
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(self: &Arc<Self>) -> Poll<Result<(), Error>> {
        let mut state = self.state();
        let reply = match &mut *state {
            State::Writing(reply) => reply,
            State::Done(result) => return Poll::Ready(result.clone()),
        };
        let waker = Waker::from(Arc::clone(self));
        let written = reply.as_mut().poll(&mut Context::from_waker(&waker));
        written.map(|written| {
            let result = written.map_err(convert::error);
            if result.is_ok() {
                self.lane.ack(self.tag, Extent::One);
            }
            *state = State::Done(result.clone());
            result
        })
    }
}

impl Wake for Inner {
    /// lapin holds locks while it says that a reply is written: this only notes it down.
    fn wake(self: Arc<Self>) {
        self.lane.session().leave(Arc::clone(&self) as _);
        // The thread that writes may be about to end, and the task then has to look itself.
        self.task.wake();
    }
}

impl Errand for Inner {
    fn run(self: Arc<Self>) {
        let _ = self.advance();
    }
}
