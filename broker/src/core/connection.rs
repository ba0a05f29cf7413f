//! What the core remembers of a connection and its channels.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use amq_protocol::types::FieldTable;

use crate::{
    core::command::{Client, Outcome},
    id::{ConsumerId, Name, QueueId},
    message::Message,
    queue::Entry,
};

/// Deliveries waiting for a client that reads slowly: beyond this many bytes its
/// consumers get nothing more until it has read some.
pub(crate) const DELIVERY_WINDOW: usize = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) channels: BTreeMap<u16, Channel>,
    /// Bytes of deliveries not yet written to the socket.
    pub(crate) in_flight: usize,
    /// The queue that was served last of those that compete for room on this connection. The
    /// next turn begins behind it.
    pub(crate) turn: QueueId,
    pub(crate) block: Block,
    pub(crate) confirms: ConfirmFault,
    /// Whether all it publishes is refused (403).
    pub(crate) writes_denied: bool,
}

/// Whether a client may publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Blocked by hand, with this reason.
    pub(crate) fault: Option<String>,
    /// Told so by `connection.blocked`.
    pub(crate) notified: bool,
    /// No longer read from, since it published.
    pub(crate) paused: bool,
}

/// What is done to a connection's confirms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConfirmFault {
    pub(crate) withheld: bool,
    pub(crate) nacks: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Channel {
    /// Closed by the broker; everything but `close-ok` is ignored.
    pub(crate) closing: bool,
    pub(crate) consumers: BTreeMap<Name, ConsumerId>,
    pub(crate) unacked: Unacked,
    pub(crate) last_tag: u64,
    /// The prefetch for consumers to come.
    pub(crate) prefetch: u16,
    pub(crate) limiter: Limiter,
    /// Set in confirm mode, which excludes transactions.
    pub(crate) confirm: Option<Confirm>,
    pub(crate) transaction: Option<Transaction>,
    /// The queue declared last, which the empty name stands for.
    pub(crate) last_queue: Option<Name>,
    pub(crate) reply: Option<ReplyConsumer>,
}

/// Confirm mode.
#[derive(Debug, Default)]
pub(crate) struct Confirm {
    pub(crate) published: u64,
    /// Outcomes held back by a fault.
    pub(crate) withheld: Vec<(u64, Outcome)>,
}

/// Transaction mode: the work of the next commit.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) published: Vec<Uncommitted>,
    pub(crate) settled: Vec<(Settlement, Vec<Delivered>)>,
    /// The outcome of a commit whose answer is held back by a fault.
    pub(crate) committing: Option<Outcome>,
}

/// A message published in a transaction, routed already.
#[derive(Debug)]
pub(crate) struct Uncommitted {
    pub(crate) message: Arc<Message>,
    /// Looked up at the commit: a queue may come or go until then.
    pub(crate) queues: Vec<Name>,
    pub(crate) mandatory: bool,
}

/// A settlement of a delivery by its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Ack,
    Requeue,
    Discard,
}

impl Settlement {
    pub(crate) fn rejected(requeue: bool) -> Self {
        if requeue {
            Settlement::Requeue
        } else {
            Settlement::Discard
        }
    }
}

impl Transaction {
    /// Adds deliveries to those of the same kind if it was the last, as RabbitMQ does: each
    /// group is settled in the order of the tags.
    pub(crate) fn settle(&mut self, how: Settlement, deliveries: Vec<Delivered>) {
        match self.settled.last_mut() {
            Some((last, group)) if *last == how => {
                group.extend(deliveries);
                group.sort_by_key(|delivered| delivered.tag);
            }
            _ => self.settled.push((how, deliveries)),
        }
    }

    /// All deliveries that were settled and not committed.
    pub(crate) fn take_settled(&mut self) -> Vec<Delivered> {
        let settled = std::mem::take(&mut self.settled);
        settled.into_iter().flat_map(|(_, group)| group).collect()
    }
}

/// The prefetch that all consumers of a channel share (`basic.qos` with `global`), counted as
/// RabbitMQ's limiter counts: quorum queues and `basic.get` take no place, but what they have
/// outstanding counts when a limit is set, and the acknowledgements of a quorum queue's consumers
/// make room.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    /// 0 is no limit.
    limit: u16,
    volume: i64,
}

impl Limiter {
    pub(crate) fn is_active(&self) -> bool {
        self.limit > 0
    }

    /// Whether nothing more may be delivered, to consumers without acknowledgements neither.
    pub(crate) fn is_full(&self) -> bool {
        self.is_active() && self.volume >= i64::from(self.limit)
    }

    pub(crate) fn set(&mut self, limit: u16, unacked: usize) {
        if limit == 0 {
            self.volume = 0;
        } else if !self.is_active() {
            self.volume = count(unacked);
        }
        self.limit = limit;
    }

    pub(crate) fn note_delivered(&mut self) {
        if self.is_active() {
            self.volume += 1;
        }
    }

    pub(crate) fn note_settled(&mut self, deliveries: usize) {
        if self.is_active() && self.volume != 0 {
            self.volume -= count(deliveries);
        }
    }
}

fn count(deliveries: usize) -> i64 {
    i64::try_from(deliveries).unwrap_or(i64::MAX)
}

/// A consumer of direct reply-to.
#[derive(Debug)]
pub(crate) struct ReplyConsumer {
    pub(crate) tag: Name,
    pub(crate) token: String,
}

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) connection: crate::id::ConnectionId,
    pub(crate) channel: u16,
    pub(crate) tag: Name,
    pub(crate) queue: QueueId,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) prefetch: u16,
    pub(crate) unacked: usize,
    pub(crate) priority: i64,
    pub(crate) arguments: FieldTable,
}

/// A message delivered and not yet settled.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) tag: u64,
    pub(crate) queue: QueueId,
    /// Absent for `basic.get`.
    pub(crate) consumer: Option<ConsumerId>,
    pub(crate) entry: Entry,
}

/// The unsettled deliveries of a channel, in the order of their tags.
#[derive(Debug, Default)]
pub(crate) struct Unacked(VecDeque<Delivered>);

impl Unacked {
    pub(crate) fn push(&mut self, delivered: Delivered) {
        self.0.push_back(delivered);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes one delivery.
    pub(crate) fn take(&mut self, tag: u64) -> Option<Delivered> {
        let at = self.find(tag)?;
        self.0.remove(at)
    }

    /// Takes the delivery and all before it. It must be there itself: RabbitMQ refuses
    /// a tag that was settled before.
    pub(crate) fn take_until(&mut self, tag: u64) -> Option<Vec<Delivered>> {
        let at = self.find(tag)?;
        Some(self.0.drain(..=at).collect())
    }

    pub(crate) fn take_all(&mut self) -> Vec<Delivered> {
        std::mem::take(&mut self.0).into()
    }

    /// Puts deliveries back to where they stood.
    pub(crate) fn put_back(&mut self, deliveries: Vec<Delivered>) {
        self.0.extend(deliveries);
        self.0
            .make_contiguous()
            .sort_by_key(|delivered| delivered.tag);
    }

    fn find(&self, tag: u64) -> Option<usize> {
        let at = self.0.partition_point(|other| other.tag < tag);
        (self.0.get(at)?.tag == tag).then_some(at)
    }
}
