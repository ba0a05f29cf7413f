//! Queues and channels as plain lists.

use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) id: u64,
    /// When it came into its queue: a commit may be later than the publish.
    pub(super) order: u64,
    pub(super) priority: u8,
    pub(super) expires: Option<u64>,
    pub(super) redelivered: bool,
    pub(super) delivery_count: u32,
}

#[derive(Debug, Default)]
pub(super) struct ModelQueue {
    pub(super) max_length: Option<usize>,
    pub(super) priorities: u8,
    pub(super) ttl: Option<u64>,
    pub(super) limit: Option<u32>,
    pub(super) quorum: bool,
    /// In the order of delivery.
    pub(super) ready: Vec<Held>,
    pub(super) dead: Vec<(u64, &'static str)>,
}

impl ModelQueue {
    pub(super) fn put(&mut self, held: Held) {
        self.ready.push(held);
        self.ready
            .sort_by_key(|held| (u8::MAX - held.priority, held.order));
    }

    /// Drops what is past its time at the head of its priority.
    pub(super) fn expire(&mut self, now: u64) {
        for priority in 0..=self.priorities {
            while let Some(at) = self.ready.iter().position(|held| held.priority == priority) {
                if self.ready[at].expires.is_none_or(|expires| expires > now) {
                    break;
                }
                let held = self.ready.remove(at);
                self.dead.push((held.id, "expired"));
            }
        }
    }

    pub(super) fn trim(&mut self) {
        while self.max_length.is_some_and(|max| self.ready.len() > max) {
            let lowest = self.ready.iter().map(|held| held.priority).min().unwrap();
            let at = self
                .ready
                .iter()
                .position(|held| held.priority == lowest)
                .unwrap();
            let held = self.ready.remove(at);
            self.dead.push((held.id, "maxlen"));
        }
    }
}

#[derive(Debug)]
pub(super) struct ModelConsumer {
    pub(super) queue: usize,
    pub(super) no_ack: bool,
    pub(super) prefetch: u16,
}

/// Settlements of deliveries by their client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ack,
    Requeue,
    Reject,
}

/// One thing that happens to the queues. A commit is several, one after another.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Publish {
        queue: usize,
        id: u64,
        priority: u8,
        ttl: Option<u64>,
    },
    Settle(Kind, Vec<Unsettled>),
}

/// A delivery: its queue, its consumer unless it was got, and the message.
pub(super) type Unsettled = (usize, Option<String>, Held);

#[derive(Debug, Default)]
pub(super) struct ModelChannel {
    pub(super) prefetch: u16,
    /// The shared prefetch, and what counts against it for ever: messages got before it was set.
    pub(super) shared: u16,
    pub(super) got: usize,
    pub(super) last_tag: u64,
    pub(super) consumers: BTreeMap<String, ModelConsumer>,
    pub(super) unacked: BTreeMap<u64, Unsettled>,
    pub(super) transaction: Option<ModelTransaction>,
}

#[derive(Debug, Default)]
pub(super) struct ModelTransaction {
    pub(super) published: Vec<Step>,
    pub(super) settled: Vec<(Kind, BTreeMap<u64, Unsettled>)>,
}

impl ModelChannel {
    /// All deliveries that no queue has back yet.
    pub(super) fn outstanding(&self) -> impl Iterator<Item = &Unsettled> {
        let uncommitted = self.transaction.iter().flat_map(|t| &t.settled);
        let uncommitted = uncommitted.flat_map(|(_, group)| group.values());
        self.unacked.values().chain(uncommitted)
    }

    pub(super) fn waiting(&self, consumer: &str) -> usize {
        let own = |(_, owner, _): &&Unsettled| owner.as_deref() == Some(consumer);
        self.outstanding().filter(own).count()
    }

    /// Whether the shared prefetch is used up.
    pub(super) fn is_full(&self) -> bool {
        let consumed = self.outstanding().filter(|(_, owner, _)| owner.is_some());
        self.shared > 0 && consumed.count() + self.got >= usize::from(self.shared)
    }
}
