//! Frames on the wire. `amq-protocol` reads and writes what is in them; this file cuts
//! them out of the stream, and writes by hand the three methods that carry content,
//! whose strings are shared and need no copy first.

use amq_protocol::{
    frame::{AMQPFrame, GenError, WriteContext, gen_frame},
    protocol::{AMQPClass, constants, parse_class},
};

use crate::{
    arguments::nests_too_deep,
    core::{Content, Head, Outcome},
    exception::{Code, Exception},
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

/// Cuts the first frame off `input`; `None` if it is not all there yet.
pub(crate) fn cut(input: &[u8], frame_max: usize) -> Result<Option<Frame<'_>>, Exception> {
    let Some(&[kind, c0, c1, s0, s1, s2, s3]) = input.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let kind = match kind {
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
    if size + FRAME_OVERHEAD > frame_max {
        return Err(Exception::new(
            Code::FrameError,
            format!(
                "frame too large: {size} octets of payload, at most {}",
                frame_max - FRAME_OVERHEAD
            ),
        ));
    }
    let Some(payload) = input.get(HEAD..HEAD + size) else {
        return Ok(None);
    };
    match input.get(HEAD + size) {
        None => Ok(None),
        Some(&constants::FRAME_END) => Ok(Some(Frame {
            kind,
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
    if nests_too_deep(payload) {
        return Err(Exception::new(Code::FrameError, "tables nest too deep"));
    }
    match parse_class(payload) {
        Ok(([], class)) => Ok(class),
        _ => match payload.first_chunk() {
            Some([c0, c1, m0, m1]) => {
                let (class, method) = (
                    u16::from_be_bytes([*c0, *c1]),
                    u16::from_be_bytes([*m0, *m1]),
                );
                Err(Exception::new(Code::FrameError, "cannot decode the method").of(class, method))
            }
            None => Err(Exception::new(Code::FrameError, "cannot decode the method")),
        },
    }
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
                put_short(out, consumer);
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
                put_short(out, text);
            }
        }
        put_short(out, &message.exchange);
        put_short(out, &message.routing_key);
        if let Head::GetOk { left, .. } = &content.head {
            out.extend_from_slice(&left.to_be_bytes());
        }
    });
    let counted = content.returns.map(|returns| {
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

fn put_short(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend(bytes.iter().take(length.into()));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use amq_protocol::{
        frame::parse_frame,
        protocol::{BasicProperties, basic},
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
            returns: None,
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
        assert!(cut(&bytes[8..], 10).is_err());
        assert!(cut(&[9, 0, 0, 0, 0, 0, 0, 206], 4096).is_err());
        assert!(cut(&[8, 0, 0, 0, 0, 0, 0, 0], 4096).is_err());
    }
}
