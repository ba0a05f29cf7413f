//! Channels of a session: methods, and content assembled from its header and body frames.

use amq_protocol::protocol::{AMQPClass, channel};
use bytes::Bytes;

use crate::{
    core::{Command, Publish},
    exception::{Code, Exception, not_allowed, not_implemented, precondition_failed},
    framing::{self, Frame, Kind, PublishHead},
    id::ConnectionId,
    properties::Properties,
    session::{Event, Session},
};

/// The frame that is expected next on a channel.
#[derive(Debug, Default)]
pub(super) enum Inbound {
    #[default]
    Method,
    /// The content header of this message.
    Header(PublishHead),
    Body(Partial),
    /// The rest of a body that is too large: this many octets.
    Skip(u64),
    /// The broker has closed the channel. All methods but `close` and `close-ok` are ignored.
    Closing,
}

/// A message that is not complete yet.
#[derive(Debug)]
pub(super) struct Partial {
    publish: PublishHead,
    properties: Properties,
    size: usize,
    body: Vec<u8>,
}

impl Inbound {
    /// Marks the channel as closed by the broker. Returns how many octets of an incomplete message are
    /// dropped.
    pub(super) fn discard(&mut self) -> usize {
        match std::mem::replace(self, Inbound::Closing) {
            Inbound::Body(partial) => partial.body.len(),
            _ => 0,
        }
    }
}

impl Session {
    pub(super) fn channel_frame(
        &mut self,
        frame: &Frame<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Exception> {
        match frame.kind {
            Kind::Method => self.channel_method(frame, events),
            Kind::Header => self.content_header(frame, events),
            Kind::Body => self.content_body(frame, events),
            Kind::Heartbeat => Ok(()),
        }
    }

    fn channel_method(
        &mut self,
        frame: &Frame<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Exception> {
        if let Some(publish) = framing::publish(frame.payload)? {
            return self.publish_method(frame.channel, publish);
        }
        let method = framing::method(frame.payload)?;
        // amq-protocol's parser ignores `prefetch_size` of `basic.qos`, which has to be zero.
        if let Some([0, 60, 0, 10, size @ ..]) = frame.payload.first_chunk::<8>()
            && *size != [0; 4]
        {
            let size = u32::from_be_bytes(*size);
            return Err(not_implemented(format!("prefetch_size!=0 ({size})")).of(60, 10));
        }
        let number = frame.channel;
        let ids = (method.get_amqp_class_id(), method.get_amqp_method_id());
        let open = self.channels.len();
        match (self.channels.get_mut(&number), &method) {
            (None, AMQPClass::Channel(channel::AMQPMethod::Open(_))) => {
                if open >= usize::from(self.channel_max) {
                    return Err(not_allowed(format!(
                        "number of channels opened ({open}) has reached the negotiated channel_max ({})",
                        self.channel_max
                    ))
                    .of(ids.0, ids.1));
                }
                self.channels.insert(number, Inbound::Method);
            }
            (None, _) => return Err(not_open().of(ids.0, ids.1)),
            // Both sides close at the same time. The client's close gets a reply, and the number stays in
            // use until the client has replied to the broker's close.
            (Some(Inbound::Closing), AMQPClass::Channel(channel::AMQPMethod::Close(_))) => {}
            (Some(inbound), AMQPClass::Channel(channel::AMQPMethod::Close(_))) => {
                self.assembling -= inbound.discard();
                self.channels.remove(&number);
            }
            (Some(Inbound::Closing), AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))) => {
                self.channels.remove(&number);
            }
            (
                Some(Inbound::Method | Inbound::Closing),
                AMQPClass::Channel(channel::AMQPMethod::Open(_)),
            ) => {
                return Err(
                    Exception::new(Code::ChannelError, "second 'channel.open' seen")
                        .of(ids.0, ids.1),
                );
            }
            (Some(Inbound::Closing), _) => return Ok(()),
            (Some(Inbound::Method), AMQPClass::Connection(_)) => {
                return Err(
                    Exception::new(Code::CommandInvalid, "unimplemented method").of(ids.0, ids.1)
                );
            }
            (Some(Inbound::Method), _) => {}
            (Some(Inbound::Header(_)), _) => return Err(no_header()),
            (Some(Inbound::Body(_) | Inbound::Skip(_)), _) => return Err(no_body()),
        }
        events.push(Event::Core(Command::Method(self.id, number, method)));
        Ok(())
    }

    fn publish_method(&mut self, number: u16, publish: PublishHead) -> Result<(), Exception> {
        match self.channels.get_mut(&number) {
            None => Err(not_open().of(60, 40)),
            Some(Inbound::Closing) => Ok(()),
            Some(inbound @ Inbound::Method) => {
                *inbound = Inbound::Header(publish);
                Ok(())
            }
            Some(Inbound::Header(_)) => Err(no_header()),
            Some(Inbound::Body(_) | Inbound::Skip(_)) => Err(no_body()),
        }
    }

    fn content_header(
        &mut self,
        frame: &Frame<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Exception> {
        let Some((head, block)) = frame.payload.split_first_chunk::<12>() else {
            return Err(Exception::new(
                Code::FrameError,
                "a content header of less than 12 octets",
            ));
        };
        let number = frame.channel;
        let inbound = self.channels.get_mut(&number).ok_or_else(not_open)?;
        let publish = match std::mem::take(inbound) {
            Inbound::Header(publish) => publish,
            Inbound::Closing => {
                *inbound = Inbound::Closing;
                return Ok(());
            }
            Inbound::Method => return Err(no_method()),
            Inbound::Body(_) | Inbound::Skip(_) => return Err(no_body()),
        };
        let [c0, c1, w0, w1, size @ ..] = *head;
        // The weight has to be zero (4.2.6.1). RabbitMQ does not recognize any other header.
        if [w0, w1] != [0, 0] {
            return Err(no_header());
        }
        if u16::from_be_bytes([c0, c1]) != 60 {
            return Err(Exception::new(
                Code::UnexpectedFrame,
                format!(
                    "expected content header for class 60, got one for class {} instead",
                    u16::from_be_bytes([c0, c1])
                ),
            )
            .of(60, 40));
        }
        // RabbitMQ's channel process crashes on properties that do not match their flags.
        let properties = Properties::parse(block)
            .map_err(|_| Exception::new(Code::InternalError, "malformed properties"))?;
        let size = u64::from_be_bytes(size);
        let limit = self.config.limits.message;
        match usize::try_from(size) {
            Ok(0) => {
                *inbound = Inbound::Method;
                let partial = Partial {
                    publish,
                    properties,
                    size: 0,
                    body: Vec::new(),
                };
                events.push(Event::Core(partial.finish(self.id, number, Bytes::new())));
            }
            Ok(size) if size <= limit => {
                // Not preallocated, because the announced size is not trusted.
                *inbound = Inbound::Body(Partial {
                    publish,
                    properties,
                    size,
                    body: Vec::new(),
                });
            }
            _ => {
                *inbound = Inbound::Skip(size);
                let exception = precondition_failed(format!(
                    "message size {size} is larger than configured max size {limit}"
                ))
                .of(60, 40);
                events.push(Event::Core(Command::Fail(self.id, number, exception)));
            }
        }
        Ok(())
    }

    fn content_body(
        &mut self,
        frame: &Frame<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Exception> {
        let number = frame.channel;
        let too_much = || {
            Exception::new(Code::FrameError, "more content than the header announced").of(60, 40)
        };
        match self.channels.get_mut(&number) {
            None => Err(not_open()),
            Some(Inbound::Closing) => Ok(()),
            Some(Inbound::Method) => Err(no_method()),
            Some(Inbound::Header(_)) => Err(no_header()),
            Some(inbound @ Inbound::Skip(_)) => {
                if let Inbound::Skip(left) = inbound {
                    *left = left
                        .checked_sub(frame.payload.len() as u64)
                        .ok_or_else(too_much)?;
                    if *left == 0 {
                        *inbound = Inbound::Method;
                    }
                }
                Ok(())
            }
            Some(Inbound::Body(partial)) => {
                if partial.body.len() + frame.payload.len() > partial.size {
                    return Err(too_much());
                }
                if frame.payload.len() == partial.size {
                    let body = Bytes::copy_from_slice(frame.payload);
                    if let Some(Inbound::Body(partial)) =
                        self.channels.insert(number, Inbound::Method)
                    {
                        events.push(Event::Core(partial.finish(self.id, number, body)));
                    }
                    return Ok(());
                }
                partial.body.extend_from_slice(frame.payload);
                self.assembling += frame.payload.len();
                if self.assembling > self.config.limits.message.saturating_mul(2) {
                    return Err(Exception::new(
                        Code::ResourceError,
                        "too many unfinished messages on one connection",
                    ));
                }
                if partial.body.len() == partial.size {
                    self.assembling -= partial.size;
                    let body = std::mem::take(&mut partial.body).into();
                    if let Some(Inbound::Body(partial)) =
                        self.channels.insert(number, Inbound::Method)
                    {
                        events.push(Event::Core(partial.finish(self.id, number, body)));
                    }
                }
                Ok(())
            }
        }
    }
}

fn not_open() -> Exception {
    Exception::new(Code::ChannelError, "expected 'channel.open'")
}

fn no_method() -> Exception {
    Exception::new(
        Code::UnexpectedFrame,
        "expected method frame, got non method frame instead",
    )
}

fn no_header() -> Exception {
    Exception::new(
        Code::UnexpectedFrame,
        "expected content header for class 60, got non content header frame instead",
    )
    .of(60, 40)
}

fn no_body() -> Exception {
    Exception::new(
        Code::UnexpectedFrame,
        "expected content body, got non content body frame instead",
    )
    .of(60, 40)
}

impl Partial {
    fn finish(self, id: ConnectionId, number: u16, body: Bytes) -> Command {
        Command::Publish(
            id,
            number,
            Publish {
                exchange: self.publish.exchange,
                routing_key: self.publish.routing_key,
                mandatory: self.publish.mandatory,
                immediate: self.publish.immediate,
                properties: self.properties,
                body,
            },
        )
    }
}
