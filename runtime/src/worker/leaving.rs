//! Replies on their way out: each is written before its request is acknowledged.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Settlement;
use super::hands::Handled;
use crate::link::{AckAfter, Lane, PendingWrite};

/// Those of the current channel, and those of channels before it.
#[derive(Default)]
pub(super) struct Leaving {
    /// A channel writes in the order in which it was given things: to look at the first one is
    /// enough, and one wake-up may be for many.
    current: VecDeque<Reply>,
    earlier: FuturesUnordered<Reply>,
}

struct Reply {
    lane: Arc<Lane>,
    tag: u64,
    step: Step,
}

/// What a reply is waited for with.
pub(super) enum Step {
    /// Its request is acknowledged afterwards.
    Writing(PendingWrite),
    /// Its request is acknowledged along with it, and shares that with no other.
    Acking(AckAfter),
}

impl Leaving {
    pub(super) fn push(&mut self, current: bool, lane: Arc<Lane>, tag: u64, step: Step) {
        let reply = Reply { lane, tag, step };
        if current {
            self.current.push_back(reply);
        } else {
            self.earlier.push(reply);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.current.len() + self.earlier.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether one needs somebody to look when it is written: to acknowledge its request, or, on an
    /// earlier channel, to make room.
    pub(super) fn is_awaited(&self) -> bool {
        let by_itself = |reply: &Reply| matches!(reply.step, Step::Acking(_));
        !self.earlier.is_empty() || !self.current.iter().all(by_itself)
    }

    /// The next one that needed nobody, if it has ended by now: its request was acknowledged along
    /// with it, or it was not sent.
    pub(super) fn ended(&mut self) -> Option<Handled> {
        match &self.current.front()?.step {
            Step::Writing(_) => return None,
            Step::Acking(both) => {
                if let Err(error) = both.result()? {
                    not_sent(&error);
                }
            }
        }
        let reply = self.current.pop_front()?;
        Some(reply.handled(Settlement::Settled))
    }

    /// There is another current channel.
    pub(super) fn outlive_channel(&mut self) {
        self.earlier.extend(self.current.drain(..));
    }

    pub(super) fn clear(&mut self) {
        self.current.clear();
        self.earlier.clear();
    }

    /// The next one that is written; pends for ever if there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Handled {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Handled> {
        if let Some(first) = self.current.front_mut()
            && let Poll::Ready(handled) = Pin::new(first).poll(context)
        {
            self.current.pop_front();
            return Poll::Ready(handled);
        }
        match self.earlier.poll_next_unpin(context) {
            Poll::Ready(Some(handled)) => Poll::Ready(handled),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Future for Reply {
    type Output = Handled;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Handled> {
        let settlement = match &mut self.step {
            Step::Writing(writing) => match std::task::ready!(writing.as_mut().poll(context)) {
                Ok(()) => Settlement::Ack,
                Err(error) => {
                    not_sent(&error);
                    Settlement::Settled
                }
            },
            Step::Acking(both) => {
                if let Err(error) = std::task::ready!(both.poll(context)) {
                    not_sent(&error);
                }
                Settlement::Settled
            }
        };
        Poll::Ready(self.handled(settlement))
    }
}

impl Reply {
    fn handled(&self, settlement: Settlement) -> Handled {
        Handled {
            lane: Arc::clone(&self.lane),
            tag: self.tag,
            settlement,
        }
    }
}

pub(super) fn not_sent(error: &dyn fmt::Display) {
    tracing::debug!(%error, "a reply was not sent: its request comes again");
}
