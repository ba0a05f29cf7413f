//! Publishes and the `channel.close` that ended them: reads from the broker's text which of the
//! messages that were under way on the channel it refused.
//!
//! AMQP closes the whole channel over one bad message and does not say which one it was. RabbitMQ's
//! text names the size, the exchange or the header it found fault with.

use std::time::Duration;

use crate::error::{Error, Kind, Outcome};
use crate::wire::message::Outgoing;
use crate::wire::value::Value;

/// AMQP's soft errors (AMQP 0-9-1, 1.2): they close a channel. All others close the connection,
/// and say nothing of a message.
const SOFT: [u16; 6] = [311, 313, 403, 404, 405, 406];

/// How a message stands to the refusal that closed its channel.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// The broker refuses this very message, whatever came before or after it.
    Message(Error),
    /// The broker refuses what goes to this message's exchange. A publish before the refusal may
    /// have been taken all the same.
    Exchange(Error),
    /// Another message is to blame. This one may have been taken.
    Other,
    /// The text does not tell.
    Unknown,
}

/// A message that was handed over, as far as a refusal can be told by it when the message is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    size: u32,
    /// `CC` or `BCC` is no list.
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

    /// Whether the broker closed a channel over this message for certain.
    pub(crate) fn are_refused_by(&self, refusal: &Error) -> bool {
        let Kind::Broker { text, .. } = refusal.kind() else {
            return false;
        };
        match size_limit(text) {
            Some(limit) => self.size as usize > limit,
            None => self.has_bad_copies && names_copies(text),
        }
    }
}

/// The refusal of a message of this size by the broker, as its sender is told.
pub(crate) fn told(refusal: &Error, size: usize) -> Error {
    let limit = match refusal.kind() {
        Kind::Broker { text, .. } => size_limit(text),
        _ => None,
    };
    match limit.filter(|limit| size > *limit) {
        Some(limit) => Error::new(Kind::TooLarge { size, limit }).caused_by(refusal.clone()),
        None => refusal.clone(),
    }
}

/// The headers in which RabbitMQ takes further routing keys; they have to be lists.
const COPIES: [&str; 2] = ["CC", "BCC"];

fn names_copies(text: &str) -> bool {
    COPIES
        .iter()
        .any(|name| text.contains(&format!("\"{name}\"")))
}

/// How `message` stands to `refusal`; `None` where the refusal did not close a channel alone.
pub(crate) fn cause(refusal: &Error, message: &Outgoing) -> Option<Cause> {
    let Kind::Broker { code, text } = refusal.kind() else {
        return None;
    };
    if !SOFT.contains(code) {
        return None;
    }
    if let Some(limit) = size_limit(text) {
        let size = message.body.len();
        return Some(if size > limit {
            let error = Error::new(Kind::TooLarge { size, limit });
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
        Named::This(name) if name != on_broker(&message.exchange) => Cause::Other,
        Named::This(_) => match topic(text) {
            Some(topic) if topic != message.routing_key => Cause::Other,
            Some(_) | None => Cause::Exchange(refusal.clone()),
        },
        Named::Nothing => Cause::Unknown,
    })
}

/// How long a delivery may wait for its acknowledgement, where that time is what the broker closed
/// the channel over (RabbitMQ's `consumer_timeout`); the inner `None` where the text does not tell.
pub(crate) fn overdue(error: &Error) -> Option<Option<Duration>> {
    let Kind::Broker { code: 406, text } = error.kind() else {
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

/// Whether the broker can never take the message that a publish failed with this error for: it is
/// too large, or one of its properties is wrong.
pub(crate) fn is_final(error: &Error) -> bool {
    let is_refused = error.outcome() == Some(Outcome::Rejected);
    error.is_invalid() || error.is_too_large() || is_refused && error.amqp_code() == Some(406)
}

/// RabbitMQ's `message size 200000 is larger than configured max size 100000`, and `… than max size
/// …` above what it can be configured for.
pub(crate) fn size_limit(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("message size ")?;
    let (_, limit) = rest.split_once(" is larger than ")?;
    let (_, limit) = limit.split_once("max size ")?;
    let digits = limit.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

enum Named<'a> {
    This(&'a str),
    Nothing,
}

/// The exchange in `no exchange 'x' in vhost '/'` and in `access to exchange 'x' in vhost '/'
/// refused for user 'u'`. A text that was cut (a reply text has 255 bytes) names none.
fn exchange(text: &str) -> Named<'_> {
    let named = text
        .split_once("exchange '")
        .and_then(|(_, rest)| rest.split_once("' in vhost '"));
    named.map_or(Named::Nothing, |(name, _)| Named::This(name))
}

/// The routing key in `access to topic 'a.b' in exchange 'x' in vhost '/' refused for user 'u'`.
fn topic(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("topic '")?;
    rest.split_once("' in exchange '").map(|(topic, _)| topic)
}

/// RabbitMQ checks permissions on the default exchange by this name.
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
        Error::new(Kind::Broker { code, text })
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
        assert!(cause(&Error::new(Kind::Disconnected), &plain).is_none());
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
