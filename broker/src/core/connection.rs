//! State of a connection and its channels in the core.

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

/// The limit of deliveries, in bytes, that wait for a slow client. Above it, the client's consumers get no
/// more deliveries until it has read some.
pub(crate) const DELIVERY_WINDOW: usize = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) channels: BTreeMap<u16, Channel>,
    /// The bytes of deliveries that are not written to the socket yet.
    pub(crate) in_flight: usize,
    /// The last queue that delivered in [`Core::dispatch_in_turn`](super::Core::dispatch_in_turn). The
    /// next turn begins with the queue after it.
    pub(crate) last_served: QueueId,
    pub(crate) block: Block,
    pub(crate) confirms: ConfirmFault,
    /// Whether all publishes of the client are refused (403).
    pub(crate) writes_denied: bool,
    /// Whether all declarations of queues by the client are refused (403).
    pub(crate) queues_denied: bool,
}

/// The state of a client that must not publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// The reason of an injected fault that blocks the client.
    pub(crate) fault: Option<String>,
    /// `connection.blocked` was sent.
    pub(crate) notified: bool,
    /// The client is not read from, because it has published while it was blocked.
    pub(crate) paused: bool,
}

/// The injected faults of a connection's publisher confirms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConfirmFault {
    pub(crate) withheld: bool,
    pub(crate) nacks: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Channel {
    /// The broker has closed the channel. All methods but `close` and `close-ok` are ignored.
    pub(crate) closing: bool,
    pub(crate) consumers: BTreeMap<Name, ConsumerId>,
    pub(crate) unacked: Unacked,
    pub(crate) last_tag: u64,
    /// The prefetch of consumers that start from now on (`basic.qos`).
    pub(crate) prefetch: u16,
    pub(crate) limiter: Limiter,
    /// The state of confirm mode, which excludes transactions.
    pub(crate) confirm: Option<Confirm>,
    pub(crate) transaction: Option<Transaction>,
    /// The queue that was declared last. The empty queue name stands for it.
    pub(crate) last_queue: Option<Name>,
    pub(crate) reply: Option<ReplyConsumer>,
}

/// The state of a channel in confirm mode.
#[derive(Debug, Default)]
pub(crate) struct Confirm {
    pub(crate) published: u64,
    /// The confirms that a fault withholds.
    pub(crate) withheld: Vec<(u64, Outcome)>,
}

/// The state of a transactional channel: the operations of the next commit.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) published: Vec<Uncommitted>,
    pub(crate) settled: Vec<(Settlement, Vec<Delivered>)>,
    /// The outcome of a commit whose reply a fault withholds.
    pub(crate) committing: Option<Outcome>,
}

/// A message that was published in a transaction, with the queues that it was routed to.
#[derive(Debug)]
pub(crate) struct Uncommitted {
    pub(crate) message: Arc<Message>,
    /// By name, because a queue may be declared or deleted before the commit.
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
    /// Adds settled deliveries. As in RabbitMQ, consecutive settlements of the same kind form one group,
    /// which is settled in the order of the delivery tags.
    pub(crate) fn settle(&mut self, how: Settlement, deliveries: Vec<Delivered>) {
        match self.settled.last_mut() {
            Some((last, group)) if *last == how => {
                group.extend(deliveries);
                group.sort_by_key(|delivered| delivered.tag);
            }
            _ => self.settled.push((how, deliveries)),
        }
    }

    /// Takes all deliveries that were settled but not committed.
    pub(crate) fn take_settled(&mut self) -> Vec<Delivered> {
        let settled = std::mem::take(&mut self.settled);
        settled.into_iter().flat_map(|(_, group)| group).collect()
    }
}

/// The prefetch that all consumers of a channel share (`basic.qos` with `global`), counted as by
/// RabbitMQ's limiter: deliveries of quorum queues and of `basic.get` do not count. But those that are
/// unacknowledged when a limit is set do, and acknowledgements by a quorum queue's consumers decrease
/// the count.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    /// 0 stands for no limit.
    limit: u16,
    volume: i64,
}

impl Limiter {
    pub(crate) fn is_active(&self) -> bool {
        self.limit > 0
    }

    /// Whether the limit is reached. It then applies to consumers with `no-ack` as well.
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

/// A message that was delivered and is not settled yet.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) tag: u64,
    pub(crate) queue: QueueId,
    /// `None` for `basic.get`.
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

    /// Takes a delivery and all before it. Returns `None` if the delivery itself was settled already:
    /// RabbitMQ refuses such a tag.
    pub(crate) fn take_until(&mut self, tag: u64) -> Option<Vec<Delivered>> {
        let at = self.find(tag)?;
        Some(self.0.drain(..=at).collect())
    }

    pub(crate) fn take_all(&mut self) -> Vec<Delivered> {
        std::mem::take(&mut self.0).into()
    }

    /// Puts deliveries back, in the order of their tags.
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
