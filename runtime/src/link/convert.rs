//! Conversion of [`Value`]s to amq-protocol's types, and of the broker's refusals to [`Error`]s.

use amq_protocol::types::{AMQPValue, FieldTable, ShortString};

use crate::error::{Error, ErrorKind, Mismatch};
use crate::wire::message::Properties;
use crate::wire::name::SHORT_STRING_MAX;
use crate::wire::reply_code;
use crate::wire::trace_headers::{TRACEPARENT, TraceHeaders};
use crate::wire::value::{Table, Value};

/// The delivery mode of a persistent message. Messages without a delivery mode are transient.
pub(super) const PERSISTENT: u8 = 2;
/// The bytes of a content header frame besides the properties: type, channel, size and end byte; class,
/// weight, body size and property flags.
const HEADER_OVERHEAD: usize = 8 + 14;

/// Converts a text to a short string. amq-protocol's own conversion panics if the text is too long.
///
/// # Errors
/// The text is longer than 255 bytes.
pub(super) fn short(text: impl Into<String>) -> Result<ShortString, Error> {
    let text = text.into();
    let length = text.len();
    ShortString::try_new(text).map_err(|_| too_long(length))
}

/// The error for a text of `length` bytes that has to be a short string.
pub(super) fn too_long(length: usize) -> Error {
    Error::invalid(format!(
        "AMQP carries names and properties of {SHORT_STRING_MAX} bytes at most, this one has {length}"
    ))
}

/// Checks that properties fit into one frame. The broker would close the connection over larger ones,
/// and with it every call and delivery on it.
///
/// # Errors
/// They do not fit.
pub(super) fn check_size(properties: &Properties, frame_max: u32) -> Result<(), Error> {
    let size = HEADER_OVERHEAD + properties_size(properties);
    let limit = usize::try_from(frame_max).unwrap_or(usize::MAX);
    if frame_max > 0 && size > limit {
        let error = Error::new(ErrorKind::TooLarge { size, limit });
        return Err(
            error.caused_by("the properties and headers of a message have to fit into one frame")
        );
    }
    Ok(())
}

fn properties_size(properties: &Properties) -> usize {
    let texts = [
        &properties.content_type,
        &properties.reply_to,
        &properties.expiration,
        &properties.message_id,
        &properties.kind,
        &properties.app_id,
    ];
    let uncommon = properties.uncommon.iter();
    let uncommon = uncommon.flat_map(|it| [&it.content_encoding, &it.user_id]);
    let texts = texts.into_iter().chain(uncommon);
    let texts: usize = texts.flatten().map(|text| 1 + text.len()).sum();
    let id = properties
        .correlation_id
        .as_ref()
        .map_or(0, |id| 1 + id.len());
    // Delivery mode, priority and timestamp.
    let others = 1 + 1 + 8 + texts + id + size(&properties.headers) + trace_size(&properties.trace);
    // Headers that are sent with their original bytes may have a smaller type than was counted above.
    let unchanged = properties.unchanged();
    unchanged.values().fold(others, |size, header| {
        size + header.bytes.len() - value_size(&header.value)
    })
}

/// Converts a table.
///
/// # Errors
/// A name is longer than 255 bytes.
pub(super) fn table(values: Table) -> Result<FieldTable, Error> {
    let mut converted = FieldTable::default();
    for (name, value) in values {
        converted.insert(short(name)?, to_amqp(value)?);
    }
    Ok(converted)
}

/// The encoded size of a table.
fn size(table: &Table) -> usize {
    4 + entries_size(table)
}

fn entries_size(table: &Table) -> usize {
    let entries = table.iter();
    entries
        .map(|(name, value)| 1 + name.len() + value_size(value))
        .sum()
}

/// The encoded size of the entries of a trace.
fn trace_size(trace: &TraceHeaders) -> usize {
    let parent = trace.parent_bytes();
    let parent = parent.map_or(0, |it| 1 + TRACEPARENT.len() + 1 + 4 + it.len());
    parent + entries_size(trace.others())
}

fn value_size(value: &Value) -> usize {
    1 + match value {
        Value::Bool(_) => 1,
        Value::Int(_) | Value::Float(_) | Value::Timestamp(_) => 8,
        Value::Text(text) => 4 + text.len(),
        Value::Bytes(bytes) => 4 + bytes.len(),
        Value::List(values) => 4 + values.iter().map(value_size).sum::<usize>(),
        Value::Table(table) => size(table),
        Value::Null => 0,
    }
}

fn to_amqp(value: Value) -> Result<AMQPValue, Error> {
    Ok(match value {
        Value::Bool(value) => AMQPValue::Boolean(value),
        Value::Int(value) => AMQPValue::LongLongInt(value),
        Value::Float(value) => AMQPValue::Double(value),
        Value::Text(value) => AMQPValue::LongString(value.into()),
        Value::Bytes(value) => AMQPValue::ByteArray(value.into()),
        Value::Timestamp(value) => AMQPValue::Timestamp(value),
        Value::List(values) => {
            let values: Result<Vec<_>, _> = values.into_iter().map(to_amqp).collect();
            AMQPValue::FieldArray(values?.into())
        }
        Value::Table(value) => AMQPValue::FieldTable(table(value)?),
        Value::Null => AMQPValue::Void,
    })
}

/// The error for a channel that the broker closed (`channel.close`).
pub(super) fn refusal(code: u16, text: String) -> Error {
    // This is not about the operation: the whole connection is being closed.
    if code == reply_code::CONNECTION_FORCED {
        return Error::new(ErrorKind::Disconnected).caused_by(text);
    }
    Error::new(refused(code, text))
}

fn refused(code: u16, text: String) -> ErrorKind {
    match mismatch(&text) {
        Some(mismatch) => ErrorKind::Mismatch(mismatch),
        None => ErrorKind::Broker { code, text },
    }
}

/// Parses RabbitMQ's `PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/':
/// received 'true' but current is 'false'`.
fn mismatch(text: &str) -> Option<Mismatch> {
    let (_, rest) = text.split_once("inequivalent arg '")?;
    let (argument, rest) = rest.split_once("' for ")?;
    let (entity, rest) = rest.split_once(" in vhost")?;
    let (_, rest) = rest.split_once("received ")?;
    let (ours, theirs) = rest.split_once(" but current is ")?;
    Some(Mismatch {
        entity: entity.replace('\'', "`"),
        argument: argument.to_owned(),
        ours: value(ours),
        theirs: value(theirs),
    })
}

/// `'true'`, `none`, or `the value '60000' of type 'signedint'`: the value alone.
fn value(text: &str) -> String {
    let quoted = text
        .split_once('\'')
        .and_then(|(_, rest)| rest.split_once('\''));
    quoted.map_or_else(|| text.trim().to_owned(), |(value, _)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_is_parsed_from_the_brokers_text() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'rpc_queue' in \
                    vhost '/': received 'true' but current is 'false'";
        assert_eq!(
            mismatch(text).unwrap().to_string().as_str(),
            "queue `rpc_queue` exists with `durable` = false, declared here with true"
        );
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost \
                    '/': received the value '60000' of type 'signedint' but current is none";
        assert_eq!(
            mismatch(text).unwrap().to_string().as_str(),
            "queue `q` exists with `x-message-ttl` = none, declared here with 60000"
        );
        assert_eq!(mismatch("NOT_FOUND - no queue 'q' in vhost '/'"), None);
    }

    #[test]
    fn the_size_of_a_table_is_that_of_its_encoding() {
        use amq_protocol::types::generation::gen_field_table;

        let ours = Table::from([
            ("bool".to_owned(), Value::Bool(true)),
            ("int".to_owned(), Value::Int(1)),
            ("float".to_owned(), Value::Float(0.5)),
            ("text".to_owned(), Value::from("häse")),
            ("bytes".to_owned(), Value::Bytes(vec![255; 300])),
            ("time".to_owned(), Value::Timestamp(1)),
            (
                "list".to_owned(),
                Value::List(vec![Value::Null, Value::from("x")]),
            ),
            (
                "table".to_owned(),
                Value::Table(Table::from([("n".to_owned(), Value::Int(2))])),
            ),
            ("null".to_owned(), Value::Null),
        ]);
        let theirs = table(ours.clone()).unwrap();
        let written = gen_field_table(&theirs)(Vec::new().into()).unwrap();
        assert_eq!(size(&ours), written.into_inner().0.len());
    }

    #[test]
    fn an_overlong_name_is_an_error() {
        assert!(short("x".repeat(256)).unwrap_err().is_invalid());
    }

    #[test]
    fn headers_that_do_not_fit_into_a_frame_are_refused() {
        let ours = Properties {
            headers: Table::from([("note".to_owned(), Value::from("x".repeat(4096)))]),
            ..Properties::default()
        };
        let error = check_size(&ours, 4096).unwrap_err();
        assert!(error.is_too_large(), "{error}");
        assert!(check_size(&ours, 8192).is_ok());
    }
}
