//! Frames on the wire. `amq-protocol` reads and writes most of what is in them; this file cuts
//! them out of the stream, reads what RabbitMQ reads otherwise (tables, and the names of a
//! `basic.publish`), and writes by hand the three methods that carry content, whose strings are
//! shared and need no copy first.

use amq_protocol::{
    frame::{AMQPFrame, GenError, WriteContext, gen_frame},
    protocol::{AMQPClass, basic, connection, constants, exchange, parse_class, queue},
};

use crate::{
    core::{Content, Head, Outcome},
    exception::{Code, Exception},
    octets,
    table::{self, put_short},
};

/// The octets that greet: the name and version 0-9-1.
pub(crate) const HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";
/// Type, channel and size before the payload.
const HEAD: usize = 7;
/// A frame's octets beyond its payload.
pub(crate) const FRAME_OVERHEAD: usize = HEAD + 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Method,
    Header,
    Body,
    Heartbeat,
}

/// One frame as it came.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) channel: u16,
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    /// Its octets on the wire.
    pub(crate) fn size(&self) -> usize {
        self.payload.len() + FRAME_OVERHEAD
    }
}

/// Cuts the first frame off `input`; `None` if it is not all there yet. The payload may have up
/// to `frame_max` octets.
pub(crate) fn cut(input: &[u8], frame_max: usize) -> Result<Option<Frame<'_>>, Exception> {
    let Some(&[kind, c0, c1, s0, s1, s2, s3]) = input.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let known = match kind {
        constants::FRAME_METHOD => Kind::Method,
        constants::FRAME_HEADER => Kind::Header,
        constants::FRAME_BODY => Kind::Body,
        constants::FRAME_HEARTBEAT => Kind::Heartbeat,
        other => {
            return Err(Exception::new(
                Code::FrameError,
                format!("unknown frame type {other}"),
            ));
        }
    };
    let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
    // The standard counts the octets around the payload in. RabbitMQ does when it writes and
    // does not when it reads, and clients rely on it.
    if size > frame_max {
        return Err(Exception::new(
            Code::FrameError,
            format!(
                "type {kind}, all octets = <<>>: {{frame_too_large,{size},{}}}",
                frame_max.saturating_sub(FRAME_OVERHEAD)
            ),
        ));
    }
    let Some(payload) = input.get(HEAD..HEAD + size) else {
        return Ok(None);
    };
    match input.get(HEAD + size) {
        None => Ok(None),
        Some(&constants::FRAME_END) => Ok(Some(Frame {
            kind: known,
            channel: u16::from_be_bytes([c0, c1]),
            payload,
        })),
        Some(other) => Err(Exception::new(
            Code::FrameError,
            format!("frame ends with {other}, not with 206"),
        )),
    }
}

/// Reads a method.
pub(crate) fn method(payload: &[u8]) -> Result<AMQPClass, Exception> {
    let undecodable = || {
        let exception = Exception::new(Code::FrameError, "cannot decode the method");
        match payload.first_chunk() {
            Some([c0, c1, m0, m1]) => exception.of(
                u16::from_be_bytes([*c0, *c1]),
                u16::from_be_bytes([*m0, *m1]),
            ),
            None => exception,
        }
    };
    let parsed = match table_at(payload) {
        Some(at) => method_with_table(payload, at),
        None => parse_class(payload)
            .ok()
            .and_then(|(rest, class)| rest.is_empty().then_some(class)),
    };
    parsed.ok_or_else(undecodable)
}

/// The offset of the table in a method, if it is one that a client sends with a table.
fn table_at(payload: &[u8]) -> Option<usize> {
    // The octets in front of the short strings, how many of those, the octets behind them.
    let (before, strings, after) = match payload.first_chunk()? {
        // connection.start-ok
        [0, 10, 0, 11] => (4, 0, 0),
        // exchange.declare
        [0, 40, 0, 10] => (6, 2, 1),
        // exchange.bind, exchange.unbind, queue.bind
        [0, 40, 0, 30 | 40] | [0, 50, 0, 20] => (6, 3, 1),
        // queue.declare
        [0, 50, 0, 10] => (6, 1, 1),
        // queue.unbind
        [0, 50, 0, 50] => (6, 3, 0),
        // basic.consume
        [0, 60, 0, 20] => (6, 2, 1),
        _ => return None,
    };
    let mut at = before;
    for _ in 0..strings {
        at += 1 + usize::from(*payload.get(at)?);
    }
    Some(at + after)
}

/// Reads a method whose table begins at `at`: `amq-protocol` reads the rest, as if the table
/// were empty.
fn method_with_table(payload: &[u8], at: usize) -> Option<AMQPClass> {
    let (before, rest) = payload.split_at_checked(at)?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (fields, after) = rest.split_at_checked(length)?;
    let fields = table::parse(fields).ok()?;
    let plain = [before, &[0; 4], after].concat();
    let Ok(([], mut class)) = parse_class(plain.as_slice()) else {
        return None;
    };
    let place = match &mut class {
        AMQPClass::Connection(connection::AMQPMethod::StartOk(ok)) => &mut ok.client_properties,
        AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)) => &mut declare.arguments,
        AMQPClass::Exchange(exchange::AMQPMethod::Bind(bind)) => &mut bind.arguments,
        AMQPClass::Exchange(exchange::AMQPMethod::Unbind(unbind)) => &mut unbind.arguments,
        AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) => &mut declare.arguments,
        AMQPClass::Queue(queue::AMQPMethod::Bind(bind)) => &mut bind.arguments,
        AMQPClass::Queue(queue::AMQPMethod::Unbind(unbind)) => &mut unbind.arguments,
        AMQPClass::Basic(basic::AMQPMethod::Consume(consume)) => &mut consume.arguments,
        _ => return None,
    };
    *place = fields;
    Some(class)
}

/// A `basic.publish` without its content. Its names need not be UTF-8: see `octets.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PublishHead {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) mandatory: bool,
    pub(crate) immediate: bool,
}

/// Reads a `basic.publish`; `None` if the method is another one.
pub(crate) fn publish(payload: &[u8]) -> Result<Option<PublishHead>, Exception> {
    let Some(fields) = payload.strip_prefix(&[0, 60, 0, 40]) else {
        return Ok(None);
    };
    let head = || {
        // Two octets of the ticket that AMQP once had.
        let (exchange, rest) = short(fields.get(2..)?)?;
        let (routing_key, rest) = short(rest)?;
        let &[bits] = rest else { return None };
        Some(PublishHead {
            exchange: octets::decode(exchange),
            routing_key: octets::decode(routing_key),
            mandatory: bits & 1 != 0,
            immediate: bits & 2 != 0,
        })
    };
    let undecodable = || Exception::new(Code::FrameError, "cannot decode the method").of(60, 40);
    head().map(Some).ok_or_else(undecodable)
}

/// Cuts a short string off.
fn short(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Appends a method frame.
pub(crate) fn put_method(
    out: &mut Vec<u8>,
    channel: u16,
    class: AMQPClass,
) -> Result<(), GenError> {
    let frame = AMQPFrame::Method(channel, class);
    let buffer = std::mem::take(out);
    *out = gen_frame(&frame)(WriteContext::from(buffer))?
        .into_inner()
        .0;
    Ok(())
}

/// Appends a publisher confirm, for all messages up to `tag` if `multiple`.
pub(crate) fn put_confirm(
    out: &mut Vec<u8>,
    channel: u16,
    tag: u64,
    outcome: Outcome,
    multiple: bool,
) {
    let method: u16 = match outcome {
        Outcome::Ack => 80,
        Outcome::Nack => 120,
    };
    put_frame(out, constants::FRAME_METHOD, channel, |out| {
        out.extend_from_slice(&60_u16.to_be_bytes());
        out.extend_from_slice(&method.to_be_bytes());
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}

pub(crate) fn put_heartbeat(out: &mut Vec<u8>) {
    put_frame(out, constants::FRAME_HEARTBEAT, 0, |_| {});
}

/// Appends a message: its method, its header, its body in frames no larger than agreed.
pub(crate) fn put_content(out: &mut Vec<u8>, channel: u16, content: &Content, frame_max: usize) {
    let message = &content.message;
    put_frame(out, constants::FRAME_METHOD, channel, |out| {
        out.extend_from_slice(&60_u16.to_be_bytes());
        match &content.head {
            Head::Deliver {
                consumer,
                tag,
                redelivered,
            } => {
                out.extend_from_slice(&60_u16.to_be_bytes());
                put_short(out, consumer.as_bytes());
                out.extend_from_slice(&tag.to_be_bytes());
                out.push(u8::from(*redelivered));
            }
            Head::GetOk {
                tag, redelivered, ..
            } => {
                out.extend_from_slice(&71_u16.to_be_bytes());
                out.extend_from_slice(&tag.to_be_bytes());
                out.push(u8::from(*redelivered));
            }
            Head::Return { code, text } => {
                out.extend_from_slice(&50_u16.to_be_bytes());
                out.extend_from_slice(&code.to_be_bytes());
                put_short(out, text.as_bytes());
            }
        }
        put_short(out, &octets::encode(&message.exchange));
        put_short(out, &octets::encode(&message.routing_key));
        if let Head::GetOk { left, .. } = &content.head {
            out.extend_from_slice(&left.to_be_bytes());
        }
    });
    let counted = content.delivery_count.map(|returns| {
        let mut headers = message.properties.headers().unwrap_or_default();
        headers.insert(
            "x-delivery-count".into(),
            amq_protocol::types::AMQPValue::LongLongInt(returns.into()),
        );
        message.properties.with_headers(&headers)
    });
    let properties = counted.as_ref().unwrap_or(&message.properties);
    put_frame(out, constants::FRAME_HEADER, channel, |out| {
        out.extend_from_slice(&60_u16.to_be_bytes());
        out.extend_from_slice(&0_u16.to_be_bytes());
        out.extend_from_slice(&(message.body.len() as u64).to_be_bytes());
        out.extend_from_slice(properties.as_bytes());
    });
    for chunk in message.body.chunks(frame_max - FRAME_OVERHEAD) {
        put_frame(out, constants::FRAME_BODY, channel, |out| {
            out.extend_from_slice(chunk)
        });
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let size_at = out.len();
    out.extend_from_slice(&[0; 4]);
    payload(out);
    let size = u32::try_from(out.len() - size_at - 4).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(size_at..size_at + 4) {
        place.copy_from_slice(&size.to_be_bytes());
    }
    out.push(constants::FRAME_END);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use amq_protocol::{
        frame::parse_frame,
        protocol::{BasicProperties, basic},
        types::{AMQPValue, FieldTable},
    };
    use bytes::Bytes;

    use super::*;
    use crate::{
        message::{Gauge, Message},
        properties::Properties,
    };

    #[test]
    fn content_reads_back() {
        let message = Message::new(
            "logs".into(),
            "key".into(),
            Vec::new(),
            Properties::default(),
            Bytes::from(vec![7; 100]),
            &Gauge::default(),
        );
        let head = Head::Deliver {
            consumer: "tag".into(),
            tag: 9,
            redelivered: true,
        };
        let content = Content {
            head,
            message: Arc::new(message),
            delivery_count: None,
        };
        let mut out = Vec::new();
        put_content(&mut out, 3, &content, FRAME_OVERHEAD + 60);
        let (rest, frame) = parse_frame(out.as_slice()).unwrap();
        let deliver = basic::Deliver {
            consumer_tag: "tag".into(),
            delivery_tag: 9,
            redelivered: true,
            exchange: "logs".into(),
            routing_key: "key".into(),
        };
        assert_eq!(
            frame,
            AMQPFrame::Method(3, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)))
        );
        let (rest, frame) = parse_frame(rest).unwrap();
        let AMQPFrame::Header(3, header) = frame else {
            panic!("{frame:?}")
        };
        assert_eq!(
            (header.body_size, header.properties),
            (100, BasicProperties::default())
        );
        let (rest, frame) = parse_frame(rest).unwrap();
        assert_eq!(frame, AMQPFrame::Body(3, vec![7; 60]));
        let (rest, frame) = parse_frame(rest).unwrap();
        assert_eq!(frame, AMQPFrame::Body(3, vec![7; 40]));
        assert!(rest.is_empty());
    }

    fn encoded(class: AMQPClass) -> Vec<u8> {
        let mut out = Vec::new();
        put_method(&mut out, 1, class).unwrap();
        out[HEAD..out.len() - 1].to_vec()
    }

    fn arguments() -> FieldTable {
        let mut table = FieldTable::default();
        table.insert("k".into(), AMQPValue::LongInt(7));
        table
    }

    #[test]
    fn methods_with_tables_read_back() {
        for class in [
            AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
                client_properties: arguments(),
                mechanism: "PLAIN".into(),
                response: "secret".into(),
                locale: "en_US".into(),
            })),
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
                exchange: "e".into(),
                kind: "topic".into(),
                passive: false,
                durable: true,
                auto_delete: false,
                internal: true,
                nowait: false,
                arguments: arguments(),
            })),
            AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
                destination: "d".into(),
                source: "s".into(),
                routing_key: "key".into(),
                nowait: true,
                arguments: arguments(),
            })),
            AMQPClass::Exchange(exchange::AMQPMethod::Unbind(exchange::Unbind {
                destination: "d".into(),
                source: "s".into(),
                routing_key: "key".into(),
                nowait: true,
                arguments: arguments(),
            })),
            AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
                queue: "q".into(),
                passive: false,
                durable: true,
                exclusive: false,
                auto_delete: true,
                nowait: false,
                arguments: arguments(),
            })),
            AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
                queue: "q".into(),
                exchange: "e".into(),
                routing_key: "key".into(),
                nowait: false,
                arguments: arguments(),
            })),
            AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
                queue: "q".into(),
                exchange: "e".into(),
                routing_key: "key".into(),
                arguments: arguments(),
            })),
            AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
                queue: "q".into(),
                consumer_tag: "tag".into(),
                no_local: false,
                no_ack: true,
                exclusive: false,
                nowait: false,
                arguments: arguments(),
            })),
        ] {
            let payload = encoded(class.clone());
            assert!(table_at(&payload).is_some(), "{class:?}");
            assert_eq!(method(&payload), Ok(class));
            assert!(method(&[&payload[..], b"x"].concat()).is_err());
            assert!(method(&payload[..payload.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_publish_reads_back() {
        let sent = basic::Publish {
            exchange: "e".into(),
            routing_key: "key".into(),
            mandatory: true,
            immediate: false,
        };
        let payload = encoded(AMQPClass::Basic(basic::AMQPMethod::Publish(sent)));
        let head = PublishHead {
            exchange: "e".into(),
            routing_key: "key".into(),
            mandatory: true,
            immediate: false,
        };
        assert_eq!(publish(&payload), Ok(Some(head)));
        assert!(publish(&[&payload[..], b"x"].concat()).is_err());
        assert!(publish(&payload[..payload.len() - 1]).is_err());
        assert_eq!(publish(&[0, 60, 0, 70]), Ok(None));
    }

    #[test]
    fn frames_are_cut_whole_or_not_at_all() {
        let mut bytes = Vec::new();
        put_heartbeat(&mut bytes);
        put_frame(&mut bytes, constants::FRAME_BODY, 2, |out| {
            out.extend_from_slice(b"abc")
        });
        for end in 0..8 {
            assert!(cut(&bytes[..end], 4096).unwrap().is_none());
        }
        let first = cut(&bytes, 4096).unwrap().unwrap();
        assert_eq!((first.kind, first.size()), (Kind::Heartbeat, 8));
        let second = cut(&bytes[8..], 4096).unwrap().unwrap();
        assert_eq!(
            (second.kind, second.channel, second.payload),
            (Kind::Body, 2, &b"abc"[..])
        );
        assert!(cut(&bytes[8..], 3).unwrap().is_some());
        assert!(cut(&bytes[8..], 2).is_err());
        assert!(cut(&[9, 0, 0, 0, 0, 0, 0, 206], 4096).is_err());
        assert!(cut(&[8, 0, 0, 0, 0, 0, 0, 0], 4096).is_err());
    }
}
