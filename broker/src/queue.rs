//! Queue: its ready messages in order, and its consumers.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use amq_protocol::types::FieldTable;

use crate::{
    id::{ConnectionId, ConsumerId, Name, QueueId},
    message::Message,
    settings::{Overflow, Settings},
};

/// A message in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The position in the order of arrival. A message that is requeued keeps it.
    pub(crate) position: u64,
    pub(crate) message: Arc<Message>,
    pub(crate) expires: Option<Instant>,
    pub(crate) redelivered: bool,
    /// The number of times the message was requeued (`x-delivery-count` of quorum queues).
    pub(crate) delivery_count: u32,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) vhost: Name,
    pub(crate) name: Name,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    /// The connection that an exclusive queue belongs to.
    pub(crate) owner: Option<ConnectionId>,
    pub(crate) arguments: FieldTable,
    pub(crate) settings: Settings,
    pub(crate) consumers: Vec<Subscriber>,
    /// The consumer that gets the deliveries, with `x-single-active-consumer`.
    pub(crate) active: Option<ConsumerId>,
    /// The consumer that was declared exclusive.
    pub(crate) exclusive_consumer: Option<ConsumerId>,
    pub(crate) unacked: usize,
    /// The instant of the last use, for `x-expires`.
    pub(crate) used: Instant,
    /// The earliest timer that is set for the queue.
    pub(crate) armed: Option<Instant>,
    /// Whether the queue was ever bound to an exchange.
    pub(crate) bound: bool,
    /// The ready messages of each priority, the lowest priority first.
    levels: Vec<VecDeque<Entry>>,
    next_position: u64,
    ready: usize,
    ready_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscriber {
    pub(crate) id: ConsumerId,
    pub(crate) priority: i64,
}

impl Queue {
    pub(crate) fn new(
        id: QueueId,
        vhost: Name,
        name: Name,
        settings: Settings,
        now: Instant,
    ) -> Self {
        let levels = usize::from(settings.max_priority.unwrap_or(0)) + 1;
        Self {
            id,
            vhost,
            name,
            durable: false,
            auto_delete: false,
            owner: None,
            arguments: FieldTable::default(),
            settings,
            consumers: Vec::new(),
            active: None,
            exclusive_consumer: None,
            unacked: 0,
            used: now,
            armed: None,
            bound: false,
            levels: (0..levels).map(|_| VecDeque::new()).collect(),
            next_position: 0,
            ready: 0,
            ready_bytes: 0,
        }
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    pub(crate) fn ready_bytes(&self) -> usize {
        self.ready_bytes
    }

    /// Appends a message that was just published.
    pub(crate) fn push(&mut self, message: Arc<Message>, now: Instant) {
        let ttl = match (self.settings.message_ttl, message.expiration) {
            (Some(queue), Some(own)) => Some(queue.min(own)),
            (queue, own) => queue.or(own),
        };
        let entry = Entry {
            position: self.next_position,
            expires: ttl.and_then(|ttl| now.checked_add(ttl)),
            redelivered: false,
            delivery_count: 0,
            message,
        };
        self.next_position += 1;
        self.count(&entry);
        if let Some(level) = self.level(entry.message.priority) {
            level.push_back(entry);
        }
    }

    /// Puts a message back at its original position.
    pub(crate) fn requeue(&mut self, entry: Entry) {
        self.count(&entry);
        if let Some(level) = self.level(entry.message.priority) {
            let at = level.partition_point(|other| other.position < entry.position);
            level.insert(at, entry);
        }
    }

    /// Takes the next message: the oldest of the highest priority.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let entry = self.levels.iter_mut().rev().find_map(VecDeque::pop_front)?;
        self.discount(&entry);
        Some(entry)
    }

    /// Takes the message that a length limit drops first: the oldest of the lowest priority.
    pub(crate) fn pop_overflow(&mut self) -> Option<Entry> {
        let entry = self.levels.iter_mut().find_map(VecDeque::pop_front)?;
        self.discount(&entry);
        Some(entry)
    }

    /// Takes a message that is the oldest of its priority and has expired.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<Entry> {
        let level = self.levels.iter_mut().find(|level| {
            level
                .front()
                .is_some_and(|entry| entry.expires.is_some_and(|at| at <= now))
        })?;
        let entry = level.pop_front()?;
        self.discount(&entry);
        Some(entry)
    }

    /// Drops the ready messages, and returns their number.
    pub(crate) fn purge(&mut self) -> usize {
        self.levels.iter_mut().for_each(VecDeque::clear);
        self.ready_bytes = 0;
        std::mem::take(&mut self.ready)
    }

    /// Whether a length limit is exceeded.
    pub(crate) fn is_over_length(&self) -> bool {
        self.settings.max_length.is_some_and(|max| self.ready > max)
            || self
                .settings
                .max_bytes
                .is_some_and(|max| self.ready_bytes > max)
    }

    /// Whether a length limit drops messages that are in the queue. With the other overflow strategies,
    /// requeued messages may exceed the limit.
    pub(crate) fn drops_head(&self) -> bool {
        self.settings.overflow == Overflow::DropHead
    }

    /// Whether the queue rejects a new message.
    pub(crate) fn rejects(&self) -> bool {
        self.settings.overflow != Overflow::DropHead
            && (self
                .settings
                .max_length
                .is_some_and(|max| self.ready >= max)
                || self
                    .settings
                    .max_bytes
                    .is_some_and(|max| self.ready_bytes >= max))
    }

    /// The instant at which the first message or the queue itself expires.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let head = self
            .levels
            .iter()
            .filter_map(|level| level.front()?.expires)
            .min();
        let unused = match self.settings.expires {
            Some(after) if self.consumers.is_empty() => self.used.checked_add(after),
            _ => None,
        };
        match (head, unused) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether the queue has expired (`x-expires`).
    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        self.consumers.is_empty()
            && self
                .settings
                .expires
                .and_then(|after| self.used.checked_add(after))
                .is_some_and(|at| at <= now)
    }

    /// Adds a consumer behind the others of its priority.
    pub(crate) fn subscribe(&mut self, consumer: Subscriber) {
        let at = self
            .consumers
            .partition_point(|other| other.priority >= consumer.priority);
        self.consumers.insert(at, consumer);
        if self.settings.single_active && self.active.is_none() {
            self.active = Some(consumer.id);
        }
    }

    pub(crate) fn unsubscribe(&mut self, consumer: ConsumerId) {
        self.consumers.retain(|other| other.id != consumer);
        if self.exclusive_consumer == Some(consumer) {
            self.exclusive_consumer = None;
        }
        if self.active == Some(consumer) {
            // The oldest of the remaining consumers: ids grow.
            self.active = self.consumers.iter().map(|other| other.id).min();
        }
    }

    /// Selects the consumer of the next delivery, and moves it behind the others of its priority.
    pub(crate) fn next_consumer(
        &mut self,
        can_take: impl Fn(ConsumerId) -> bool,
    ) -> Option<ConsumerId> {
        if self.settings.single_active {
            return self.active.filter(|id| can_take(*id));
        }
        let at = self
            .consumers
            .iter()
            .position(|consumer| can_take(consumer.id))?;
        let chosen = *self.consumers.get(at)?;
        let end = self
            .consumers
            .partition_point(|other| other.priority >= chosen.priority);
        if let Some(equals) = self.consumers.get_mut(at..end) {
            equals.rotate_left(1);
        }
        Some(chosen.id)
    }

    fn level(&mut self, priority: u8) -> Option<&mut VecDeque<Entry>> {
        let at = usize::from(priority).min(self.levels.len() - 1);
        self.levels.get_mut(at)
    }

    fn count(&mut self, entry: &Entry) {
        self.ready += 1;
        self.ready_bytes += entry.message.body.len();
    }

    fn discount(&mut self, entry: &Entry) {
        self.ready -= 1;
        self.ready_bytes -= entry.message.body.len();
    }
}
