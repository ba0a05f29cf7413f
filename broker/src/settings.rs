//! Arguments of `queue.declare` and `basic.consume` (`x-message-ttl` and others), and RabbitMQ's checks
//! of them.

use std::time::Duration;

use amq_protocol::types::{AMQPValue, FieldTable};

use crate::{
    arguments::{MAX_MILLIS, display, integer, same, text, type_name},
    exception::{Exception, not_implemented, precondition_failed},
};

/// The strategy of a full queue (`x-overflow`).
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
    /// Whether dead letters are kept until all target queues have accepted them
    /// (`x-dead-letter-strategy: at-least-once`).
    pub(crate) dead_letter_at_least_once: bool,
    pub(crate) max_priority: Option<u8>,
    pub(crate) delivery_limit: Option<u32>,
    pub(crate) single_active: bool,
    pub(crate) quorum: bool,
}

/// RabbitMQ's check of an argument's value. The error is the reason in RabbitMQ's text.
type Check = fn(&AMQPValue, &FieldTable) -> Result<(), String>;

/// The arguments whose values RabbitMQ checks, in its order. It does not check `x-delivery-limit`.
const CHECKS: [(&str, Check); 16] = [
    ("x-expires", |value, _| match number(value)? {
        0 => Err("{value_zero,0}".into()),
        millis => not_too_long(millis),
    }),
    ("x-message-ttl", |value, _| not_too_long(number(value)?)),
    ("x-dead-letter-exchange", |value, _| word(value).map(drop)),
    ("x-dead-letter-routing-key", |value, arguments| {
        word(value)?;
        if arguments.contains_key("x-dead-letter-exchange") {
            Ok(())
        } else {
            Err("routing_key_but_no_dlx_defined".into())
        }
    }),
    ("x-dead-letter-strategy", |value, _| {
        one_of(value, &["at-most-once", "at-least-once"], |_| {
            "invalid_dlx_strategy".into()
        })
    }),
    ("x-max-length", |value, _| count(value).map(drop)),
    ("x-max-length-bytes", |value, _| count(value).map(drop)),
    ("x-max-in-memory-length", |value, _| count(value).map(drop)),
    ("x-max-in-memory-bytes", |value, _| count(value).map(drop)),
    ("x-max-priority", |value, _| match count(value)? {
        0..=255 => Ok(()),
        more => Err(format!("{{max_value_exceeded,{more}}}")),
    }),
    ("x-overflow", |value, _| {
        let known = ["drop-head", "reject-publish", "reject-publish-dlx"];
        one_of(value, &known, |_| "invalid_overflow".into())
    }),
    ("x-queue-mode", |value, _| {
        one_of(value, &["default", "lazy"], |mode| {
            format!("\"unsupported queue mode '{mode}'\"")
        })
    }),
    ("x-queue-version", |value, _| match count(value)? {
        1 | 2 => Ok(()),
        other => Err(format!("\"unsupported queue version '{other}'\"")),
    }),
    ("x-single-active-consumer", |value, _| match value {
        AMQPValue::Boolean(_) => Ok(()),
        other => Err(unacceptable(other)),
    }),
    ("x-quorum-initial-group-size", |value, _| {
        match count(value)? {
            0 => Err("{value_zero,0}".into()),
            _ => Ok(()),
        }
    }),
    ("x-queue-leader-locator", |value, _| {
        let known = ["client-local", "balanced", "random", "least-leaders"];
        one_of(value, &known, |_| "invalid_queue_locator_arg".into())
    }),
];

/// The arguments of a classic queue, in the order in which they are compared when it is declared again.
/// Arguments that no type of queue has are ignored.
const CLASSIC: [&str; 13] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-queue-master-locator",
];
/// The same for a quorum queue.
const QUORUM: [&str; 15] = [
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-overflow",
    "x-single-active-consumer",
    "x-queue-type",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-message-ttl",
    "x-queue-leader-locator",
];
/// The arguments that only streams have.
const STREAM: [&str; 3] = [
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-initial-cluster-size",
];

impl Settings {
    /// Reads the arguments of `queue.declare`. `subject` is the name of the queue in error texts.
    pub(crate) fn parse(arguments: &FieldTable, subject: &str) -> Result<Self, Exception> {
        let value = |name: &str| arguments.inner().get(name);
        let words = |name: &str| value(name).and_then(text);
        let numbers = |name: &str| value(name).and_then(integer);
        // RabbitMQ checks the exchange before the other arguments.
        if let Some(other) = value("x-dead-letter-exchange")
            && text(other).is_none()
        {
            return Err(precondition_failed(format!(
                "invalid type '{}' for arg 'x-dead-letter-exchange' in {subject}",
                type_name(other)
            )));
        }
        let invalid = |name: &str, reason: String| {
            precondition_failed(format!("invalid arg '{name}' for {subject}: {reason}"))
        };
        if let Some(kind) = value("x-queue-type") {
            one_of(kind, &["classic", "quorum", "stream"], |kind| {
                format!("\"unsupported queue type '{kind}'\"")
            })
            .map_err(|reason| invalid("x-queue-type", reason))?;
        }
        let quorum = is_quorum(arguments);
        if words("x-queue-type").as_deref() == Some("stream") {
            return Err(not_implemented("this broker has no streams"));
        }
        check(arguments, quorum, subject, invalid)?;
        let mut settings = Self {
            message_ttl: numbers("x-message-ttl").map(millis),
            expires: numbers("x-expires").map(millis),
            max_length: numbers("x-max-length").map(size),
            max_bytes: numbers("x-max-length-bytes").map(size),
            overflow: match words("x-overflow").as_deref() {
                Some("reject-publish") => Overflow::RejectPublish,
                // A quorum queue accepts this value, and drops its oldest message nevertheless.
                Some("reject-publish-dlx") if !quorum => Overflow::RejectPublishDeadLetter,
                _ => Overflow::DropHead,
            },
            dead_letter_exchange: words("x-dead-letter-exchange"),
            dead_letter_key: words("x-dead-letter-routing-key"),
            dead_letter_at_least_once: words("x-dead-letter-strategy").as_deref()
                == Some("at-least-once"),
            max_priority: numbers("x-max-priority").map(|n| u8::try_from(n).unwrap_or(u8::MAX)),
            delivery_limit: value("x-delivery-limit").and_then(limit),
            single_active: value("x-single-active-consumer") == Some(&AMQPValue::Boolean(true)),
            quorum,
        };
        // As on RabbitMQ, which ignores `at-least-once` on all other queues.
        settings.dead_letter_at_least_once &=
            settings.quorum && settings.overflow == Overflow::RejectPublish;
        Ok(settings)
    }

    /// Compares the arguments of a queue with those of another declaration.
    pub(crate) fn check_equivalent(
        &self,
        current: &FieldTable,
        received: &FieldTable,
        subject: &str,
    ) -> Result<(), Exception> {
        for name in taken(self.quorum) {
            // Without the argument, a queue is classic.
            if *name == "x-queue-type" && is_classic(current) && is_classic(received) {
                continue;
            }
            check_argument(current, received, name, subject)?;
        }
        Ok(())
    }
}

/// Checks the values of the arguments that a queue of this type has, and then that there is no argument
/// of another type.
fn check(
    arguments: &FieldTable,
    quorum: bool,
    subject: &str,
    invalid: impl Fn(&str, String) -> Exception,
) -> Result<(), Exception> {
    let taken = taken(quorum);
    for (name, check) in CHECKS {
        if let Some(value) = arguments.inner().get(name)
            && taken.contains(&name)
        {
            check(value, arguments).map_err(|reason| invalid(name, reason))?;
        }
    }
    let known = |name: &str| [&CLASSIC[..], &QUORUM, &STREAM].concat().contains(&name);
    for (name, _) in arguments {
        let name = name.as_str();
        if known(name) && !taken.contains(&name) {
            let kind = if quorum {
                "rabbit_quorum_queue"
            } else {
                "rabbit_classic_queue"
            };
            return Err(precondition_failed(format!(
                "invalid arg '{name}' for {subject} of queue type {kind}"
            )));
        }
    }
    Ok(())
}

/// Reads the arguments of `basic.consume`, and returns the consumer's priority.
pub(crate) fn consumer_priority(
    arguments: &FieldTable,
    quorum: bool,
    subject: &str,
) -> Result<i64, Exception> {
    let value = |name: &str| arguments.inner().get(name);
    let invalid = |name: &str, reason: String| {
        precondition_failed(format!("invalid arg '{name}' for {subject}: {reason}"))
    };
    let priority = value("x-priority").map_or(Ok(0), number);
    let priority = priority.map_err(|reason| invalid("x-priority", reason))?;
    let (foreign, kind): (&[&str], _) = if quorum {
        let foreign = &["x-cancel-on-ha-failover", "x-stream-offset"];
        (foreign, "rabbit_quorum_queue")
    } else {
        if let Some(other) = value("x-cancel-on-ha-failover")
            && !matches!(other, AMQPValue::Boolean(_))
        {
            return Err(invalid("x-cancel-on-ha-failover", unacceptable(other)));
        }
        (&["x-stream-offset"], "rabbit_classic_queue")
    };
    match foreign.iter().find(|name| arguments.contains_key(name)) {
        Some(name) => Err(precondition_failed(format!(
            "invalid arg '{name}' for {subject} of queue type {kind}"
        ))),
        None => Ok(priority),
    }
}

/// Whether the arguments declare a quorum queue.
pub(crate) fn is_quorum(arguments: &FieldTable) -> bool {
    let kind = arguments.inner().get("x-queue-type").and_then(text);
    kind.as_deref() == Some("quorum")
}

fn taken(quorum: bool) -> &'static [&'static str] {
    if quorum { &QUORUM } else { &CLASSIC }
}

fn number(value: &AMQPValue) -> Result<i64, String> {
    integer(value).ok_or_else(|| format!("\"expected integer, got {}\"", type_name(value)))
}

fn count(value: &AMQPValue) -> Result<i64, String> {
    match number(value)? {
        negative @ ..0 => Err(format!("{{value_negative,{negative}}}")),
        number => Ok(number),
    }
}

fn not_too_long(millis: i64) -> Result<(), String> {
    match u64::try_from(millis) {
        Err(_) => Err(format!("{{value_negative,{millis}}}")),
        Ok(millis) if millis > MAX_MILLIS => Err(format!("{{value_too_large,{millis}}}")),
        Ok(_) => Ok(()),
    }
}

fn word(value: &AMQPValue) -> Result<String, String> {
    text(value).ok_or_else(|| unacceptable(value))
}

fn one_of(
    value: &AMQPValue,
    known: &[&str],
    complaint: impl FnOnce(&str) -> String,
) -> Result<(), String> {
    let given = word(value)?;
    if known.contains(&given.as_str()) {
        Ok(())
    } else {
        Err(complaint(&given))
    }
}

fn unacceptable(value: &AMQPValue) -> String {
    format!("{{unacceptable_type,{}}}", type_name(value))
}

fn millis(number: i64) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0))
}

fn size(number: i64) -> usize {
    usize::try_from(number.max(0)).unwrap_or(usize::MAX)
}

/// The delivery limit of a queue. RabbitMQ accepts any value and compares it as Erlang does: a negative
/// number has the effect of zero, and a value that is not a number is greater than all numbers.
fn limit(value: &AMQPValue) -> Option<u32> {
    let number = match *value {
        AMQPValue::Float(limit) => f64::from(limit).floor() as i64,
        AMQPValue::Double(limit) => limit.floor() as i64,
        AMQPValue::Timestamp(limit) => i64::try_from(limit).unwrap_or(i64::MAX),
        ref other => integer(other)?,
    };
    Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

/// Compares one argument of two declarations.
pub(crate) fn check_argument(
    current: &FieldTable,
    received: &FieldTable,
    name: &str,
    subject: &str,
) -> Result<(), Exception> {
    let (received, current) = match (received.inner().get(name), current.inner().get(name)) {
        (None, None) => return Ok(()),
        (Some(new), Some(old)) if same(new, old) => return Ok(()),
        (Some(new), Some(old)) => (format!("'{}'", display(new)), format!("'{}'", display(old))),
        (new, old) => (described(new), described(old)),
    };
    Err(precondition_failed(format!(
        "inequivalent arg '{name}' for {subject}: received {received} but current is {current}"
    )))
}

fn is_classic(arguments: &FieldTable) -> bool {
    arguments
        .inner()
        .get("x-queue-type")
        .is_none_or(|kind| text(kind).as_deref() == Some("classic"))
}

/// A value in RabbitMQ's text for an argument that only one of the two declarations has.
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
