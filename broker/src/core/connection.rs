//! What the core remembers of a connection and its channels.

use std::collections::{BTreeMap, VecDeque};

use amq_protocol::types::FieldTable;

use crate::{
    core::command::{Client, Outcome},
    id::{ConsumerId, Name, QueueId},
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
    pub(crate) block: Block,
    pub(crate) confirms: ConfirmFault,
}

/// Whether a client may publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Blocked by hand, with this reason.
    pub(crate) fault: Option<String>,
    /// Told so by `connection.blocked`.
    pub(crate) told: bool,
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
    /// The prefetch of the channel as a whole.
    pub(crate) shared_prefetch: u16,
    pub(crate) confirm: Option<Confirm>,
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
pub(crate) struct Unacked {
    list: VecDeque<Delivered>,
    /// How many of them count against the channel's shared prefetch.
    consumed: usize,
}

impl Unacked {
    pub(crate) fn push(&mut self, delivered: Delivered) {
        self.consumed += usize::from(delivered.consumer.is_some());
        self.list.push_back(delivered);
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn consumed(&self) -> usize {
        self.consumed
    }

    /// Takes one delivery.
    pub(crate) fn take(&mut self, tag: u64) -> Option<Delivered> {
        let at = self.list.partition_point(|other| other.tag < tag);
        if self.list.get(at)?.tag != tag {
            return None;
        }
        let taken = self.list.remove(at)?;
        self.consumed -= usize::from(taken.consumer.is_some());
        Some(taken)
    }

    /// Takes the delivery and all before it. It must be there itself: RabbitMQ refuses
    /// a tag that was settled before.
    pub(crate) fn take_until(&mut self, tag: u64) -> Option<Vec<Delivered>> {
        let at = self.list.partition_point(|other| other.tag < tag);
        if self.list.get(at)?.tag != tag {
            return None;
        }
        let taken: Vec<_> = self.list.drain(..=at).collect();
        self.consumed -= taken.iter().filter(|d| d.consumer.is_some()).count();
        Some(taken)
    }

    pub(crate) fn take_all(&mut self) -> Vec<Delivered> {
        self.consumed = 0;
        std::mem::take(&mut self.list).into()
    }
}
