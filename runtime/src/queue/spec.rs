//! What a work queue is made of, as one topology.

use std::time::Duration;

use crate::error::Error;
use crate::link::Namespace;
use crate::policy::retry::RetryPolicy;
use crate::publish::OnMissing;
use crate::wire::codec::Codec;
use crate::wire::name::{Name, SHORT_STRING_MAX};
use crate::wire::topology::{DELAY_SUFFIX, Queue, QueueKind, Topology, delay_queue};

/// How often a quorum queue delivers a job that nobody settles, before it dead-letters it by
/// itself. Retries start anew; this is for jobs that no worker lives to give up.
const DELIVERY_LIMIT: u32 = 20;
/// Dead letters are looked at as often as anybody likes.
const NO_LIMIT: u32 = 1_000_000_000;

#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) kind: QueueKind,
    /// Whether a classic queue says so in its declaration. One that does not is whatever the
    /// virtual host has by default.
    pub(crate) says_classic: bool,
    pub(crate) durable: bool,
    pub(crate) passive: bool,
    /// How payloads are written, if it was chosen.
    pub(crate) codec: Option<Codec>,
    pub(crate) retry: RetryPolicy,
    pub(crate) max_priority: Option<u8>,
    pub(crate) max_length: Option<u32>,
    pub(crate) message_ttl: Option<Duration>,
    pub(crate) dead: Option<String>,
    /// One consumer at a time, the others stand by.
    pub(crate) single_active: bool,
    /// Options that contradict each other, told where the queue is first used.
    pub(crate) fault: Option<Error>,
}

impl Spec {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: QueueKind::Quorum,
            says_classic: false,
            durable: true,
            passive: false,
            codec: None,
            retry: RetryPolicy::default(),
            max_priority: None,
            max_length: None,
            message_ttl: None,
            dead: None,
            single_active: false,
            fault: None,
        }
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec.unwrap_or_default()
    }

    /// Replicated or on one node, as it says, or as the virtual host does where it says nothing.
    fn queue(&self, name: Name, kind: QueueKind) -> Queue {
        let queue = Queue::new(name);
        // Priorities are for classic queues alone.
        let says_classic = self.says_classic || self.max_priority.is_some();
        match kind {
            QueueKind::Classic if !says_classic => queue,
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
        // A classic queue has no dead letters of its own but expired ones: without a TTL its
        // declaration stays as plain as any other program's.
        if self.kind == QueueKind::Quorum || self.message_ttl.is_some() {
            queue = queue.dead_letter("", self.dead_name()?.as_str());
        }
        if self.kind == QueueKind::Quorum {
            queue = queue.delivery_limit(DELIVERY_LIMIT).at_least_once();
        }
        Ok(self.owned(queue))
    }

    pub(crate) fn dead(&self) -> Result<Queue, Error> {
        let queue = self.queue(self.dead_name()?, self.kind);
        Ok(self.owned(match self.kind {
            QueueKind::Classic => queue,
            QueueKind::Quorum => queue.delivery_limit(NO_LIMIT),
        }))
    }

    /// Where jobs wait for this long.
    ///
    /// A queue that may be full refuses them when they come back, and only a quorum queue's dead
    /// letters survive that: a classic one has let go of them by then.
    pub(crate) fn delayed(&self, delay: Duration) -> Result<Queue, Error> {
        let kind = match self.max_length {
            Some(_) => QueueKind::Quorum,
            None => self.kind,
        };
        let target = Name::parse(&self.name)?;
        let queue = delay_queue(&target, delay, |name| self.queue(name, kind))?;
        Ok(self.owned(queue))
    }

    /// Whether all names fit, those of the delay queues included: a retry would have nowhere to
    /// wait. And whether its options agree.
    pub(crate) fn check(&self, namespace: &Namespace) -> Result<(), Error> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
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

    /// The queue and where its dead letters go, which is there first.
    pub(crate) fn topology(&self) -> Result<Topology, Error> {
        Ok(Topology {
            queues: vec![self.dead()?, self.main()?],
            ..Topology::default()
        })
    }

    /// Whether the broker keeps a rejected job: the queue is ours to know and has a dead-letter
    /// exchange.
    pub(crate) fn keeps_rejected(&self) -> bool {
        !self.passive && (self.kind == QueueKind::Quorum || self.message_ttl.is_some())
    }

    pub(crate) fn home(&self, topology: Topology) -> OnMissing {
        if self.passive {
            OnMissing::Fail
        } else {
            OnMissing::Declare(topology)
        }
    }

    fn owned(&self, queue: Queue) -> Queue {
        if self.passive { queue.passive() } else { queue }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::value::Value;

    #[test]
    fn a_plain_classic_queue_has_no_arguments() {
        let mut spec = Spec::new("task_queue");
        spec.kind = QueueKind::Classic;
        assert!(spec.main().unwrap().arguments.is_empty());
    }

    #[test]
    fn a_queue_that_has_to_be_classic_says_so() {
        let mut plain = Spec::new("jobs");
        plain.kind = QueueKind::Classic;
        let (mut asked, mut prioritized) = (plain.clone(), plain.clone());
        asked.says_classic = true;
        prioritized.max_priority = Some(5);
        let kinds = |spec: &Spec| {
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
    fn a_quorum_queue_loses_nothing_on_the_way_to_its_dead_letters() {
        let arguments = Spec::new("jobs").main().unwrap().arguments;
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
        let mut spec = Spec::new("jobs");
        spec.max_priority = Some(5);
        assert!(spec.main().unwrap_err().to_string().contains("classic"));
    }
}
