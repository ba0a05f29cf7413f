//! Queues, exchanges and bindings as values, with the names of their arguments and with defaults that are
//! safe on RabbitMQ 3.10 to 4.3.

use std::time::Duration;

use crate::clock;
use crate::wire::name::{Name, NameError};
use crate::wire::value::{Table, Value};

/// The argument for the kind of a queue.
pub(crate) const QUEUE_TYPE: &str = "x-queue-type";
const CLASSIC: &str = "classic";
/// The arguments for the exchange and the routing key of dead letters.
pub(crate) const DEAD_LETTER_EXCHANGE: &str = "x-dead-letter-exchange";
pub(crate) const DEAD_LETTER_ROUTING_KEY: &str = "x-dead-letter-routing-key";
/// The argument of an exchange for the exchange that takes its unroutable messages.
pub(crate) const ALTERNATE_EXCHANGE: &str = "alternate-exchange";
/// The arguments for the most messages in a queue, and for the treatment of further ones.
const MAX_LENGTH: &str = "x-max-length";
const OVERFLOW: &str = "x-overflow";
const REJECT_PUBLISH: &str = "reject-publish";

/// The kind of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueKind {
    /// On one node of the cluster.
    #[default]
    Classic,
    /// Replicated over nodes of the cluster by Raft. It is always durable, and the broker counts the
    /// deliveries of each message.
    Quorum,
}

/// Options of a queue that a server declares.
///
/// Without any, a queue is durable, and of the virtual host's default type, which is classic unless an
/// operator has changed it. RabbitMQ refuses a declaration that differs from the existing queue (406
/// PRECONDITION_FAILED); the error names the argument.
///
/// ```
/// use std::time::Duration;
///
/// use lepus::amqp::{QueueKind, QueueOptions};
///
/// let options = QueueOptions::new()
///     .kind(QueueKind::Quorum)
///     .max_length(10_000)
///     .expires(Duration::from_secs(3600));
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "options have an effect on the service that they are set on"]
pub struct QueueOptions {
    kind: Option<QueueKind>,
    is_transient: bool,
    arguments: Table,
}

impl QueueOptions {
    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the kind, which is then part of the declaration (`x-queue-type`). Without it, a durable queue has
    /// the virtual host's default type. A quorum queue is always durable.
    ///
    /// To RabbitMQ, a classic queue with the argument equals one without it. A queue that is to be classic
    /// and exists as a quorum queue, by the virtual host's default, is used as it is, with a warning.
    pub fn kind(mut self, kind: QueueKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Makes the queue transient: a restart of the broker deletes it. RabbitMQ 4.3 lists transient queues
    /// that are not exclusive as deprecated.
    pub fn transient(mut self) -> Self {
        self.is_transient = true;
        self
    }

    /// Sets an argument (`x-…`) for which there is no method.
    pub fn argument(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the most messages in the queue (`x-max-length`). Further publishes are refused (`x-overflow:
    /// reject-publish`). The broker tells this to a publisher that asks for confirms: a one-way call fails
    /// with [`is_rejected`](crate::Error::is_rejected), and so does a call that [fails
    /// fast](crate::rpc::ClientBuilder::fail_fast). Another call gets no reply, and times out.
    pub fn max_length(self, messages: u32) -> Self {
        self.argument(MAX_LENGTH, messages)
            .argument(OVERFLOW, REJECT_PUBLISH)
    }

    /// Sets the longest time that a message waits before it is dead-lettered or dropped (`x-message-ttl`), in
    /// whole milliseconds, rounded up.
    pub fn message_ttl(self, ttl: Duration) -> Self {
        self.argument("x-message-ttl", millis(ttl))
    }

    /// Sets the time after which an unused queue is deleted (`x-expires`), in whole milliseconds, rounded up.
    /// RabbitMQ refuses zero. A queue is unused when it has no consumer, and is neither declared again nor polled.
    ///
    /// For the queue of a service, this is the time after which calls fail at once with
    /// [`is_unroutable`](crate::Error::is_unroutable) when the last server has gone, instead of at their deadlines.
    /// Make it longer than a restart of the servers takes: requests that wait in the queue are lost with it. A call
    /// that [fails fast](crate::rpc::ClientBuilder::fail_fast) need not wait for that.
    pub fn expires(self, after: Duration) -> Self {
        self.argument("x-expires", millis(after))
    }

    /// Enables priorities from 0 to `max` (`x-max-priority`), for classic queues only. Each level costs the
    /// broker memory; 5 or 10 are enough for most uses.
    pub fn max_priority(self, max: u8) -> Self {
        self.argument("x-max-priority", max)
    }

    /// Delivers to one consumer at a time, with the others standing by (`x-single-active-consumer`).
    pub fn single_active_consumer(self) -> Self {
        self.argument("x-single-active-consumer", true)
    }
}

/// A queue to be declared: durable, and of the virtual host's default type, unless set otherwise.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Queue {
    pub(crate) name: Name,
    pub(crate) kind: QueueKind,
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    pub(crate) passive: bool,
    pub(crate) arguments: Table,
}

impl Queue {
    pub(crate) fn new(name: Name) -> Self {
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

    /// A queue that only this connection can use, and that is deleted with it.
    #[must_use]
    pub(crate) fn exclusive(name: Name) -> Self {
        Self {
            durable: false,
            exclusive: true,
            ..Self::new(name)
        }
    }

    /// Sets the options that are set in `options`. Those that are not keep their values.
    #[must_use]
    pub(crate) fn with(mut self, options: QueueOptions) -> Self {
        let QueueOptions {
            kind,
            is_transient,
            arguments,
        } = options;
        if let Some(kind) = kind {
            self = self.kind(kind);
        }
        self.durable &= !is_transient;
        self.arguments.extend(arguments);
        self
    }

    /// See [`QueueOptions::kind`].
    #[must_use]
    pub(crate) fn kind(mut self, kind: QueueKind) -> Self {
        self.kind = kind;
        match kind {
            QueueKind::Quorum => {
                self.durable = true;
                self.argument(QUEUE_TYPE, "quorum")
            }
            QueueKind::Classic => self.argument(QUEUE_TYPE, CLASSIC),
        }
    }

    /// Whether it is declared as a quorum queue that is not durable, which RabbitMQ does not have.
    pub(crate) fn is_transient_quorum(&self) -> bool {
        self.kind == QueueKind::Quorum && !self.durable
    }

    /// See [`QueueOptions::transient`].
    #[must_use]
    pub(crate) fn transient(self) -> Self {
        self.with(QueueOptions::new().transient())
    }

    /// Declares the queue passively: it must exist, with any properties.
    #[must_use]
    pub(crate) fn passive(mut self) -> Self {
        self.passive = true;
        self
    }

    fn argument(self, name: &str, value: impl Into<Value>) -> Self {
        self.with(QueueOptions::new().argument(name, value))
    }

    /// See [`QueueOptions::max_length`].
    #[must_use]
    pub(crate) fn max_length(self, messages: u32) -> Self {
        self.with(QueueOptions::new().max_length(messages))
    }

    /// Sets the most messages in the queue (`x-max-length`). For each further one, the oldest is dropped
    /// (`x-overflow: drop-head`).
    #[must_use]
    pub(crate) fn drop_oldest(self, messages: u32) -> Self {
        self.argument(MAX_LENGTH, messages)
            .argument(OVERFLOW, "drop-head")
    }

    /// See [`QueueOptions::message_ttl`].
    #[must_use]
    pub(crate) fn message_ttl(self, ttl: Duration) -> Self {
        self.with(QueueOptions::new().message_ttl(ttl))
    }

    /// See [`QueueOptions::max_priority`].
    #[must_use]
    pub(crate) fn max_priority(self, max: u8) -> Self {
        self.with(QueueOptions::new().max_priority(max))
    }

    /// Sets the exchange (empty for the default exchange) and the routing key for rejected and expired
    /// messages.
    #[must_use]
    pub(crate) fn dead_letter(self, exchange: &str, routing_key: &str) -> Self {
        self.argument(DEAD_LETTER_EXCHANGE, exchange)
            .argument(DEAD_LETTER_ROUTING_KEY, routing_key)
    }

    /// Keeps a dead letter in a quorum queue until the target queue has it (`x-dead-letter-strategy`).
    /// RabbitMQ requires an overflow that refuses publishes for this.
    #[must_use]
    pub(crate) fn at_least_once(self) -> Self {
        self.argument("x-dead-letter-strategy", "at-least-once")
            .argument(OVERFLOW, REJECT_PUBLISH)
    }

    /// Sets how often a quorum queue delivers a message that is not settled (`x-delivery-limit`).
    #[must_use]
    pub(crate) fn delivery_limit(self, deliveries: u32) -> Self {
        self.argument("x-delivery-limit", deliveries)
    }

    /// See [`QueueOptions::single_active_consumer`].
    #[must_use]
    pub(crate) fn single_active_consumer(self) -> Self {
        self.with(QueueOptions::new().single_active_consumer())
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }
}

/// The longest delay, which is RabbitMQ's longest TTL: 49 days.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_millis(u32::MAX as u64);

/// The most bytes that the name of a delay queue is longer than that of its target.
pub(crate) const DELAY_SUFFIX: usize = ".retry.4294967295".len();

/// The delay queue for a delay. Its messages expire and are dead-lettered to `target`.
///
/// There is one queue for each of the steps 1, 1.5, 2, 3, 5, 7 and 10, times a power of ten, so that there are
/// few. A message carries its own, shorter delay as its `expiration`. RabbitMQ expires messages at the head of
/// a queue, so a message may wait for one before it, but never longer than the step.
pub(crate) fn delay_queue(
    target: &Name,
    delay: Duration,
    make: impl FnOnce(Name) -> Queue,
) -> Result<Queue, NameError> {
    let step = step(delay);
    let queue = make(delay_name(target, step)?)
        .message_ttl(step)
        .dead_letter("", target.as_str());
    Ok(match queue.kind {
        QueueKind::Classic => queue,
        QueueKind::Quorum => queue.at_least_once(),
    })
}

/// The names of all delay queues that a target can have.
pub(crate) fn delay_queue_names(target: &Name) -> Result<Vec<Name>, NameError> {
    let millis = Duration::from_millis(1);
    let next = |last: &Duration| (*last < LONGEST_DELAY).then(|| step(*last + millis));
    let steps = std::iter::successors(Some(step(millis)), next);
    steps.map(|step| delay_name(target, step)).collect()
}

fn delay_name(target: &Name, step: Duration) -> Result<Name, NameError> {
    Name::parse(format!("{target}.retry.{}", step.as_millis()))
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

/// The type of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// Routes to every bound queue.
    Fanout,
    /// Routes by equality of routing key and binding key.
    Direct,
    /// Routes by patterns of words, where `*` is one word and `#` is any number of them.
    Topic,
    /// Routes by the message's headers.
    Headers,
}

impl ExchangeKind {
    /// The type of this name. `None` if Lepus has no such type.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let kinds = [Self::Fanout, Self::Direct, Self::Topic, Self::Headers];
        kinds.into_iter().find(|kind| kind.as_str() == name)
    }

    /// AMQP's name of the type.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Fanout => "fanout",
            Self::Direct => "direct",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

/// An exchange to be declared. Durable by default.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exchange {
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
    pub(crate) fn new(name: Name, kind: ExchangeKind) -> Self {
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

/// The destination of a binding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Destination {
    Queue(Name),
    Exchange(Name),
}

/// A binding from an exchange to a queue or another exchange.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Binding {
    pub(crate) exchange: Name,
    pub(crate) destination: Destination,
    pub(crate) routing_key: String,
    pub(crate) arguments: Table,
}

/// A set of exchanges, queues and bindings, which are declared in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Topology {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) bindings: Vec<Binding>,
}

impl Topology {
    /// Whether one of the queues refuses messages when it is full.
    pub(crate) fn is_limited(&self) -> bool {
        let mut queues = self.queues.iter();
        queues.any(|queue| queue.arguments.contains_key(MAX_LENGTH))
    }

    /// A copy in which the queue that `is_it` selects has no argument for its kind. `None` if the queue is not
    /// declared as classic.
    pub(crate) fn of_any_kind(&self, is_it: impl Fn(&Queue) -> bool) -> Option<Self> {
        let mut topology = self.clone();
        let queue = topology.queues.iter_mut().find(|queue| is_it(queue))?;
        let kind = queue.arguments.remove(QUEUE_TYPE)?;
        (kind.as_str() == Some(CLASSIC)).then_some(topology)
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
    fn options_change_what_they_set() {
        let quorum = || Queue::new(Name::parse("jobs").unwrap()).kind(QueueKind::Quorum);
        assert_eq!(quorum().with(QueueOptions::new()), quorum());
        let longest = QueueOptions::new().max_length(9);
        let queue = quorum().with(longest.clone());
        assert_eq!((queue.kind, queue.durable), (QueueKind::Quorum, true));
        assert_eq!(queue.arguments["x-max-length"], Value::from(9_u32));
        assert_eq!(queue.arguments["x-overflow"], Value::from("reject-publish"));
        let queue = quorum().with(longest.kind(QueueKind::Classic).transient());
        assert_eq!((queue.kind, queue.durable), (QueueKind::Classic, false));
        assert_eq!(queue.arguments["x-queue-type"], Value::from("classic"));
        assert!(
            quorum()
                .with(QueueOptions::new().transient())
                .is_transient_quorum()
        );
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
