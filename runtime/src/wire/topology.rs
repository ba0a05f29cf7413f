//! Queues, exchanges and bindings as values, with defaults that are safe on RabbitMQ 3.10 to 4.3.

use std::time::Duration;

use crate::clock;
use crate::wire::name::{Name, NameError};
use crate::wire::value::{Table, Value};

/// The argument that says of which kind a queue is.
pub(crate) const QUEUE_TYPE: &str = "x-queue-type";
const CLASSIC: &str = "classic";

/// How a queue keeps its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueKind {
    /// On one node.
    #[default]
    Classic,
    /// Replicated over the cluster's nodes by Raft; always durable, and poison messages are
    /// counted by the broker.
    Quorum,
}

/// A queue to be declared.
///
/// Durable unless asked otherwise, and classic, if that is the virtual host's default type.
/// RabbitMQ refuses a declaration that differs from
/// the queue that is there (406 PRECONDITION_FAILED); such an error names the argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    pub(crate) name: Name,
    pub(crate) kind: QueueKind,
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    pub(crate) passive: bool,
    pub(crate) arguments: Table,
}

impl Queue {
    /// A durable queue, classic unless the virtual host has another default type.
    #[must_use]
    pub fn new(name: Name) -> Self {
        Self {
            name,
            kind: QueueKind::Classic,
            durable: true,
            exclusive: false,
            auto_delete: false,
            passive: false,
            arguments: Table::new(),
        }
    }

    /// A queue of this connection alone, which goes when the connection does.
    #[must_use]
    pub(crate) fn exclusive(name: Name) -> Self {
        Self {
            durable: false,
            exclusive: true,
            ..Self::new(name)
        }
    }

    /// Sets the kind, and says so in the declaration (`x-queue-type`); without it a durable queue is
    /// of the virtual host's default type. A quorum queue is always durable.
    ///
    /// A classic queue that exists without the argument is the same to RabbitMQ. One that became a
    /// quorum queue, by a default of the virtual host, is used as it is; a warning says so.
    #[must_use]
    pub fn kind(mut self, kind: QueueKind) -> Self {
        self.kind = kind;
        match kind {
            QueueKind::Quorum => {
                self.durable = true;
                self.argument(QUEUE_TYPE, "quorum")
            }
            QueueKind::Classic => self.argument(QUEUE_TYPE, CLASSIC),
        }
    }

    /// The queue goes with a restart of the broker. RabbitMQ 4.3 lists such queues, where they
    /// are not exclusive, as deprecated.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.durable = false;
        self
    }

    /// The queue must be there already, with whatever properties: nothing is declared.
    #[must_use]
    pub fn passive(mut self) -> Self {
        self.passive = true;
        self
    }

    /// Sets an argument (`x-…`) that has no method here.
    #[must_use]
    pub fn argument(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments.insert(name.to_owned(), value.into());
        self
    }

    /// The most messages that wait here (`x-max-length`); further publishes are refused
    /// (`x-overflow: reject-publish`), so that a producer learns of it.
    #[must_use]
    pub fn max_length(self, messages: u32) -> Self {
        self.argument("x-max-length", messages)
            .argument("x-overflow", "reject-publish")
    }

    /// How long a message waits before it is dead-lettered or dropped (`x-message-ttl`), in whole
    /// milliseconds, rounded up.
    #[must_use]
    pub fn message_ttl(self, ttl: Duration) -> Self {
        self.argument("x-message-ttl", millis(ttl))
    }

    /// How long the queue lives unused (`x-expires`), in whole milliseconds, rounded up. RabbitMQ
    /// refuses zero.
    #[must_use]
    pub fn expires(self, after: Duration) -> Self {
        self.argument("x-expires", millis(after))
    }

    /// Priorities from 0 to `max` (`x-max-priority`); classic queues only. Each level costs the
    /// broker memory: 5 or 10 are plenty.
    #[must_use]
    pub fn max_priority(self, max: u8) -> Self {
        self.argument("x-max-priority", max)
    }

    /// Where rejected and expired messages go: an exchange (empty: the default one) and a key.
    #[must_use]
    pub(crate) fn dead_letter(self, exchange: &str, routing_key: &str) -> Self {
        self.argument("x-dead-letter-exchange", exchange)
            .argument("x-dead-letter-routing-key", routing_key)
    }

    /// Dead letters leave a quorum queue only once they have arrived. It needs, and so gets, an
    /// overflow that refuses publishes.
    #[must_use]
    pub(crate) fn at_least_once(self) -> Self {
        self.argument("x-dead-letter-strategy", "at-least-once")
            .argument("x-overflow", "reject-publish")
    }

    /// How often a quorum queue delivers a message that nobody settles (`x-delivery-limit`).
    #[must_use]
    pub(crate) fn delivery_limit(self, deliveries: u32) -> Self {
        self.argument("x-delivery-limit", deliveries)
    }

    /// One consumer at a time, the others stand by (`x-single-active-consumer`).
    #[must_use]
    pub fn single_active_consumer(self) -> Self {
        self.argument("x-single-active-consumer", true)
    }

    /// The queue's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// The longest delay: RabbitMQ's limit on a time to live, some 49 days.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_millis(u32::MAX as u64);

/// The bytes that a delay queue's name has beyond its target's, at most.
pub(crate) const DELAY_SUFFIX: usize = ".retry.4294967295".len();

/// The delay queue for a delay: its messages go on to `target` when they have waited.
///
/// Delays share queues in steps of 1, 1.5, 2, 3, 5, 7 and 10, so that there are few; a message
/// carries its own, shorter delay as its expiration. Within one queue a message may wait for one
/// before it, but never longer than the step.
pub(crate) fn delay_queue(
    target: &Name,
    delay: Duration,
    make: impl FnOnce(Name) -> Queue,
) -> Result<Queue, NameError> {
    let step = step(delay);
    let name = Name::parse(format!("{target}.retry.{}", step.as_millis()))?;
    let queue = make(name)
        .message_ttl(step)
        .dead_letter("", target.as_str());
    Ok(match queue.kind {
        QueueKind::Classic => queue,
        QueueKind::Quorum => queue.at_least_once(),
    })
}

fn step(delay: Duration) -> Duration {
    const STEPS: [u128; 6] = [10, 15, 20, 30, 50, 70];
    let wanted = clock::whole_millis(delay.min(LONGEST_DELAY)).max(1);
    // In tenths of a millisecond.
    let mut decade: u128 = 1;
    loop {
        for step in STEPS {
            if step * decade >= wanted * 10 && (step * decade).is_multiple_of(10) {
                let millis = u64::try_from(step * decade / 10).unwrap_or(u64::MAX);
                return Duration::from_millis(millis).min(LONGEST_DELAY);
            }
        }
        decade *= 10;
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(clock::whole_millis(duration)).unwrap_or(i64::MAX)
}

/// How an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExchangeKind {
    /// To every bound queue.
    Fanout,
    /// By equality of routing key and binding key.
    Direct,
    /// By patterns of words: `*` is one word, `#` is any number.
    Topic,
    /// By the message's headers.
    Headers,
}

impl ExchangeKind {
    /// AMQP's name of the kind.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fanout => "fanout",
            Self::Direct => "direct",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

/// An exchange to be declared; durable unless asked otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    pub(crate) name: Name,
    pub(crate) kind: ExchangeKind,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) passive: bool,
    pub(crate) arguments: Table,
}

impl Exchange {
    /// A durable exchange.
    #[must_use]
    pub fn new(name: Name, kind: ExchangeKind) -> Self {
        Self {
            name,
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            passive: false,
            arguments: Table::new(),
        }
    }
}

/// What a binding leads to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Destination {
    Queue(Name),
    Exchange(Name),
}

/// A route from an exchange.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Binding {
    pub(crate) exchange: Name,
    pub(crate) destination: Destination,
    pub(crate) routing_key: String,
    pub(crate) arguments: Table,
}

/// Everything one user of the broker needs to be there, declared in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Topology {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) bindings: Vec<Binding>,
}

impl Topology {
    /// Whether a queue of these refuses messages when it is full.
    pub(crate) fn is_limited(&self) -> bool {
        let mut queues = self.queues.iter();
        queues.any(|queue| queue.arguments.contains_key("x-max-length"))
    }

    /// The same, where the queue that this is about does not say that it is classic; `None` if it
    /// does not say so now.
    pub(crate) fn of_any_kind(&self, is_it: impl Fn(&Queue) -> bool) -> Option<Self> {
        let mut topology = self.clone();
        let queue = topology.queues.iter_mut().find(|queue| is_it(queue))?;
        let said = queue.arguments.remove(QUEUE_TYPE)?;
        (said.as_str() == Some(CLASSIC)).then_some(topology)
    }

    pub(crate) fn queue(queue: Queue) -> Self {
        Self {
            queues: vec![queue],
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_durable_and_classic_unless_asked_otherwise() {
        let queue = Queue::new(Name::parse("jobs").unwrap());
        assert!(queue.durable && !queue.exclusive && !queue.auto_delete);
        assert!(queue.arguments.is_empty());
    }

    #[test]
    fn delays_share_few_queues() {
        let of = |millis| step(Duration::from_millis(millis)).as_millis();
        assert_eq!(
            [of(0), of(1), of(2), of(4), of(1000), of(1001)],
            [1, 1, 2, 5, 1000, 1500]
        );
        assert_eq!(
            [of(4000), of(71_000), of(86_400_000), of(u64::MAX)],
            [5000, 100_000, 100_000_000, u128::from(u32::MAX)]
        );
        let name = Name::parse("jobs").unwrap();
        let queue = delay_queue(&name, Duration::from_secs(4), Queue::new).unwrap();
        assert_eq!(queue.name.as_str(), "jobs.retry.5000");
        assert_eq!(
            queue.arguments["x-dead-letter-routing-key"],
            Value::from("jobs")
        );
    }

    #[test]
    fn a_quorum_queue_cannot_be_transient_by_order_of_calls() {
        let queue = Queue::new(Name::parse("jobs").unwrap())
            .transient()
            .kind(QueueKind::Quorum);
        assert!(queue.durable);
        assert_eq!(queue.arguments["x-queue-type"], Value::from("quorum"));
    }

    #[test]
    fn a_queue_of_another_kind_is_taken_as_it_is() {
        let topology = |argument: Option<&str>| {
            let queue = Queue::new(Name::parse("jobs").unwrap());
            let other = Queue::new(Name::parse("others").unwrap()).kind(QueueKind::Classic);
            let mut topology = Topology::queue(other);
            topology.queues.push(match argument {
                Some(kind) => queue.argument("x-queue-type", kind),
                None => queue,
            });
            topology
        };
        let any = topology(Some("classic")).of_any_kind(|queue| queue.name.as_str() == "jobs");
        assert_eq!(any, Some(topology(None)));
        for kind in [None, Some("quorum")] {
            let any = topology(kind).of_any_kind(|queue| queue.name.as_str() == "jobs");
            assert_eq!(any, None);
        }
    }
}
