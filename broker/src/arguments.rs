//! Values of argument and header tables: conversion, comparison, and their form in error texts.

use amq_protocol::types::{AMQPValue, FieldTable, ShortString};

use crate::octets;

/// The longest time to live that RabbitMQ accepts, in milliseconds: ten years.
pub(crate) const MAX_MILLIS: u64 = 315_360_000_000;

/// Makes a short string, truncated to 255 octets.
pub(crate) fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::try_new(text.get(..end).unwrap_or_default()).unwrap_or_default()
}

/// The name of a queue or an exchange without CR and LF, which RabbitMQ removes when one is declared,
/// deleted, bound or unbound.
pub(crate) fn stripped(name: &ShortString) -> String {
    octets::decode(name.as_str().as_bytes()).replace(['\r', '\n'], "")
}

/// The value of any integer type of AMQP.
pub(crate) fn integer(value: &AMQPValue) -> Option<i64> {
    match *value {
        AMQPValue::ShortShortInt(n) => Some(n.into()),
        AMQPValue::ShortShortUInt(n) => Some(n.into()),
        AMQPValue::ShortInt(n) => Some(n.into()),
        AMQPValue::ShortUInt(n) => Some(n.into()),
        AMQPValue::LongInt(n) => Some(n.into()),
        AMQPValue::LongUInt(n) => Some(n.into()),
        AMQPValue::LongLongInt(n) => Some(n),
        _ => None,
    }
}

pub(crate) fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(octets::decode(text.as_bytes())),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// Makes a long string value.
pub(crate) fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(octets::encode(text).into_owned().into())
}

/// Whether RabbitMQ considers two arguments or headers equal: integers of any width by value, floats
/// likewise, everything else by type and value.
pub(crate) fn same(one: &AMQPValue, other: &AMQPValue) -> bool {
    match (integer(one), integer(other)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => match (float(one), float(other)) {
            (Some(a), Some(b)) => a == b,
            _ => one == other,
        },
        _ => false,
    }
}

/// The name of a value's type in RabbitMQ's error texts.
pub(crate) fn type_name(value: &AMQPValue) -> &'static str {
    match value {
        AMQPValue::Boolean(_) => "bool",
        AMQPValue::ShortShortInt(_) => "byte",
        AMQPValue::ShortShortUInt(_) => "unsignedbyte",
        AMQPValue::ShortInt(_) => "short",
        AMQPValue::ShortUInt(_) => "unsignedshort",
        AMQPValue::LongInt(_) => "signedint",
        AMQPValue::LongUInt(_) => "unsignedint",
        AMQPValue::LongLongInt(_) => "long",
        AMQPValue::Float(_) => "float",
        AMQPValue::Double(_) => "double",
        AMQPValue::DecimalValue(_) => "decimal",
        AMQPValue::ShortString(_) | AMQPValue::LongString(_) => "longstr",
        AMQPValue::FieldArray(_) => "array",
        AMQPValue::Timestamp(_) => "timestamp",
        AMQPValue::FieldTable(_) => "table",
        AMQPValue::ByteArray(_) => "binary",
        AMQPValue::Void => "void",
    }
}

/// A value as text, for error texts and inspection.
pub(crate) fn display(value: &AMQPValue) -> String {
    match value {
        AMQPValue::Boolean(b) => b.to_string(),
        AMQPValue::Float(f) => format!("{f:?}"),
        AMQPValue::Double(d) => format!("{d:?}"),
        AMQPValue::Timestamp(t) => t.to_string(),
        value => integer(value)
            .map(|n| n.to_string())
            .or_else(|| text(value))
            .unwrap_or_else(|| format!("{value:?}")),
    }
}

/// Whether the client has this capability, by the table `capabilities` in its properties.
pub(crate) fn capability(client_properties: &FieldTable, name: &str) -> bool {
    client_properties
        .inner()
        .get("capabilities")
        .and_then(AMQPValue::as_field_table)
        .and_then(|capabilities| capabilities.inner().get(name)?.as_bool())
        .unwrap_or(false)
}

fn float(value: &AMQPValue) -> Option<f64> {
    match *value {
        AMQPValue::Float(f) => Some(f.into()),
        AMQPValue::Double(d) => Some(d),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_string_is_cut_between_characters() {
        assert_eq!(short(&"é".repeat(200)).as_str().len(), 254);
        assert_eq!(short("plain").as_str(), "plain");
    }

    #[test]
    fn names_lose_their_line_ends() {
        assert_eq!(stripped(&"\r\na\rb\nc".into()), "abc");
    }

    #[test]
    fn integers_compare_by_value() {
        assert!(same(&AMQPValue::LongInt(5), &AMQPValue::LongLongInt(5)));
        assert!(!same(&AMQPValue::LongInt(5), &long("5")));
    }
}
