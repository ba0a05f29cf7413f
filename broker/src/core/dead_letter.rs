//! Dead-lettering: messages that expired, were rejected or exceeded a limit are published to the
//! dead-letter exchange of their queue, with their history in `x-death`.

use std::sync::Arc;

use amq_protocol::types::{AMQPValue, FieldArray, FieldTable};

use crate::{
    arguments::{integer, long, text},
    core::{
        Core, Now,
        publish::{copy_keys, route_all, without},
        vhost::Vhost,
    },
    id::{Name, QueueId},
    message::Message,
    properties::Property,
    queue::Queue,
};

/// The reason for which a message is dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Expired,
    Rejected,
    MaxLength,
    DeliveryLimit,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::Rejected => "rejected",
            Reason::MaxLength => "maxlen",
            Reason::DeliveryLimit => "delivery_limit",
        }
    }
}

#[derive(Debug)]
pub(super) struct DeadLetter {
    message: Arc<Message>,
    reason: Reason,
    vhost: Name,
    queue: Name,
    exchange: Name,
    key: Option<String>,
    at_least_once: bool,
}

/// The target of dead letters: virtual host, exchange and routing key.
pub(super) type Target = (Name, Name, String);

impl DeadLetter {
    fn target(&self) -> Target {
        let key = self.key.as_ref().unwrap_or(&self.message.routing_key);
        (self.vhost.clone(), self.exchange.clone(), key.clone())
    }
}

impl Core {
    /// Records a dead letter, if its queue has a dead-letter exchange. It is routed at the end of the
    /// current command, so that a chain of queues needs no recursion.
    pub(super) fn dead_letter(&mut self, queue: QueueId, message: Arc<Message>, reason: Reason) {
        let Some(queue) = self.queues.get(&queue) else {
            return;
        };
        let Some(exchange) = &queue.settings.dead_letter_exchange else {
            return;
        };
        self.dead.push_back(DeadLetter {
            message,
            reason,
            vhost: queue.vhost.clone(),
            queue: queue.name.clone(),
            exchange: exchange.as_str().into(),
            key: queue.settings.dead_letter_key.clone(),
            at_least_once: queue.settings.dead_letter_at_least_once,
        });
    }

    /// Routes the recorded dead letters, and tries again those that no queue has accepted yet.
    pub(super) fn route_dead_letters(&mut self, now: Now) {
        let targets: Vec<Target> = self.unaccepted.keys().cloned().collect();
        for target in targets {
            let mut letters = self.unaccepted.remove(&target).unwrap_or_default();
            while let Some(dead) = letters.pop_front() {
                // The dead letters of a deleted queue are dropped.
                let is_there = |vhost: &Vhost| vhost.queues.contains_key(&dead.queue);
                if !self.vhosts.get(&dead.vhost).is_some_and(is_there) {
                    continue;
                }
                if let Some(dead) = self.route_dead_letter(now, dead) {
                    letters.push_front(dead);
                    break;
                }
            }
            if !letters.is_empty() {
                self.unaccepted.insert(target, letters);
            }
        }
        while let Some(dead) = self.dead.pop_front() {
            if let Some(dead) = self.route_dead_letter(now, dead) {
                self.unaccepted
                    .entry(dead.target())
                    .or_default()
                    .push_back(dead);
            }
        }
    }

    /// Routes a dead letter. Returns it if it has to be delivered at least once and a queue has not
    /// accepted it.
    fn route_dead_letter(&mut self, now: Now, dead: DeadLetter) -> Option<DeadLetter> {
        let unaccepted = |dead: DeadLetter| dead.at_least_once.then_some(dead);
        let Some(vhost) = self.vhosts.get(&dead.vhost) else {
            return unaccepted(dead);
        };
        if !dead.exchange.is_empty() && !vhost.exchanges.contains_key(&dead.exchange) {
            return unaccepted(dead);
        }
        let original = dead.message.properties.headers().unwrap_or_default();
        let headers = record(&dead, &original, now.unix);
        let (key, copies) = match &dead.key {
            Some(key) => (key, Vec::new()),
            None => (&dead.message.routing_key, dead.message.copies.clone()),
        };
        let message = Message::new(
            dead.exchange.clone(),
            key.clone(),
            copies,
            dead.message
                .properties
                .with_headers(&headers)
                .without(Property::Expiration),
            dead.message.body.clone(),
            &self.gauge,
        );
        let routed = route_all(vhost, &message, Some(&headers));
        let queue = |id| self.queues.get(id);
        let is_accepted =
            !routed.is_empty() && !routed.iter().filter_map(queue).any(Queue::rejects);
        if dead.at_least_once && !is_accepted {
            return Some(dead);
        }
        let queues = routed
            .into_iter()
            .filter(|queue| {
                dead.reason == Reason::Rejected
                    || self
                        .queues
                        .get(queue)
                        .is_some_and(|q| !closes_cycle(&headers, &q.name))
            })
            .collect();
        self.republish(now, message, queues);
        None
    }
}

/// The headers of a dead letter. The new event is the first in `x-death`; an event of the same queue and
/// reason is not repeated, but its count is increased.
fn record(dead: &DeadLetter, original: &FieldTable, unix: u64) -> FieldTable {
    let mut headers = match dead.key {
        Some(_) => without(original, "CC"),
        None => original.clone(),
    };
    let event = event(dead, original, unix);
    let deaths = match original.inner().get("x-death") {
        Some(AMQPValue::FieldArray(_)) => {
            let mut deaths = merged(&deaths(original));
            let before = deaths
                .iter()
                .position(|death| is_alike(death, &event))
                .map(|at| deaths.remove(at));
            deaths.insert(0, before.map_or(event, counted_up));
            deaths
        }
        // RabbitMQ starts a new history if the publisher set `x-death` to a value of another type, but
        // sets the headers `x-first-death-…` only if there is no `x-death`.
        Some(_) => vec![event],
        None => {
            headers.insert(
                "x-first-death-exchange".into(),
                long(&dead.message.exchange),
            );
            headers.insert("x-first-death-queue".into(), long(&dead.queue));
            headers.insert("x-first-death-reason".into(), long(dead.reason.name()));
            vec![event]
        }
    };
    let deaths: Vec<_> = deaths.into_iter().map(AMQPValue::FieldTable).collect();
    headers.insert(
        "x-death".into(),
        AMQPValue::FieldArray(FieldArray::from(deaths)),
    );
    headers
}

/// Whether two events have the same queue and reason.
fn is_alike(one: &FieldTable, other: &FieldTable) -> bool {
    let same = |name| one.inner().get(name) == other.inner().get(name);
    same("queue") && same("reason")
}

/// Merges events with the same queue and reason, as RabbitMQ 3.10 does before it adds another: the first
/// of them is kept, and if it has no count, it gets their number. This also reverses the order of the
/// events, each time. A single event is not changed.
fn merged(deaths: &[FieldTable]) -> Vec<FieldTable> {
    if let [_] = deaths {
        return deaths.to_vec();
    }
    let mut merged = Vec::new();
    for (at, death) in deaths.iter().enumerate() {
        if deaths.iter().take(at).any(|other| is_alike(other, death)) {
            continue;
        }
        let mut death = death.clone();
        if !death.contains_key("count") {
            let alike = deaths
                .iter()
                .filter(|other| is_alike(other, &death))
                .count();
            let count = i64::try_from(alike).unwrap_or(i64::MAX);
            death.insert("count".into(), AMQPValue::LongLongInt(count));
        }
        merged.push(death);
    }
    merged.reverse();
    merged
}

fn counted_up(mut event: FieldTable) -> FieldTable {
    let count = event.inner().get("count").and_then(integer).unwrap_or(0);
    let count = AMQPValue::LongLongInt(count.saturating_add(1));
    event.insert("count".into(), count);
    event
}

fn event(dead: &DeadLetter, headers: &FieldTable, unix: u64) -> FieldTable {
    let keys = std::iter::once(dead.message.routing_key.clone())
        .chain(copy_keys(headers, "CC"))
        .map(|key| long(&key))
        .collect::<Vec<_>>();
    let mut event = FieldTable::default();
    event.insert("count".into(), AMQPValue::LongLongInt(1));
    event.insert("reason".into(), long(dead.reason.name()));
    event.insert("queue".into(), long(&dead.queue));
    event.insert("time".into(), AMQPValue::Timestamp(unix));
    event.insert("exchange".into(), long(&dead.message.exchange));
    event.insert(
        "routing-keys".into(),
        AMQPValue::FieldArray(FieldArray::from(keys)),
    );
    if let Some(expiration) = dead.message.properties.value(Property::Expiration) {
        event.insert(
            "original-expiration".into(),
            AMQPValue::LongString(expiration.to_vec().into()),
        );
    }
    event
}

fn deaths(headers: &FieldTable) -> Vec<FieldTable> {
    match headers.inner().get("x-death") {
        Some(AMQPValue::FieldArray(deaths)) => deaths
            .as_slice()
            .iter()
            .filter_map(AMQPValue::as_field_table)
            .cloned()
            .collect(),
        _ => Vec::new(),
    }
}

/// Whether a message was in this queue before, and no consumer has rejected it since. RabbitMQ drops such
/// a message, which would otherwise be dead-lettered in a cycle without end.
fn closes_cycle(headers: &FieldTable, queue: &str) -> bool {
    let deaths = deaths(headers);
    let field = |death: &FieldTable, name: &str| death.inner().get(name).and_then(text);
    match deaths
        .iter()
        .position(|death| field(death, "queue").as_deref() == Some(queue))
    {
        Some(at) => deaths
            .iter()
            .take(at + 1)
            .all(|death| field(death, "reason").as_deref() != Some("rejected")),
        None => false,
    }
}
