//! Refused messages: finds, by the broker's text in `channel.close`, the message over which it closed a
//! channel.
//!
//! AMQP closes the whole channel over one bad message, and does not tell which one it was. RabbitMQ's text
//! contains the size, the exchange or the header that it refuses.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Outcome};
use crate::wire::message::Outgoing;
use crate::wire::reply_code;
use crate::wire::value::Value;

/// The part of a message in the refusal that closed its channel.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// The broker refused this message.
    Message(Error),
    /// The broker refuses messages to the exchange of this message. If it was published before the one that
    /// was refused, the broker may have accepted it.
    Exchange(Error),
    /// The broker refused another message, and may have accepted this one.
    Other,
    /// The text does not tell which message was refused.
    Unknown,
}

/// The traits of a published message by which the broker may refuse it. They are kept when the message is
/// not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    size: u32,
    /// Whether the header `CC` or `BCC` is not a list.
    has_bad_copies: bool,
}

impl Traits {
    pub(crate) fn of(message: &Outgoing) -> Self {
        let headers = &message.properties.headers;
        let is_bad = |name: &&str| {
            let header = headers.get(*name);
            header.is_some_and(|value| !matches!(value, Value::List(_)))
        };
        Self {
            size: u32::try_from(message.body.len()).unwrap_or(u32::MAX),
            has_bad_copies: !headers.is_empty() && COPIES.iter().any(is_bad),
        }
    }

    /// Whether the broker closed the channel over this message, according to its text.
    pub(crate) fn are_refused_by(&self, refusal: &Error) -> bool {
        let ErrorKind::Broker { text, .. } = refusal.kind() else {
            return false;
        };
        match size_limit(text) {
            Some(limit) => self.size as usize > limit,
            None => self.has_bad_copies && names_copies(text),
        }
    }
}

/// The error for the sender of a refused message with a body of `size` bytes.
pub(crate) fn sender_error(refusal: &Error, size: usize) -> Error {
    let limit = match refusal.kind() {
        ErrorKind::Broker { text, .. } => size_limit(text),
        _ => None,
    };
    match limit.filter(|limit| size > *limit) {
        Some(limit) => Error::new(ErrorKind::TooLarge { size, limit }).caused_by(refusal.clone()),
        None => refusal.clone(),
    }
}

/// The headers in which RabbitMQ takes further routing keys. It refuses values other than lists.
const COPIES: [&str; 2] = ["CC", "BCC"];

fn names_copies(text: &str) -> bool {
    COPIES
        .iter()
        .any(|name| text.contains(&format!("\"{name}\"")))
}

/// The part of `message` in `refusal`. `None` if the refusal closed the whole connection.
pub(crate) fn cause(refusal: &Error, message: &Outgoing) -> Option<Cause> {
    let ErrorKind::Broker { code, text } = refusal.kind() else {
        return None;
    };
    if !reply_code::closes_channel(*code) {
        return None;
    }
    if let Some(limit) = size_limit(text) {
        let size = message.body.len();
        return Some(if size > limit {
            let error = Error::new(ErrorKind::TooLarge { size, limit });
            Cause::Message(error.caused_by(refusal.clone()))
        } else {
            Cause::Other
        });
    }
    if let Some(header) = COPIES
        .iter()
        .find(|name| text.contains(&format!("\"{name}\"")))
    {
        return Some(match message.properties.headers.get(*header) {
            None | Some(Value::List(_)) => Cause::Other,
            Some(_) => Cause::Message(refusal.clone()),
        });
    }
    Some(match exchange(text) {
        Some(name) if name != on_broker(&message.exchange) => Cause::Other,
        Some(_) => match topic(text) {
            Some(topic) if topic != message.routing_key => Cause::Other,
            Some(_) | None => Cause::Exchange(refusal.clone()),
        },
        None => Cause::Unknown,
    })
}

/// The longest time that a delivery may wait for its acknowledgement (RabbitMQ's `consumer_timeout`), if the
/// broker closed the channel over it. The inner option is `None` if the text does not contain the time.
pub(crate) fn overdue(error: &Error) -> Option<Option<Duration>> {
    let ErrorKind::Broker {
        code: reply_code::PRECONDITION_FAILED,
        text,
    } = error.kind()
    else {
        return None;
    };
    let (_, rest) = text.split_once("delivery acknowledgement on channel ")?;
    let (_, rest) = rest.split_once(" timed out")?;
    let millis = || {
        let (_, rest) = rest.split_once("Timeout value used: ")?;
        let (millis, _) = rest.split_once(" ms")?;
        millis.parse().ok().map(Duration::from_millis)
    };
    Some(millis())
}

/// Whether the broker would refuse the message of a failed publish each time: it is too large, or one of its
/// properties is wrong.
pub(crate) fn is_final(error: &Error) -> bool {
    let is_refused = error.outcome() == Some(Outcome::Rejected);
    error.is_invalid()
        || error.is_too_large()
        || is_refused && error.amqp_code() == Some(reply_code::PRECONDITION_FAILED)
}

/// The limit in RabbitMQ's text `message size 200000 is larger than configured max size 100000`, or `… than max
/// size …` for its absolute limit.
pub(crate) fn size_limit(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("message size ")?;
    let (_, limit) = rest.split_once(" is larger than ")?;
    let (_, limit) = limit.split_once("max size ")?;
    let digits = limit.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// The exchange in `no exchange 'x' in vhost '/'` and in `access to exchange 'x' in vhost '/' refused for user
/// 'u'`. `None` if the text was truncated: a reply text has at most 255 bytes.
fn exchange(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("exchange '")?;
    rest.split_once("' in vhost '").map(|(name, _)| name)
}

/// The routing key in `access to topic 'a.b' in exchange 'x' in vhost '/' refused for user 'u'`.
fn topic(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("topic '")?;
    rest.split_once("' in exchange '").map(|(topic, _)| topic)
}

/// The name of an exchange in RabbitMQ's texts, where the default exchange is `amq.default`.
fn on_broker(exchange: &str) -> &str {
    if exchange.is_empty() {
        "amq.default"
    } else {
        exchange
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Properties;
    use crate::wire::value::Table;
    use bytes::Bytes;

    fn message(exchange: &str, key: &str, size: usize, headers: Table) -> Outgoing {
        Outgoing {
            exchange: exchange.into(),
            routing_key: key.into(),
            mandatory: true,
            properties: Properties {
                headers,
                ..Properties::default()
            },
            body: Bytes::from(vec![0; size]),
        }
    }

    fn refusal(code: u16, text: &str) -> Error {
        let text = text.to_owned();
        Error::new(ErrorKind::Broker { code, text })
    }

    fn told(code: u16, text: &str, message: &Outgoing) -> &'static str {
        match cause(&refusal(code, text), message) {
            None => "connection",
            Some(Cause::Message(error)) if error.is_too_large() => "too large",
            Some(Cause::Message(_)) => "message",
            Some(Cause::Exchange(_)) => "exchange",
            Some(Cause::Other) => "other",
            Some(Cause::Unknown) => "unknown",
        }
    }

    #[test]
    fn a_refusal_is_about_the_message_that_it_names() {
        let plain = message("", "jobs", 10, Table::new());
        let large = message("", "jobs", 200_000, Table::new());
        let event = message("events", "a.b", 10, Table::new());
        let list = Value::List(vec![Value::from("x")]);
        let copied = |value| message("", "jobs", 10, Table::from([("CC".to_owned(), value)]));
        let size = "PRECONDITION_FAILED - message size 200000 is larger than configured max size \
                    100000";
        let copies = "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",\
                      signedint}";
        let missing = "NOT_FOUND - no exchange 'events' in vhost '/'";
        let default = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for \
                       user 'u'";
        let written = "ACCESS_REFUSED - write access to exchange 'events' in vhost '/' refused for \
                       user 'u'";
        let topic = "ACCESS_REFUSED - write access to topic 'a.b' in exchange 'events' in vhost \
                     '/' refused for user 'u'";
        let cut = format!("NOT_FOUND - no exchange '{}", "x".repeat(230));
        for (code, text, message, expected) in [
            (406, size, &large, "too large"),
            (406, size, &plain, "other"),
            (406, copies, &copied(Value::Int(1)), "message"),
            (406, copies, &copied(list), "other"),
            (406, copies, &plain, "other"),
            (404, missing, &event, "exchange"),
            (404, missing, &plain, "other"),
            (403, default, &plain, "exchange"),
            (403, default, &event, "other"),
            (403, written, &event, "exchange"),
            (403, topic, &event, "exchange"),
            (
                403,
                topic,
                &message("events", "c", 1, Table::new()),
                "other",
            ),
            (404, &cut, &plain, "unknown"),
            (
                406,
                "PRECONDITION_FAILED - something else",
                &plain,
                "unknown",
            ),
            (541, "INTERNAL_ERROR", &plain, "connection"),
            (320, "CONNECTION_FORCED", &plain, "connection"),
        ] {
            assert_eq!(told(code, text, message), expected, "{text}");
        }
        assert!(cause(&Error::new(ErrorKind::Disconnected), &plain).is_none());
    }

    #[test]
    fn the_acknowledgement_timeout_is_read_from_the_brokers_text() {
        let text = "PRECONDITION_FAILED - delivery acknowledgement on channel 2 timed out. Timeout \
                    value used: 3000 ms. This timeout value can be configured, see consumers doc \
                    guide to learn more";
        let three = Some(Some(Duration::from_secs(3)));
        assert_eq!(overdue(&refusal(406, text)), three);
        let short = "PRECONDITION_FAILED - delivery acknowledgement on channel 2 timed out";
        assert_eq!(overdue(&refusal(406, short)), Some(None));
        assert_eq!(
            overdue(&refusal(
                406,
                "PRECONDITION_FAILED - unknown delivery tag 1"
            )),
            None
        );
        assert_eq!(overdue(&refusal(404, text)), None);
    }
}
