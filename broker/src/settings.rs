//! The arguments a queue is declared with (`x-message-ttl` and so on), checked.

use std::time::Duration;

use amq_protocol::types::{AMQPValue, FieldTable};

use crate::{
    arguments::{MAX_MILLIS, display, integer, same, text, type_name},
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
/// What a classic queue does not take.
const NOT_CLASSIC: [&str; 7] = [
    "x-delivery-limit",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-quorum-initial-group-size",
    "x-dead-letter-strategy",
];
/// What a quorum queue does not take.
const NOT_QUORUM: [&str; 5] = [
    "x-max-priority",
    "x-queue-mode",
    "x-queue-version",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
];

impl Settings {
    /// Reads the arguments of `queue.declare`; `place` is the queue as error texts name it.
    pub(crate) fn parse(arguments: &FieldTable, place: &str) -> Result<Self, Exception> {
        let read = Reader { arguments, place };
        let quorum = read.queue_type()?;
        let (refused, kind) = if quorum {
            (&NOT_QUORUM[..], "rabbit_quorum_queue")
        } else {
            (&NOT_CLASSIC[..], "rabbit_classic_queue")
        };
        if let Some(name) = refused.iter().find(|name| arguments.contains_key(name)) {
            return Err(precondition_failed(format!(
                "invalid arg '{name}' for {place} of queue type {kind}"
            )));
        }
        let mut settings = Self {
            message_ttl: read.millis("x-message-ttl", 0)?,
            expires: read.millis("x-expires", 1)?,
            max_length: read.size("x-max-length")?,
            max_bytes: read.size("x-max-length-bytes")?,
            overflow: match read.text("x-overflow")?.as_deref() {
                None | Some("drop-head") => Overflow::DropHead,
                Some("reject-publish") => Overflow::RejectPublish,
                Some("reject-publish-dlx") if !quorum => Overflow::RejectPublishDeadLetter,
                Some(_) => return Err(read.invalid("x-overflow", "invalid_overflow")),
            },
            dead_letter_exchange: read.exchange("x-dead-letter-exchange")?,
            dead_letter_key: read.text("x-dead-letter-routing-key")?,
            dead_letter_at_least_once: read.text("x-dead-letter-strategy")?.as_deref()
                == Some("at-least-once"),
            max_priority: match read.number("x-max-priority", 0)? {
                None => None,
                Some(n) => Some(u8::try_from(n).map_err(|_| {
                    read.invalid("x-max-priority", &format!("{{max_value_exceeded,{n}}}"))
                })?),
            },
            delivery_limit: read
                .number("x-delivery-limit", 0)?
                .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            single_active: read.flag("x-single-active-consumer")?,
            quorum,
        };
        // As on RabbitMQ, where the other queues quietly have the weaker strategy.
        settings.dead_letter_at_least_once &=
            settings.quorum && settings.overflow == Overflow::RejectPublish;
        read.one_of("x-queue-mode", "mode", &["default", "lazy"])?;
        if let Some(version) = read.number("x-queue-version", 0)?
            && !(1..=2).contains(&version)
        {
            let reason = format!("\"unsupported queue version '{version}'\"");
            return Err(read.invalid("x-queue-version", &reason));
        }
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
        // A queue is classic unless it says otherwise.
        if name == "x-queue-type" && is_classic(current) && is_classic(received) {
            continue;
        }
        check_argument(current, received, name, place)?;
    }
    Ok(())
}

/// Compares one argument of two declarations.
pub(crate) fn check_argument(
    current: &FieldTable,
    received: &FieldTable,
    name: &str,
    place: &str,
) -> Result<(), Exception> {
    let (received, current) = match (received.inner().get(name), current.inner().get(name)) {
        (None, None) => return Ok(()),
        (Some(new), Some(old)) if same(new, old) => return Ok(()),
        (Some(new), Some(old)) => (format!("'{}'", display(new)), format!("'{}'", display(old))),
        (new, old) => (described(new), described(old)),
    };
    Err(precondition_failed(format!(
        "inequivalent arg '{name}' for {place}: received {received} but current is {current}"
    )))
}

fn is_classic(arguments: &FieldTable) -> bool {
    arguments
        .inner()
        .get("x-queue-type")
        .is_none_or(|kind| text(kind).as_deref() == Some("classic"))
}

/// A value as RabbitMQ names it where only one declaration has it.
fn described(value: Option<&AMQPValue>) -> String {
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
    fn value(&self, name: &str) -> Option<&AMQPValue> {
        self.arguments.inner().get(name)
    }

    fn number(&self, name: &str, least: u64) -> Result<Option<u64>, Exception> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let Some(number) = integer(value) else {
            let reason = format!("\"expected integer, got {}\"", type_name(value));
            return Err(self.invalid(name, &reason));
        };
        match u64::try_from(number) {
            Ok(0) if least > 0 => Err(self.invalid(name, "{value_zero,0}")),
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(self.invalid(name, &format!("{{value_negative,{number}}}"))),
        }
    }

    fn millis(&self, name: &str, least: u64) -> Result<Option<Duration>, Exception> {
        match self.number(name, least)? {
            Some(n) if n > MAX_MILLIS => {
                Err(self.invalid(name, &format!("{{value_too_large,{n}}}")))
            }
            number => Ok(number.map(Duration::from_millis)),
        }
    }

    fn size(&self, name: &str) -> Result<Option<usize>, Exception> {
        Ok(self
            .number(name, 0)?
            .map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    }

    fn flag(&self, name: &str) -> Result<bool, Exception> {
        match self.value(name) {
            None => Ok(false),
            Some(AMQPValue::Boolean(flag)) => Ok(*flag),
            Some(other) => Err(self.unacceptable(name, other)),
        }
    }

    fn text(&self, name: &str) -> Result<Option<String>, Exception> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        text(value)
            .map(Some)
            .ok_or_else(|| self.unacceptable(name, value))
    }

    fn exchange(&self, name: &str) -> Result<Option<String>, Exception> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        text(value).map(Some).ok_or_else(|| {
            precondition_failed(format!(
                "invalid type '{}' for arg '{name}' in {}",
                type_name(value),
                self.place
            ))
        })
    }

    fn one_of(&self, name: &str, what: &str, known: &[&str]) -> Result<(), Exception> {
        match self.text(name)? {
            Some(given) if !known.contains(&given.as_str()) => {
                Err(self.invalid(name, &format!("\"unsupported queue {what} '{given}'\"")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the queue is to be a quorum queue.
    fn queue_type(&self) -> Result<bool, Exception> {
        match self.text("x-queue-type")?.as_deref() {
            None | Some("classic") => Ok(false),
            Some("quorum") => Ok(true),
            Some("stream") => Err(not_implemented("this broker has no streams")),
            Some(other) => {
                let reason = format!("\"unsupported queue type '{other}'\"");
                Err(self.invalid("x-queue-type", &reason))
            }
        }
    }

    fn unacceptable(&self, name: &str, value: &AMQPValue) -> Exception {
        self.invalid(name, &format!("{{unacceptable_type,{}}}", type_name(value)))
    }

    fn invalid(&self, name: &str, reason: &str) -> Exception {
        precondition_failed(format!("invalid arg '{name}' for {}: {reason}", self.place))
    }
}
