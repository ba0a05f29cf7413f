//! Queues and channels as plain lists.

use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) id: u64,
    pub(super) priority: u8,
    pub(super) expires: Option<u64>,
    pub(super) redelivered: bool,
    pub(super) returns: u32,
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
        // Numbers grow with time, so that they are the order within a priority.
        self.ready
            .sort_by_key(|held| (u8::MAX - held.priority, held.id));
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

#[derive(Debug, Default)]
pub(super) struct ModelChannel {
    pub(super) prefetch: u16,
    pub(super) last_tag: u64,
    pub(super) consumers: BTreeMap<String, ModelConsumer>,
    pub(super) unacked: BTreeMap<u64, (usize, Option<String>, Held)>,
}
