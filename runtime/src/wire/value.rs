//! Field tables (AMQP 0-9-1, 4.2.5.5): the values of headers and of arguments.

use std::collections::BTreeMap;
use std::fmt;

/// A table of named values: a message's headers, or the arguments of a queue or exchange.
///
/// # Reserved names of headers
///
/// Calls, jobs and events cannot be sent with headers of these names, because Lepus and the broker record
/// the history of a message in them:
///
/// - `rpc-status`, `rpc-message`, `rpc-retry-after`, `rpc-details`, `rpc-accept`, `rpc-stream`;
/// - `attempt`, `attempts`, `error`, `first-error`, `reason`, `failed-at`, `source-queue`,
///   `source-exchange`, `source-routing-key`, `source-user-id`;
/// - the broker's `x-death`, `x-delivery-count`, `x-acquired-count`,
///   `x-opt-rabbitmq-delivery-count`, and `x-first-death-…` and `x-last-death-…` with `exchange`,
///   `queue` and `reason`.
///
/// If another program publishes an event with some of them through an exchange, groups and workers ignore
/// those that Lepus writes, and do not pass them on.
pub type Table = BTreeMap<String, Value>;

/// A value of a [`Table`], with the field types of AMQP 0-9-1 as RabbitMQ reads and writes them.
///
/// Integers of every width arrive as [`Value::Int`]; a string that is not UTF-8 arrives as
/// [`Value::Bytes`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A boolean (`t`).
    Bool(bool),
    /// A signed integer (`l` on the wire; every integer width is accepted).
    Int(i64),
    /// A floating-point number (`d`).
    Float(f64),
    /// Text (`S`).
    Text(String),
    /// Bytes that are not text (`x`).
    Bytes(Vec<u8>),
    /// Seconds since the Unix epoch (`T`).
    Timestamp(u64),
    /// A list (`A`).
    List(Vec<Value>),
    /// A nested table (`F`).
    Table(Table),
    /// No value (`V`).
    Null,
}

impl Value {
    /// The text, if this is text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is an integer.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
            Self::Bytes(value) => write!(f, "{} bytes", value.len()),
            Self::Timestamp(value) => value.fmt(f),
            Self::List(value) => f.debug_list().entries(value).finish(),
            Self::Table(value) => f.debug_map().entries(value).finish(),
            Self::Null => f.write_str("none"),
        }
    }
}

/// AMQP as RabbitMQ speaks it has no type for a number above [`i64::MAX`]. Such a number becomes the text of
/// its decimal digits, which loses nothing; [`Value::as_int`] is `None` for it.
impl From<u64> for Value {
    fn from(value: u64) -> Self {
        match i64::try_from(value) {
            Ok(value) => Self::Int(value),
            Err(_) => Self::Text(value.to_string()),
        }
    }
}

/// As the conversion from `u64`.
impl From<usize> for Value {
    fn from(value: usize) -> Self {
        match i64::try_from(value) {
            Ok(value) => Self::Int(value),
            Err(_) => Self::Text(value.to_string()),
        }
    }
}

macro_rules! from {
    ($($from:ty => $value:ident => $into:expr),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $into
            }
        }
    )*};
}

from! {
    bool => value => Self::Bool(value),
    i64 => value => Self::Int(value),
    i32 => value => Self::Int(value.into()),
    i16 => value => Self::Int(value.into()),
    i8 => value => Self::Int(value.into()),
    u32 => value => Self::Int(value.into()),
    u16 => value => Self::Int(value.into()),
    u8 => value => Self::Int(value.into()),
    f64 => value => Self::Float(value),
    f32 => value => Self::Float(value.into()),
    String => value => Self::Text(value),
    &str => value => Self::Text(value.to_owned()),
    Vec<u8> => value => Self::Bytes(value),
    Vec<Value> => value => Self::List(value),
    Table => value => Self::Table(value),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsigned_numbers_lose_nothing() {
        assert_eq!(Value::from(7_u64), Value::Int(7));
        assert_eq!(Value::from(7_usize).as_int(), Some(7));
        let largest = i64::MAX.unsigned_abs();
        assert_eq!(Value::from(largest), Value::Int(i64::MAX));
        assert_eq!(Value::from(largest + 1), Value::from("9223372036854775808"));
        assert_eq!(Value::from(u64::MAX), Value::from("18446744073709551615"));
    }
}
