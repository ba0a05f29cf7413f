//! Headers of a call in a batch: the MessagePack form of a field table.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};

use super::entries::ByteString;
use crate::wire::envelope::is_reserved;
use crate::wire::trace_headers::{TRACEPARENT, TraceHeaders};
use crate::wire::value::{Table, Value};

/// The most values in the headers of all calls of a message, those in lists and tables included. A nil of
/// one byte takes 32 in memory, and a table of four bytes takes hundreds.
pub(super) const MAX_VALUES: usize = 65_536;
/// Headers with deeper nesting are not written. A reader allows 128 levels for the whole message.
const MAX_NESTING: usize = 64;
/// The longest name of a header in AMQP, in bytes.
const MAX_NAME: usize = 255;
/// The most bytes that are added to a name, a text, bytes, a number or a collection.
const VALUE_OVERHEAD: usize = 9;

/// The type of MessagePack's timestamps among its extension types.
const TIMESTAMP: i8 = -1;

/// Headers that RabbitMQ itself acts on: it routes a message by the keys in them as well. It does not see
/// those of a call in a batch.
const READ_BY_BROKER: [&str; 2] = ["CC", "BCC"];

/// Headers and the trace of a call, written as one map. An entry of the trace replaces a header of the same
/// name, as in a message of its own.
pub(super) struct HeaderMap<'a> {
    pub(super) headers: &'a Table,
    pub(super) trace: &'a TraceHeaders,
}

impl<'a> HeaderMap<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.trace.is_empty()
    }

    /// The entries besides [`TraceHeaders::parent_bytes`].
    fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        let trace = self.trace;
        let headers = self.headers.iter();
        let headers = headers.filter(|(name, _)| !trace.contains(name));
        headers.chain(trace.others())
    }

    /// The most bytes that the map takes. `None` if a message of its own may not carry these headers, or a
    /// reader may not accept them in a batch.
    pub(super) fn size(&self) -> Option<usize> {
        if self.is_empty() {
            return Some(0);
        }
        let parent = self.trace.parent_bytes();
        let parent = parent.map_or(0, |it| 2 * VALUE_OVERHEAD + TRACEPARENT.len() + it.len());
        self.entries()
            .try_fold(VALUE_OVERHEAD + parent, |sum, (name, value)| {
                if READ_BY_BROKER.contains(&&**name) {
                    return None;
                }
                Some(sum + entry_size(name, value, MAX_NESTING)?)
            })
    }
}

fn entry_size(name: &str, value: &Value, nesting: usize) -> Option<usize> {
    let is_short = name.len() <= MAX_NAME;
    is_short.then_some(VALUE_OVERHEAD + name.len() + size(value, nesting)?)
}

fn size(value: &Value, nesting: usize) -> Option<usize> {
    let contents = match value {
        Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Null => 0,
        Value::Timestamp(_) => TIMESTAMP_96_LENGTH,
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(values) => {
            let nesting = nesting.checked_sub(1)?;
            values
                .iter()
                .try_fold(0, |sum, value| Some(sum + size(value, nesting)?))?
        }
        Value::Table(table) => {
            let nesting = nesting.checked_sub(1)?;
            table.iter().try_fold(0, |sum, (name, value)| {
                Some(sum + entry_size(name, value, nesting)?)
            })?
        }
    };
    Some(VALUE_OVERHEAD + contents)
}

impl Serialize for HeaderMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // If it is one of the other entries, it is not written here.
        let parent = self.trace.parent_bytes().and(self.trace.parent());
        let count = self.entries().count() + usize::from(parent.is_some());
        let mut map = serializer.serialize_map(Some(count))?;
        for (name, value) in self.entries() {
            map.serialize_entry(name, &Written(value))?;
        }
        if let Some(parent) = parent {
            map.serialize_entry(TRACEPARENT, parent)?;
        }
        map.end()
    }
}

/// A value as it is written.
struct Written<'a>(&'a Value);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(number) => serializer.serialize_i64(*number),
            Value::Float(number) => serializer.serialize_f64(*number),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Value::Timestamp(seconds) => serialize_timestamp(*seconds, serializer),
            Value::List(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(&Written(value))?;
                }
                list.end()
            }
            Value::Table(table) => {
                let mut map = serializer.serialize_map(Some(table.len()))?;
                for (name, value) in table {
                    map.serialize_entry(name, &Written(value))?;
                }
                map.end()
            }
            Value::Null => serializer.serialize_unit(),
        }
    }
}

/// The length of a timestamp of 96 bits: nanoseconds and seconds.
const TIMESTAMP_96_LENGTH: usize = 12;

/// Writes a timestamp in 32 bits, or in 96 bits if the seconds need more.
fn serialize_timestamp<S: Serializer>(seconds: u64, serializer: S) -> Result<S::Ok, S::Error> {
    let name = rmp_serde::MSGPACK_EXT_STRUCT_NAME;
    match u32::try_from(seconds) {
        Ok(seconds) => {
            let content = (TIMESTAMP, ByteString(&seconds.to_be_bytes()));
            serializer.serialize_newtype_struct(name, &content)
        }
        Err(_) => {
            let mut bytes = [0; TIMESTAMP_96_LENGTH];
            for (to, from) in bytes.iter_mut().skip(4).zip(seconds.to_be_bytes()) {
                *to = from;
            }
            serializer.serialize_newtype_struct(name, &(TIMESTAMP, ByteString(&bytes)))
        }
    }
}

/// Reads a timestamp of 32, 64 or 96 bits. The nanoseconds of the latter two are left out, because AMQP's
/// timestamps have none.
fn timestamp_of(bytes: &[u8]) -> Option<u64> {
    /// The seconds of a timestamp of 64 bits are its lower 34 bits.
    const SECONDS_34: u64 = (1 << 34) - 1;
    if let Ok(seconds) = <[u8; 4]>::try_from(bytes) {
        return Some(u32::from_be_bytes(seconds).into());
    }
    if let Ok(both) = <[u8; 8]>::try_from(bytes) {
        return Some(u64::from_be_bytes(both) & SECONDS_34);
    }
    if bytes.len() != TIMESTAMP_96_LENGTH {
        return None;
    }
    let seconds = bytes.last_chunk()?;
    Some(u64::from_be_bytes(*seconds))
}

/// Counts the values that the headers of a message may still have, [`MAX_VALUES`] at first.
pub(super) struct HeaderBudget(Cell<usize>);

impl HeaderBudget {
    pub(super) fn new() -> Self {
        Self(Cell::new(MAX_VALUES))
    }

    /// Takes the declared count of a collection, before its values are decoded, and so before memory is
    /// allocated for them.
    fn take<E: serde::de::Error>(&self, count: Option<usize>) -> Result<usize, E> {
        let count = count.unwrap_or_default();
        match self.0.get().checked_sub(count) {
            Some(rest) => {
                self.0.set(rest);
                Ok(count)
            }
            None => Err(E::custom(format_args!(
                "the headers of a message have more than {MAX_VALUES} values"
            ))),
        }
    }
}

/// Decodes the headers of a call as its handler reads them, and those of the trace. Reserved names are left out: neither
/// a caller nor the broker writes them there.
#[derive(Clone, Copy)]
pub(super) struct CallHeadersSeed<'b>(pub(super) &'b HeaderBudget);

impl<'de> DeserializeSeed<'de> for CallHeadersSeed<'_> {
    type Value = (Table, TraceHeaders);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for CallHeadersSeed<'_> {
    type Value = (Table, TraceHeaders);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of headers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        self.0.take(entries.size_hint())?;
        let (mut headers, mut trace) = Self::Value::default();
        while let Some(name) = entries.next_key::<&str>()? {
            let value = entries.next_value_seed(ValueSeed(self.0))?;
            if TraceHeaders::is_name(name) {
                trace.insert(name, value);
            } else if !is_reserved(name) {
                headers.insert(name.to_owned(), value);
            }
        }
        Ok((headers, trace))
    }
}

/// Decodes a table.
#[derive(Clone, Copy)]
pub(super) struct TableSeed<'b>(pub(super) &'b HeaderBudget);

impl<'de> DeserializeSeed<'de> for TableSeed<'_> {
    type Value = Table;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Table, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TableSeed<'_> {
    type Value = Table;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of headers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Table, A::Error> {
        self.0.take(entries.size_hint())?;
        let mut table = Table::new();
        while let Some(name) = entries.next_key::<&str>()? {
            table.insert(name.to_owned(), entries.next_value_seed(ValueSeed(self.0))?);
        }
        Ok(table)
    }
}

/// Decodes a value of a header.
#[derive(Clone, Copy)]
struct ValueSeed<'b>(&'b HeaderBudget);

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of a header")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    /// Also called for a text that is not UTF-8.
    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(bytes.to_vec().into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        let mut list = Vec::with_capacity(self.0.take(values.size_hint())?);
        while let Some(value) = values.next_element_seed(self)? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Value, A::Error> {
        TableSeed(self.0).visit_map(entries).map(Value::Table)
    }

    /// Called for an extension type.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, content: D) -> Result<Value, D::Error> {
        match <(i8, &[u8])>::deserialize(content)? {
            (TIMESTAMP, bytes) => timestamp_of(bytes)
                .map(Value::Timestamp)
                .ok_or_else(|| D::Error::invalid_length(bytes.len(), &"a timestamp")),
            (kind, _) => Err(D::Error::custom(format_args!(
                "extension type {kind} is not known"
            ))),
        }
    }
}
