//! State machine of one AMQP channel (`channel.open` to `channel.close-ok`), sans I/O: it has no
//! socket, lock or clock.
//!
//! The broker's frames go into [`Core::handle`], and the owner's operations into the other methods.
//! Events come out of both, and [`Core::flush`] appends the frames that are due. A channel is
//! *opening* until `channel.open-ok` arrives, *open* until either side closes it, *closing* while our
//! `channel.close` is unanswered, and then *closed*. Its number may be used again only when the close
//! is complete in both directions: if both sides close at the same time, each has to answer the
//! other's `channel.close` with `channel.close-ok` (AMQP 0-9-1, 1.5.2.5).
//!
//! AMQP allows one synchronous method at a time on a channel (2.2.2). Further ones wait in a queue,
//! and each is written when the reply to the one before it arrives.
//!
//! Most methods are encoded and decoded with amq-protocol. Messages, settlements and confirms, which
//! decide the throughput, are encoded and decoded by hand in `frame/`.

use std::collections::VecDeque;

use amq_protocol::protocol::{
    AMQPClass, basic, channel, confirm, exchange, parse_class, queue, tx,
};
use amq_protocol::types::ShortString;
use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{Error, ErrorKind};
use crate::link::frame::decode::{self, Confirm, Deliver, Method, Return};
use crate::link::frame::encode::{self, SettleMethod};
use crate::wire::message::{IncomingMessage, Outgoing, Properties};

/// Preallocation cap: the announced body size is not trusted.
const MAX_PREALLOCATED: u64 = 1024 * 1024;
/// The broker's own requests (`channel.flow`, `basic.cancel`) are not answered while more bytes than
/// this wait to be written. A broker that sends requests and reads no answers would otherwise make the
/// write buffer grow without limit.
const MAX_UNREAD_ANSWERS: usize = 1024 * 1024;

/// The state of one channel. `T` is a token that identifies the caller of a synchronous method.
#[derive(Debug)]
pub(crate) struct Core<T> {
    number: u16,
    state: ChannelState,
    frame_max: u32,
    /// Bodies longer than this are dropped; the message is delivered with its size alone.
    max_body: u64,
    /// Synchronous methods that have no reply yet, in the order of their calls.
    calls: VecDeque<SyncMethod<T>>,
    /// Whether the first of `calls` was written, so that the next reply belongs to it.
    front_is_written: bool,
    /// The caller that waits for the reply to our `channel.close`.
    close_token: Option<T>,
    /// The broker has sent `channel.close`.
    closed_by_broker: bool,
    close_due: bool,
    close_ok_due: bool,
    flow_ok_due: Option<bool>,
    /// The consumer tag of a `basic.cancel` from the broker that asked for a reply.
    cancel_ok_due: Option<ShortString>,
    content: Option<PartialMessage>,
    /// The tags of all consumers that were ever started on the channel.
    consumers: Vec<ShortString>,
    /// The number of messages published since `confirm.select`; `None` outside of confirm mode.
    published: Option<u64>,
    /// The delivery tag of the last message. RabbitMQ counts them from 1 without gaps, and the
    /// bookkeeping of acknowledgements (`policy/acks.rs`) relies on it.
    last_tag: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChannelState {
    Opening,
    Open,
    Closing,
    Closed,
}

/// A synchronous method, with the class and method id of its reply.
#[derive(Debug)]
struct SyncMethod<T> {
    token: T,
    frame: Bytes,
    reply_id: (u16, u16),
}

/// A message whose content header or body has not completely arrived.
#[derive(Debug)]
struct PartialMessage {
    method: ContentMethod,
    properties: Option<Properties>,
    size: u64,
    remaining: u64,
    body: BytesMut,
    keeps_body: bool,
}

#[derive(Debug)]
enum ContentMethod {
    Deliver(Deliver),
    GetOk(Deliver),
    Return(Return),
    /// A delivery for the channel that had the number before this one: read and ignored.
    Late,
}

/// A frame from the broker on this channel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Frame<'a> {
    /// A whole method payload.
    Method(&'a [u8]),
    /// A whole content header payload.
    Header(&'a [u8]),
    /// Some bytes of a body frame; `is_last` tells whether they are the last ones of the frame.
    Body { bytes: &'a [u8], is_last: bool },
}

/// The reply to a synchronous method.
#[derive(Debug)]
pub(crate) enum MethodReply {
    Method(AMQPClass),
    /// The reply to `basic.get`: `None` when the queue is empty.
    Got(Option<Box<Delivery>>),
}

/// Something that happened on the channel.
#[derive(Debug)]
pub(crate) enum CoreEvent<T> {
    /// The reply to a synchronous method, or the reason why there will be none.
    Replied(T, Result<MethodReply, Error>),
    /// A publisher confirm (`basic.ack`, `basic.nack`).
    Confirmed(Confirm),
    Delivered(Box<Delivery>),
    Returned(Box<Returned>),
    /// The broker has cancelled the consumer (`basic.cancel`).
    Cancelled,
    /// The broker has closed the channel, or the connection is lost. Reported once.
    Closed(Error),
}

/// A message and its delivery tag, which is valid only on the channel that it arrived on.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) tag: u64,
    pub(crate) message: IncomingMessage,
}

/// A mandatory message that matched no queue (`basic.return`).
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) text: String,
    pub(crate) routing_key: String,
    pub(crate) properties: Properties,
}

/// A violation of AMQP by the broker, which ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) &'static str);

impl<T> Core<T> {
    /// A channel whose `channel.open` is due; its reply goes to `token`.
    pub(crate) fn open(number: u16, frame_max: u32, token: T) -> Self {
        let mut core = Self {
            number,
            state: ChannelState::Opening,
            frame_max,
            max_body: u64::MAX,
            calls: VecDeque::new(),
            front_is_written: false,
            close_token: None,
            closed_by_broker: false,
            close_due: false,
            close_ok_due: false,
            flow_ok_due: None,
            cancel_ok_due: None,
            content: None,
            consumers: Vec::new(),
            published: None,
            last_tag: 0,
        };
        let open = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
        // Encoding cannot fail: a method without arguments fits into every frame.
        if let Ok(frame) = core.encode(&open) {
            core.calls.push_back(SyncMethod {
                token,
                frame,
                reply_id: (20, 11),
            });
        }
        core
    }

    /// Whether messages, settlements and methods can be sent on the channel.
    pub(crate) fn is_open(&self) -> bool {
        self.state == ChannelState::Open
    }

    /// Whether the close is complete in both directions, so that the number may be used again (but see
    /// [`may_receive_late_frames`](Self::may_receive_late_frames)).
    pub(crate) fn is_free(&self) -> bool {
        self.state == ChannelState::Closed && !self.close_ok_due
    }

    /// Whether frames of this channel may still arrive after its close is complete.
    ///
    /// RabbitMQ may send frames of a channel after its own `channel.close`, and nothing marks the last
    /// one. The reply to a close of ours is the last frame of the channel.
    pub(crate) fn may_receive_late_frames(&self) -> bool {
        self.closed_by_broker
    }

    /// Whether [`flush`](Self::flush) has frames to append.
    pub(crate) fn has_output(&self) -> bool {
        self.close_due
            || self.close_ok_due
            || self.flow_ok_due.is_some()
            || self.cancel_ok_due.is_some()
            || (!self.front_is_written && !self.calls.is_empty())
    }

    /// From now on messages with a longer body are delivered without it, with its size alone.
    pub(crate) fn limit_bodies(&mut self, max: u64) {
        self.max_body = max;
    }

    /// Queues a synchronous method; its reply goes to `token`.
    ///
    /// # Errors
    /// The channel is closed, the method does not fit into a frame, or it is not synchronous. Nothing
    /// was queued.
    pub(crate) fn call(&mut self, method: &AMQPClass, token: T) -> Result<(), Error> {
        self.check_open()?;
        let Some(reply_id) = reply_id_of(method) else {
            return Err(Error::invalid("not a synchronous method of a channel"));
        };
        let frame = self.encode(method)?;
        if let AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) = method {
            self.published.get_or_insert(0);
        }
        self.calls.push_back(SyncMethod {
            token,
            frame,
            reply_id,
        });
        Ok(())
    }

    /// Appends a message (`basic.publish`).
    ///
    /// # Errors
    /// The channel is closed, or the message cannot be encoded. Nothing was appended.
    pub(crate) fn publish(&mut self, out: &mut BytesMut, message: &Outgoing) -> Result<(), Error> {
        self.check_open()?;
        encode::put_message(out, self.number, message, self.frame_max)?;
        if let Some(published) = &mut self.published {
            *published += 1;
        }
        Ok(())
    }

    /// Appends a settlement (`basic.ack`, `basic.nack`, `basic.reject`).
    ///
    /// # Errors
    /// The channel is closed.
    pub(crate) fn settle(
        &self,
        out: &mut BytesMut,
        tag: u64,
        settlement: SettleMethod,
    ) -> Result<(), Error> {
        self.check_open()?;
        encode::put_settle(out, self.number, tag, settlement);
        Ok(())
    }

    /// Puts the channel into confirm mode: appends `confirm.select` with no-wait, which has no reply.
    ///
    /// # Errors
    /// The channel is closed.
    pub(crate) fn select_confirms(&mut self, out: &mut BytesMut) -> Result<(), Error> {
        self.check_open()?;
        encode::put_confirm_select(out, self.number);
        self.published.get_or_insert(0);
        Ok(())
    }

    /// Appends `basic.cancel` with no-wait, which has no reply. Deliveries may still arrive.
    ///
    /// # Errors
    /// The channel is closed.
    pub(crate) fn cancel(&self, out: &mut BytesMut, consumer_tag: &str) -> Result<(), Error> {
        self.check_open()?;
        let consumer_tag = ShortString::try_new(consumer_tag)
            .map_err(|error| Error::invalid("a consumer tag is too long").caused_by(error))?;
        let cancel = AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel {
            consumer_tag,
            nowait: true,
        }));
        out.put_slice(&self.encode(&cancel)?);
        Ok(())
    }

    /// Closes the channel: `channel.close` becomes due, and all calls without a reply fail. The reply
    /// to the close goes to `token`, if there is one.
    pub(crate) fn close(&mut self, token: Option<T>, events: &mut Vec<CoreEvent<T>>) {
        match self.state {
            // `channel.open` was not written, so the broker knows nothing of the channel.
            ChannelState::Opening if !self.front_is_written => {
                self.state = ChannelState::Closed;
                self.fail_calls(&channel_closed(), events);
                events.extend(token.map(|token| CoreEvent::Replied(token, Ok(close_ok()))));
            }
            ChannelState::Opening | ChannelState::Open => {
                self.state = ChannelState::Closing;
                self.close_token = token;
                self.close_due = true;
                self.fail_calls(&channel_closed(), events);
            }
            ChannelState::Closing | ChannelState::Closed => {
                events.extend(token.map(|token| CoreEvent::Replied(token, Err(channel_closed()))));
            }
        }
    }

    /// Closes the channel because the connection is lost. Nothing more is sent.
    pub(crate) fn connection_lost(&mut self, reason: &Error, events: &mut Vec<CoreEvent<T>>) {
        let before = std::mem::replace(&mut self.state, ChannelState::Closed);
        self.close_due = false;
        self.close_ok_due = false;
        self.fail_calls(reason, events);
        let close_token = self.close_token.take();
        events.extend(close_token.map(|token| CoreEvent::Replied(token, Err(reason.clone()))));
        if matches!(before, ChannelState::Opening | ChannelState::Open) {
            events.push(CoreEvent::Closed(reason.clone()));
        }
    }

    /// Handles a frame from the broker.
    ///
    /// # Errors
    /// The broker has violated the protocol.
    pub(crate) fn handle(
        &mut self,
        frame: Frame<'_>,
        events: &mut Vec<CoreEvent<T>>,
    ) -> Result<(), Violation> {
        match (self.state, frame) {
            // Frames that the broker sent before it read our close are ignored (1.5.2.5).
            (ChannelState::Closed, _) => Ok(()),
            (ChannelState::Closing, Frame::Method(payload)) => {
                self.method_while_closing(payload, events);
                Ok(())
            }
            (ChannelState::Closing, _) => Ok(()),
            (ChannelState::Opening | ChannelState::Open, Frame::Method(payload)) => {
                self.method(payload, events)
            }
            (ChannelState::Opening | ChannelState::Open, Frame::Header(payload)) => {
                self.header(payload, events)
            }
            (ChannelState::Opening | ChannelState::Open, Frame::Body { bytes, is_last }) => {
                self.body(bytes, is_last, events)
            }
        }
    }

    /// Appends the frames that are due: our close, the replies to the broker's requests, and the next
    /// synchronous method.
    pub(crate) fn flush(&mut self, out: &mut BytesMut) {
        if std::mem::take(&mut self.close_due) {
            let close = channel::AMQPMethod::Close(channel::Close {
                reply_code: 200,
                reply_text: ShortString::default(),
                class_id: 0,
                method_id: 0,
            });
            self.append(out, &AMQPClass::Channel(close));
        }
        if std::mem::take(&mut self.close_ok_due) {
            let close_ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
            self.append(out, &AMQPClass::Channel(close_ok));
        }
        if !matches!(self.state, ChannelState::Opening | ChannelState::Open) {
            return;
        }
        // Several requests of one kind get one reply, to the last of them.
        if out.len() < MAX_UNREAD_ANSWERS {
            if let Some(active) = self.flow_ok_due.take() {
                let flow_ok = channel::AMQPMethod::FlowOk(channel::FlowOk { active });
                self.append(out, &AMQPClass::Channel(flow_ok));
            }
            if let Some(consumer_tag) = self.cancel_ok_due.take() {
                let cancel_ok = basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag });
                self.append(out, &AMQPClass::Basic(cancel_ok));
            }
        }
        if !self.front_is_written
            && let Some(call) = self.calls.front()
        {
            out.put_slice(&call.frame);
            self.front_is_written = true;
        }
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.is_open() {
            Ok(())
        } else {
            Err(channel_closed())
        }
    }

    fn encode(&self, method: &AMQPClass) -> Result<Bytes, Error> {
        let mut out = BytesMut::new();
        encode::put_method(&mut out, self.number, method, self.frame_max)?;
        Ok(out.freeze())
    }

    /// Appends one of the channel's own methods. Encoding cannot fail: they fit into every frame.
    fn append(&self, out: &mut BytesMut, method: &AMQPClass) {
        if let Ok(frame) = self.encode(method) {
            out.put_slice(&frame);
        }
    }

    /// Fails all calls that have no reply.
    fn fail_calls(&mut self, reason: &Error, events: &mut Vec<CoreEvent<T>>) {
        self.content = None;
        self.front_is_written = false;
        self.flow_ok_due = None;
        self.cancel_ok_due = None;
        let calls = self.calls.drain(..);
        events.extend(calls.map(|call| CoreEvent::Replied(call.token, Err(reason.clone()))));
    }

    /// Handles a method while our `channel.close` is unanswered. Only `channel.close-ok` and
    /// `channel.close` have an effect then.
    ///
    /// If both sides close at the same time, each has to answer the other. RabbitMQ keeps the number
    /// in use until it has read our `close-ok`; a `channel.open` on the number before that makes it
    /// close the connection with 504. Its own `close-ok`, however, may never arrive: RabbitMQ ends the
    /// channel's process when it reads our `close-ok`, and frames that the process has not written by
    /// then are lost (both observed on 3.10.8). So the broker's `channel.close` completes our close,
    /// and a `close-ok` that does arrive afterwards is ignored as late.
    fn method_while_closing(&mut self, payload: &[u8], events: &mut Vec<CoreEvent<T>>) {
        match method_id(payload) {
            (20, 41) => {}
            (20, 40) => {
                // If our close was not written yet, it is not needed any more.
                self.close_due = false;
                self.close_ok_due = true;
                self.closed_by_broker = true;
            }
            _ => return,
        }
        self.state = ChannelState::Closed;
        let close_token = self.close_token.take();
        events.extend(close_token.map(|token| CoreEvent::Replied(token, Ok(close_ok()))));
    }

    fn method(&mut self, payload: &[u8], events: &mut Vec<CoreEvent<T>>) -> Result<(), Violation> {
        if self.content.is_some() && method_id(payload) != (20, 40) {
            return Err(Violation("a method frame between the frames of a message"));
        }
        let method = match decode::method(payload) {
            Some(Method::Confirm(confirm)) => {
                if self
                    .published
                    .is_some_and(|published| confirm.tag <= published)
                {
                    events.push(CoreEvent::Confirmed(confirm));
                } else {
                    self.ignore_late("basic.ack or basic.nack");
                }
                return Ok(());
            }
            Some(Method::Deliver(_)) if !self.has_consumer(consumer_tag(payload)) => {
                self.ignore_late("basic.deliver");
                ContentMethod::Late
            }
            Some(Method::Deliver(deliver)) => {
                self.check_delivery_tag(deliver.tag)?;
                ContentMethod::Deliver(deliver)
            }
            Some(Method::GetOk(deliver)) => {
                self.expect_reply((60, 71))?;
                self.check_delivery_tag(deliver.tag)?;
                ContentMethod::GetOk(deliver)
            }
            Some(Method::GetEmpty) => {
                return self.complete_call((60, 71), MethodReply::Got(None), events);
            }
            Some(Method::Return(returned)) => ContentMethod::Return(returned),
            Some(Method::Close(reason)) => {
                self.state = ChannelState::Closed;
                self.closed_by_broker = true;
                self.close_ok_due = true;
                self.fail_calls(&reason, events);
                events.push(CoreEvent::Closed(reason));
                return Ok(());
            }
            None => return self.other_method(payload, events),
        };
        self.content = Some(PartialMessage {
            method,
            properties: None,
            size: 0,
            remaining: 0,
            body: BytesMut::new(),
            keeps_body: false,
        });
        Ok(())
    }

    /// Handles the methods that amq-protocol decodes: mostly replies to synchronous methods.
    fn other_method(
        &mut self,
        payload: &[u8],
        events: &mut Vec<CoreEvent<T>>,
    ) -> Result<(), Violation> {
        let Ok((_, method)) = parse_class(payload) else {
            return Err(Violation("a method that cannot be decoded"));
        };
        match method {
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) => {
                if !self.has_consumer(cancel.consumer_tag.as_str().as_bytes()) {
                    self.ignore_late("basic.cancel");
                    return Ok(());
                }
                events.push(CoreEvent::Cancelled);
                // RabbitMQ sets no-wait and expects no reply.
                if !cancel.nowait {
                    self.cancel_ok_due = Some(cancel.consumer_tag);
                }
                Ok(())
            }
            // RabbitMQ never sends `channel.flow`. Another broker gets its reply, but publishing goes
            // on: `connection.blocked` is the supported way to stop publishers.
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => {
                self.flow_ok_due = Some(flow.active);
                Ok(())
            }
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => {
                self.ignore_late("channel.close-ok");
                Ok(())
            }
            method => {
                if self.state == ChannelState::Opening
                    && matches!(method, AMQPClass::Channel(channel::AMQPMethod::OpenOk(_)))
                {
                    self.state = ChannelState::Open;
                }
                if let AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(consume_ok)) = &method {
                    self.consumers.push(consume_ok.consumer_tag.clone());
                }
                self.complete_call(method_id(payload), MethodReply::Method(method), events)
            }
        }
    }

    fn has_consumer(&self, tag: &[u8]) -> bool {
        let mut tags = self.consumers.iter();
        tags.any(|own| own.as_str().as_bytes() == tag)
    }

    /// Logs a frame that belongs to the channel that had the number before this one. RabbitMQ may send
    /// deliveries, confirms, cancels and the reply to our close after it has closed a channel (observed
    /// on 3.10.8), and nothing marks the last such frame.
    fn ignore_late(&self, method: &'static str) {
        tracing::debug!(
            channel = self.number,
            method,
            "frame for an earlier channel of the same number, ignored"
        );
    }

    /// Checks that delivery tags are counted without gaps (see `last_tag`).
    fn check_delivery_tag(&mut self, tag: u64) -> Result<(), Violation> {
        if self.last_tag.checked_add(1) != Some(tag) {
            return Err(Violation("a delivery tag out of sequence"));
        }
        self.last_tag = tag;
        Ok(())
    }

    fn expect_reply(&self, reply_id: (u16, u16)) -> Result<(), Violation> {
        match self.calls.front() {
            Some(call) if self.front_is_written && call.reply_id == reply_id => Ok(()),
            _ => Err(Violation("a reply to a method that was not called")),
        }
    }

    fn complete_call(
        &mut self,
        reply_id: (u16, u16),
        reply: MethodReply,
        events: &mut Vec<CoreEvent<T>>,
    ) -> Result<(), Violation> {
        self.expect_reply(reply_id)?;
        if let Some(call) = self.calls.pop_front() {
            self.front_is_written = false;
            events.push(CoreEvent::Replied(call.token, Ok(reply)));
        }
        Ok(())
    }

    fn header(&mut self, payload: &[u8], events: &mut Vec<CoreEvent<T>>) -> Result<(), Violation> {
        let Some(content) = self.content.as_mut() else {
            return Err(Violation("a content header without a method before it"));
        };
        if content.properties.is_some() {
            return Err(Violation("a second content header of one message"));
        }
        let (encode::BASIC, Some(header)) = (method_id(payload).0, decode::header(payload)) else {
            return Err(Violation("a content header that cannot be decoded"));
        };
        let properties = header.properties.unwrap_or_else(|| {
            // The publisher made the mistake, and the broker only passes it on.
            tracing::warn!(
                channel = self.number,
                "message properties cannot be decoded, the message is delivered without any"
            );
            Properties::default()
        });
        content.properties = Some(properties);
        content.size = header.size;
        content.remaining = header.size;
        // The body of a returned message is not used.
        let is_delivery = !matches!(
            content.method,
            ContentMethod::Return(_) | ContentMethod::Late
        );
        content.keeps_body = is_delivery && header.size <= self.max_body;
        if content.keeps_body
            && let Ok(room) = usize::try_from(header.size.min(MAX_PREALLOCATED))
        {
            content.body.reserve(room);
        }
        if header.size == 0 {
            self.complete_message(events)?;
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
            return Err(Violation(
                "a content body without a content header before it",
            ));
        };
        let Some(remaining) = content.remaining.checked_sub(bytes.len() as u64) else {
            return Err(Violation(
                "a content body longer than its content header says",
            ));
        };
        content.remaining = remaining;
        if content.keeps_body {
            content.body.put_slice(bytes);
        }
        if remaining == 0 && is_last {
            self.complete_message(events)?;
        }
        Ok(())
    }

    /// Reports a message whose header and body have arrived.
    fn complete_message(&mut self, events: &mut Vec<CoreEvent<T>>) -> Result<(), Violation> {
        let Some(PartialMessage {
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
            let message = IncomingMessage {
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
                let got = MethodReply::Got(Some(delivery(deliver, properties, body)));
                self.complete_call((60, 71), got, events)?;
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

/// The error of operations on a closed channel.
pub(crate) fn channel_closed() -> Error {
    Error::new(ErrorKind::Disconnected).caused_by("the channel was closed")
}

/// The reply to a close that completed without a `channel.close-ok`.
fn close_ok() -> MethodReply {
    let close_ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
    MethodReply::Method(AMQPClass::Channel(close_ok))
}

/// The consumer tag of a `basic.deliver`.
fn consumer_tag(payload: &[u8]) -> &[u8] {
    match payload {
        [_, _, _, _, size, rest @ ..] => rest.get(..usize::from(*size)).unwrap_or_default(),
        _ => &[],
    }
}

/// The class id and the method id of a method payload; zeros if it is too short.
fn method_id(payload: &[u8]) -> (u16, u16) {
    match payload {
        [a, b, c, d, ..] => (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
        _ => (0, 0),
    }
}

/// The class id and the method id of the reply to a synchronous method; `None` for other methods.
fn reply_id_of(method: &AMQPClass) -> Option<(u16, u16)> {
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
