//! The arguments a queue is declared with (`x-message-ttl` and so on), checked.

use std::time::Duration;

use amq_protocol::types::{AMQPValue, FieldTable};

use crate::{
    arguments::{display, integer, same, text, type_name},
    exception::{Exception, not_implemented, precondition_failed},
};

/// What happens when a queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Overflow {
    #[default]
    DropHead,
    RejectPublish,
    RejectPublishDeadLetter,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) message_ttl: Option<Duration>,
    pub(crate) expires: Option<Duration>,
    pub(crate) max_length: Option<usize>,
    pub(crate) max_bytes: Option<usize>,
    pub(crate) overflow: Overflow,
    pub(crate) dead_letter_exchange: Option<String>,
    pub(crate) dead_letter_key: Option<String>,
    /// Whether dead letters are kept until somebody has taken them.
    pub(crate) dead_letter_at_least_once: bool,
    pub(crate) max_priority: Option<u8>,
    pub(crate) delivery_limit: Option<u32>,
    pub(crate) single_active: bool,
    pub(crate) quorum: bool,
}

/// The arguments that must be the same when a queue is declared again.
const COMPARED: [&str; 13] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-single-active-consumer",
    "x-queue-type",
    "x-delivery-limit",
    "x-dead-letter-strategy",
];

impl Settings {
    /// Reads the arguments of `queue.declare`; `place` is the queue as error texts name it.
    pub(crate) fn parse(arguments: &FieldTable, place: &str) -> Result<Self, Exception> {
        let read = Reader { arguments, place };
        let mut settings = Self {
            message_ttl: read.number("x-message-ttl", 0)?.map(Duration::from_millis),
            expires: read.number("x-expires", 1)?.map(Duration::from_millis),
            max_length: read.size("x-max-length")?,
            max_bytes: read.size("x-max-length-bytes")?,
            overflow: match read.text("x-overflow")?.as_deref() {
                None | Some("drop-head") => Overflow::DropHead,
                Some("reject-publish") => Overflow::RejectPublish,
                Some("reject-publish-dlx") => Overflow::RejectPublishDeadLetter,
                Some(_) => return Err(read.invalid("x-overflow", "invalid_overflow")),
            },
            dead_letter_exchange: read.text("x-dead-letter-exchange")?,
            dead_letter_key: read.text("x-dead-letter-routing-key")?,
            dead_letter_at_least_once: read.text("x-dead-letter-strategy")?.as_deref()
                == Some("at-least-once"),
            max_priority: match read.number("x-max-priority", 0)? {
                Some(n) => match u8::try_from(n) {
                    Ok(n) => Some(n),
                    Err(_) => {
                        return Err(
                            read.invalid("x-max-priority", &format!("{{max_value_exceeded,{n}}}"))
                        );
                    }
                },
                None => None,
            },
            delivery_limit: read
                .number("x-delivery-limit", 0)?
                .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            single_active: match arguments.inner().get("x-single-active-consumer") {
                None => false,
                Some(AMQPValue::Boolean(active)) => *active,
                Some(other) => {
                    let reason = format!("{{unacceptable_type,{}}}", type_name(other));
                    return Err(read.invalid("x-single-active-consumer", &reason));
                }
            },
            quorum: match read.text("x-queue-type")?.as_deref() {
                None | Some("classic") => false,
                Some("quorum") => true,
                Some("stream") => {
                    return Err(not_implemented(
                        "this broker has no streams: x-queue-type 'stream'",
                    ));
                }
                Some(other) => {
                    return Err(precondition_failed(format!(
                        "invalid arg 'x-queue-type' for {place}: \"unsupported queue type '{other}'\""
                    )));
                }
            },
        };
        // As on RabbitMQ, where the other queues quietly have the weaker strategy.
        settings.dead_letter_at_least_once &=
            settings.quorum && settings.overflow == Overflow::RejectPublish;
        if settings.dead_letter_key.is_some() && settings.dead_letter_exchange.is_none() {
            return Err(read.invalid(
                "x-dead-letter-routing-key",
                "routing_key_but_no_dlx_defined",
            ));
        }
        Ok(settings)
    }
}

/// Compares the arguments of a queue with those of another declaration.
pub(crate) fn check_equivalent(
    current: &FieldTable,
    received: &FieldTable,
    place: &str,
) -> Result<(), Exception> {
    for name in COMPARED {
        let (old, new) = (current.inner().get(name), received.inner().get(name));
        let equal = match (old, new) {
            (None, None) => true,
            (Some(old), Some(new)) => same(old, new),
            // A queue is classic unless it says otherwise.
            (None, Some(value)) | (Some(value), None) if name == "x-queue-type" => {
                text(value).as_deref() == Some("classic")
            }
            _ => false,
        };
        if !equal {
            return Err(precondition_failed(format!(
                "inequivalent arg '{name}' for {place}: received {} but current is {}",
                described(new),
                described(old)
            )));
        }
    }
    Ok(())
}

/// A value as RabbitMQ names it when two declarations differ.
pub(crate) fn described(value: Option<&AMQPValue>) -> String {
    match value {
        None => "none".to_owned(),
        Some(value) => format!(
            "the value '{}' of type '{}'",
            display(value),
            type_name(value)
        ),
    }
}

struct Reader<'a> {
    arguments: &'a FieldTable,
    place: &'a str,
}

impl Reader<'_> {
    fn number(&self, name: &str, least: i64) -> Result<Option<u64>, Exception> {
        let Some(value) = self.arguments.inner().get(name) else {
            return Ok(None);
        };
        let Some(number) = integer(value) else {
            return Err(self.invalid(name, &format!("{{unacceptable_type,{}}}", type_name(value))));
        };
        match u64::try_from(number) {
            Ok(0) if least > 0 => Err(self.invalid(name, "{value_zero,0}")),
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(self.invalid(name, &format!("{{value_negative,{number}}}"))),
        }
    }

    fn size(&self, name: &str) -> Result<Option<usize>, Exception> {
        Ok(self
            .number(name, 0)?
            .map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    }

    fn text(&self, name: &str) -> Result<Option<String>, Exception> {
        let Some(value) = self.arguments.inner().get(name) else {
            return Ok(None);
        };
        match text(value) {
            Some(text) => Ok(Some(text)),
            None => Err(self.invalid(name, &format!("{{unacceptable_type,{}}}", type_name(value)))),
        }
    }

    fn invalid(&self, name: &str, reason: &str) -> Exception {
        precondition_failed(format!("invalid arg '{name}' for {}: {reason}", self.place))
    }
}
