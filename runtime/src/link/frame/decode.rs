//! Frame decoding by hand: the methods that are read most (`basic.deliver`, `basic.get-ok`,
//! `basic.return`, `basic.ack`, `basic.nack`, `channel.close`) and content headers. Other methods are
//! decoded with amq-protocol. The layout is that of AMQP 0-9-1, 2.3.5 and 4.2. Frames are cut out of the
//! stream in `cursor.rs`.
//!
//! A peer controls the contents of strings and headers. Contents that cannot be decoded are replaced or
//! dropped with a warning; they do not end the connection, which would get the message again.

use bytes::Bytes;

use super::encode::{ACK, BASIC, NACK};
use crate::error::Error;
use crate::link::convert;
use crate::wire::message::{Properties, Uncommon, WireHeader};
use crate::wire::trace_headers::{TRACEPARENT, TraceHeaders};
use crate::wire::value::{Table, Value};

const RETURN: u16 = 50;
const DELIVER: u16 = 60;
const GET_OK: u16 = 71;
const GET_EMPTY: u16 = 72;
const CONNECTION: u16 = 10;
const START: u16 = 10;
const CHANNEL: u16 = 20;
const CLOSE: u16 = 40;
/// The nesting depth of tables and lists above which headers are dropped: the decoder is recursive, and
/// deeper ones could overflow the stack.
const MAX_DEPTH: usize = 128;

/// A method that is decoded here.
#[derive(Debug)]
pub(in crate::link) enum Method {
    /// `basic.ack` and `basic.nack`.
    Confirm(Confirm),
    /// `basic.deliver`.
    Deliver(Deliver),
    /// `basic.get-ok`.
    GetOk(Deliver),
    /// `basic.get-empty`.
    GetEmpty,
    /// `basic.return`.
    Return(Return),
    /// `channel.close`. It is decoded here because its text quotes names and may not be UTF-8, which
    /// amq-protocol rejects.
    Close(Error),
}

/// A publisher confirm: the outcome of the publish with number `tag`, or with `multiple` of all
/// publishes up to it. With tag 0, of all publishes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirm {
    pub(in crate::link) tag: u64,
    pub(in crate::link) multiple: bool,
    /// `basic.ack` rather than `basic.nack`.
    pub(in crate::link) is_ack: bool,
}

/// The arguments of `basic.deliver` and `basic.get-ok`.
#[derive(Clone, Debug)]
pub(in crate::link) struct Deliver {
    pub(in crate::link) tag: u64,
    pub(in crate::link) redelivered: bool,
    pub(in crate::link) exchange: String,
    pub(in crate::link) routing_key: String,
}

/// The arguments of `basic.return`.
#[derive(Debug)]
pub(in crate::link) struct Return {
    pub(in crate::link) text: String,
    pub(in crate::link) routing_key: String,
}

/// A content header.
#[derive(Debug)]
pub(in crate::link) struct Header {
    /// The size of the body that follows.
    pub(in crate::link) size: u64,
    /// `None` if they cannot be decoded.
    pub(in crate::link) properties: Option<Properties>,
}

/// Decodes the payload of a method frame; `None` for methods that are not decoded here.
pub(in crate::link) fn method(payload: &[u8]) -> Option<Method> {
    let mut rest = ByteReader(payload);
    match (rest.u16()?, rest.u16()?) {
        (BASIC, method @ (ACK | NACK)) => Some(Method::Confirm(Confirm {
            tag: rest.u64()?,
            multiple: rest.u8()? & 1 == 1,
            is_ack: method == ACK,
        })),
        (BASIC, DELIVER) => {
            rest.short()?;
            Some(Method::Deliver(deliver(rest)?))
        }
        (BASIC, GET_OK) => Some(Method::GetOk(deliver(rest)?)),
        (BASIC, GET_EMPTY) => Some(Method::GetEmpty),
        (BASIC, RETURN) => {
            rest.u16()?;
            let text = rest.text()?;
            rest.short()?;
            let routing_key = rest.text()?;
            Some(Method::Return(Return { text, routing_key }))
        }
        (CHANNEL, CLOSE) => {
            let code = rest.u16()?;
            let text = rest.text()?;
            Some(Method::Close(convert::refusal(code, text)))
        }
        _ => None,
    }
}

/// The broker's product and version, from its `connection.start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerVersion {
    pub(crate) product: String,
    pub(crate) version: String,
}

/// Decodes the payload of a method frame, if it is a `connection.start`. Properties that are missing
/// are empty.
pub(in crate::link) fn broker_version(payload: &[u8]) -> Option<BrokerVersion> {
    let mut rest = ByteReader(payload);
    if (rest.u16()?, rest.u16()?) != (CONNECTION, START) {
        return None;
    }
    rest.u16()?;
    let mut properties = table(ByteReader(rest.long()?), MAX_DEPTH)?;
    let mut text = |name| match properties.remove(name) {
        Some(Value::Text(text)) => text,
        _ => String::new(),
    };
    Some(BrokerVersion {
        product: text("product"),
        version: text("version"),
    })
}

fn deliver(mut rest: ByteReader<'_>) -> Option<Deliver> {
    Some(Deliver {
        tag: rest.u64()?,
        redelivered: rest.u8()? & 1 == 1,
        exchange: rest.text()?,
        routing_key: rest.text()?,
    })
}

/// Decodes the payload of a content header frame; `None` if it is too short.
pub(in crate::link) fn header(payload: &[u8]) -> Option<Header> {
    let mut rest = ByteReader(payload);
    rest.u16()?;
    rest.u16()?;
    let size = rest.u64()?;
    Some(Header {
        size,
        properties: properties(rest),
    })
}

fn properties(mut rest: ByteReader<'_>) -> Option<Properties> {
    let flags = rest.u16()?;
    let has = |bit: u32| flags & (1 << bit) != 0;
    let mut properties = Properties::default();
    let text = |rest: &mut ByteReader<'_>, bit: u32| -> Option<Option<String>> {
        if has(bit) {
            rest.text().map(Some)
        } else {
            Some(None)
        }
    };
    properties.content_type = text(&mut rest, 15)?;
    let mut uncommon = Uncommon {
        content_encoding: text(&mut rest, 14)?,
        ..Uncommon::default()
    };
    if has(13) {
        let entries = rest.long()?;
        let headers = headers(ByteReader(entries)).unwrap_or_else(|| {
            tracing::warn!(
                "message headers cannot be decoded, the message is delivered without any"
            );
            DecodedHeaders::default()
        });
        properties.headers = headers.table;
        properties.trace = headers.trace;
        uncommon.wire_headers = headers.wire_headers;
    }
    if has(12) {
        properties.persistent = rest.u8()? == convert::PERSISTENT;
    }
    if has(11) {
        properties.priority = Some(rest.u8()?);
    }
    if has(10) {
        properties.correlation_id = Some(rest.short()?.to_vec());
    }
    properties.reply_to = text(&mut rest, 9)?;
    properties.expiration = text(&mut rest, 8)?;
    properties.message_id = text(&mut rest, 7)?;
    if has(6) {
        properties.timestamp = Some(rest.u64()?);
    }
    properties.kind = text(&mut rest, 5)?;
    uncommon.user_id = text(&mut rest, 4)?;
    properties.app_id = text(&mut rest, 3)?;
    properties.uncommon = (uncommon != Uncommon::default()).then(|| Box::new(uncommon));
    Some(properties)
}

/// The headers of a message.
#[derive(Default)]
struct DecodedHeaders {
    /// Without those of the trace.
    table: Table,
    trace: TraceHeaders,
    /// The original bytes of those whose wire type our [`Value`] does not keep, so that they can be sent unchanged.
    wire_headers: Vec<WireHeader>,
}

/// Decodes a table of headers.
fn headers(mut entries: ByteReader<'_>) -> Option<DecodedHeaders> {
    let mut headers = DecodedHeaders::default();
    while !entries.0.is_empty() {
        if let Some(parent) = trace_parent(&mut entries) {
            headers.trace.set_parent(parent);
            continue;
        }
        let name = entries.text()?;
        let mut rest = entries;
        let value = value(&mut entries, MAX_DEPTH)?;
        let bytes = rest.take(rest.0.len() - entries.0.len())?;
        let keeps_type = match (bytes.first()?, &value) {
            (b'S', value) => matches!(value, Value::Text(_)),
            (kind, _) => b"tldTVx".contains(kind),
        };
        if !keeps_type {
            headers.wire_headers.push(WireHeader {
                name: name.clone(),
                value: value.clone(),
                bytes: Bytes::copy_from_slice(bytes),
            });
        }
        if TraceHeaders::is_name(&name) {
            headers.trace.insert(&name, value);
        } else {
            headers.table.insert(name, value);
        }
    }
    Some(headers)
}

/// Decodes the next entry of a table if it is a usual `traceparent`, which takes no allocation of its own.
fn trace_parent<'a>(entries: &mut ByteReader<'a>) -> Option<&'a str> {
    let mut rest = *entries;
    if rest.short()? != TRACEPARENT.as_bytes() || rest.u8()? != b'S' {
        return None;
    }
    let parent = std::str::from_utf8(rest.long()?).ok()?;
    *entries = rest;
    Some(parent)
}

fn table(mut entries: ByteReader<'_>, depth: usize) -> Option<Table> {
    let mut table = Table::new();
    while !entries.0.is_empty() {
        let name = entries.text()?;
        table.insert(name, value(&mut entries, depth)?);
    }
    Some(table)
}

/// Decodes a field value. The type letters are those of RabbitMQ, which differ from the specification:
/// 's' is a signed 16-bit integer, and 'l' and 'L' are the same type.
fn value(rest: &mut ByteReader<'_>, depth: usize) -> Option<Value> {
    Some(match rest.u8()? {
        b't' => Value::Bool(rest.u8()? != 0),
        b'b' => Value::Int(rest.array().map(i8::from_be_bytes)?.into()),
        b'B' => Value::Int(rest.u8()?.into()),
        b's' | b'U' => Value::Int(rest.array().map(i16::from_be_bytes)?.into()),
        b'u' => Value::Int(rest.u16()?.into()),
        b'I' => Value::Int(rest.array().map(i32::from_be_bytes)?.into()),
        b'i' => Value::Int(rest.u32()?.into()),
        b'l' | b'L' => Value::Int(rest.array().map(i64::from_be_bytes)?),
        b'f' => Value::Float(rest.array().map(f32::from_be_bytes)?.into()),
        b'd' => Value::Float(rest.array().map(f64::from_be_bytes)?),
        b'D' => {
            let (scale, number) = (rest.u8()?, rest.u32()?);
            Value::Float(f64::from(number) / 10f64.powi(scale.into()))
        }
        b'S' => {
            let bytes = rest.long()?;
            match std::str::from_utf8(bytes) {
                Ok(text) => Value::Text(text.to_owned()),
                Err(_) => Value::Bytes(bytes.to_vec()),
            }
        }
        b'x' => Value::Bytes(rest.long()?.to_vec()),
        b'T' => Value::Timestamp(rest.u64()?),
        b'V' => Value::Null,
        b'F' => Value::Table(table(ByteReader(rest.long()?), depth.checked_sub(1)?)?),
        b'A' => {
            let (mut items, depth) = (ByteReader(rest.long()?), depth.checked_sub(1)?);
            let mut list = Vec::new();
            while !items.0.is_empty() {
                list.push(value(&mut items, depth)?);
            }
            Value::List(list)
        }
        _ => return None,
    })
}

/// The bytes that are not decoded yet.
#[derive(Clone, Copy)]
struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const SIZE: usize>(&mut self) -> Option<[u8; SIZE]> {
        self.take(SIZE)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let size = self.u8()?;
        self.take(size.into())
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let size = self.u32()?;
        self.take(usize::try_from(size).ok()?)
    }

    /// Reads a short string as text. Each byte that is not part of valid UTF-8 becomes `?`, so that the
    /// text is not longer than its bytes and fits into a short string again.
    fn text(&mut self) -> Option<String> {
        let bytes = self.short()?;
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Some(text.to_owned());
        }
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|_| '?'));
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::types::generation::gen_field_table;
    use amq_protocol::types::{AMQPValue, DecimalValue, FieldTable};

    /// A content header whose only property is a table of headers.
    fn with_headers(table: &[u8]) -> Vec<u8> {
        let mut payload = vec![0; 12];
        payload.extend((1_u16 << 13).to_be_bytes());
        payload.extend(table);
        payload
    }

    fn headers(table: &[u8]) -> Table {
        let header = header(&with_headers(table)).unwrap();
        header.properties.unwrap().headers
    }

    #[test]
    fn each_type_is_decoded_as_amq_protocol_encodes_it() {
        let mut inner = FieldTable::default();
        inner.insert("n".into(), AMQPValue::LongLongInt(-1));
        let entries = [
            ("a bool", AMQPValue::Boolean(true), Value::Bool(true)),
            ("b i8", AMQPValue::ShortShortInt(-2), Value::Int(-2)),
            ("c u8", AMQPValue::ShortShortUInt(200), Value::Int(200)),
            ("d i16", AMQPValue::ShortInt(-300), Value::Int(-300)),
            ("e u16", AMQPValue::ShortUInt(60_000), Value::Int(60_000)),
            ("f i32", AMQPValue::LongInt(-70_000), Value::Int(-70_000)),
            ("g u32", AMQPValue::LongUInt(1 << 31), Value::Int(1 << 31)),
            ("h i64", AMQPValue::LongLongInt(-1), Value::Int(-1)),
            ("i f32", AMQPValue::Float(0.5), Value::Float(0.5)),
            ("j f64", AMQPValue::Double(0.25), Value::Float(0.25)),
            (
                "k decimal",
                AMQPValue::DecimalValue(DecimalValue {
                    scale: 2,
                    value: 275,
                }),
                Value::Float(2.75),
            ),
            (
                "l text",
                AMQPValue::LongString("häse".into()),
                Value::from("häse"),
            ),
            (
                "m no text",
                AMQPValue::LongString(vec![0xFF].into()),
                Value::Bytes(vec![0xFF]),
            ),
            (
                "n list",
                AMQPValue::FieldArray(vec![AMQPValue::Void, AMQPValue::Boolean(false)].into()),
                Value::List(vec![Value::Null, Value::Bool(false)]),
            ),
            ("o time", AMQPValue::Timestamp(7), Value::Timestamp(7)),
            (
                "p table",
                AMQPValue::FieldTable(inner),
                Value::Table([("n".to_owned(), Value::Int(-1))].into()),
            ),
            (
                "q bytes",
                AMQPValue::ByteArray(vec![1, 2].into()),
                Value::Bytes(vec![1, 2]),
            ),
            ("r null", AMQPValue::Void, Value::Null),
        ];
        let (mut theirs, mut ours) = (FieldTable::default(), Table::new());
        for (name, their, our) in entries {
            theirs.insert(name.into(), their);
            ours.insert(name.to_owned(), our);
        }
        let written = gen_field_table(&theirs)(Vec::new().into()).unwrap();
        assert_eq!(headers(&written.into_inner().0), ours);
    }

    fn long(bytes: &[u8]) -> Vec<u8> {
        let mut long = (bytes.len() as u32).to_be_bytes().to_vec();
        long.extend(bytes);
        long
    }

    #[test]
    fn headers_nested_too_deep_are_dropped() {
        let deep = |depth: usize| {
            let list = (0..depth).fold(Vec::new(), |inner, _| [b"A", &long(&inner)[..]].concat());
            long(&[b"\x01x", &list[..]].concat())
        };
        assert_eq!(headers(&deep(100)).len(), 1);
        assert!(headers(&deep(20_000)).is_empty());
    }

    #[test]
    fn headers_that_cannot_be_decoded_do_not_affect_other_properties() {
        let mut payload = vec![0; 12];
        payload.extend((1_u16 << 15 | 1 << 13 | 1 << 7).to_be_bytes());
        payload.extend(b"\x03x/y");
        payload.extend(long(b"\x01x?"));
        payload.extend(b"\x02id");
        let properties = header(&payload).unwrap().properties.unwrap();
        assert_eq!(properties.content_type.as_deref(), Some("x/y"));
        assert_eq!(properties.message_id.as_deref(), Some("id"));
        assert!(properties.headers.is_empty());
    }

    #[test]
    fn invalid_utf8_is_replaced_without_making_the_text_longer() {
        let mut bytes = vec![255];
        bytes.extend([0xFF; 251]);
        bytes.extend("hä".as_bytes());
        bytes.push(0xC3);
        assert_eq!(bytes.len(), 256);
        let text = ByteReader(&bytes).text().unwrap();
        assert_eq!(text, format!("{}hä?", "?".repeat(251)));
    }
}
