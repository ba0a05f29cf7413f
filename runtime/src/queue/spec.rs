//! The options of a work queue, and the queues (`queue.declare`) that it consists of.

use std::time::Duration;

use crate::error::Error;
use crate::link::Namespace;
use crate::policy::retry::RetryPolicy;
use crate::publish::OnMissing;
use crate::wire::codec::Codec;
use crate::wire::envelope;
use crate::wire::message::IncomingMessage;
use crate::wire::name::{Name, SHORT_STRING_MAX};
use crate::wire::topology::{
    DELAY_SUFFIX, LONGEST_DELAY, Queue, QueueKind, Topology, delay_queue, delay_queue_names,
};

/// The number of times that a quorum queue delivers a job without a settlement before it
/// dead-letters the job by itself. A retry is a new message with a count of its own, so that this
/// applies only to jobs whose workers crash.
const DELIVERY_LIMIT: u32 = 20;
/// The delivery limit of a dead-letter queue: listing its messages delivers them each time.
const NO_LIMIT: u32 = 1_000_000_000;

/// The options of a work queue.
#[derive(Clone, Debug)]
pub(crate) struct QueueSpec {
    pub(crate) name: String,
    pub(crate) kind: QueueKind,
    /// Whether a classic queue is declared with its type. Without it, the queue has the default type
    /// of the virtual host.
    pub(crate) declares_type: bool,
    pub(crate) durable: bool,
    pub(crate) passive: bool,
    /// The codec of payloads, if one was set.
    pub(crate) codec: Option<Codec>,
    pub(crate) retry: RetryPolicy,
    pub(crate) max_priority: Option<u8>,
    pub(crate) max_length: Option<u32>,
    pub(crate) message_ttl: Option<Duration>,
    pub(crate) dead: Option<String>,
    /// Only one consumer receives at a time (`x-single-active-consumer`).
    pub(crate) single_active: bool,
    /// An error of options that contradict each other, returned when the queue is first used.
    pub(crate) conflict: Option<Error>,
}

impl QueueSpec {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: QueueKind::Quorum,
            declares_type: false,
            durable: true,
            passive: false,
            codec: None,
            retry: RetryPolicy::default(),
            max_priority: None,
            max_length: None,
            message_ttl: None,
            dead: None,
            single_active: false,
            conflict: None,
        }
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec.unwrap_or_default()
    }

    /// A queue of this kind. A classic queue without its type has that of the virtual host.
    fn queue(&self, name: Name, kind: QueueKind) -> Queue {
        let queue = Queue::new(name);
        // Only classic queues have priorities.
        let declares_type = self.declares_type || self.max_priority.is_some();
        match kind {
            QueueKind::Classic if !declares_type => queue,
            kind => queue.kind(kind),
        }
    }

    pub(crate) fn main(&self) -> Result<Queue, Error> {
        let name = Name::parse(&self.name)?;
        let mut queue = self.queue(name, self.kind);
        if !self.durable {
            queue = queue.transient();
        }
        if let Some(max) = self.max_priority {
            if self.kind == QueueKind::Quorum {
                return Err(Error::invalid(format!(
                    "queue `{}`: priorities (x-max-priority) need a classic queue: add `.classic()`",
                    self.name
                )));
            }
            queue = queue.max_priority(max);
        }
        if let Some(jobs) = self.max_length {
            queue = queue.max_length(jobs);
        }
        if let Some(ttl) = self.message_ttl {
            queue = queue.message_ttl(ttl);
        }
        if self.single_active {
            queue = queue.single_active_consumer();
        }
        // The broker dead-letters nothing from a classic queue but expired messages. Without a TTL the
        // declaration has no arguments, so that other programs can declare the same queue.
        if self.kind == QueueKind::Quorum || self.message_ttl.is_some() {
            queue = queue.dead_letter("", self.dead_name()?.as_str());
        }
        if self.kind == QueueKind::Quorum {
            queue = queue.delivery_limit(DELIVERY_LIMIT).at_least_once();
        }
        Ok(self.passive_if_set(queue))
    }

    pub(crate) fn dead(&self) -> Result<Queue, Error> {
        let queue = self.queue(self.dead_name()?, self.kind);
        Ok(self.passive_if_set(match self.kind {
            QueueKind::Classic => queue,
            QueueKind::Quorum => queue.delivery_limit(NO_LIMIT),
        }))
    }

    /// The queue in which jobs wait for this delay.
    ///
    /// A work queue with a limit may be full, and refuse jobs whose delay has passed. A quorum queue
    /// keeps those and offers them again (`at-least-once` dead-lettering); a classic one loses them.
    pub(crate) fn delayed(&self, delay: Duration) -> Result<Queue, Error> {
        let kind = match self.max_length {
            Some(_) => QueueKind::Quorum,
            None => self.kind,
        };
        let target = Name::parse(&self.name)?;
        let queue = delay_queue(&target, delay, |name| self.queue(name, kind))?;
        Ok(self.passive_if_set(queue))
    }

    /// The names of all queues that Lepus declares for this one, its own included: what it forwards to, after
    /// what forwards to it.
    pub(crate) fn all_names(&self) -> Result<Vec<Name>, Error> {
        let main = Name::parse(&self.name)?;
        let mut names = delay_queue_names(&main)?;
        names.extend([main, self.dead_name()?]);
        Ok(names)
    }

    /// Checks that the options do not contradict each other, and that all names fit into AMQP's 255
    /// bytes, those of the delay queues included: a retry needs one of these.
    pub(crate) fn check(&self, namespace: &Namespace) -> Result<(), Error> {
        if let Some(conflict) = &self.conflict {
            return Err(conflict.clone());
        }
        let bytes = namespace.scope(&self.name).len() + DELAY_SUFFIX;
        if bytes <= SHORT_STRING_MAX {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "queue `{}`: the names of its delay queues (`<queue>.retry.<milliseconds>`) would have \
             up to {bytes} bytes, AMQP allows {SHORT_STRING_MAX}",
            self.name
        )))
    }

    pub(crate) fn dead_name(&self) -> Result<Name, Error> {
        Ok(match &self.dead {
            Some(name) => Name::parse(name)?,
            None => Name::parse(format!("{}.dead", self.name))?,
        })
    }

    /// The queue and its dead-letter queue, which is declared first.
    pub(crate) fn topology(&self) -> Result<Topology, Error> {
        Ok(Topology {
            queues: vec![self.dead()?, self.main()?],
            ..Topology::default()
        })
    }

    /// The queues that have to be there so that jobs can be taken: those of [`topology`](Self::topology), but of a
    /// passive queue itself alone, because it may have no dead-letter queue, and none is published to.
    pub(crate) fn polled(&self) -> Result<Topology, Error> {
        if self.passive {
            return Ok(Topology::queue(self.main()?));
        }
        self.topology()
    }

    /// Whether the queue is known to have a dead-letter exchange, so that the broker keeps a rejected
    /// job.
    pub(crate) fn has_dead_letter_exchange(&self) -> bool {
        !self.passive && (self.kind == QueueKind::Quorum || self.message_ttl.is_some())
    }

    /// Removes the headers of a delivery that only its sender can have set, although Lepus or the
    /// broker write them.
    pub(crate) fn remove_untrusted_headers(&self, message: &mut IncomingMessage) {
        let has_count = self.kind == QueueKind::Quorum || self.passive;
        envelope::remove_untrusted_headers(message, has_count);
    }

    pub(crate) fn on_missing(&self, topology: Topology) -> OnMissing {
        if self.passive {
            OnMissing::Fail
        } else {
            OnMissing::Declare(topology)
        }
    }

    fn passive_if_set(&self, queue: Queue) -> Queue {
        if self.passive { queue.passive() } else { queue }
    }
}

/// Checks that the broker can delay a job for so long.
pub(super) fn check_delay(delay: Duration) -> Result<Duration, Error> {
    if delay > LONGEST_DELAY {
        return Err(Error::invalid(format!(
            "the broker delays a job by {LONGEST_DELAY:?} at most"
        )));
    }
    Ok(delay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::value::Value;

    #[test]
    fn a_plain_classic_queue_has_no_arguments() {
        let mut spec = QueueSpec::new("task_queue");
        spec.kind = QueueKind::Classic;
        assert!(spec.main().unwrap().arguments.is_empty());
    }

    #[test]
    fn a_queue_that_has_to_be_classic_declares_its_type() {
        let mut plain = QueueSpec::new("jobs");
        plain.kind = QueueKind::Classic;
        let (mut asked, mut prioritized) = (plain.clone(), plain.clone());
        asked.declares_type = true;
        prioritized.max_priority = Some(5);
        let kinds = |spec: &QueueSpec| {
            let delayed = spec.delayed(std::time::Duration::from_secs(1));
            let queues = [spec.main(), spec.dead(), delayed];
            queues.map(|queue| queue.unwrap().arguments.remove("x-queue-type"))
        };
        assert_eq!(kinds(&plain), [None, None, None]);
        for spec in [asked, prioritized] {
            let classic = Some(Value::from("classic"));
            assert_eq!(kinds(&spec), [classic.clone(), classic.clone(), classic]);
        }
    }

    #[test]
    fn a_quorum_queue_dead_letters_at_least_once() {
        let arguments = QueueSpec::new("jobs").main().unwrap().arguments;
        assert_eq!(
            arguments["x-dead-letter-routing-key"],
            Value::from("jobs.dead")
        );
        assert_eq!(
            arguments["x-dead-letter-strategy"],
            Value::from("at-least-once")
        );
        assert_eq!(arguments["x-overflow"], Value::from("reject-publish"));
    }

    #[test]
    fn priorities_need_a_classic_queue() {
        let mut spec = QueueSpec::new("jobs");
        spec.max_priority = Some(5);
        assert!(spec.main().unwrap_err().to_string().contains("classic"));
    }
}
