//! Faults on demand: what goes wrong with a broker, a network or a client in earnest,
//! at a test's word.

use std::sync::Arc;

use crate::{
    core::{Command, Operator},
    exception::{Code, Exception},
    id::ConnectionId,
    listen::{Accept, AcceptMode},
    outgoing::{Cut, Outgoing, Stall},
    shared::Shared,
};

/// Which connections a fault is laid on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// All connections that are open now.
    All,
    /// One connection, as [`connections`](crate::Broker::connections) lists it.
    Connection(ConnectionId),
    /// The connections whose client gave this `connection_name`.
    Named(String),
}

impl From<ConnectionId> for Target {
    fn from(id: ConnectionId) -> Self {
        Target::Connection(id)
    }
}

/// A handle that breaks things. Cheap to clone; obtained from
/// [`Broker::faults`](crate::Broker::faults).
///
/// Faults take effect in the order given, and each method returns how many connections
/// (or consumers) it met, so that a test can tell a fault from a miss.
#[derive(Clone, Debug)]
pub struct Faults {
    pub(crate) shared: Arc<Shared>,
    pub(crate) accept_mode: Arc<AcceptMode>,
}

impl Faults {
    /// Closes sockets at once, without a word of AMQP.
    pub fn cut(&self, target: impl Into<Target>, how: Cut) -> usize {
        self.each_outgoing(target, |outgoing| outgoing.cut(how))
    }

    /// Stops reading, writing or both, with the sockets left open: a half-open
    /// connection. The broker gives up on nobody meanwhile.
    pub fn stall(&self, target: impl Into<Target>, how: Stall) -> usize {
        self.each_outgoing(target, |outgoing| outgoing.stall(how))
    }

    /// Ends what [`stall`](Self::stall) began; bytes held up flow on.
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

    /// Takes messages but says nothing of them: publisher confirms, and the answers to `tx.commit`
    /// of transactions with messages, are held back until
    /// [`release_confirms`](Self::release_confirms). Meanwhile a transactional channel must not be
    /// used (504), as with RabbitMQ.
    pub fn withhold_confirms(&self, target: impl Into<Target>) -> usize {
        self.each(target, Operator::WithholdConfirms)
    }

    /// Sends the confirms and answers held back, in order, and holds back no more.
    pub fn release_confirms(&self, target: impl Into<Target>) -> usize {
        self.each(target, Operator::ReleaseConfirms)
    }

    /// Answers the next `count` messages published in confirm mode with `basic.nack`. They
    /// are routed all the same, which a real nack does not rule out either. A message of a
    /// transaction counts when it is committed: the commit then fails (406), and the other messages
    /// and settlements of it stand.
    pub fn nack_next(&self, target: impl Into<Target>, count: u32) -> usize {
        self.each(target, |id| Operator::NackNext(id, count))
    }

    /// Refuses all that is published from now on, as for a user without the permission to write
    /// (403 ACCESS_REFUSED, which closes the channel); `false` gives the permission back.
    pub fn deny_writes(&self, target: impl Into<Target>, denied: bool) -> usize {
        self.each(target, |id| Operator::DenyWrites(id, denied))
    }

    /// Blocks publishers as a memory alarm does: `connection.blocked` goes out now to
    /// clients that understand it, and a client that publishes is no longer read from.
    pub fn block(&self, target: impl Into<Target>, reason: &str) -> usize {
        self.each(target, |id| Operator::Block(id, reason.to_owned()))
    }

    /// Ends what [`block`](Self::block) began.
    pub fn unblock(&self, target: impl Into<Target>) -> usize {
        self.each(target, Operator::Unblock)
    }

    /// Cancels every consumer of a queue with `basic.cancel`, as a queue does that moves
    /// to another node. The queue stays, unless it is auto-delete.
    pub fn cancel_consumers(&self, vhost: &str, queue: &str) -> usize {
        let count = self.count_consumers(vhost, queue);
        self.shared
            .apply([Command::Operator(Operator::CancelConsumers {
                vhost: vhost.into(),
                queue: queue.into(),
            })]);
        count
    }

    /// Takes every consumer off a queue without telling the clients, as RabbitMQ does now and then
    /// when a quorum queue is deleted right after it was declared (seen on 3.10.8): the channel
    /// stays open, and nothing is delivered on it.
    pub fn forget_consumers(&self, vhost: &str, queue: &str) -> usize {
        let count = self.count_consumers(vhost, queue);
        self.shared
            .apply([Command::Operator(Operator::ForgetConsumers {
                vhost: vhost.into(),
                queue: queue.into(),
            })]);
        count
    }

    /// Cancels the consumers with this tag, wherever they are.
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

    /// Decides how clients that connect from now on are met. Those connected stay.
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
        // Sockets that have not come as far as opening a virtual host count among all.
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
