//! Simulated client: the channels of one connection, with a record of every operation whose outcome is
//! still due. Each event is checked against the record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use amq_protocol::protocol::{AMQPClass, basic, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use bytes::{Bytes, BytesMut};

use crate::error::Error;
use crate::link::frame::FrameCursor;
use crate::link::frame::encode::{self, SettleMethod};
use crate::link::socket::channels::core::{Core, CoreEvent, Delivery, Frame, MethodReply};
use crate::link::socket::channels::rng::SeededRng;
use crate::wire::message::{Outgoing, Properties};

/// A small limit, so that channel numbers are used again soon.
pub(super) const CHANNEL_MAX: u16 = 5;
pub(super) const FRAME_MAX: u32 = 4096;
/// The sizes of message bodies. The largest is above the limit of the embedded broker.
const BODIES: [usize; 6] = [0, 1, 300, 4088, 6000, 9000];

/// The channels of one connection by number.
pub(super) struct SimulatedClient {
    pub(super) out: BytesMut,
    /// A log of the history, if it is to be printed.
    pub(super) trace: Option<Vec<String>>,
    /// The number of events of each kind.
    pub(super) seen: BTreeMap<&'static str, usize>,
    channels: BTreeMap<u16, SimulatedChannel>,
    prefix: String,
    /// The broker is RabbitMQ behind a socket.
    is_remote: bool,
    /// Numbers on which late frames may arrive, because the broker closed their channels.
    delayed: BTreeSet<u16>,
    cursor: FrameCursor,
    payload: Vec<u8>,
    last_number: u16,
    last_call: u64,
    last_message: u64,
    last_consumer: u64,
}

struct SimulatedChannel {
    core: Core<u64>,
    calls: BTreeMap<u64, ReplyId>,
    /// `CoreEvent::Closed` was reported.
    close_reported: bool,
    /// We have closed the channel before the broker did.
    closed_by_us: bool,
    confirms: Option<Confirms>,
    /// Mandatory messages that may be returned, outside of confirm mode.
    returnable: BTreeSet<u64>,
    consumer: SimulatedConsumer,
    consumer_tag: String,
    no_ack: bool,
    /// The tags of deliveries that are not settled yet.
    unsettled: BTreeSet<u64>,
    settled: Vec<u64>,
    max_body: u64,
    /// `basic.recover` was called, after which it is unknown which deliveries were requeued.
    is_recovered: bool,
}

/// The class id and the method id of a reply.
type ReplyId = (u16, u16);

#[derive(Default)]
struct Confirms {
    count: u64,
    waiting: BTreeMap<u64, SimulatedPublish>,
}

struct SimulatedPublish {
    id: u64,
    is_mandatory: bool,
    is_returned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SimulatedConsumer {
    None,
    Asked,
    Running,
    /// Deliveries may arrive until `basic.cancel-ok`.
    Cancelling,
    /// Cancelled with no-wait: deliveries may arrive.
    Leaving,
    /// Cancelled by the broker.
    Gone,
}

impl SimulatedClient {
    pub(super) fn new(prefix: String, is_remote: bool) -> Self {
        Self {
            out: BytesMut::new(),
            trace: None,
            seen: BTreeMap::new(),
            channels: BTreeMap::new(),
            prefix,
            is_remote,
            delayed: BTreeSet::new(),
            cursor: FrameCursor::default(),
            payload: Vec::new(),
            last_number: 0,
            last_call: 0,
            last_message: 0,
            last_consumer: 0,
        }
    }

    /// All frames of the broker have arrived, so no late ones can follow.
    pub(super) fn end_delays(&mut self) {
        self.delayed.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether a reply or a confirm is due.
    pub(super) fn is_waiting(&self) -> bool {
        self.channels.values().any(|channel| {
            let confirms = channel.confirms.as_ref();
            !channel.core.is_open()
                || !channel.calls.is_empty()
                || confirms.is_some_and(|confirms| !confirms.waiting.is_empty())
        })
    }

    /// The number of unsettled deliveries; `None` if it is unknown.
    pub(super) fn unsettled(&self) -> Option<usize> {
        let mut channels = self.channels.values();
        channels.try_fold(0, |sum, channel| {
            (!channel.is_recovered).then_some(sum + channel.unsettled.len())
        })
    }

    /// The number of a random channel.
    pub(super) fn any(&self, rng: &mut SeededRng) -> Option<u16> {
        let numbers: Vec<u16> = self.channels.keys().copied().collect();
        (!numbers.is_empty()).then(|| *rng.pick(&numbers))
    }

    pub(super) fn queue(&self, rng: &mut SeededRng) -> String {
        format!("{}q{}", self.prefix, rng.below(3))
    }

    pub(super) fn exchange(&self, rng: &mut SeededRng) -> String {
        format!("{}x{}", self.prefix, rng.below(2))
    }

    fn missing(&self) -> String {
        format!("{}missing", self.prefix)
    }

    pub(super) fn log(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(text());
        }
    }

    /// Handles bytes from the broker, cut anywhere.
    pub(super) fn receive(&mut self, mut bytes: &[u8]) {
        let mut cursor = std::mem::take(&mut self.cursor);
        while let Some(chunk) = cursor.next(&mut bytes) {
            assert!(chunk.end.is_none_or(|end| end == encode::END));
            assert!(
                chunk.size + 8 <= FRAME_MAX,
                "a frame of {} bytes",
                chunk.size
            );
            let is_last = chunk.end.is_some();
            if chunk.kind == encode::BODY && chunk.channel != 0 {
                let bytes = chunk.bytes;
                self.frame(chunk.channel, Frame::Body { bytes, is_last });
                continue;
            }
            self.payload.extend_from_slice(chunk.bytes);
            if is_last {
                let payload = std::mem::take(&mut self.payload);
                match (chunk.channel, chunk.kind) {
                    (0, 8) => {}
                    (0, _) => panic!("the broker says on channel 0: {payload:?}"),
                    (number, encode::METHOD) => self.frame(number, Frame::Method(&payload)),
                    (number, encode::HEADER) => self.frame(number, Frame::Header(&payload)),
                    (_, kind) => panic!("a frame of type {kind}"),
                }
            }
        }
        self.cursor = cursor;
    }

    fn frame(&mut self, number: u16, frame: Frame<'_>) {
        if let Frame::Method(payload) = frame {
            self.log(|| format!("{number} < {:?}", payload.get(..4)));
        }
        let Some(channel) = self.channels.get_mut(&number) else {
            // Over TCP the arrival of the last late frame cannot be known.
            let may_receive_late_frames = self.is_remote || self.delayed.contains(&number);
            assert!(
                may_receive_late_frames,
                "a frame on {number}, which is free"
            );
            *self.seen.entry("late").or_default() += 1;
            return;
        };
        if let Frame::Method([0, 20, 0, 40, ..]) = frame
            && channel.closed_by_us
        {
            *self.seen.entry("both close at once").or_default() += 1;
        }
        let mut events = Vec::new();
        let handled = channel.core.handle(frame, &mut events);
        handled.unwrap_or_else(|violation| panic!("{violation:?} on {number}"));
        channel.core.flush(&mut self.out);
        self.check_events(number, events);
    }

    /// The connection is lost.
    pub(super) fn connection_lost(&mut self, reason: &Error) {
        self.log(|| "lost".into());
        let numbers: Vec<u16> = self.channels.keys().copied().collect();
        for number in numbers {
            let mut events = Vec::new();
            let channel = self.channels.get_mut(&number).unwrap();
            channel.core.connection_lost(reason, &mut events);
            self.check_events(number, events);
        }
        assert!(self.channels.is_empty());
        self.delayed.clear();
        self.out.clear();
        self.cursor = FrameCursor::default();
        self.payload.clear();
    }

    fn check_events(&mut self, number: u16, events: Vec<CoreEvent<u64>>) {
        let channel = self.channels.get_mut(&number).unwrap();
        for event in events {
            *self.seen.entry(name(&event)).or_default() += 1;
            channel.note(event);
        }
        if channel.core.is_free() {
            let channel = self.channels.remove(&number).unwrap();
            // Of the embedded broker's late frames only the reply to our close may arrive.
            let may_receive_late_frames = self.is_remote || channel.closed_by_us;
            if may_receive_late_frames && channel.core.may_receive_late_frames() {
                self.delayed.insert(number);
            }
            assert!(
                channel.calls.is_empty(),
                "never answered: {:?}",
                channel.calls
            );
            assert_ne!(
                channel.close_reported, channel.closed_by_us,
                "the close of {number} is reported once"
            );
        }
    }

    /// Runs an operation on a channel and appends the frames that are due, as `ChannelHandle::append` does.
    fn append(
        &mut self,
        number: u16,
        act: impl FnOnce(&mut SimulatedChannel, &mut BytesMut, &mut Vec<CoreEvent<u64>>),
    ) {
        let mut events = Vec::new();
        let channel = self.channels.get_mut(&number).unwrap();
        act(channel, &mut self.out, &mut events);
        channel.core.flush(&mut self.out);
        self.check_events(number, events);
    }

    fn call(&mut self, number: u16, method: &AMQPClass, answer: ReplyId) {
        self.last_call += 1;
        let token = self.last_call;
        self.log(|| format!("{number} > {method:?} ({token})"));
        self.append(number, |channel, _, _| {
            match channel.core.call(method, token) {
                Ok(()) => drop(channel.calls.insert(token, answer)),
                Err(error) => assert!(!channel.core.is_open(), "{error}"),
            }
        });
    }

    pub(super) fn open(&mut self, rng: &mut SeededRng) {
        let numbers = (self.last_number + 1..=CHANNEL_MAX).chain(1..=self.last_number);
        let mut free = numbers
            .filter(|number| !self.channels.contains_key(number) && !self.delayed.contains(number));
        let Some(number) = free.next() else { return };
        drop(free);
        self.last_number = number;
        self.last_call += 1;
        let token = self.last_call;
        self.log(|| format!("{number} > open ({token})"));
        let mut core = Core::open(number, FRAME_MAX, token);
        let max_body = if rng.once_in(3) { 1000 } else { u64::MAX };
        core.limit_bodies(max_body);
        let channel = SimulatedChannel {
            core,
            calls: [(token, (20, 11))].into(),
            close_reported: false,
            closed_by_us: false,
            confirms: None,
            returnable: BTreeSet::new(),
            consumer: SimulatedConsumer::None,
            consumer_tag: String::new(),
            no_ack: false,
            unsettled: BTreeSet::new(),
            settled: Vec::new(),
            max_body,
            is_recovered: false,
        };
        self.channels.insert(number, channel);
        // Now and then it is given up before it was written.
        if rng.once_in(20) {
            self.close(number, rng.once_in(2));
        } else {
            self.append(number, |_, _, _| {});
        }
    }

    /// Closes a channel, whatever its state.
    pub(super) fn close(&mut self, number: u16, waits: bool) {
        self.last_call += 1;
        let token = waits.then_some(self.last_call);
        self.log(|| format!("{number} > close ({token:?})"));
        self.append(number, |channel, _, events| {
            channel.closed_by_us |= !channel.close_reported;
            if let Some(token) = token {
                channel.calls.insert(token, (20, 41));
            }
            channel.core.close(token, events);
        });
    }

    pub(super) fn close_all(&mut self, rng: &mut SeededRng) {
        let numbers: Vec<u16> = self.channels.keys().copied().collect();
        for number in numbers {
            self.close(number, rng.once_in(2));
        }
    }

    /// Declares on this channel what the others use.
    pub(super) fn furnish(&mut self, number: u16) {
        for name in ["q0", "q1", "q2"] {
            let name = format!("{}{name}", self.prefix);
            let declare = self.queue_declare(&name, false, FieldTable::default());
            self.call(number, &declare, (50, 11));
        }
        for name in ["x0", "x1"] {
            let name = format!("{}{name}", self.prefix);
            let declare = self.exchange_declare(&name, "fanout");
            self.call(number, &declare, (40, 11));
        }
    }

    fn queue_declare(&self, name: &str, passive: bool, arguments: FieldTable) -> AMQPClass {
        AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: name.into(),
            passive,
            durable: false,
            exclusive: self.is_remote,
            auto_delete: false,
            nowait: false,
            arguments,
        }))
    }

    fn exchange_declare(&self, name: &str, kind: &str) -> AMQPClass {
        AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: name.into(),
            kind: kind.into(),
            passive: false,
            durable: false,
            auto_delete: self.is_remote,
            internal: false,
            nowait: false,
            arguments: FieldTable::default(),
        }))
    }

    /// Does something at random.
    pub(super) fn operate(&mut self, rng: &mut SeededRng) {
        let Some(number) = self.any(rng).filter(|_| !rng.once_in(12)) else {
            return self.open(rng);
        };
        match rng.below(26) {
            0..=2 => self.declare(number, rng),
            3 => self.declare_exchange(number, rng),
            4 => self.bind(number, rng),
            5 if rng.once_in(2) => self.delete(number, rng),
            6 => {
                let purge = queue::Purge {
                    queue: self.queue(rng).as_str().into(),
                    nowait: false,
                };
                let purge = AMQPClass::Queue(queue::AMQPMethod::Purge(purge));
                self.call(number, &purge, (50, 31));
            }
            7 => {
                let qos = basic::AMQPMethod::Qos(basic::Qos {
                    prefetch_count: rng.below(4) as u16,
                    global: false,
                });
                self.call(number, &AMQPClass::Basic(qos), (60, 11));
            }
            8 | 9 => self.consume(number, rng),
            10 => self.cancel(number, rng),
            11 | 12 => self.get(number, rng),
            13..=17 => {
                for _ in 0..=rng.below(4) {
                    self.publish(number, rng);
                }
            }
            18 => self.select_confirms(number),
            19..=22 => self.settle(number, rng),
            23 if rng.once_in(4) => {
                let recover = basic::AMQPMethod::Recover(basic::Recover { requeue: true });
                self.channels.get_mut(&number).unwrap().is_recovered = true;
                self.call(number, &AMQPClass::Basic(recover), (60, 111));
            }
            24 => self.close(number, rng.once_in(2)),
            _ => {}
        }
    }

    fn declare(&mut self, number: u16, rng: &mut SeededRng) {
        let is_missing = rng.once_in(20);
        let is_other = rng.once_in(20);
        let mut arguments = FieldTable::default();
        if is_other {
            arguments.insert("x-max-length".into(), AMQPValue::LongInt(2));
        }
        let name = if is_missing {
            self.missing()
        } else {
            self.queue(rng)
        };
        let is_passive = is_missing || rng.once_in(10);
        let declare = self.queue_declare(&name, is_passive, arguments);
        self.call(number, &declare, (50, 11));
    }

    fn declare_exchange(&mut self, number: u16, rng: &mut SeededRng) {
        let kind = if rng.once_in(15) { "direct" } else { "fanout" };
        let name = self.exchange(rng);
        let declare = self.exchange_declare(&name, kind);
        self.call(number, &declare, (40, 11));
    }

    fn bind(&mut self, number: u16, rng: &mut SeededRng) {
        let (queue, exchange) = (self.queue(rng), self.exchange(rng));
        let (queue, exchange) = (queue.as_str().into(), exchange.as_str().into());
        if rng.once_in(3) {
            let unbind = queue::AMQPMethod::Unbind(queue::Unbind {
                queue,
                exchange,
                routing_key: "key".into(),
                arguments: FieldTable::default(),
            });
            self.call(number, &AMQPClass::Queue(unbind), (50, 51));
        } else {
            let bind = queue::AMQPMethod::Bind(queue::Bind {
                queue,
                exchange,
                routing_key: "key".into(),
                nowait: false,
                arguments: FieldTable::default(),
            });
            self.call(number, &AMQPClass::Queue(bind), (50, 21));
        }
    }

    fn delete(&mut self, number: u16, rng: &mut SeededRng) {
        if rng.once_in(3) {
            let delete = exchange::AMQPMethod::Delete(exchange::Delete {
                exchange: self.exchange(rng).as_str().into(),
                if_unused: rng.once_in(2),
                nowait: false,
            });
            self.call(number, &AMQPClass::Exchange(delete), (40, 21));
        } else {
            let delete = queue::AMQPMethod::Delete(queue::Delete {
                queue: self.queue(rng).as_str().into(),
                if_unused: rng.once_in(2),
                if_empty: rng.once_in(3),
                nowait: false,
            });
            self.call(number, &AMQPClass::Queue(delete), (50, 41));
        }
    }

    fn consume(&mut self, number: u16, rng: &mut SeededRng) {
        let queue = self.queue(rng);
        let channel = self.channels.get_mut(&number).unwrap();
        if channel.consumer != SimulatedConsumer::None || !channel.core.is_open() {
            return;
        }
        self.last_consumer += 1;
        let tag = format!("consumer {}", self.last_consumer);
        channel.consumer = SimulatedConsumer::Asked;
        channel.consumer_tag.clone_from(&tag);
        channel.no_ack = rng.once_in(4);
        let consume = basic::AMQPMethod::Consume(basic::Consume {
            queue: queue.as_str().into(),
            consumer_tag: tag.as_str().into(),
            no_local: false,
            no_ack: channel.no_ack,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        });
        self.call(number, &AMQPClass::Basic(consume), (60, 21));
    }

    fn cancel(&mut self, number: u16, rng: &mut SeededRng) {
        let channel = self.channels.get_mut(&number).unwrap();
        if channel.consumer != SimulatedConsumer::Running || !channel.core.is_open() {
            return;
        }
        if rng.once_in(2) {
            channel.consumer = SimulatedConsumer::Leaving;
            self.log(|| format!("{number} > cancel"));
            self.append(number, |channel, out, _| {
                channel.core.cancel(out, &channel.consumer_tag).unwrap();
            });
            return;
        }
        channel.consumer = SimulatedConsumer::Cancelling;
        let cancel = basic::AMQPMethod::Cancel(basic::Cancel {
            consumer_tag: channel.consumer_tag.as_str().into(),
            nowait: false,
        });
        self.call(number, &AMQPClass::Basic(cancel), (60, 31));
    }

    fn get(&mut self, number: u16, rng: &mut SeededRng) {
        let get = basic::AMQPMethod::Get(basic::Get {
            queue: self.queue(rng).as_str().into(),
            no_ack: false,
        });
        self.call(number, &AMQPClass::Basic(get), (60, 71));
    }

    fn publish(&mut self, number: u16, rng: &mut SeededRng) {
        self.last_message += 1;
        let id = self.last_message;
        let exchange = match rng.below(60) {
            0 => self.missing(),
            1..=6 => self.exchange(rng),
            _ => String::new(),
        };
        let routing_key = if rng.once_in(6) {
            self.missing()
        } else {
            self.queue(rng)
        };
        let sizes = if rng.once_in(30) { 6 } else { 5 };
        let size = *rng.pick(&BODIES[..sizes]);
        let message = Outgoing {
            exchange,
            routing_key,
            mandatory: rng.once_in(2),
            properties: Properties {
                message_id: Some(format!("{id} {size}")),
                ..Properties::default()
            },
            body: Bytes::from_static(body(id, size)),
        };
        self.log(|| format!("{number} > publish {id} of {size}"));
        self.append(number, |channel, out, _| {
            let before = out.len();
            if let Err(error) = channel.core.publish(out, &message) {
                assert!(!channel.core.is_open() && out.len() == before, "{error}");
                return;
            }
            match &mut channel.confirms {
                Some(confirms) => {
                    confirms.count += 1;
                    let publish = SimulatedPublish {
                        id,
                        is_mandatory: message.mandatory,
                        is_returned: false,
                    };
                    confirms.waiting.insert(confirms.count, publish);
                }
                None => {
                    if message.mandatory {
                        channel.returnable.insert(id);
                    }
                }
            }
        });
    }

    fn select_confirms(&mut self, number: u16) {
        let channel = self.channels.get_mut(&number).unwrap();
        if channel.confirms.is_some() || !channel.core.is_open() {
            return;
        }
        channel.confirms = Some(Confirms::default());
        self.log(|| format!("{number} > select"));
        self.append(number, |channel, out, _| {
            channel.core.select_confirms(out).unwrap();
        });
    }

    fn settle(&mut self, number: u16, rng: &mut SeededRng) {
        let channel = self.channels.get_mut(&number).unwrap();
        if channel.is_recovered {
            return;
        }
        // Twice is an error of ours, which the broker answers with the end of the channel.
        if rng.once_in(40) && !channel.settled.is_empty() {
            let tag = *rng.pick(&channel.settled);
            self.log(|| format!("{number} > settle {tag} again"));
            return self.append(number, |channel, out, _| {
                let settlement = SettleMethod::Ack { multiple: false };
                drop(channel.core.settle(out, tag, settlement));
            });
        }
        let unsettled: Vec<u64> = channel.unsettled.iter().copied().collect();
        if unsettled.is_empty() {
            return;
        }
        let tag = *rng.pick(&unsettled);
        let settlement = match rng.below(6) {
            0 => SettleMethod::Requeue,
            1 => SettleMethod::Reject,
            2 => SettleMethod::Ack { multiple: true },
            _ => SettleMethod::Ack { multiple: false },
        };
        self.log(|| format!("{number} > settle {tag} {settlement:?}"));
        self.append(number, |channel, out, _| {
            if channel.core.settle(out, tag, settlement).is_err() {
                assert!(!channel.core.is_open());
                return;
            }
            let is_multiple = matches!(settlement, SettleMethod::Ack { multiple: true });
            let is_settled = |other: &u64| *other == tag || (is_multiple && *other < tag);
            let unsettled = std::mem::take(&mut channel.unsettled).into_iter();
            let (settled, unsettled): (BTreeSet<_>, BTreeSet<_>) = unsettled.partition(is_settled);
            channel.settled.extend(settled);
            channel.unsettled = unsettled;
        });
    }
}

impl SimulatedChannel {
    fn note(&mut self, event: CoreEvent<u64>) {
        match event {
            CoreEvent::Replied(token, answer) => {
                let call = self.calls.remove(&token);
                let call = call.unwrap_or_else(|| panic!("{token} is answered twice"));
                match answer {
                    Ok(MethodReply::Method(method)) => {
                        let ids = (method.get_amqp_class_id(), method.get_amqp_method_id());
                        assert_eq!(ids, call, "the answer to {token}");
                        match call {
                            (60, 21) => self.consumer = SimulatedConsumer::Running,
                            (60, 31) if self.consumer == SimulatedConsumer::Cancelling => {
                                self.consumer = SimulatedConsumer::None;
                            }
                            _ => {}
                        }
                    }
                    Ok(MethodReply::Got(delivery)) => {
                        assert_eq!(call, (60, 71), "the answer to {token}");
                        if let Some(delivery) = delivery {
                            self.check(&delivery);
                            assert!(self.unsettled.insert(delivery.tag));
                        }
                    }
                    Err(_) => assert!(!self.core.is_open(), "{token} fails alone"),
                }
            }
            CoreEvent::Confirmed(confirm) => {
                let confirms = self.confirms.as_mut().expect("nothing is to be confirmed");
                assert!((1..=confirms.count).contains(&confirm.tag), "{confirm:?}");
                let later = confirms.waiting.split_off(&(confirm.tag + 1));
                let mut confirmed = std::mem::replace(&mut confirms.waiting, later);
                if !confirm.multiple {
                    let one = confirmed.remove(&confirm.tag);
                    confirms.waiting.append(&mut confirmed);
                    confirmed.extend(one.map(|one| (confirm.tag, one)));
                }
                assert!(!confirmed.is_empty(), "{confirm:?} comes twice");
            }
            CoreEvent::Delivered(delivery) => {
                let consumer = self.consumer;
                let is_expected = matches!(
                    consumer,
                    SimulatedConsumer::Running
                        | SimulatedConsumer::Cancelling
                        | SimulatedConsumer::Leaving
                );
                assert!(
                    is_expected,
                    "a delivery for a consumer that is {consumer:?}"
                );
                self.check(&delivery);
                if !self.no_ack {
                    assert!(self.unsettled.insert(delivery.tag));
                }
            }
            CoreEvent::Returned(returned) => {
                let (id, _) = identity(returned.properties.message_id.as_deref());
                if self.returnable.remove(&id) {
                    return;
                }
                let mut waiting = self
                    .confirms
                    .iter_mut()
                    .flat_map(|c| c.waiting.values_mut());
                let publish = waiting.find(|publish| publish.id == id);
                let publish = publish.expect("a return after its confirm, or of another channel");
                assert!(publish.is_mandatory && !publish.is_returned);
                publish.is_returned = true;
            }
            CoreEvent::Cancelled => {
                let consumer = self.consumer;
                let is_expected =
                    !matches!(consumer, SimulatedConsumer::None | SimulatedConsumer::Gone);
                assert!(is_expected, "a consumer that is {consumer:?} is cancelled");
                self.consumer = SimulatedConsumer::Gone;
            }
            CoreEvent::Closed(_) => {
                assert!(!self.core.is_open() && !self.closed_by_us);
                assert!(
                    !std::mem::replace(&mut self.close_reported, true),
                    "closed twice"
                );
            }
        }
    }

    fn check(&self, delivery: &Delivery) {
        let message = &delivery.message;
        let (id, size) = identity(message.properties.message_id.as_deref());
        assert_eq!(message.size as usize, size);
        if size as u64 > self.max_body {
            assert!(message.body.is_empty());
        } else {
            assert!(message.body == *body(id, size), "the body of {id}");
        }
    }
}

fn name(event: &CoreEvent<u64>) -> &'static str {
    match event {
        CoreEvent::Replied(_, Ok(MethodReply::Got(None))) => "empty",
        CoreEvent::Replied(_, Ok(MethodReply::Got(Some(_)))) => "got",
        CoreEvent::Replied(_, Ok(MethodReply::Method(_))) => "answered",
        CoreEvent::Replied(_, Err(_)) => "refused",
        CoreEvent::Confirmed(confirm) if !confirm.is_ack => "nacked",
        CoreEvent::Confirmed(confirm) if confirm.multiple => "confirmed, several",
        CoreEvent::Confirmed(_) => "confirmed",
        CoreEvent::Delivered(_) => "delivered",
        CoreEvent::Returned(_) => "returned",
        CoreEvent::Cancelled => "cancelled",
        CoreEvent::Closed(_) => "closed",
    }
}

/// Bytes that tell messages and their parts apart.
static PATTERN: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..20_000_u32).map(|at| (at % 251) as u8).collect());

fn body(id: u64, size: usize) -> &'static [u8] {
    let at = id as usize % 10_000;
    &PATTERN[at..at + size]
}

/// The number and the size of a message.
fn identity(message_id: Option<&str>) -> (u64, usize) {
    let (id, size) = message_id.and_then(|id| id.split_once(' ')).expect("an id");
    (id.parse().unwrap(), size.parse().unwrap())
}
