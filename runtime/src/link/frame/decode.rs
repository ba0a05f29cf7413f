//! Decodes the frames that are read most: deliveries, returned messages, confirms, content headers.
//!
//! By hand, for their speed; laid out as in AMQP 0-9-1, 2.3.5 and 4.2. Other methods are read with
//! amq-protocol.

use bytes::Bytes;

use super::encode::{ACK, BASIC, NACK};
use crate::error::Error;
use crate::link::convert;
use crate::wire::message::{Properties, Uncommon, WireHeader};
use crate::wire::value::{Table, Value};

const RETURN: u16 = 50;
const DELIVER: u16 = 60;
const GET_OK: u16 = 71;
const GET_EMPTY: u16 = 72;
const CONNECTION: u16 = 10;
const START: u16 = 10;
const CHANNEL: u16 = 20;
const CLOSE: u16 = 40;
/// How deep tables and lists may be in one another: a peer could have this thread run out of stack.
const DEPTH: usize = 128;

/// A method, where it is one of those that are decoded here.
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
    /// `channel.close`, here because its text may be no UTF-8: it quotes names.
    Close(Error),
}

/// What becomes of the publish of this number, and of all before it where it is of several; of all
/// that there are where the number is 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirm {
    pub(in crate::link) tag: u64,
    pub(in crate::link) multiple: bool,
    pub(in crate::link) is_stored: bool,
}

#[derive(Clone, Debug)]
pub(in crate::link) struct Deliver {
    pub(in crate::link) tag: u64,
    pub(in crate::link) redelivered: bool,
    pub(in crate::link) exchange: String,
    pub(in crate::link) routing_key: String,
}

#[derive(Debug)]
pub(in crate::link) struct Return {
    pub(in crate::link) text: String,
    pub(in crate::link) routing_key: String,
}

/// A content header.
#[derive(Debug)]
pub(in crate::link) struct Header {
    /// How many bytes of body follow.
    pub(in crate::link) size: u64,
    /// None where they are not as AMQP has them: a broker may pass on what a peer has made up.
    pub(in crate::link) properties: Option<Properties>,
}

/// Reads a method frame's payload; none for all other methods.
pub(in crate::link) fn method(payload: &[u8]) -> Option<Method> {
    let mut rest = Rest(payload);
    match (rest.u16()?, rest.u16()?) {
        (BASIC, method @ (ACK | NACK)) => Some(Method::Confirm(Confirm {
            tag: rest.u64()?,
            multiple: rest.u8()? & 1 == 1,
            is_stored: method == ACK,
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

/// The broker, as its `connection.start` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerVersion {
    pub(crate) product: String,
    pub(crate) version: String,
}

/// Reads a method frame's payload, if it is a `connection.start`; what it does not say is empty.
pub(in crate::link) fn broker_version(payload: &[u8]) -> Option<BrokerVersion> {
    let mut rest = Rest(payload);
    if (rest.u16()?, rest.u16()?) != (CONNECTION, START) {
        return None;
    }
    rest.u16()?;
    let mut properties = table(Rest(rest.long()?), DEPTH)?;
    let mut text = |name| match properties.remove(name) {
        Some(Value::Text(text)) => text,
        _ => String::new(),
    };
    Some(BrokerVersion {
        product: text("product"),
        version: text("version"),
    })
}

fn deliver(mut rest: Rest<'_>) -> Option<Deliver> {
    Some(Deliver {
        tag: rest.u64()?,
        redelivered: rest.u8()? & 1 == 1,
        exchange: rest.text()?,
        routing_key: rest.text()?,
    })
}

/// Reads a content header frame's payload; none if it is too short for one.
pub(in crate::link) fn header(payload: &[u8]) -> Option<Header> {
    let mut rest = Rest(payload);
    rest.u16()?;
    rest.u16()?;
    let size = rest.u64()?;
    Some(Header {
        size,
        properties: properties(rest),
    })
}

fn properties(mut rest: Rest<'_>) -> Option<Properties> {
    let flags = rest.u16()?;
    let has = |bit: u32| flags & (1 << bit) != 0;
    let mut properties = Properties::default();
    let text = |rest: &mut Rest<'_>, bit: u32| -> Option<Option<String>> {
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
        (properties.headers, uncommon.wire_headers) = headers(Rest(entries)).unwrap_or_else(|| {
            tracing::warn!("headers that cannot be read: the message has none");
            Default::default()
        });
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

/// A table of headers, and those of them whose values do not say of which type they are.
fn headers(mut entries: Rest<'_>) -> Option<(Table, Vec<WireHeader>)> {
    let (mut table, mut wire_headers) = (Table::new(), Vec::new());
    while !entries.0.is_empty() {
        let name = entries.text()?;
        let mut rest = entries;
        let value = value(&mut entries, DEPTH)?;
        let bytes = rest.take(rest.0.len() - entries.0.len())?;
        let is_said = match (bytes.first()?, &value) {
            (b'S', value) => matches!(value, Value::Text(_)),
            (kind, _) => b"tldTVx".contains(kind),
        };
        if !is_said {
            wire_headers.push(WireHeader {
                name: name.clone(),
                value: value.clone(),
                bytes: Bytes::copy_from_slice(bytes),
            });
        }
        table.insert(name, value);
    }
    Some((table, wire_headers))
}

fn table(mut entries: Rest<'_>, depth: usize) -> Option<Table> {
    let mut table = Table::new();
    while !entries.0.is_empty() {
        let name = entries.text()?;
        table.insert(name, value(&mut entries, depth)?);
    }
    Some(table)
}

/// A value, in the types that RabbitMQ has: it reads and writes 's' as a number, and 'l' as 'L'.
fn value(rest: &mut Rest<'_>, depth: usize) -> Option<Value> {
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
        b'F' => Value::Table(table(Rest(rest.long()?), depth.checked_sub(1)?)?),
        b'A' => {
            let (mut items, depth) = (Rest(rest.long()?), depth.checked_sub(1)?);
            let mut list = Vec::new();
            while !items.0.is_empty() {
                list.push(value(&mut items, depth)?);
            }
            Value::List(list)
        }
        _ => return None,
    })
}

/// What is still to be read.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
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

    /// A peer may have put anything into it: what is no text is not worth the connection. It does not
    /// become longer, for it may be sent again.
    fn text(&mut self) -> Option<String> {
        let bytes = self.short()?;
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

    /// A content header whose only property is this table of headers.
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
    fn each_type_is_read_as_amq_protocol_writes_it() {
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
    fn headers_that_go_deep_cost_the_message_its_headers_and_nobody_the_stack() {
        let deep = |depth: usize| {
            let list = (0..depth).fold(Vec::new(), |inner, _| [b"A", &long(&inner)[..]].concat());
            long(&[b"\x01x", &list[..]].concat())
        };
        assert_eq!(headers(&deep(100)).len(), 1);
        assert!(headers(&deep(20_000)).is_empty());
    }

    #[test]
    fn headers_that_cannot_be_read_cost_no_other_property() {
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
    fn a_text_that_is_none_becomes_no_longer() {
        let mut bytes = vec![255];
        bytes.extend([0xFF; 251]);
        bytes.extend("hä".as_bytes());
        bytes.push(0xC3);
        assert_eq!(bytes.len(), 256);
        let text = Rest(&bytes).text().unwrap();
        assert_eq!(text, format!("{}hä?", "?".repeat(251)));
    }
}
