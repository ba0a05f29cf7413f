//! Order, prefetch, limits and expiry of queues, against lists that are searched and
//! sorted at every step.

mod model;
mod op;

use std::time::Duration;

use amq_protocol::{
    protocol::{AMQPClass, basic, queue},
    types::{AMQPValue, FieldTable},
};
use proptest::prelude::*;

use self::{
    model::{Held, ModelChannel, ModelConsumer, ModelQueue},
    op::{Op, op},
};
use super::{Lab, number, with_expiration};
use crate::{
    arguments::long,
    core::{Action, Command, Head},
    id::ConnectionId,
    properties::{Properties, Property},
};

const QUEUES: usize = 5;
const CHANNELS: usize = 3;

struct Bench {
    lab: Lab,
    connection: ConnectionId,
    queues: Vec<ModelQueue>,
    channels: Vec<ModelChannel>,
    clock: u64,
    next_id: u64,
    next_consumer: u32,
}

fn queue_name(queue: usize) -> String {
    format!("q{queue}")
}

fn channel_number(channel: usize) -> u16 {
    u16::try_from(channel).unwrap() + 2
}

impl Bench {
    fn new() -> Self {
        let mut lab = Lab::new();
        let connection = lab.connect(1);
        for number in 1..=channel_number(CHANNELS) {
            lab.open(connection, number);
        }
        let settings: [(&str, i64); QUEUES] = [
            ("x-message-ttl", 60_000),
            ("x-max-length", 3),
            ("x-max-priority", 2),
            ("x-delivery-limit", 2),
            ("x-message-ttl", 25),
        ];
        let mut queues = Vec::new();
        for (at, (name, value)) in settings.into_iter().enumerate() {
            let grave = format!("dead{at}");
            lab.declare(connection, &grave, false, FieldTable::default());
            let mut arguments = FieldTable::default();
            arguments.insert("x-dead-letter-exchange".into(), long(""));
            arguments.insert("x-dead-letter-routing-key".into(), long(&grave));
            arguments.insert(name.into(), AMQPValue::LongLongInt(value));
            let quorum = name == "x-delivery-limit";
            if quorum {
                arguments.insert("x-queue-type".into(), long("quorum"));
            }
            lab.declare(connection, &queue_name(at), quorum, arguments);
            let mut model = ModelQueue {
                quorum,
                ..ModelQueue::default()
            };
            match name {
                "x-max-length" => model.max_length = Some(usize::try_from(value).unwrap()),
                "x-max-priority" => model.priorities = u8::try_from(value).unwrap(),
                "x-delivery-limit" => model.limit = Some(u32::try_from(value).unwrap()),
                _ => model.ttl = Some(u64::try_from(value).unwrap()),
            }
            queues.push(model);
        }
        lab.effects.clear();
        let channels = (0..CHANNELS).map(|_| ModelChannel::default()).collect();
        Self {
            lab,
            connection,
            queues,
            channels,
            clock: 0,
            next_id: 0,
            next_consumer: 0,
        }
    }

    fn run(&mut self, op: Op) {
        let id = self.connection;
        match op {
            Op::Publish {
                queue,
                priority,
                ttl,
            } => {
                self.next_id += 1;
                let model = &mut self.queues[queue];
                let ttl_of_queue = model.ttl;
                let ttl_of_both = [ttl, ttl_of_queue].into_iter().flatten().min();
                model.put(Held {
                    id: self.next_id,
                    priority: priority.min(model.priorities),
                    expires: ttl_of_both.map(|ttl| self.clock + ttl),
                    redelivered: false,
                    returns: 0,
                });
                let properties = ttl.map_or_else(Properties::default, with_expiration);
                let properties = properties.with_octet(Property::Priority, priority);
                self.lab
                    .publish(id, &queue_name(queue), self.next_id, properties);
            }
            Op::Consume {
                channel,
                queue,
                no_ack,
            } => {
                self.next_consumer += 1;
                let tag = format!("c{}", self.next_consumer);
                let prefetch = self.channels[channel].prefetch;
                let consumer = ModelConsumer {
                    queue,
                    no_ack,
                    prefetch,
                };
                self.channels[channel]
                    .consumers
                    .insert(tag.clone(), consumer);
                let consume = basic::Consume {
                    queue: queue_name(queue).into(),
                    consumer_tag: tag.into(),
                    no_local: false,
                    no_ack,
                    exclusive: false,
                    nowait: true,
                    arguments: FieldTable::default(),
                };
                let consume = basic::AMQPMethod::Consume(consume);
                self.lab.basic(id, channel_number(channel), consume);
            }
            Op::Cancel { channel, nth } => {
                let Some(tag) = self.channels[channel].consumers.keys().nth(nth).cloned() else {
                    return;
                };
                self.channels[channel].consumers.remove(&tag);
                let cancel = basic::Cancel {
                    consumer_tag: tag.into(),
                    nowait: true,
                };
                self.lab.basic(
                    id,
                    channel_number(channel),
                    basic::AMQPMethod::Cancel(cancel),
                );
            }
            Op::Qos { channel, prefetch } => {
                self.channels[channel].prefetch = prefetch;
                let qos = basic::Qos {
                    prefetch_count: prefetch,
                    global: false,
                };
                self.lab
                    .basic(id, channel_number(channel), basic::AMQPMethod::Qos(qos));
            }
            Op::Ack {
                channel,
                nth,
                multiple,
            } => {
                let Some(tag) = self.settle(channel, nth, multiple).0 else {
                    return;
                };
                let ack = basic::Ack {
                    delivery_tag: tag,
                    multiple,
                };
                self.lab
                    .basic(id, channel_number(channel), basic::AMQPMethod::Ack(ack));
            }
            Op::Nack {
                channel,
                nth,
                multiple,
                requeue,
            } => {
                let (Some(tag), settled) = self.settle(channel, nth, multiple) else {
                    return;
                };
                if requeue {
                    self.give_back(settled);
                } else {
                    for (queue, held) in settled {
                        self.queues[queue].dead.push((held.id, "rejected"));
                    }
                }
                let nack = basic::Nack {
                    delivery_tag: tag,
                    multiple,
                    requeue,
                };
                self.lab
                    .basic(id, channel_number(channel), basic::AMQPMethod::Nack(nack));
            }
            Op::Get {
                channel,
                queue,
                no_ack,
            } => {
                self.lab
                    .get(id, channel_number(channel), &queue_name(queue), no_ack);
                self.queues[queue].expire(self.clock);
                let expected = self.queues[queue].ready.first().map(|held| held.id);
                let found = self
                    .lab
                    .effects
                    .iter()
                    .find_map(|effect| match &effect.action {
                        Action::Content(_, content) => Some(number(content)),
                        _ => None,
                    });
                assert_eq!(found, expected);
                if let Some(Action::Content(_, content)) =
                    self.lab.effects.pop().map(|effect| effect.action)
                {
                    let Head::GetOk {
                        tag,
                        redelivered,
                        left,
                    } = content.head
                    else {
                        panic!()
                    };
                    let held = self.queues[queue].ready.remove(0);
                    assert_eq!(redelivered, held.redelivered);
                    assert_eq!(left as usize, self.queues[queue].ready.len());
                    self.channels[channel].last_tag += 1;
                    assert_eq!(tag, self.channels[channel].last_tag);
                    if !no_ack {
                        self.channels[channel]
                            .unacked
                            .insert(tag, (queue, None, held));
                    }
                }
            }
            Op::Recover { channel } => {
                let all = std::mem::take(&mut self.channels[channel].unacked);
                self.give_back(
                    all.into_values()
                        .map(|(queue, _, held)| (queue, held))
                        .collect(),
                );
                let recover = basic::Recover { requeue: true };
                self.lab.basic(
                    id,
                    channel_number(channel),
                    basic::AMQPMethod::Recover(recover),
                );
            }
            Op::Reopen { channel } => {
                let closed = std::mem::take(&mut self.channels[channel]);
                let all = closed
                    .unacked
                    .into_values()
                    .map(|(queue, _, held)| (queue, held));
                self.give_back(all.collect());
                self.lab.close(id, channel_number(channel));
                self.lab.open(id, channel_number(channel));
            }
            Op::Purge { queue } => {
                self.queues[queue].ready.clear();
                let purge = queue::Purge {
                    queue: queue_name(queue).into(),
                    nowait: true,
                };
                let purge = AMQPClass::Queue(queue::AMQPMethod::Purge(purge));
                self.lab.do_(Command::Method(id, 1, purge));
            }
            Op::Sleep { millis } => {
                self.clock += millis;
                self.lab.sleep(millis);
            }
        }
        // A publish or a return may be due at once for somebody's expiry.
        self.lab.sleep(0);
        self.follow();
        self.check();
    }

    /// Takes deliveries off a channel as an ack does; the tag is absent if there are none.
    fn settle(
        &mut self,
        channel: usize,
        nth: usize,
        multiple: bool,
    ) -> (Option<u64>, Vec<(usize, Held)>) {
        let unacked = &mut self.channels[channel].unacked;
        let Some(tag) = unacked.keys().nth(nth).copied() else {
            return (None, Vec::new());
        };
        let tags: Vec<u64> = unacked
            .keys()
            .copied()
            .filter(|other| {
                if multiple {
                    *other <= tag
                } else {
                    *other == tag
                }
            })
            .collect();
        let settled = tags.iter().filter_map(|tag| unacked.remove(tag));
        (
            Some(tag),
            settled.map(|(queue, _, held)| (queue, held)).collect(),
        )
    }

    fn give_back(&mut self, all: Vec<(usize, Held)>) {
        for (queue, mut held) in all {
            let model = &mut self.queues[queue];
            held.redelivered = true;
            held.returns += 1;
            if model.limit.is_some_and(|limit| held.returns > limit) {
                model.dead.push((held.id, "delivery_limit"));
            } else {
                model.put(held);
            }
        }
    }

    /// Goes through what the core delivered: each must be the next of its queue, to a
    /// consumer with room for it.
    fn follow(&mut self) {
        for effect in std::mem::take(&mut self.lab.effects) {
            let Action::Content(number_, content) = effect.action else {
                continue;
            };
            let Head::Deliver {
                consumer,
                tag,
                redelivered,
            } = &content.head
            else {
                panic!("{content:?}")
            };
            let channel = &mut self.channels[usize::from(number_) - 2];
            let known = &channel.consumers[&**consumer];
            let queue = &mut self.queues[known.queue];
            queue.expire(self.clock);
            let held = queue.ready.remove(0);
            assert_eq!(number(&content), held.id, "not the next of its queue");
            assert_eq!(*redelivered, held.redelivered);
            let counted = queue.quorum && held.returns > 0;
            assert_eq!(content.returns, counted.then_some(held.returns));
            channel.last_tag += 1;
            assert_eq!(*tag, channel.last_tag);
            if !known.no_ack {
                let waiting = channel
                    .unacked
                    .values()
                    .filter(|(_, owner, _)| owner.as_deref() == Some(&**consumer))
                    .count();
                assert!(
                    known.prefetch == 0 || waiting < usize::from(known.prefetch),
                    "prefetch"
                );
                let owner = Some(consumer.to_string());
                channel.unacked.insert(*tag, (known.queue, owner, held));
            }
        }
        for queue in &mut self.queues {
            queue.expire(self.clock);
            queue.trim();
            // The next at the head may have been past its time already.
            queue.expire(self.clock);
        }
    }

    /// The core and the model agree, and nobody waits who could be served.
    fn check(&self) {
        let infos = self.lab.core.queue_infos();
        for (at, queue) in self.queues.iter().enumerate() {
            let info = infos
                .iter()
                .find(|info| info.name == queue_name(at))
                .unwrap();
            assert_eq!(info.ready, queue.ready.len(), "ready in {}", info.name);
            let unacked = self
                .channels
                .iter()
                .flat_map(|channel| channel.unacked.values())
                .filter(|(of, ..)| *of == at)
                .count();
            assert_eq!(info.unacked, unacked, "unacked of {}", info.name);
            let grave = infos
                .iter()
                .find(|info| info.name == format!("dead{at}"))
                .unwrap();
            assert_eq!(grave.ready, queue.dead.len(), "dead of {}", info.name);
            if queue.ready.is_empty() {
                continue;
            }
            for channel in &self.channels {
                for (tag, consumer) in channel.consumers.iter().filter(|(_, c)| c.queue == at) {
                    let waiting = channel
                        .unacked
                        .values()
                        .filter(|(_, owner, _)| owner.as_ref() == Some(tag))
                        .count();
                    let full = !consumer.no_ack
                        && consumer.prefetch > 0
                        && waiting >= usize::from(consumer.prefetch);
                    assert!(full, "{tag} has room and {} has messages", info.name);
                }
            }
        }
    }

    /// Every death is in its grave, with its reason.
    fn check_graves(&mut self) {
        for at in 0..QUEUES {
            let mut found = Vec::new();
            loop {
                self.lab.get(self.connection, 1, &format!("dead{at}"), true);
                let Some(content) = self.lab.got() else { break };
                let headers = content.message.properties.headers().unwrap();
                let reason = headers.inner().get("x-first-death-reason").unwrap();
                found.push((number(&content), crate::arguments::text(reason).unwrap()));
            }
            found.sort();
            let mut expected: Vec<_> = self.queues[at]
                .dead
                .iter()
                .map(|(id, reason)| (*id, (*reason).to_owned()))
                .collect();
            expected.sort();
            assert_eq!(found, expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn queues_agree_with_sorted_lists(ops in proptest::collection::vec(op(), 1..120)) {
        let mut bench = Bench::new();
        for op in ops {
            bench.run(op);
        }
        bench.check_graves();
        // Nothing is left of a client that is gone.
        let id = bench.connection;
        bench.lab.do_(Command::Gone(id));
        prop_assert!(bench.lab.core.consumer_infos().is_empty());
        prop_assert!(bench.lab.core.queue_infos().iter().all(|queue| queue.unacked == 0));
    }
}

#[test]
fn an_hour_passes_in_no_time() {
    let mut lab = Lab::new();
    let id = lab.connect(1);
    lab.open(id, 1);
    lab.declare(id, "q", false, FieldTable::default());
    lab.publish(id, "q", 1, with_expiration(3_600_000));
    assert_eq!(
        lab.core.next_timeout(),
        Some(lab.now + Duration::from_secs(3600))
    );
    lab.sleep(3_599_999);
    assert_eq!(lab.core.queue_infos()[0].ready, 1);
    lab.sleep(1);
    assert_eq!(lab.core.queue_infos()[0].ready, 0);
    assert_eq!(lab.core.next_timeout(), None);
}
