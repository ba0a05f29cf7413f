//! The state machine of one AMQP channel, without a socket, a lock or a clock.
//!
//! Frames of the broker go into [`Core::handle`], operations into the other methods; events come
//! out, and [`Core::flush`] writes what is due. A channel is *opening* until `channel.open-ok`,
//! *open* until either side closes it, *closing* while our `channel.close` is unanswered, and then
//! *closed*. Its number is free again only when the close is complete in both directions: if both
//! sides close at once, each has to answer the other's `channel.close` (AMQP 0-9-1, 1.5.2.5).
//!
//! AMQP allows one synchronous method at a time on a channel (2.2.2): the others wait in a queue
//! and are written as the answers come. Methods are read and written with amq-protocol. Messages,
//! settlements and confirms are laid out by hand (`frame/`), because they are the ones
//! whose speed a caller feels.

use std::collections::VecDeque;

use amq_protocol::protocol::{
    AMQPClass, basic, channel, confirm, exchange, parse_class, queue, tx,
};
use amq_protocol::types::ShortString;
use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{Error, Kind};
use crate::link::frame::decode::{self, Confirm, Deliver, Method, Return};
use crate::link::frame::encode::{self, SettleMethod};
use crate::wire::message::{Incoming, Outgoing, Properties};

/// Preallocation cap: the body size that a peer announces is not trusted.
const PREALLOCATED: u64 = 1024 * 1024;
/// While more than this is to be written, the broker is not answered where it asks by itself
/// (`channel.flow`, `basic.cancel`).
const MAX_UNREAD_ANSWERS: usize = 1024 * 1024;

/// One channel. `T` is what the owner of a synchronous method is known by.
#[derive(Debug)]
pub(crate) struct Core<T> {
    number: u16,
    state: State,
    frame_max: u32,
    /// A message with a longer body is delivered without it.
    max_body: u64,
    /// Synchronous methods, of which the first may be with the broker.
    calls: VecDeque<Call<T>>,
    /// The first of the calls has been written.
    is_asked: bool,
    /// The owner of our `channel.close`.
    closer: Option<T>,
    /// The broker has closed the channel.
    is_refused: bool,
    owes_close: bool,
    owes_close_ok: bool,
    owes_flow_ok: Option<bool>,
    /// The consumer tag of a `basic.cancel` that asked for an answer.
    owes_cancel_ok: Option<ShortString>,
    content: Option<Content>,
    /// The tags of the consumers that were ever on the channel.
    consumers: Vec<ShortString>,
    /// How many messages were published since the broker was asked to confirm them.
    confirmed: Option<u64>,
    /// The tag of the last message that came. RabbitMQ numbers them from 1 without gaps, and the
    /// bookkeeping of acknowledgements relies on that.
    last_tag: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    Closing,
    Closed,
}

/// A synchronous method and the class and method of its answer.
#[derive(Debug)]
struct Call<T> {
    token: T,
    frame: Bytes,
    answer: (u16, u16),
}

/// A message of which the header or some of the body is yet to come.
#[derive(Debug)]
struct Content {
    method: ContentMethod,
    properties: Option<Properties>,
    size: u64,
    left: u64,
    body: BytesMut,
    is_kept: bool,
}

#[derive(Debug)]
enum ContentMethod {
    Deliver(Deliver),
    GetOk(Deliver),
    Return(Return),
    /// Of the channel that had the number before.
    Late,
}

/// A frame of the broker on this channel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Frame<'a> {
    /// A whole method payload.
    Method(&'a [u8]),
    /// A whole content header payload.
    Header(&'a [u8]),
    /// Some bytes of a body frame.
    Body { bytes: &'a [u8], is_last: bool },
}

/// The answer to a synchronous method.
#[derive(Debug)]
pub(crate) enum Answer {
    Method(AMQPClass),
    /// The answer to `basic.get`: none when the queue is empty.
    Got(Option<Box<Delivery>>),
}

/// Something that happened on the channel.
#[derive(Debug)]
pub(crate) enum CoreEvent<T> {
    Answered(T, Result<Answer, Error>),
    /// The outcome of publishes (`basic.ack`, `basic.nack`).
    Confirmed(Confirm),
    Delivered(Box<Delivery>),
    Returned(Box<Returned>),
    /// The broker has cancelled the consumer (`basic.cancel`).
    Cancelled,
    /// The broker has closed the channel, or the connection is gone. Told once.
    Closed(Error),
}

/// A delivery and the tag that settles it, on the channel it came from and no other.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) tag: u64,
    pub(crate) message: Incoming,
}

/// A mandatory message that no queue took (`basic.return`).
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) text: String,
    pub(crate) routing_key: String,
    pub(crate) properties: Properties,
}

/// A breach of AMQP by the broker: the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) &'static str);

impl<T> Core<T> {
    /// A channel whose `channel.open` is due; `token` owns the answer.
    pub(crate) fn open(number: u16, frame_max: u32, token: T) -> Self {
        let mut core = Self {
            number,
            state: State::Opening,
            frame_max,
            max_body: u64::MAX,
            calls: VecDeque::new(),
            is_asked: false,
            closer: None,
            is_refused: false,
            owes_close: false,
            owes_close_ok: false,
            owes_flow_ok: None,
            owes_cancel_ok: None,
            content: None,
            consumers: Vec::new(),
            confirmed: None,
            last_tag: 0,
        };
        let open = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
        // An empty method fits into every frame.
        if let Ok(frame) = core.encode(&open) {
            core.calls.push_back(Call {
                token,
                frame,
                answer: (20, 11),
            });
        }
        core
    }

    /// Whether messages, settlements and methods can be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether the number may be used for another channel: the close is complete both ways.
    pub(crate) fn is_free(&self) -> bool {
        self.state == State::Closed && !self.owes_close_ok
    }

    /// Whether the broker may have something to say on the number though it is free: after its own
    /// close it tells nobody when it is done. A close of ours alone is answered behind all else.
    pub(crate) fn may_have_echo(&self) -> bool {
        self.is_refused
    }

    /// Whether [`flush`](Self::flush) has something to write.
    pub(crate) fn has_output(&self) -> bool {
        self.owes_close
            || self.owes_close_ok
            || self.owes_flow_ok.is_some()
            || self.owes_cancel_ok.is_some()
            || (!self.is_asked && !self.calls.is_empty())
    }

    /// Delivers messages with a longer body without it, and with its size.
    pub(crate) fn limit_bodies(&mut self, most: u64) {
        self.max_body = most;
    }

    /// Queues a synchronous method; `token` owns its answer.
    ///
    /// # Errors
    /// The channel is closed, the method does not fit into a frame, or it has no answer. Nothing was
    /// queued.
    pub(crate) fn call(&mut self, method: &AMQPClass, token: T) -> Result<(), Error> {
        self.check()?;
        let Some(answer) = answer_to(method) else {
            return Err(Error::invalid("not a synchronous method of a channel"));
        };
        let frame = self.encode(method)?;
        if let AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) = method {
            self.confirmed.get_or_insert(0);
        }
        self.calls.push_back(Call {
            token,
            frame,
            answer,
        });
        Ok(())
    }

    /// Appends a message.
    ///
    /// # Errors
    /// The channel is closed, or the message cannot be encoded. Nothing was appended.
    pub(crate) fn publish(&mut self, out: &mut BytesMut, message: &Outgoing) -> Result<(), Error> {
        self.check()?;
        encode::put_message(out, self.number, message, self.frame_max)?;
        if let Some(published) = &mut self.confirmed {
            *published += 1;
        }
        Ok(())
    }

    /// Appends a settlement.
    ///
    /// # Errors
    /// The channel is closed.
    pub(crate) fn settle(
        &self,
        out: &mut BytesMut,
        tag: u64,
        settling: SettleMethod,
    ) -> Result<(), Error> {
        self.check()?;
        encode::put_settling(out, self.number, tag, settling);
        Ok(())
    }

    /// Appends `confirm.select`, for which no answer is asked: the broker confirms all that is
    /// published on the channel from then on.
    ///
    /// # Errors
    /// The channel is closed.
    pub(crate) fn select_confirms(&mut self, out: &mut BytesMut) -> Result<(), Error> {
        self.check()?;
        encode::put_confirm_select(out, self.number);
        self.confirmed.get_or_insert(0);
        Ok(())
    }

    /// Appends `basic.cancel`, for which no answer is asked. Consumer may still come.
    ///
    /// # Errors
    /// The channel is closed.
    pub(crate) fn cancel(&self, out: &mut BytesMut, consumer_tag: &str) -> Result<(), Error> {
        self.check()?;
        let consumer_tag = ShortString::try_new(consumer_tag)
            .map_err(|error| Error::invalid("a consumer tag is too long").caused_by(error))?;
        let cancel = AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel {
            consumer_tag,
            nowait: true,
        }));
        out.put_slice(&self.encode(&cancel)?);
        Ok(())
    }

    /// Closes the channel: `channel.close` is due, and whatever still waits for an answer is told
    /// that it gets none. `token`, if it is there, is answered when the close is complete.
    pub(crate) fn close(&mut self, token: Option<T>, events: &mut Vec<CoreEvent<T>>) {
        match self.state {
            // The broker has not heard of the channel, so there is nothing to close.
            State::Opening if !self.is_asked => {
                self.state = State::Closed;
                self.abandon(&closed(), events);
                events.extend(token.map(|token| CoreEvent::Answered(token, Ok(close_ok()))));
            }
            State::Opening | State::Open => {
                self.state = State::Closing;
                self.closer = token;
                self.owes_close = true;
                self.abandon(&closed(), events);
            }
            State::Closing | State::Closed => {
                events.extend(token.map(|token| CoreEvent::Answered(token, Err(closed()))));
            }
        }
    }

    /// The connection is gone: nothing more is sent or comes.
    pub(crate) fn lose(&mut self, reason: &Error, events: &mut Vec<CoreEvent<T>>) {
        let was = std::mem::replace(&mut self.state, State::Closed);
        self.owes_close = false;
        self.owes_close_ok = false;
        self.abandon(reason, events);
        let closer = self.closer.take();
        events.extend(closer.map(|token| CoreEvent::Answered(token, Err(reason.clone()))));
        if matches!(was, State::Opening | State::Open) {
            events.push(CoreEvent::Closed(reason.clone()));
        }
    }

    /// Takes a frame of the broker.
    ///
    /// # Errors
    /// The broker has broken the protocol.
    pub(crate) fn handle(
        &mut self,
        frame: Frame<'_>,
        events: &mut Vec<CoreEvent<T>>,
    ) -> Result<(), Violation> {
        match (self.state, frame) {
            // Frames that were on their way when the channel was closed (1.5.2.5).
            (State::Closed, _) => Ok(()),
            (State::Closing, Frame::Method(payload)) => {
                self.closing(payload, events);
                Ok(())
            }
            (State::Closing, _) => Ok(()),
            (State::Opening | State::Open, Frame::Method(payload)) => self.method(payload, events),
            (State::Opening | State::Open, Frame::Header(payload)) => self.header(payload, events),
            (State::Opening | State::Open, Frame::Body { bytes, is_last }) => {
                self.body(bytes, is_last, events)
            }
        }
    }

    /// Writes what is due: the close and its answer, or the next synchronous method.
    pub(crate) fn flush(&mut self, out: &mut BytesMut) {
        if std::mem::take(&mut self.owes_close) {
            let close = channel::AMQPMethod::Close(channel::Close {
                reply_code: 200,
                reply_text: ShortString::default(),
                class_id: 0,
                method_id: 0,
            });
            self.put(out, &AMQPClass::Channel(close));
        }
        if std::mem::take(&mut self.owes_close_ok) {
            let close_ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
            self.put(out, &AMQPClass::Channel(close_ok));
        }
        if !matches!(self.state, State::Opening | State::Open) {
            return;
        }
        // A broker that asks and does not read is not answered for ever: the last of each counts.
        if out.len() < MAX_UNREAD_ANSWERS {
            if let Some(active) = self.owes_flow_ok.take() {
                let flow_ok = channel::AMQPMethod::FlowOk(channel::FlowOk { active });
                self.put(out, &AMQPClass::Channel(flow_ok));
            }
            if let Some(consumer_tag) = self.owes_cancel_ok.take() {
                let cancel_ok = basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag });
                self.put(out, &AMQPClass::Basic(cancel_ok));
            }
        }
        if !self.is_asked
            && let Some(call) = self.calls.front()
        {
            out.put_slice(&call.frame);
            self.is_asked = true;
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_open() {
            Ok(())
        } else {
            Err(closed())
        }
    }

    fn encode(&self, method: &AMQPClass) -> Result<Bytes, Error> {
        let mut out = BytesMut::new();
        encode::put_method(&mut out, self.number, method, self.frame_max)?;
        Ok(out.freeze())
    }

    /// Methods of the channel's own, which fit into every frame.
    fn put(&self, out: &mut BytesMut, method: &AMQPClass) {
        if let Ok(frame) = self.encode(method) {
            out.put_slice(&frame);
        }
    }

    fn abandon(&mut self, reason: &Error, events: &mut Vec<CoreEvent<T>>) {
        self.content = None;
        self.is_asked = false;
        self.owes_flow_ok = None;
        self.owes_cancel_ok = None;
        let calls = self.calls.drain(..);
        events.extend(calls.map(|call| CoreEvent::Answered(call.token, Err(reason.clone()))));
    }

    /// While our `channel.close` is unanswered, only the two methods that end a channel count.
    ///
    /// If both sides close at once, each answers the other. RabbitMQ, which had closed the channel
    /// when it read our close, keeps the number until it has our `close-ok` (an open before that is
    /// the end of the connection: 504). Its own may not come: the channel goes as it reads ours, and
    /// what it has not written yet goes with it (both seen on 3.10.8). So its close is as good as its
    /// answer, and an answer that comes all the same is late.
    fn closing(&mut self, payload: &[u8], events: &mut Vec<CoreEvent<T>>) {
        match id(payload) {
            (20, 41) => {}
            (20, 40) => {
                // Where ours was not written yet, theirs is the only one.
                self.owes_close = false;
                self.owes_close_ok = true;
                self.is_refused = true;
            }
            _ => return,
        }
        self.state = State::Closed;
        let closer = self.closer.take();
        events.extend(closer.map(|token| CoreEvent::Answered(token, Ok(close_ok()))));
    }

    fn method(&mut self, payload: &[u8], events: &mut Vec<CoreEvent<T>>) -> Result<(), Violation> {
        if self.content.is_some() && id(payload) != (20, 40) {
            return Err(Violation("a method came in the middle of a message"));
        }
        let method = match decode::method(payload) {
            Some(Method::Confirm(confirm)) => {
                if self
                    .confirmed
                    .is_some_and(|published| confirm.tag <= published)
                {
                    events.push(CoreEvent::Confirmed(confirm));
                } else {
                    self.late("a confirm");
                }
                return Ok(());
            }
            Some(Method::Deliver(_)) if !self.has_consumer(consumer_tag(payload)) => {
                self.late("a delivery");
                ContentMethod::Late
            }
            Some(Method::Deliver(deliver)) => {
                self.count(deliver.tag)?;
                ContentMethod::Deliver(deliver)
            }
            Some(Method::GetOk(deliver)) => {
                self.expect((60, 71))?;
                self.count(deliver.tag)?;
                ContentMethod::GetOk(deliver)
            }
            Some(Method::GetEmpty) => return self.answered((60, 71), Answer::Got(None), events),
            Some(Method::Return(returned)) => ContentMethod::Return(returned),
            Some(Method::Close(reason)) => {
                self.state = State::Closed;
                self.is_refused = true;
                self.owes_close_ok = true;
                self.abandon(&reason, events);
                events.push(CoreEvent::Closed(reason));
                return Ok(());
            }
            None => return self.other(payload, events),
        };
        self.content = Some(Content {
            method,
            properties: None,
            size: 0,
            left: 0,
            body: BytesMut::new(),
            is_kept: false,
        });
        Ok(())
    }

    /// Every other method: the answer to a synchronous one, mostly.
    fn other(&mut self, payload: &[u8], events: &mut Vec<CoreEvent<T>>) -> Result<(), Violation> {
        let Ok((_, method)) = parse_class(payload) else {
            return Err(Violation("a method that cannot be read"));
        };
        match method {
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) => {
                if !self.has_consumer(cancel.consumer_tag.as_str().as_bytes()) {
                    self.late("a cancel");
                    return Ok(());
                }
                events.push(CoreEvent::Cancelled);
                // RabbitMQ asks for no answer.
                if !cancel.nowait {
                    self.owes_cancel_ok = Some(cancel.consumer_tag);
                }
                Ok(())
            }
            // RabbitMQ does not send it. Another broker is answered, and is not obeyed: it has
            // connection.blocked to stop publishers.
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => {
                self.owes_flow_ok = Some(flow.active);
                Ok(())
            }
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => {
                self.late("a close-ok");
                Ok(())
            }
            method => {
                if self.state == State::Opening
                    && matches!(method, AMQPClass::Channel(channel::AMQPMethod::OpenOk(_)))
                {
                    self.state = State::Open;
                }
                if let AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(consume_ok)) = &method {
                    self.consumers.push(consume_ok.consumer_tag.clone());
                }
                self.answered(id(payload), Answer::Method(method), events)
            }
        }
    }

    fn has_consumer(&self, tag: &[u8]) -> bool {
        let mut tags = self.consumers.iter();
        tags.any(|own| own.as_str().as_bytes() == tag)
    }

    /// A frame of the channel that had the number before. RabbitMQ may send deliveries, confirms,
    /// cancels and an answer to our close after it has closed a channel (seen on 3.10.8), and does not
    /// tell when it is done.
    fn late(&self, what: &'static str) {
        tracing::debug!(
            channel = self.number,
            what,
            "late for another channel, ignored"
        );
    }

    fn count(&mut self, tag: u64) -> Result<(), Violation> {
        if self.last_tag.checked_add(1) != Some(tag) {
            return Err(Violation("a delivery tag that is not the next one"));
        }
        self.last_tag = tag;
        Ok(())
    }

    fn expect(&self, answer: (u16, u16)) -> Result<(), Violation> {
        match self.calls.front() {
            Some(call) if self.is_asked && call.answer == answer => Ok(()),
            _ => Err(Violation("an answer to a method that was not called")),
        }
    }

    fn answered(
        &mut self,
        answer: (u16, u16),
        with: Answer,
        events: &mut Vec<CoreEvent<T>>,
    ) -> Result<(), Violation> {
        self.expect(answer)?;
        if let Some(call) = self.calls.pop_front() {
            self.is_asked = false;
            events.push(CoreEvent::Answered(call.token, Ok(with)));
        }
        Ok(())
    }

    fn header(&mut self, payload: &[u8], events: &mut Vec<CoreEvent<T>>) -> Result<(), Violation> {
        let Some(content) = self.content.as_mut() else {
            return Err(Violation("a content header without its method"));
        };
        if content.properties.is_some() {
            return Err(Violation("a second content header"));
        }
        let (encode::BASIC, Some(header)) = (id(payload).0, decode::header(payload)) else {
            return Err(Violation("a content header that cannot be read"));
        };
        let properties = header.properties.unwrap_or_else(|| {
            // A broker passes on what its peers have made up.
            tracing::warn!(
                channel = self.number,
                "the properties of a message cannot be read: it has none"
            );
            Properties::default()
        });
        content.properties = Some(properties);
        content.size = header.size;
        content.left = header.size;
        // The body of a message that came back is nobody's any more.
        let is_ours = !matches!(
            content.method,
            ContentMethod::Return(_) | ContentMethod::Late
        );
        content.is_kept = is_ours && header.size <= self.max_body;
        if content.is_kept
            && let Ok(room) = usize::try_from(header.size.min(PREALLOCATED))
        {
            content.body.reserve(room);
        }
        if header.size == 0 {
            self.complete(events)?;
        }
        Ok(())
    }

    fn body(
        &mut self,
        bytes: &[u8],
        is_last: bool,
        events: &mut Vec<CoreEvent<T>>,
    ) -> Result<(), Violation> {
        let content = self.content.as_mut();
        let Some(content) = content.filter(|content| content.properties.is_some()) else {
            return Err(Violation("a content body without its header"));
        };
        let Some(left) = content.left.checked_sub(bytes.len() as u64) else {
            return Err(Violation(
                "a content body that is longer than its header says",
            ));
        };
        content.left = left;
        if content.is_kept {
            content.body.put_slice(bytes);
        }
        if left == 0 && is_last {
            self.complete(events)?;
        }
        Ok(())
    }

    /// All of a message is there.
    fn complete(&mut self, events: &mut Vec<CoreEvent<T>>) -> Result<(), Violation> {
        let Some(Content {
            method,
            properties,
            size,
            body,
            ..
        }) = self.content.take()
        else {
            return Ok(());
        };
        let properties = properties.unwrap_or_default();
        let delivery = |deliver: Deliver, properties, body: BytesMut| {
            let Deliver {
                tag,
                redelivered,
                exchange,
                routing_key,
            } = deliver;
            let message = Incoming {
                exchange,
                routing_key,
                redelivered,
                properties,
                size: u32::try_from(size).unwrap_or(u32::MAX),
                body: body.freeze(),
            };
            Box::new(Delivery { tag, message })
        };
        match method {
            ContentMethod::Deliver(deliver) => {
                events.push(CoreEvent::Delivered(delivery(deliver, properties, body)));
            }
            ContentMethod::GetOk(deliver) => {
                let got = Answer::Got(Some(delivery(deliver, properties, body)));
                self.answered((60, 71), got, events)?;
            }
            ContentMethod::Late => {}
            ContentMethod::Return(Return { text, routing_key }) => {
                events.push(CoreEvent::Returned(Box::new(Returned {
                    text,
                    routing_key,
                    properties,
                })));
            }
        }
        Ok(())
    }
}

/// The error of whatever is asked of a channel that is closed.
pub(crate) fn closed() -> Error {
    Error::new(Kind::Disconnected).caused_by("the channel was closed")
}

/// The answer to a close.
fn close_ok() -> Answer {
    let close_ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
    Answer::Method(AMQPClass::Channel(close_ok))
}

/// The consumer tag in `basic.deliver`.
fn consumer_tag(payload: &[u8]) -> &[u8] {
    match payload {
        [_, _, _, _, size, rest @ ..] => rest.get(..usize::from(*size)).unwrap_or_default(),
        _ => &[],
    }
}

/// The class and the method that a payload begins with; zeros if it is too short for them.
fn id(payload: &[u8]) -> (u16, u16) {
    match payload {
        [a, b, c, d, ..] => (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
        _ => (0, 0),
    }
}

/// The class and the method that answer a synchronous method; none for all others.
fn answer_to(method: &AMQPClass) -> Option<(u16, u16)> {
    Some(match method {
        AMQPClass::Channel(channel::AMQPMethod::Open(_)) => (20, 11),
        AMQPClass::Exchange(method) => match method {
            exchange::AMQPMethod::Declare(_) => (40, 11),
            exchange::AMQPMethod::Delete(_) => (40, 21),
            exchange::AMQPMethod::Bind(_) => (40, 31),
            exchange::AMQPMethod::Unbind(_) => (40, 51),
            _ => return None,
        },
        AMQPClass::Queue(method) => match method {
            queue::AMQPMethod::Declare(_) => (50, 11),
            queue::AMQPMethod::Bind(_) => (50, 21),
            queue::AMQPMethod::Purge(_) => (50, 31),
            queue::AMQPMethod::Delete(_) => (50, 41),
            queue::AMQPMethod::Unbind(_) => (50, 51),
            _ => return None,
        },
        AMQPClass::Basic(method) => match method {
            basic::AMQPMethod::Qos(_) => (60, 11),
            basic::AMQPMethod::Consume(_) => (60, 21),
            basic::AMQPMethod::Cancel(_) => (60, 31),
            basic::AMQPMethod::Get(_) => (60, 71),
            basic::AMQPMethod::Recover(_) => (60, 111),
            _ => return None,
        },
        AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) => (85, 11),
        AMQPClass::Tx(method) => match method {
            tx::AMQPMethod::Select(_) => (90, 11),
            tx::AMQPMethod::Commit(_) => (90, 21),
            tx::AMQPMethod::Rollback(_) => (90, 31),
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
