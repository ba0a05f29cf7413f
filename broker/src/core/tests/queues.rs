//! Tests of order, prefetch, limits and expiry of queues, against a model of sorted lists.

mod model;
mod op;

use std::{collections::VecDeque, time::Duration};

use amq_protocol::{
    protocol::{AMQPClass, basic, queue, tx},
    types::{AMQPValue, FieldTable},
};
use proptest::prelude::*;

use self::{
    model::{Kind, ModelChannel, ModelConsumer, ModelMessage, ModelQueue, ModelTransaction, Step},
    op::{Op, op},
};
use super::{CoreFixture, number, with_expiration};
use crate::{
    arguments::long,
    core::{Action, Command, Head},
    id::ConnectionId,
    properties::{Properties, Property},
};

const QUEUES: usize = 5;
const CHANNELS: usize = 3;
/// The channel whose consumers may share a prefetch. It is never transactional and consumes from no
/// quorum queue, so that all its unsettled deliveries count against the prefetch.
const SHARED: usize = 0;
const QUORUM: usize = 3;

struct ModelFixture {
    fixture: CoreFixture,
    connection: ConnectionId,
    queues: Vec<ModelQueue>,
    channels: Vec<ModelChannel>,
    clock: u64,
    next_id: u64,
    next_order: u64,
    next_consumer: u32,
    /// The steps of a commit whose effects were not observed yet.
    steps: VecDeque<Step>,
}

fn queue_name(queue: usize) -> String {
    format!("q{queue}")
}

fn channel_number(channel: usize) -> u16 {
    u16::try_from(channel).unwrap() + 2
}

impl ModelFixture {
    fn new() -> Self {
        let mut fixture = CoreFixture::new();
        let connection = fixture.connect(1);
        for number in 1..=channel_number(CHANNELS) {
            fixture.open(connection, number);
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
            let dead_letters = format!("dead{at}");
            fixture.declare(connection, &dead_letters, false, FieldTable::default());
            let mut arguments = FieldTable::default();
            arguments.insert("x-dead-letter-exchange".into(), long(""));
            arguments.insert("x-dead-letter-routing-key".into(), long(&dead_letters));
            arguments.insert(name.into(), AMQPValue::LongLongInt(value));
            let quorum = name == "x-delivery-limit";
            if quorum {
                arguments.insert("x-queue-type".into(), long("quorum"));
            }
            fixture.declare(connection, &queue_name(at), quorum, arguments);
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
        fixture.effects.clear();
        let channels = (0..CHANNELS).map(|_| ModelChannel::default()).collect();
        Self {
            fixture,
            connection,
            queues,
            channels,
            clock: 0,
            next_id: 0,
            next_order: 0,
            next_consumer: 0,
            steps: VecDeque::new(),
        }
    }

    fn run(&mut self, op: Op) {
        let id = self.connection;
        match op {
            Op::Publish {
                channel,
                queue,
                priority,
                ttl,
            } => {
                self.next_id += 1;
                let step = Step::Publish {
                    queue,
                    id: self.next_id,
                    priority,
                    ttl,
                };
                let transaction = channel.and_then(|at| self.channels[at].transaction.as_mut());
                match transaction {
                    Some(transaction) => transaction.published.push(step),
                    None => self.apply(step),
                }
                let properties = ttl.map_or_else(Properties::default, with_expiration);
                let properties = properties.with_octet(Property::Priority, priority);
                let number = channel.map_or(1, channel_number);
                self.fixture
                    .publish_on(id, number, &queue_name(queue), self.next_id, properties);
            }
            Op::Consume {
                channel,
                queue,
                no_ack,
            } => {
                if (channel, queue) == (SHARED, QUORUM) {
                    return;
                }
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
                self.fixture.basic(id, channel_number(channel), consume);
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
                self.fixture.basic(
                    id,
                    channel_number(channel),
                    basic::AMQPMethod::Cancel(cancel),
                );
            }
            Op::Qos { channel, prefetch } => {
                self.channels[channel].prefetch = prefetch;
                self.channels[channel].shared = 0;
                let qos = basic::Qos {
                    prefetch_count: prefetch,
                    global: false,
                };
                self.fixture
                    .basic(id, channel_number(channel), basic::AMQPMethod::Qos(qos));
            }
            Op::Share { prefetch } => {
                let channel = &mut self.channels[SHARED];
                if channel.shared == 0 {
                    let got = |(_, owner, _): &&(_, Option<String>, _)| owner.is_none();
                    channel.got = channel.unacked.values().filter(got).count();
                }
                channel.shared = prefetch;
                let qos = basic::Qos {
                    prefetch_count: prefetch,
                    global: true,
                };
                self.fixture
                    .basic(id, channel_number(SHARED), basic::AMQPMethod::Qos(qos));
            }
            Op::Select { channel } => {
                self.channels[channel]
                    .transaction
                    .get_or_insert_with(ModelTransaction::default);
                self.transaction(channel, tx::AMQPMethod::Select(tx::Select {}));
            }
            Op::Commit { channel } => {
                let Some(transaction) = &mut self.channels[channel].transaction else {
                    return;
                };
                let done = std::mem::take(transaction);
                let settled = done.settled.into_iter();
                let settled =
                    settled.map(|(kind, group)| Step::Settle(kind, group.into_values().collect()));
                self.steps = done.published.into_iter().chain(settled).collect();
                self.transaction(channel, tx::AMQPMethod::Commit(tx::Commit {}));
            }
            Op::Rollback { channel } => {
                let known = &mut self.channels[channel];
                let Some(transaction) = &mut known.transaction else {
                    return;
                };
                let undone = std::mem::take(transaction);
                for (_, group) in undone.settled {
                    known.unacked.extend(group);
                }
                self.transaction(channel, tx::AMQPMethod::Rollback(tx::Rollback {}));
            }
            Op::Ack {
                channel,
                nth,
                multiple,
            } => {
                let Some(tag) = self.settle(channel, nth, multiple, Kind::Ack) else {
                    return;
                };
                let ack = basic::Ack {
                    delivery_tag: tag,
                    multiple,
                };
                self.fixture
                    .basic(id, channel_number(channel), basic::AMQPMethod::Ack(ack));
            }
            Op::Nack {
                channel,
                nth,
                multiple,
                requeue,
            } => {
                let kind = if requeue { Kind::Requeue } else { Kind::Reject };
                let Some(tag) = self.settle(channel, nth, multiple, kind) else {
                    return;
                };
                let nack = basic::Nack {
                    delivery_tag: tag,
                    multiple,
                    requeue,
                };
                self.fixture
                    .basic(id, channel_number(channel), basic::AMQPMethod::Nack(nack));
            }
            Op::Get {
                channel,
                queue,
                no_ack,
            } => {
                self.fixture
                    .get(id, channel_number(channel), &queue_name(queue), no_ack);
                self.queues[queue].expire(self.clock);
                let expected = self.queues[queue].ready.first().map(|message| message.id);
                let found = self
                    .fixture
                    .effects
                    .iter()
                    .find_map(|effect| match &effect.action {
                        Action::Content(_, content) => Some(number(content)),
                        _ => None,
                    });
                assert_eq!(found, expected);
                if let Some(Action::Content(_, content)) =
                    self.fixture.effects.pop().map(|effect| effect.action)
                {
                    let Head::GetOk {
                        tag,
                        redelivered,
                        left,
                    } = content.head
                    else {
                        panic!()
                    };
                    let message = self.queues[queue].ready.remove(0);
                    assert_eq!(redelivered, message.redelivered);
                    assert_eq!(left as usize, self.queues[queue].ready.len());
                    self.channels[channel].last_tag += 1;
                    assert_eq!(tag, self.channels[channel].last_tag);
                    if !no_ack {
                        self.channels[channel]
                            .unacked
                            .insert(tag, (queue, None, message));
                    }
                }
            }
            Op::Recover { channel } => {
                let all = std::mem::take(&mut self.channels[channel].unacked);
                self.apply(Step::Settle(Kind::Requeue, all.into_values().collect()));
                let recover = basic::Recover { requeue: true };
                self.fixture.basic(
                    id,
                    channel_number(channel),
                    basic::AMQPMethod::Recover(recover),
                );
            }
            Op::Reopen { channel } => {
                let closed = std::mem::take(&mut self.channels[channel]);
                let all = closed.outstanding().cloned().collect();
                self.apply(Step::Settle(Kind::Requeue, all));
                self.fixture.close(id, channel_number(channel));
                self.fixture.open(id, channel_number(channel));
            }
            Op::Purge { queue } => {
                self.queues[queue].ready.clear();
                let purge = queue::Purge {
                    queue: queue_name(queue).into(),
                    nowait: true,
                };
                let purge = AMQPClass::Queue(queue::AMQPMethod::Purge(purge));
                self.fixture.handle(Command::Method(id, 1, purge));
            }
            Op::Sleep { millis } => {
                self.clock += millis;
                self.fixture.sleep(millis);
            }
        }
        // A message that was published or requeued may expire at once.
        self.fixture.sleep(0);
        self.follow();
        self.check();
    }

    fn transaction(&mut self, channel: usize, method: tx::AMQPMethod) {
        let number = channel_number(channel);
        let method = Command::Method(self.connection, number, AMQPClass::Tx(method));
        self.fixture.handle(method);
        let is_answer = |action: &Action| matches!(action, Action::Send(_, method) if matches!(**method, AMQPClass::Tx(_)));
        let effects = &mut self.fixture.effects;
        let before = effects.len();
        effects.retain(|effect| !is_answer(&effect.action));
        assert_eq!(effects.len() + 1, before, "one answer");
    }

    /// Removes deliveries from a channel as an ack does, and settles them now or at the commit. Returns
    /// `None` if there are none.
    fn settle(&mut self, channel: usize, nth: usize, multiple: bool, kind: Kind) -> Option<u64> {
        let known = &mut self.channels[channel];
        let tag = known.unacked.keys().nth(nth).copied()?;
        let tags: Vec<u64> = known
            .unacked
            .keys()
            .copied()
            .filter(|other| *other == tag || multiple && *other < tag)
            .collect();
        let settled = tags
            .iter()
            .filter_map(|tag| Some((*tag, known.unacked.remove(tag)?)));
        match &mut known.transaction {
            None => {
                let all = settled.map(|(_, unsettled)| unsettled).collect();
                self.apply(Step::Settle(kind, all));
            }
            Some(transaction) => match transaction.settled.last_mut() {
                Some((last, group)) if *last == kind => group.extend(settled),
                _ => transaction.settled.push((kind, settled.collect())),
            },
        }
        Some(tag)
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Publish {
                queue,
                id,
                priority,
                ttl,
            } => {
                self.next_order += 1;
                let model = &mut self.queues[queue];
                let ttl = [ttl, model.ttl].into_iter().flatten().min();
                model.put(ModelMessage {
                    id,
                    order: self.next_order,
                    priority: priority.min(model.priorities),
                    expires: ttl.map(|ttl| self.clock + ttl),
                    redelivered: false,
                    delivery_count: 0,
                });
            }
            Step::Settle(Kind::Ack, _) => {}
            Step::Settle(Kind::Reject, settled) => {
                for (queue, _, message) in settled {
                    self.queues[queue].dead.push((message.id, "rejected"));
                }
            }
            Step::Settle(Kind::Requeue, settled) => {
                for (queue, _, mut message) in settled {
                    let model = &mut self.queues[queue];
                    message.redelivered = true;
                    message.delivery_count += 1;
                    if model
                        .limit
                        .is_some_and(|limit| message.delivery_count > limit)
                    {
                        model.dead.push((message.id, "delivery_limit"));
                    } else {
                        model.put(message);
                    }
                }
                // Before the next delivery.
                self.queues.iter_mut().for_each(ModelQueue::trim);
            }
        }
    }

    /// Drops messages that have expired or exceed the length limit of their queue.
    fn trim(&mut self) {
        for queue in &mut self.queues {
            queue.expire(self.clock);
            queue.trim();
            // The next message of a priority may have expired as well.
            queue.expire(self.clock);
        }
    }

    /// Checks the deliveries of the core: each has to be the next message of its queue, to a consumer that
    /// can take it. If it is not, further steps of the commit are applied first.
    fn follow(&mut self) {
        for effect in std::mem::take(&mut self.fixture.effects) {
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
            let at = usize::from(number_) - 2;
            let of = self.channels[at].consumers[&**consumer].queue;
            self.queues[of].expire(self.clock);
            while self.queues[of].ready.first().map(|message| message.id) != Some(number(&content))
            {
                let step = self.steps.pop_front();
                self.trim();
                self.apply(step.expect("the next of its queue"));
                // A message that was requeued at the front may have expired.
                self.queues[of].expire(self.clock);
            }
            let channel = &mut self.channels[at];
            let known = &channel.consumers[&**consumer];
            let queue = &mut self.queues[of];
            let message = queue.ready.remove(0);
            assert_eq!(*redelivered, message.redelivered);
            let counted = queue.quorum && message.delivery_count > 0;
            assert_eq!(
                content.delivery_count,
                counted.then_some(message.delivery_count)
            );
            channel.last_tag += 1;
            assert_eq!(*tag, channel.last_tag);
            assert!(!channel.is_full(), "shared prefetch");
            if !known.no_ack {
                let waiting = channel.waiting(consumer);
                assert!(
                    known.prefetch == 0 || waiting < usize::from(known.prefetch),
                    "prefetch"
                );
                let owner = Some(consumer.to_string());
                channel.unacked.insert(*tag, (of, owner, message));
            }
        }
        for step in std::mem::take(&mut self.steps) {
            self.trim();
            self.apply(step);
        }
        self.trim();
    }

    /// Checks that the core and the model agree, and that no message waits while a consumer can take it.
    fn check(&self) {
        let infos = self.fixture.core.queue_infos();
        for (at, queue) in self.queues.iter().enumerate() {
            let info = infos
                .iter()
                .find(|info| info.name == queue_name(at))
                .unwrap();
            assert_eq!(info.ready, queue.ready.len(), "ready in {}", info.name);
            let unacked = self
                .channels
                .iter()
                .flat_map(ModelChannel::outstanding)
                .filter(|(of, ..)| *of == at)
                .count();
            assert_eq!(info.unacked, unacked, "unacked of {}", info.name);
            let dead_letters = infos
                .iter()
                .find(|info| info.name == format!("dead{at}"))
                .unwrap();
            assert_eq!(
                dead_letters.ready,
                queue.dead.len(),
                "dead of {}",
                info.name
            );
            if queue.ready.is_empty() {
                continue;
            }
            for channel in &self.channels {
                for (tag, consumer) in channel.consumers.iter().filter(|(_, c)| c.queue == at) {
                    let full = !consumer.no_ack
                        && consumer.prefetch > 0
                        && channel.waiting(tag) >= usize::from(consumer.prefetch);
                    assert!(
                        full || channel.is_full(),
                        "{tag} has room and {} has messages",
                        info.name
                    );
                }
            }
        }
    }

    /// Checks that every dead letter is in its queue, with its reason.
    fn check_dead_letters(&mut self) {
        for at in 0..QUEUES {
            let mut found = Vec::new();
            loop {
                self.fixture
                    .get(self.connection, 1, &format!("dead{at}"), true);
                let Some(content) = self.fixture.got() else {
                    break;
                };
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
        let mut model = ModelFixture::new();
        for op in ops {
            model.run(op);
        }
        model.check_dead_letters();
        // The core keeps no state of a client that has disconnected.
        let id = model.connection;
        model.fixture.handle(Command::Disconnected(id));
        prop_assert!(model.fixture.core.consumer_infos().is_empty());
        prop_assert!(model.fixture.core.queue_infos().iter().all(|queue| queue.unacked == 0));
    }
}

#[test]
fn an_hour_passes_in_no_time() {
    let mut fixture = CoreFixture::new();
    let id = fixture.connect(1);
    fixture.open(id, 1);
    fixture.declare(id, "q", false, FieldTable::default());
    fixture.publish(id, "q", 1, with_expiration(3_600_000));
    assert_eq!(
        fixture.core.next_timeout(),
        Some(fixture.now + Duration::from_secs(3600))
    );
    fixture.sleep(3_599_999);
    assert_eq!(fixture.core.queue_infos()[0].ready, 1);
    fixture.sleep(1);
    assert_eq!(fixture.core.queue_infos()[0].ready, 0);
    assert_eq!(fixture.core.next_timeout(), None);
}
