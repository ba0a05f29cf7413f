//! Fault injection for tests: failures of the broker, of the network and of clients.

use std::sync::Arc;

use crate::{
    core::{Command, Operator},
    exception::{Code, Exception},
    id::ConnectionId,
    listen::{Accept, AcceptMode},
    outgoing::{Cut, Outgoing, Stall},
    shared::Shared,
};

/// The connections that a fault is injected into.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// All connections that are open now.
    All,
    /// One connection, by its id in [`connections`](crate::Broker::connections).
    Connection(ConnectionId),
    /// The connections whose client gave this `connection_name`.
    Named(String),
}

impl From<ConnectionId> for Target {
    fn from(id: ConnectionId) -> Self {
        Target::Connection(id)
    }
}

/// A handle to inject faults, made by [`Broker::faults`](crate::Broker::faults). Cheap to clone.
///
/// Faults take effect in the order of the calls. Each method returns the number of connections (or
/// consumers) that it applied to, so that a test can detect that there were none.
#[derive(Clone, Debug)]
pub struct Faults {
    pub(crate) shared: Arc<Shared>,
    pub(crate) accept_mode: Arc<AcceptMode>,
}

impl Faults {
    /// Closes sockets at once, without `connection.close`.
    pub fn cut(&self, target: impl Into<Target>, how: Cut) -> usize {
        self.each_outgoing(target, |outgoing| outgoing.cut(how))
    }

    /// Stops reading, writing or both, and leaves the sockets open: a half-open connection. The
    /// broker's own timeouts do not apply to the connection meanwhile.
    pub fn stall(&self, target: impl Into<Target>, how: Stall) -> usize {
        self.each_outgoing(target, |outgoing| outgoing.stall(how))
    }

    /// Ends a [`stall`](Self::stall). The bytes that waited are read and written.
    pub fn resume(&self, target: impl Into<Target>) -> usize {
        self.each_outgoing(target, Outgoing::resume)
    }

    /// Closes connections as an operator does (`rabbitmqctl close_connection`):
    /// `connection.close` with code 320.
    pub fn close(&self, target: impl Into<Target>, reason: &str) -> usize {
        self.each(target, |id| {
            Operator::Close(id, Exception::new(Code::ConnectionForced, reason))
        })
    }

    /// Accepts messages, but withholds their publisher confirms, and the replies to `tx.commit` of
    /// transactions with messages, until [`release_confirms`](Self::release_confirms). Meanwhile a
    /// transactional channel must not be used (504), as with RabbitMQ.
    pub fn withhold_confirms(&self, target: impl Into<Target>) -> usize {
        self.each(target, Operator::WithholdConfirms)
    }

    /// Sends the withheld confirms and replies in order, and withholds no further ones.
    pub fn release_confirms(&self, target: impl Into<Target>) -> usize {
        self.each(target, Operator::ReleaseConfirms)
    }

    /// Nacks the next `count` messages published in confirm mode (`basic.nack`). They are routed
    /// nevertheless, which a nack of RabbitMQ does not rule out either. A message of a transaction
    /// counts when it is committed: the commit then fails (406), but its other messages and
    /// settlements are applied.
    pub fn nack_next(&self, target: impl Into<Target>, count: u32) -> usize {
        self.each(target, |id| Operator::NackNext(id, count))
    }

    /// Refuses all messages that are published from now on, as for a user without the write permission
    /// (403 ACCESS_REFUSED, which closes the channel). `false` grants the permission again.
    pub fn deny_writes(&self, target: impl Into<Target>, denied: bool) -> usize {
        self.each(target, |id| Operator::DenyWrites(id, denied))
    }

    /// Refuses all queues that are declared from now on, as for a user without the configure permission
    /// (403 ACCESS_REFUSED, which closes the channel). `false` grants the permission again.
    pub fn deny_queues(&self, target: impl Into<Target>, denied: bool) -> usize {
        self.each(target, |id| Operator::DenyQueues(id, denied))
    }

    /// Blocks publishers as a memory alarm does: clients with the capability get
    /// `connection.blocked` now, and a client that publishes is no longer read from.
    pub fn block(&self, target: impl Into<Target>, reason: &str) -> usize {
        self.each(target, |id| Operator::Block(id, reason.to_owned()))
    }

    /// Ends a [`block`](Self::block).
    pub fn unblock(&self, target: impl Into<Target>) -> usize {
        self.each(target, Operator::Unblock)
    }

    /// Cancels every consumer of a queue with `basic.cancel`, as RabbitMQ does when the queue's leader
    /// moves to another node. The queue stays, unless it is auto-delete.
    pub fn cancel_consumers(&self, vhost: &str, queue: &str) -> usize {
        let count = self.count_consumers(vhost, queue);
        self.shared
            .apply([Command::Operator(Operator::CancelConsumers {
                vhost: vhost.into(),
                queue: queue.into(),
            })]);
        count
    }

    /// Removes every consumer of a queue without `basic.cancel`, as RabbitMQ sometimes does when a quorum
    /// queue is deleted right after it was declared (seen on 3.10.8): the channel stays open, and
    /// nothing is delivered on it.
    pub fn forget_consumers(&self, vhost: &str, queue: &str) -> usize {
        let count = self.count_consumers(vhost, queue);
        self.shared
            .apply([Command::Operator(Operator::ForgetConsumers {
                vhost: vhost.into(),
                queue: queue.into(),
            })]);
        count
    }

    /// Cancels the consumers with this tag on all connections.
    pub fn cancel_consumer(&self, tag: &str) -> usize {
        let found: Vec<_> = self
            .shared
            .lock()
            .core
            .consumer_infos()
            .into_iter()
            .filter(|consumer| consumer.tag == tag)
            .map(|consumer| {
                Command::Operator(Operator::CancelConsumer {
                    connection: consumer.connection,
                    channel: consumer.channel,
                    tag: tag.into(),
                })
            })
            .collect();
        let count = found.len();
        self.shared.apply(found);
        count
    }

    /// Sets the treatment of clients that connect from now on. Open connections stay.
    pub fn accept(&self, how: Accept) {
        self.accept_mode.set(how);
    }

    fn count_consumers(&self, vhost: &str, queue: &str) -> usize {
        let consumers = self.shared.lock().core.consumer_infos();
        let of_queue = consumers
            .iter()
            .filter(|consumer| consumer.vhost == vhost && consumer.queue == queue);
        of_queue.count()
    }

    fn each(
        &self,
        target: impl Into<Target>,
        operator: impl Fn(ConnectionId) -> Operator,
    ) -> usize {
        let ids = self.open(&target.into());
        self.shared
            .apply(ids.iter().map(|id| Command::Operator(operator(*id))));
        ids.len()
    }

    fn each_outgoing(&self, target: impl Into<Target>, fault: impl Fn(&Outgoing)) -> usize {
        let target = target.into();
        let ids = self.open(&target);
        let state = self.shared.lock();
        // `All` includes connections whose handshake is not complete, which the core does not know.
        let outgoing: Vec<_> = match target {
            Target::All => state.outgoing.values().cloned().collect(),
            _ => ids
                .iter()
                .filter_map(|id| state.outgoing.get(id).cloned())
                .collect(),
        };
        drop(state);
        outgoing.iter().for_each(|one| fault(one));
        outgoing.len()
    }

    fn open(&self, target: &Target) -> Vec<ConnectionId> {
        self.shared
            .lock()
            .core
            .connection_infos()
            .into_iter()
            .filter(|info| match target {
                Target::All => true,
                Target::Connection(id) => info.id == *id,
                Target::Named(name) => info.name.as_deref() == Some(name),
            })
            .map(|info| info.id)
            .collect()
    }
}
