//! Frame encoding: messages (`basic.publish`), settlements (`basic.ack`, `basic.nack`, `basic.reject`)
//! and `confirm.select` by hand, for their speed; all other methods with amq-protocol. The layout is
//! that of AMQP 0-9-1, 2.3.5 and 4.2.

use amq_protocol::protocol::{AMQPClass, gen_class};
use bytes::{BufMut, BytesMut};

use crate::error::{Error, ErrorKind};
use crate::link::convert;
use crate::wire::message::{Outgoing, Properties};
use crate::wire::trace_headers::TRACEPARENT;
use crate::wire::value::Value;

pub(in crate::link) const METHOD: u8 = 1;
pub(in crate::link) const HEADER: u8 = 2;
pub(in crate::link) const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
pub(in crate::link) const END: u8 = 0xCE;
/// The size of a frame's head: type, channel and payload size.
pub(in crate::link) const HEAD: usize = 7;
/// The size of a frame's end, the byte [`END`].
pub(in crate::link) const TAIL: usize = 1;

/// The bytes that a message rarely exceeds besides its body.
const TYPICAL_OVERHEAD: usize = 512;

/// The class `basic` and its methods.
pub(in crate::link) const BASIC: u16 = 60;
const PUBLISH: u16 = 40;
pub(in crate::link) const ACK: u16 = 80;
const REJECT: u16 = 90;
pub(in crate::link) const NACK: u16 = 120;
/// The class `confirm`, an extension of RabbitMQ, and its method.
const CONFIRM: u16 = 85;
const SELECT: u16 = 10;

/// The method that settles a delivery.
#[derive(Clone, Copy, Debug)]
pub(in crate::link) enum SettleMethod {
    Ack {
        multiple: bool,
    },
    /// `basic.nack` with requeue.
    Requeue,
    /// `basic.reject` without requeue.
    Reject,
}

/// Appends a message: `basic.publish`, its content header and its body.
///
/// # Errors
/// The message cannot be encoded: a name is too long, or its properties do not fit into one frame.
/// Nothing was appended.
pub(in crate::link) fn put_message(
    out: &mut BytesMut,
    channel: u16,
    message: &Outgoing,
    frame_max: u32,
) -> Result<(), Error> {
    let start = out.len();
    let result = try_put_message(out, channel, message, frame_max);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Appends a settlement of a delivery.
pub(in crate::link) fn put_settle(
    out: &mut BytesMut,
    channel: u16,
    tag: u64,
    settlement: SettleMethod,
) {
    let (method, bits) = match settlement {
        SettleMethod::Ack { multiple } => (ACK, u8::from(multiple)),
        SettleMethod::Requeue => (NACK, 0b10),
        SettleMethod::Reject => (REJECT, 0),
    };
    put_frame(out, METHOD, channel, |out| {
        out.put_u16(BASIC);
        out.put_u16(method);
        out.put_u64(tag);
        out.put_u8(bits);
    });
}

/// Appends `confirm.select` with no-wait, which puts a channel into confirm mode and has no reply.
pub(in crate::link) fn put_confirm_select(out: &mut BytesMut, channel: u16) {
    put_frame(out, METHOD, channel, |out| {
        out.put_u16(CONFIRM);
        out.put_u16(SELECT);
        // no-wait
        out.put_u8(1);
    });
}

/// Appends a method frame.
///
/// # Errors
/// The method does not fit into a frame.
pub(in crate::link) fn put_method(
    out: &mut BytesMut,
    channel: u16,
    method: &AMQPClass,
    frame_max: u32,
) -> Result<(), Error> {
    let written = gen_class(method)(Vec::new().into());
    let (payload, _) = written
        .map_err(|error| Error::invalid("a method that AMQP cannot carry").caused_by(error))?
        .into_inner();
    let size = HEAD + payload.len() + TAIL;
    let limit = usize::try_from(frame_max).unwrap_or(usize::MAX);
    if frame_max > 0 && size > limit {
        let error = Error::new(ErrorKind::TooLarge { size, limit });
        return Err(
            error.caused_by("the names and arguments of a method have to fit into one frame")
        );
    }
    put_frame(out, METHOD, channel, |out| out.put_slice(&payload));
    Ok(())
}

/// Appends the head of a frame whose payload has `size` bytes.
pub(in crate::link) fn put_head(out: &mut BytesMut, kind: u8, channel: u16, size: u32) {
    out.put_u8(kind);
    out.put_u16(channel);
    out.put_u32(size);
}

/// Appends a heartbeat.
pub(in crate::link) fn put_heartbeat(out: &mut BytesMut) {
    put_frame(out, HEARTBEAT, 0, |_| {});
}

fn try_put_message(
    out: &mut BytesMut,
    channel: u16,
    message: &Outgoing,
    frame_max: u32,
) -> Result<(), Error> {
    convert::check_size(&message.properties, frame_max)?;
    let exchange = short(&message.exchange)?;
    let routing_key = short(&message.routing_key)?;
    out.reserve(TYPICAL_OVERHEAD + message.body.len());
    put_frame(out, METHOD, channel, |out| {
        out.put_u16(BASIC);
        out.put_u16(PUBLISH);
        // The access ticket of earlier versions, now reserved.
        out.put_u16(0);
        put_short(out, exchange);
        put_short(out, routing_key);
        out.put_u8(u8::from(message.mandatory));
    });
    let size = message.body.len() as u64;
    try_put_frame(out, HEADER, channel, |out| {
        out.put_u16(BASIC);
        out.put_u16(0);
        out.put_u64(size);
        put_properties(out, &message.properties)
    })?;
    // 0 means no limit.
    let max_body = usize::try_from(frame_max).unwrap_or(usize::MAX);
    let max_body = max_body.checked_sub(HEAD + TAIL).unwrap_or(usize::MAX);
    let max_body = max_body.max(1);
    for part in message.body.chunks(max_body) {
        put_frame(out, BODY, channel, |out| out.put_slice(part));
    }
    Ok(())
}

/// Appends properties: a bit for each one that is set, from the highest bit on, then their values.
fn put_properties(out: &mut BytesMut, properties: &Properties) -> Result<(), Error> {
    let Properties {
        content_type,
        headers,
        trace,
        persistent,
        priority,
        correlation_id,
        reply_to,
        expiration,
        message_id,
        timestamp,
        kind,
        app_id,
        uncommon,
    } = properties;
    let (content_encoding, user_id) = match uncommon {
        Some(it) => (&it.content_encoding, &it.user_id),
        None => (&None, &None),
    };
    let at = out.len();
    out.put_u16(0);
    let mut flags: u16 = 0;
    let mut text = |out: &mut BytesMut, bit: u32, text: &Option<String>| {
        if let Some(text) = text {
            flags |= 1 << bit;
            put_short(out, short(text)?);
        }
        Ok::<(), Error>(())
    };
    text(out, 15, content_type)?;
    text(out, 14, content_encoding)?;
    let mut other_flags: u16 = 0;
    if !headers.is_empty() || !trace.is_empty() {
        other_flags |= 1 << 13;
        put_headers(out, properties)?;
    }
    if *persistent {
        other_flags |= 1 << 12;
        out.put_u8(convert::PERSISTENT);
    }
    if let Some(priority) = priority {
        other_flags |= 1 << 11;
        out.put_u8(*priority);
    }
    if let Some(id) = correlation_id {
        other_flags |= 1 << 10;
        let length = u8::try_from(id.len()).map_err(|_| convert::too_long(id.len()))?;
        out.put_u8(length);
        out.put_slice(id);
    }
    text(out, 9, reply_to)?;
    text(out, 8, expiration)?;
    text(out, 7, message_id)?;
    if let Some(seconds) = timestamp {
        other_flags |= 1 << 6;
        out.put_u64(*seconds);
    }
    text(out, 5, kind)?;
    text(out, 4, user_id)?;
    text(out, 3, app_id)?;
    let flags = flags | other_flags;
    if let Some(bytes) = out.get_mut(at..at + 2) {
        bytes.copy_from_slice(&flags.to_be_bytes());
    }
    Ok(())
}

/// Appends the header table. Headers that were received in a wire type that [`Value`] does not keep, and
/// were not changed since, are sent with their original bytes.
fn put_headers(out: &mut BytesMut, properties: &Properties) -> Result<(), Error> {
    let unchanged = properties.unchanged();
    let trace = &properties.trace;
    put_sized(out, |out| {
        if let Some(parent) = trace.parent_bytes() {
            put_short(out, short(TRACEPARENT)?);
            out.put_u8(b'S');
            put_sized(out, |out| {
                out.put_slice(parent);
                Ok(())
            })?;
        }
        for (name, value) in properties.headers.iter().chain(trace.others()) {
            put_short(out, short(name)?);
            match unchanged.get(name.as_str()) {
                Some(header) => out.put_slice(&header.bytes),
                None => put_value(out, value)?,
            }
        }
        Ok(())
    })
}

/// Appends a value with the letter of its type, as RabbitMQ understands them.
fn put_value(out: &mut BytesMut, value: &Value) -> Result<(), Error> {
    match value {
        Value::Bool(value) => {
            out.put_u8(b't');
            out.put_u8(u8::from(*value));
        }
        Value::Int(value) => {
            out.put_u8(b'l');
            out.put_i64(*value);
        }
        Value::Float(value) => {
            out.put_u8(b'd');
            out.put_f64(*value);
        }
        Value::Timestamp(seconds) => {
            out.put_u8(b'T');
            out.put_u64(*seconds);
        }
        Value::Null => out.put_u8(b'V'),
        Value::Text(text) => {
            out.put_u8(b'S');
            return put_sized(out, |out| {
                out.put_slice(text.as_bytes());
                Ok(())
            });
        }
        Value::Bytes(bytes) => {
            out.put_u8(b'x');
            return put_sized(out, |out| {
                out.put_slice(bytes);
                Ok(())
            });
        }
        Value::List(values) => {
            out.put_u8(b'A');
            return put_sized(out, |out| {
                values.iter().try_for_each(|it| put_value(out, it))
            });
        }
        Value::Table(table) => {
            out.put_u8(b'F');
            return put_sized(out, |out| {
                table.iter().try_for_each(|(name, value)| {
                    put_short(out, short(name)?);
                    put_value(out, value)
                })
            });
        }
    }
    Ok(())
}

/// Appends contents after their size, which has 32 bits.
fn put_sized(
    out: &mut BytesMut,
    contents: impl FnOnce(&mut BytesMut) -> Result<(), Error>,
) -> Result<(), Error> {
    let at = out.len();
    out.put_u32(0);
    let start = out.len();
    contents(out)?;
    // Properties are smaller than a frame, whose size has 32 bits.
    let size = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(bytes) = out.get_mut(at..start) {
        bytes.copy_from_slice(&size.to_be_bytes());
    }
    Ok(())
}

/// A short string and its length, which AMQP encodes in one byte.
fn short(text: &str) -> Result<(u8, &str), Error> {
    match u8::try_from(text.len()) {
        Ok(length) => Ok((length, text)),
        Err(_) => Err(convert::too_long(text.len())),
    }
}

fn put_short(out: &mut BytesMut, (length, text): (u8, &str)) {
    out.put_u8(length);
    out.put_slice(text.as_bytes());
}

fn put_frame(out: &mut BytesMut, kind: u8, channel: u16, payload: impl FnOnce(&mut BytesMut)) {
    // Fails only if the closure does.
    let _ = try_put_frame(out, kind, channel, |out| {
        payload(out);
        Ok(())
    });
}

fn try_put_frame(
    out: &mut BytesMut,
    kind: u8,
    channel: u16,
    payload: impl FnOnce(&mut BytesMut) -> Result<(), Error>,
) -> Result<(), Error> {
    out.put_u8(kind);
    out.put_u16(channel);
    let size_at = out.len();
    out.put_u32(0);
    let start = out.len();
    payload(out)?;
    // Payloads are smaller than frame_max, which has 32 bits.
    let size = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(bytes) = out.get_mut(size_at..start) {
        bytes.copy_from_slice(&size.to_be_bytes());
    }
    out.put_u8(END);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::link::frame::decode;
    use crate::wire::message::Uncommon;
    use crate::wire::trace_headers::TraceHeaders;
    use crate::wire::value::{Table, Value};
    use amq_protocol::frame::{AMQPFrame, gen_frame, parse_frame};
    use amq_protocol::protocol::{AMQPClass, basic, confirm};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = Option<String>> {
        prop::option::of("\\PC{0,20}")
    }

    prop_compose! {
        fn texts()(
            texts in [text(), text(), text(), text(), text(), text(), text()],
            content_encoding in text(),
            user_id in text(),
        ) -> Properties {
            let [content_type, correlation_id, reply_to, expiration, message_id, kind, app_id] = texts;
            let correlation_id = correlation_id.map(String::into_bytes);
            Properties {
                content_type, correlation_id, reply_to, expiration, message_id, kind, app_id,
                uncommon: (content_encoding.is_some() || user_id.is_some()).then(|| {
                    Box::new(Uncommon { content_encoding, user_id, ..Uncommon::default() })
                }),
                ..Properties::default()
            }
        }
    }

    prop_compose! {
        fn messages()(
            properties in texts(),
            persistent in any::<bool>(),
            priority in any::<Option<u8>>(),
            timestamp in any::<Option<u64>>(),
            headers in prop::collection::btree_map("[a-z]{1,9}", any::<i64>(), 0..4),
            trace in prop::option::of(("[0-9a-f-]{54,56}", "[a-z]{0,3}")),
            exchange in "\\PC{0,20}",
            routing_key in "\\PC{0,20}",
            mandatory in any::<bool>(),
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) -> Outgoing {
            let headers: Table = headers
                .into_iter()
                .map(|(name, value)| (name, Value::Int(value)))
                .collect();
            // Not both, because amq-protocol sorts all of them.
            let (headers, trace) = match trace {
                None => (headers, TraceHeaders::new()),
                Some((parent, state)) => {
                    let mut trace = TraceHeaders::new();
                    trace.set(&parent, &state);
                    (Table::new(), trace)
                }
            };
            let properties = Properties { persistent, priority, timestamp, headers, trace, ..properties };
            Outgoing { exchange, routing_key, mandatory, properties, body: Bytes::from(body) }
        }
    }

    fn frames(mut bytes: &[u8]) -> Vec<AMQPFrame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let (rest, frame) = parse_frame(bytes).expect("a frame");
            frames.push(frame);
            bytes = rest;
        }
        frames
    }

    proptest! {
        /// amq-protocol decodes the frames.
        #[test]
        fn a_message_is_decoded_as_it_was_encoded(message in messages(), frame_max in 400_u32..500) {
            let mut out = BytesMut::from(&b"before"[..]);
            put_message(&mut out, 9, &message, frame_max).unwrap();
            let (before, bytes) = out.split_at(6);
            prop_assert_eq!(before, b"before");
            let mut frames = frames(bytes).into_iter();
            prop_assert_eq!(frames.next(), Some(AMQPFrame::Method(9, AMQPClass::Basic(
                basic::AMQPMethod::Publish(basic::Publish {
                    exchange: message.exchange.as_str().into(),
                    routing_key: message.routing_key.as_str().into(),
                    mandatory: message.mandatory,
                    immediate: false,
                }),
            ))));
            match frames.next() {
                Some(AMQPFrame::Header(9, header)) => {
                    prop_assert_eq!(header.class_id, 60);
                    prop_assert_eq!(header.body_size, message.body.len() as u64);
                    // amq-protocol encodes the same bytes, and Lepus decodes them.
                    let frame = AMQPFrame::Header(9, header);
                    let theirs = gen_frame(&frame)(Vec::new().into()).unwrap().into_inner().0;
                    prop_assert!(bytes.windows(theirs.len()).any(|ours| ours == theirs));
                    let payload = &theirs[HEAD..theirs.len() - TAIL];
                    let header = decode::header(payload).unwrap();
                    prop_assert_eq!(header.properties.as_ref(), Some(&message.properties));
                }
                other => prop_assert!(false, "{other:?}"),
            }
            let mut body = Vec::new();
            for frame in frames {
                match frame {
                    AMQPFrame::Body(9, part) => {
                        prop_assert!(!part.is_empty() && part.len() + HEAD + TAIL <= frame_max as usize);
                        body.extend(part);
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(&body[..], &message.body[..]);
        }
    }

    #[test]
    fn a_header_that_came_twice_is_sent_once() {
        let (first, second) = (b"\x01aI\x00\x00\x00\x01", b"\x01aI\x00\x00\x00\x02");
        for last in [first, second] {
            let mut payload = vec![0; 12];
            payload.extend((1_u16 << 13).to_be_bytes());
            payload.extend((2 * first.len() as u32).to_be_bytes());
            payload.extend([&first[..], &last[..]].concat());
            let properties = decode::header(&payload).unwrap().properties.unwrap();
            let mut out = BytesMut::new();
            put_properties(&mut out, &properties).unwrap();
            assert_eq!(out[2 + 4..], last[..]);
        }
    }

    #[test]
    fn unchanged_headers_keep_their_wire_types() {
        let entries: [&[u8]; 10] = [
            b"\x0btraceparentI\x00\x00\x00\x07",
            b"\x01aD\x02\x00\x00\x01\x13",
            b"\x01bI\xff\xff\xff\xfe",
            b"\x01cb\xfe",
            b"\x01df\x3f\x00\x00\x00",
            b"\x01eS\x00\x00\x00\x01\xff",
            b"\x01fF\x00\x00\x00\x09\x01nu\x00\x07\x01ot\x01",
            b"\x01gA\x00\x00\x00\x05i\x00\x00\x00\x01",
            b"\x01hl\x00\x00\x00\x00\x00\x00\x00\x01",
            b"\x01iS\x00\x00\x00\x01x",
        ];
        let mut payload = vec![0; 12];
        payload.extend((1_u16 << 13).to_be_bytes());
        let size: usize = entries.iter().map(|entry| entry.len()).sum();
        payload.extend((size as u32).to_be_bytes());
        payload.extend(entries.concat());
        // A nested table is kept as bytes, too, whatever the types of its values are.
        let mut properties = decode::header(&payload).unwrap().properties.unwrap();
        assert_eq!(properties.headers["a"], Value::Float(2.75));
        assert_eq!(properties.headers["b"], Value::Int(-2));
        let written = |properties: &Properties| {
            let mut out = BytesMut::new();
            put_properties(&mut out, properties).unwrap();
            assert!(convert::check_size(properties, 22 + 10 + out.len() as u32).is_ok());
            out
        };
        let out = written(&properties);
        assert_eq!(out.len(), 2 + 4 + size);
        for entry in entries {
            assert!(
                out.windows(entry.len()).any(|part| part == entry),
                "{entry:x?}"
            );
        }
        properties.headers.insert("b".into(), Value::Int(-3));
        properties.headers.remove("c");
        let out = written(&properties);
        let contains = |entry: &[u8]| out.windows(entry.len()).any(|part| part == entry);
        assert!(
            contains(b"\x01bl\xff\xff\xff\xff\xff\xff\xff\xfd"),
            "{out:x?}"
        );
        assert!(!contains(b"\x01b\x49") && !contains(b"\x01c"), "{out:x?}");
        let mut payload = vec![0; 12];
        payload.extend(out);
        assert_eq!(
            decode::header(&payload)
                .unwrap()
                .properties
                .unwrap()
                .headers,
            properties.headers
        );
    }

    #[test]
    fn settlements_are_decoded_as_they_were_encoded() {
        let mut out = BytesMut::new();
        put_settle(&mut out, 3, 7, SettleMethod::Ack { multiple: false });
        put_settle(&mut out, 3, 9, SettleMethod::Ack { multiple: true });
        put_settle(&mut out, 3, 10, SettleMethod::Requeue);
        put_settle(&mut out, 3, 11, SettleMethod::Reject);
        let ack = |delivery_tag, multiple| {
            basic::AMQPMethod::Ack(basic::Ack {
                delivery_tag,
                multiple,
            })
        };
        let expected = [
            ack(7, false),
            ack(9, true),
            basic::AMQPMethod::Nack(basic::Nack {
                delivery_tag: 10,
                multiple: false,
                requeue: true,
            }),
            basic::AMQPMethod::Reject(basic::Reject {
                delivery_tag: 11,
                requeue: false,
            }),
        ];
        let expected = expected.map(|method| AMQPFrame::Method(3, AMQPClass::Basic(method)));
        assert_eq!(frames(&out), expected);
    }

    #[test]
    fn confirm_select_is_encoded_with_nowait() {
        let mut out = BytesMut::new();
        put_confirm_select(&mut out, 3);
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: true });
        let expected = AMQPFrame::Method(3, AMQPClass::Confirm(select));
        assert_eq!(frames(&out), [expected]);
    }

    #[test]
    fn a_message_that_cannot_be_encoded_appends_nothing() {
        let message = |properties, routing_key: &str| Outgoing {
            exchange: String::new(),
            routing_key: routing_key.into(),
            mandatory: true,
            properties,
            body: Bytes::new(),
        };
        let long = "x".repeat(256);
        let late = Properties {
            app_id: Some(long.clone()),
            ..Properties::default()
        };
        let large = Properties {
            headers: [("large".into(), Value::Text("x".repeat(5000)))].into(),
            ..Properties::default()
        };
        let refused = [
            message(late, "echo"),
            message(Properties::default(), &long),
            message(large, "echo"),
        ];
        for message in refused {
            let mut out = BytesMut::from(&b"before"[..]);
            let error = put_message(&mut out, 1, &message, 4096).unwrap_err();
            let is_clear = matches!(
                error.kind(),
                ErrorKind::Invalid(_) | ErrorKind::TooLarge { .. }
            );
            assert!(is_clear, "{error:?}");
            assert_eq!(&out[..], b"before");
        }
    }
}
