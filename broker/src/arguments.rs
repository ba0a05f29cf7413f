//! Reading the argument and header tables of clients.

use amq_protocol::types::{AMQPValue, FieldTable, ShortString};

/// How deep tables and arrays may nest. The parser recurses, so a frame full of
/// opening brackets would otherwise end in a stack overflow.
const MAX_DEPTH: usize = 64;
/// A type octet and four octets of length open one level.
const OCTETS_A_LEVEL: usize = 5;

/// The longest time to live that RabbitMQ takes, in milliseconds.
pub(crate) const MAX_MILLIS: u64 = u32::MAX as u64;

/// A short string of any text, cut at 255 octets.
pub(crate) fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::try_new(text.get(..end).unwrap_or_default()).unwrap_or_default()
}

/// Whether `payload` may hold tables nested deeper than the parser may follow.
///
/// Counts the spans that look like a table or an array (`F` or `A` with a length
/// that fits) around each octet. Every real nesting is among them, so the answer
/// errs on the safe side only; text never looks like that, because four letters
/// read as a length are far beyond any frame.
pub(crate) fn nests_too_deep(payload: &[u8]) -> bool {
    if payload.len() < MAX_DEPTH * OCTETS_A_LEVEL {
        return false;
    }
    let mut ends = std::collections::BinaryHeap::new();
    for (at, window) in payload.windows(OCTETS_A_LEVEL).enumerate() {
        while ends.peek().is_some_and(|std::cmp::Reverse(end)| *end <= at) {
            ends.pop();
        }
        if let [b'F' | b'A', a, b, c, d] = *window {
            let end = at + OCTETS_A_LEVEL + u32::from_be_bytes([a, b, c, d]) as usize;
            if end <= payload.len() {
                ends.push(std::cmp::Reverse(end));
                if ends.len() > MAX_DEPTH {
                    return true;
                }
            }
        }
    }
    false
}

/// Any of AMQP's integers.
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
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// A long string value.
pub(crate) fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Equality as RabbitMQ compares arguments and headers: integers by value whatever
/// their width, floats likewise, everything else by type and value.
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

/// RabbitMQ's name for a value's type, as its error texts use it.
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

/// A value as people read it.
pub(crate) fn display(value: &AMQPValue) -> String {
    match value {
        AMQPValue::Boolean(b) => b.to_string(),
        AMQPValue::Float(f) => f.to_string(),
        AMQPValue::Double(d) => d.to_string(),
        AMQPValue::Timestamp(t) => t.to_string(),
        value => integer(value)
            .map(|n| n.to_string())
            .or_else(|| text(value))
            .unwrap_or_else(|| format!("{value:?}")),
    }
}

/// What a client says it can do, from `capabilities` in its properties.
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

    fn nested(levels: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        for _ in 0..levels {
            let mut outer = vec![b'A'];
            outer.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
            outer.extend_from_slice(&payload);
            payload = outer;
        }
        payload
    }

    #[test]
    fn deep_nesting_is_seen_and_letters_are_not() {
        assert!(!nests_too_deep(&nested(MAX_DEPTH)));
        assert!(nests_too_deep(&nested(MAX_DEPTH + 1)));
        assert!(nests_too_deep(&nested(20_000)));
        assert!(!nests_too_deep("AFFA".repeat(10_000).as_bytes()));
    }

    #[test]
    fn a_short_string_is_cut_between_characters() {
        assert_eq!(short(&"é".repeat(200)).as_str().len(), 254);
        assert_eq!(short("plain").as_str(), "plain");
    }

    #[test]
    fn integers_compare_by_value() {
        assert!(same(&AMQPValue::LongInt(5), &AMQPValue::LongLongInt(5)));
        assert!(!same(&AMQPValue::LongInt(5), &long("5")));
    }
}
